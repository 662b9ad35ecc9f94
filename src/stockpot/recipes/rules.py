"""What each operator and each linear function means, and to which kinds it applies.

A rule takes values and gives a value, or raises `RuleError` with the rule that was broken. Models
become steps of a program (`Program.ops`), so that a step used twice is one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

from stockpot.errors import LayoutError, UnknownNameError
from stockpot.layouts import Layout, get_profile, spread

from .functions import OPERATORS
from .values import (
    Amount,
    Arithmetic,
    Fill,
    Leaf,
    Linear,
    Listing,
    Mixture,
    Names,
    Op,
    Scalar,
    Value,
    Word,
    at,
)

__all__ = [
    "COMPONENT_KEYS", "LINEAR", "Program", "RuleError", "components_rule", "describe",
    "operator_rule",
]  # fmt: skip

#: What a mix and `components` may name; a particular one wins over `te`, and that over `model`.
COMPONENT_KEYS = ("model", "unet", "te", "te0", "te1", "vae", "ema", "other")

_ONE = Fraction(1)


class RuleError(Exception):
    """A rule of types or sizes is broken.

    Args:
        message: The rule and what came instead.
        remedy: What to write.
        code: Short stable identifier.
    """

    def __init__(self, message: str, remedy: str = "", code: str = "type") -> None:
        super().__init__(message)
        self.message, self.remedy, self.code = message, remedy, code


class Program:
    """The steps that make the models of a recipe; each step uses earlier ones only.

    Args:
        pool: Names of the pool, in order.
        layout: Gives the cells of block weights; None when types alone are checked.
        lenient: Whether the pool has globs that nobody resolved yet, so that sets may be empty.

    Attributes:
        ops: The steps.
        differences: Steps that subtract a model from itself.
    """

    def __init__(self, pool: Sequence[str], layout: Layout | None, *, lenient: bool) -> None:
        self.pool, self.layout, self.lenient = tuple(pool), layout, lenient
        self.order = {name: i for i, name in enumerate(self.pool)}
        self.arithmetic = Arithmetic()
        self.ops: list[Op] = []
        self.cancelled = False
        self._known: dict[Op, int] = {}

    def step(self, op: Op) -> int:
        """Add a step, or find it."""
        index = self._known.setdefault(op, len(self.ops))
        if index == len(self.ops):
            self.ops.append(op)
        return index

    def leaf(self, name: str) -> Mixture:
        """The model of one pool entry."""
        return Mixture(self.step(Leaf((name,))), _ONE, name)

    def adapter(self, name: str) -> Mixture:
        """The difference that a pool entry adds, which is an adapter."""
        return Mixture(self.step(Leaf((name,), adapter=True)), Fraction(0))

    def mix(self, *terms: tuple[Scalar, Mixture]) -> Mixture:
        """Sum of scaled models."""
        total: Scalar = Fraction(0)
        for weight, model in terms:
            total = self.arithmetic.add(total, self.arithmetic.multiply(weight, model.total))
        return Mixture(self.step(Linear(tuple((w, m.op) for w, m in terms))), total)

    def names(self, value: Value) -> tuple[str, ...] | None:
        """Read a value as a set of pool entries, if it is one."""
        if isinstance(value, Names):
            return value.names
        if isinstance(value, Mixture):
            return (value.name,) if value.name is not None else None
        if isinstance(value, Listing):
            found = {item.name for item in value.items if isinstance(item, Mixture) and item.name}
            if all(isinstance(item, Mixture) and item.name for item in value.items):
                return tuple(sorted(found, key=self.order.__getitem__))
        return None


def describe(value: Value) -> str:
    """Name the kind of a value in words.

    Example:
        >>> describe(Amount(_ONE)), describe(Names(()))
        ('a number', 'a set')
    """
    if isinstance(value, Amount):
        return "block weights" if isinstance(value.value, tuple) else "a number"
    kinds = {Mixture: "a model", Names: "a set", Listing: "a list", Word: "a text"}
    return kinds[type(value)]


def _is_set(value: Value) -> bool:
    return isinstance(value, Names | Listing)


def operator_rule(program: Program, function: str, args: Sequence[Value]) -> Value:
    """Apply an operator.

    Args:
        program: Receives the steps.
        function: Name of the operator.
        args: Its operands.

    Raises:
        RuleError: The operator does not apply to such operands.
    """
    work = program.arithmetic
    numbers = [arg.value for arg in args if isinstance(arg, Amount)]
    models = [arg for arg in args if isinstance(arg, Mixture)]
    if function == "negate":
        if numbers:
            return Amount(work.multiply(Fraction(-1), numbers[0]))
        if models:
            return program.mix((Fraction(-1), models[0]))
    elif any(map(_is_set, args)) and function in ("fill", "subtract", "intersect"):
        return _set_rule(program, function, args)
    elif function in ("add", "subtract"):
        sign = Fraction(1 if function == "add" else -1)
        if len(numbers) == 2:
            return Amount(work.add(numbers[0], work.multiply(sign, numbers[1])))
        if len(models) == 2:
            if function == "subtract":
                program.cancelled |= models[0].op == models[1].op
            return program.mix((_ONE, models[0]), (sign, models[1]))
    elif function == "multiply":
        if len(numbers) == 2:
            return Amount(work.multiply(*numbers))
        if numbers and models:
            return program.mix((numbers[0], models[0]))
    elif function == "divide" and isinstance(args[1], Amount):
        divisor = args[1].value
        if divisor is not None and 0 in (divisor if isinstance(divisor, tuple) else (divisor,)):
            raise RuleError("nothing can be divided by zero", code="number")
        inverse = work.apply(Fraction.__truediv__, _ONE, divisor)
        if isinstance(args[0], Amount):
            return Amount(work.multiply(args[0].value, inverse))
        if models:
            return program.mix((inverse, models[0]))
    elif function == "fill" and len(models) == 2:
        _same_kind("`|`", models)
        return Mixture(program.step(Fill(models[0].op, models[1].op)), models[0].total)
    raise _mismatch(function, args)


def _mismatch(function: str, args: Sequence[Value]) -> RuleError:
    rules = {
        "add": "adds two models or two numbers",
        "subtract": "takes a model from a model, a number from a number, or a set from a set",
        "multiply": "multiplies a number by a number or by a model",
        "divide": "divides a number or a model by a number",
        "negate": "applies to a number or a model",
        "fill": "fills the keys that a model lacks from a model, or unites two sets",
        "intersect": "takes what two sets have in common",
    }
    got = " and ".join(describe(arg) for arg in args)
    remedy = "average the set: mean(…)" if any(map(_is_set, args)) else ""
    if function == "multiply" and all(isinstance(arg, Mixture) for arg in args):
        remedy = "scale a model by a number, or mix the two: lerp(a, b, t)"
    elif function in ("add", "subtract") and any(isinstance(arg, Amount) for arg in args):
        remedy = "write the number as a factor, such as 0.5*a"
    return RuleError(f"`{OPERATORS[function][0]}` {rules[function]}, but got {got}", remedy)


def _set_rule(program: Program, function: str, args: Sequence[Value]) -> Names:
    left, right = (program.names(arg) for arg in args)
    if left is None or right is None:
        raise RuleError(
            f"`{OPERATORS[function][0]}` with a set needs sets or names of pool entries, but got "
            + " and ".join(describe(arg) for arg in args),
            "put names of the pool in the set",
        )
    program.arithmetic.spend(1 + (len(left) + len(right)) // 8)
    other = set(right)
    if function == "fill":
        return Names(tuple(sorted({*left, *other}, key=program.order.__getitem__)))
    return Names(tuple(name for name in left if (name in other) == (function == "intersect")))


def _same_kind(what: str, models: Sequence[Mixture]) -> None:
    """Refuse a difference where a model stands beside it: almost surely a slip."""
    if any(m.total == 1 for m in models) and any(m.total == 0 for m in models):
        raise RuleError(
            f"{what} takes models, or differences of models, but got some of each",
            "add a difference to a model first: a + (b - c)",
        )


def _model(value: Value, rule: str) -> Mixture:
    if isinstance(value, Mixture):
        return value
    raise RuleError(
        f"{rule} must be a model, but got {describe(value)}",
        "average it: mean(…)" if _is_set(value) else "",
    )


def _number(value: Value, rule: str) -> Scalar:
    if isinstance(value, Amount):
        return value.value
    raise RuleError(f"{rule} must be a number or block weights, but got {describe(value)}")


def _mean(program: Program, args: Sequence[Value]) -> Value:
    parts: list[Mixture] = []
    n = 0
    pending = list(reversed(args))
    while pending:
        # Lists of lists that share their parts may unfold without end.
        program.arithmetic.spend(1)
        arg = pending.pop()
        if isinstance(arg, Listing):
            pending.extend(item for item in reversed(arg.items) if item is not None)
        elif isinstance(arg, Names):
            if arg.names:
                parts.append(Mixture(program.step(Leaf(arg.names)), _ONE))
            n += len(arg.names)
        else:
            parts.append(_model(arg, "an argument of `mean`"))
            n += 1
    if not n:
        if program.lenient:
            return Mixture(program.step(Leaf(())), None)
        raise RuleError("`mean` needs at least one model, but the set is empty")
    _same_kind("`mean`", parts)
    weight = Fraction(1, n)
    total: Scalar = _ONE
    if any(part.total != 1 for part in parts):
        total = Fraction(0)
        for part in parts:
            op = program.ops[part.op]
            count = len(op.names) if isinstance(op, Leaf) else 1
            share = program.arithmetic.multiply(weight * count, part.total)
            total = program.arithmetic.add(total, share)
    return Mixture(program.step(Linear(tuple((weight, part.op) for part in parts))), total)


def _lerp(program: Program, args: Sequence[Value]) -> Value:
    a, b = (_model(arg, f"`{name}` of `lerp`") for name, arg in zip("ab", args[:2], strict=True))
    t = _number(args[2], "`t` of `lerp`")
    _same_kind("`lerp`", (a, b))
    work = program.arithmetic
    rest = work.add(_ONE, work.multiply(Fraction(-1), t))
    return program.mix((rest, a), (t, b))


def _add_difference(program: Program, args: Sequence[Value]) -> Value:
    a, b, c = (
        _model(arg, f"`{name}` of `add_difference`")
        for name, arg in zip("abc", args[:3], strict=True)
    )
    t = _number(args[3], "`t` of `add_difference`")
    program.cancelled |= b.op == c.op
    return program.mix((_ONE, a), (t, b), (program.arithmetic.multiply(Fraction(-1), t), c))


def _linear(program: Program, args: Sequence[Value]) -> Value:
    models, weights = args
    items = models.items if isinstance(models, Listing) else None
    if isinstance(models, Names):
        items = tuple(program.leaf(name) for name in models.names)
    if items is None or not isinstance(weights, Listing):
        raise RuleError("`linear` takes a list of models and a list of numbers",
                        "write linear([a, b], [0.5, 0.5])")  # fmt: skip
    if len(items) != len(weights.items) and not program.lenient:
        raise RuleError(
            f"`linear` needs as many weights as models, but got {len(weights.items)} "
            f"for {len(items)}"
        )
    return program.mix(
        *(
            (_number(w, "a weight of `linear`"), _model(m, "an item of `linear`"))
            for m, w in zip(items, weights.items, strict=False)
            if m is not None and w is not None
        )
    )


def _blocks(program: Program, args: Sequence[Value]) -> Value:
    name, values = args
    if not isinstance(name, Word) or not isinstance(values, Listing):
        raise RuleError("`blocks` takes the name of a profile and a list of numbers",
                        'write blocks("autombw", [0.5, …])')  # fmt: skip
    numbers = [_number(v, "a block weight") for v in values.items if v is not None]
    if any(isinstance(number, tuple) for number in numbers):
        raise RuleError("a block weight must be a plain number, but got block weights")
    try:
        profile = get_profile(name.text)
        if len(numbers) != profile.length:
            raise RuleError(
                f"profile {name.text!r} has {profile.length} numbers "
                f"({profile.labels[0]} … {profile.labels[-1]}), but got {len(numbers)}",
                code="profile",
            )
        known = [number for number in numbers if isinstance(number, Fraction)]
        if program.layout is None or len(known) < len(numbers):
            return Amount(None)
        program.arithmetic.spend(len(program.layout.cells))
        table = spread(profile, known, program.layout)
    except (UnknownNameError, LayoutError) as error:
        raise RuleError(str(error), code="profile") from error
    return Amount(tuple(table.get(cell, Fraction(0)) for cell in program.layout.cells))


def _glob(program: Program, args: Sequence[Value]) -> Value:
    from .globs import matches

    if not isinstance(args[0], Word):
        raise RuleError("`glob` takes a pattern", 'write glob("anime-*")')
    pattern = args[0].text
    program.arithmetic.spend(1 + len(program.pool) // 8)
    names = tuple(name for name in program.pool if matches(pattern, name))
    if not names and not program.lenient:
        raise RuleError(f"no name of the pool matches {pattern!r}", code="empty-glob")
    return Names(names)


def _lora(program: Program, args: Sequence[Value]) -> Value:
    names = program.names(args[0])
    if names is None:
        raise RuleError(f"`lora` takes an entry of the pool, or a set, but got {describe(args[0])}",
                        "give the LoRA file a name in the pool: lora(name)")  # fmt: skip
    program.arithmetic.spend(len(names))
    deltas = tuple(program.adapter(name) for name in names)
    return Listing(deltas) if isinstance(args[0], Names | Listing) else deltas[0]


def components_rule(program: Program, options: Mapping[str, Value]) -> Value:
    """Make block weights from a number for each component; the particular name wins.

    Args:
        program: Tells the layout.
        options: Numbers or block weights, by component.

    Raises:
        RuleError: A name is no component, or a value no number.
    """
    if not options:
        raise RuleError("`components` needs a number by its component",
                        "write components(unet=1)", "arguments")  # fmt: skip
    numbers = {n: _number(v, f"`{n}` of `components`") for n, v in options.items()}
    for name in numbers:
        if name not in COMPONENT_KEYS:
            error = UnknownNameError("component", name, COMPONENT_KEYS)
            raise RuleError(str(error), code="unknown-component")
    layout = program.layout
    if layout is None or None in numbers.values():
        return Amount(None)
    chosen: dict[str, Scalar] = {}
    for name in sorted(numbers, key=lambda name: {"model": 0, "te": 1}.get(name, 2)):
        try:
            chosen.update(dict.fromkeys(layout.component_names(name), numbers[name]))
        except UnknownNameError as error:
            raise RuleError(str(error), code="unknown-component") from error
    program.arithmetic.spend(len(layout.cells))
    zero: Scalar = Fraction(0)
    return Amount(
        tuple(at(chosen.get(cell.component, zero), i) for i, cell in enumerate(layout.cells))
    )


#: The rules of linear functions, by name.
LINEAR: Mapping[str, Callable[[Program, Sequence[Value]], Value]] = MappingProxyType(
    {
        "mean": _mean,
        "lerp": _lerp,
        "weighted_sum": _lerp,
        "add_difference": _add_difference,
        "linear": _linear,
        "blocks": _blocks,
        "glob": _glob,
        "lora": _lora,
    }
)
