"""From the expressions of a recipe to a program of linear steps; finds all that is wrong in them.

One walk serves two uses: with no layout it checks names, functions and kinds (when a recipe is
read), with a layout it computes block weights too (when it is folded). Every node is visited once,
from an explicit stack: a `let` that is used twice on each of 64 levels costs 64 visits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from stockpot.errors import Problem, UnknownNameError
from stockpot.layouts import Layout

from .calls import call_rule
from .expressions import Call, Expr, Items, Name, Number, Text
from .flowing import leaves_of
from .functions import FUNCTIONS, OPERATORS, find_function
from .globs import matches
from .rules import LINEAR, Program, RuleError, components_rule, describe, operator_rule
from .signatures import Function
from .values import Amount, Leaf, Listing, Mixture, Names, Value, Word

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a walk over the expressions found.

    Attributes:
        program: The steps.
        roots: For each key of `mix`, its last step; keys with a problem are absent.
        problems: All that is wrong, in the order of the recipe.
        used_lets: Names of `let` that something reads.
        adapters: Names that stand in a `lora(…)`.
    """

    program: Program
    roots: Mapping[str, int]
    problems: tuple[Problem, ...]
    used_lets: frozenset[str]
    adapters: frozenset[str] = frozenset()


def evaluate(
    pool: Collection[str],
    let: Mapping[str, Expr],
    mix: Mapping[str, Expr],
    layout: Layout | None = None,
    places: Mapping[str, str] | None = None,
    lost: Collection[str] = (),
) -> Evaluation:
    """Walk the expressions of a recipe.

    Args:
        pool: Names of the pool in order; one with a ``*`` stands for entries not yet known.
        let: Named intermediates.
        mix: What to make, by component.
        layout: Cells for block weights; without it only names and kinds are checked, and functions
            that are no linear algebra pass.
        places: How to name ``let.x`` and ``mix.unet`` in problems, where better is known.
        lost: Names of lets that could not be read; they are not unknown.
    """
    walk = _Walk(pool, let, layout, places or {})
    walk.lost = lost
    return walk.run(mix)


class _Walk:
    def __init__(
        self,
        pool: Collection[str],
        let: Mapping[str, Expr],
        layout: Layout | None,
        places: Mapping[str, str],
    ) -> None:
        self.globs = [name for name in pool if "*" in name]
        self.pool = [name for name in pool if "*" not in name]
        self.known = set(self.pool)
        self.let, self.layout, self.places = let, layout, places
        self.program = Program(self.pool, layout, lenient=bool(self.globs) and layout is None)
        self.values: dict[int, Value | None] = {}
        self.problems: dict[Problem, None] = {}
        self.used_lets: set[str] = set()
        self.open: dict[str, None] = {}
        self.exhausted = False
        self.lost: Collection[str] = ()

    def run(self, mix: Mapping[str, Expr]) -> Evaluation:
        for name, expression in self.let.items():
            self.walk(expression, f"let.{name}", name)
        roots = {}
        for key, expression in mix.items():
            value = self.walk(expression, f"mix.{key}", None)
            if isinstance(value, Mixture):
                roots[key] = value.op
            elif value is not None:
                remedy = "average it: mean(…)" if isinstance(value, Names | Listing) else ""
                self.report(
                    f"mix.{key}", "type",
                    f"a mix must be a model, but got {describe(value)}", remedy,
                )  # fmt: skip
        adapters, models = leaves_of(self.program, roots.values())
        for name in sorted(adapters & models):
            self.report(
                f"pool.{name}", "type", f"{name!r} stands for a model and, in `lora({name})`, for "
                "an adapter", f"write lora({name}) everywhere, and `pool - {name}` for the others",
            )  # fmt: skip
        named = {n for op in self.program.ops if isinstance(op, Leaf) and op.adapter
                 for n in op.names}  # fmt: skip
        return Evaluation(
            self.program, roots, tuple(self.problems),
            frozenset(self.used_lets), frozenset(named),
        )  # fmt: skip

    def report(self, where: str, code: str, message: str, remedy: str = "") -> None:
        self.problems.setdefault(Problem(code, message, self.places.get(where, where), remedy))

    def walk(self, root: Expr, where: str, let: str | None) -> Value | None:
        """Visit a tree from its leaves up, stepping into the lets that it reads."""
        # An entry: node, its place, the let it is the whole of, whether its children are done.
        stack: list[tuple[Expr, str, str | None, bool]] = [(root, where, let, False)]
        while stack:
            node, where, let, ready = stack.pop()
            if ready:
                if let is not None:
                    self.open.pop(let, None)
                if id(node) not in self.values:
                    self.values[id(node)] = self.value(node, where)
                continue
            if id(node) in self.values:
                continue
            if let is not None:
                self.open[let] = None
            stack.append((node, where, let, True))
            if isinstance(node, Name) and node.name in self.let:
                self.used_lets.add(node.name)
                if node.name in self.open:
                    self.cycle(node.name, where)
                    self.values[id(node)] = None
                else:
                    stack.append((self.let[node.name], f"let.{node.name}", node.name, False))
            else:
                stack.extend((child, where, None, False) for child in reversed(node._children()))
        return self.values[id(root)]

    def cycle(self, name: str, where: str) -> None:
        names = list(self.open)
        loop = [*names[names.index(name) :], name]
        listed = " → ".join(loop if len(loop) < 12 else [*loop[:5], "…", *loop[-5:]])
        self.report(where, "cycle", f"`let` may not go in a circle, but got {listed}",
                    "write one of them without the others")  # fmt: skip

    def value(self, node: Expr, where: str) -> Value | None:
        """Compute a node whose children are computed; None once a problem is reported."""
        if isinstance(node, Number):
            return Amount(node.value)
        if isinstance(node, Text):
            return Word(node.value)
        if isinstance(node, Name):
            return self.named(node.name, where)
        if isinstance(node, Items):
            return Listing(tuple(self.values[id(item)] for item in node.items))
        assert isinstance(node, Call)
        if self.exhausted:
            return None
        try:
            return self.call(node, where)
        except RuleError as error:
            self.report(where, error.code, error.message, error.remedy)
        except ValueError as error:
            # Sizes and steps only; once the budget is gone every later node would say so again.
            self.exhausted = True
            self.report(where, "too-large", str(error), "write the recipe with fewer steps")
        return None

    def named(self, name: str, where: str) -> Value | None:
        if name in self.let:
            return self.values.get(id(self.let[name]))
        if name in self.lost:
            return None
        if name in self.known:
            return self.program.leaf(name)
        if name == "pool":
            return Names(self.program.pool)
        if any(matches(pattern, name) for pattern in self.globs):
            if self.layout is not None:
                return None
            self.program.order.setdefault(name, len(self.program.order))
            return self.program.leaf(name)
        error = UnknownNameError("name", name, self.known | self.let.keys())
        self.report(where, "unknown-name", str(error), "add it to `pool` or `let`")
        return None

    def call(self, node: Call, where: str) -> Value | None:
        args = [self.values[id(arg)] for arg in node.args]
        options = {name: self.values[id(value)] for name, value in node.options}
        if node.function in OPERATORS:
            known = [arg for arg in args if arg is not None]
            return operator_rule(self.program, node.function, known) if len(known) == len(
                args) else None  # fmt: skip
        function = find_function(node.function)
        if function is None:
            error = UnknownNameError("function", node.function, FUNCTIONS)
            self.report(where, "unknown-function", str(error))
            return None
        if function.kind == "kept" or (not function.linear and self.layout is None):
            return self.later(function, where)
        if not function.linear:
            if None in args or None in options.values():
                return None
            return call_rule(
                self.program,
                function,
                [value for value in args if value is not None],
                {name: value for name, value in options.items() if value is not None},
            )
        if function.named:
            if args:
                raise RuleError(f"`{function.name}` takes its numbers by name",
                                f"write {function.name}(unet=1)", "arguments")  # fmt: skip
            if None in options.values():
                return None
            return components_rule(
                self.program, {n: value for n, value in options.items() if value is not None}
            )
        bound = self.bind(function, args, options)
        return None if None in bound else LINEAR[function.name](
            self.program, [arg for arg in bound if arg is not None])  # fmt: skip

    def later(self, function: Function, where: str) -> Value | None:
        """A method when a recipe is read; when it is folded, a call that nothing here can do."""
        if self.layout is not None and function.name == "search":
            self.report(where, "hole", "a recipe with holes does not fold, but got `search`",
                        "put a number in its place, or let `stockpot tune` find it")  # fmt: skip
            return None
        if self.layout is not None:
            said = f"`{function.name}` is read and printed, but no method does it here"
            self.report(where, "no-method", said, "see `stockpot methods` for those there are")
            return None
        if function.gives == "number":
            return Amount(None)
        result = Mixture(self.program.leaf(f"{function.name}(…)").op, None)
        return Listing((result,)) if function.gives == "list" else result

    def bind(
        self, function: Function, args: Sequence[Value | None], options: Mapping[str, Value | None]
    ) -> list[Value | None]:
        """Put arguments in the order of the parameters; every parameter needs one."""
        parameters = function.parameters
        if parameters[0].startswith("*"):
            if options:
                raise RuleError(f"`{function.name}` has no option {sorted(options)[0]!r}",
                                f"write {function.signature}", "arguments")  # fmt: skip
            return list(args)
        bound = dict(zip(parameters, args, strict=False))
        twice = sorted(bound.keys() & options.keys())
        strange = sorted(options.keys() - set(parameters))
        if strange:
            error = UnknownNameError(f"option of `{function.name}`", strange[0], parameters)
            raise RuleError(str(error), f"write {function.signature}", "arguments")
        bound.update(options)
        if twice or len(args) > len(parameters) or len(bound) < len(parameters):
            raise RuleError(
                f"`{function.name}` takes {len(parameters)} arguments, but got "
                f"{len(args) + len(options)}", f"write {function.signature}", "arguments",
            )  # fmt: skip
        return [bound[name] for name in parameters]
