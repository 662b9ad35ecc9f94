"""Holes of a recipe: where a `search(low, high[, step])` stands, and putting numbers there.

A hole may stand wherever a number may: in block weights, in the weights of a `linear`, as an option
of a method. Holes are told apart by place, so that equal texts in two places are two holes; a hole
in a `let` is one, however often the `let` is read. Nothing here recurses over an expression.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from stockpot.errors import Problem, RecipeError, StockpotError, UnknownNameError
from stockpot.layouts import PROFILES
from stockpot.recipes import Call, Expr, Function, Items, Name, Number, Recipe, Text, find_function

__all__ = [
    "Hole", "Located", "Way", "expression_at", "fill_holes", "find_holes", "locate_holes",
    "put_expressions", "read_values",
]  # fmt: skip

_MOST_HOLES = 10_000
#: Without a step, a number is written with as many decimals as tell this many values apart.
_LEVELS = 4096
#: From the root of an expression to a part of it: which child, and of that one which, …
Way = tuple[int, ...]

_OPERATORS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "add": operator.add,
        "subtract": operator.sub,
        "multiply": operator.mul,
        "divide": operator.truediv,
        "negate": operator.neg,
        "fill": operator.or_,
        "intersect": operator.and_,
    }
)


@dataclass(frozen=True, slots=True)
class Hole:
    """One `search(…)` of a recipe.

    Attributes:
        name: What to call it; no other hole of the recipe has this name.
        place: Where it stands, for people, such as ``let.w``.
        low: Least value.
        high: Greatest value.
        step: Values are ``low + k·step``, none above `high`; None for any value.
        vector: Which list of block weights it is part of; empty if none.
        label: Its block there, as the profile calls it; empty if none.
        sum: Which `linear` it is a weight of; empty if none.
        part: Which of that one's models it is the weight of.
        n_parts: How many models that one has.

    Example:
        >>> Hole("t", "mix.model", Fraction(0), Fraction(1), Fraction(1, 20)).n_levels
        21
    """

    name: str
    place: str
    low: Fraction
    high: Fraction
    step: Fraction | None = None
    vector: str = ""
    label: str = ""
    sum: str = ""
    part: int = 0
    n_parts: int = 0

    @property
    def n_levels(self) -> int | None:
        """How many values it may have; None where any will do."""
        return None if self.step is None else (self.high - self.low) // self.step + 1

    @property
    def resolution(self) -> Fraction:
        """Distance of neighbouring values: the step, or a power of ten that is fine enough."""
        if self.step is not None:
            return self.step
        size = Fraction(1)
        while size * _LEVELS > self.high - self.low:
            size /= 10
        return size

    def snap(self, value: float | Fraction) -> Fraction:
        """Give the nearest value that it may have, exactly.

        Args:
            value: Any finite number.

        Example:
            >>> Hole("t", "", Fraction(0), Fraction(1), Fraction(1, 20)).snap(0.33)
            Fraction(7, 20)
        """
        number = Fraction(value)
        if self.step is not None:
            steps = round((min(max(number, self.low), self.high) - self.low) / self.step)
            assert self.n_levels is not None
            return self.low + self.step * min(steps, self.n_levels - 1)
        unit = self.resolution
        return min(max(round(number / unit) * unit, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Located:
    """A hole, and where it is.

    Attributes:
        hole: The hole.
        root: ``let.NAME`` or ``mix.KEY``.
        path: From the root of that expression to the hole.
        words: That may name it, from the root on: functions, options, blocks, models.
    """

    hole: Hole
    root: str
    path: Way
    words: tuple[str, ...]


def find_holes(recipe: Recipe) -> tuple[Hole, ...]:
    """List the holes of a recipe, in the order in which they are read.

    A hole in a list of block weights is called after its block, a weight of `linear` after its
    model, others after the option or argument that they are; what comes before is added where
    two would have the same name.

    Args:
        recipe: Any recipe.

    Returns:
        The holes; none where the recipe has none.

    Raises:
        RecipeError: A range is empty or no number, or not what its option may be; all at once.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> recipe = make_recipe("lerp(a, b, search(0, 1, 0.05))", {"a": "a.ckpt", "b": "b.ckpt"})
        >>> [(hole.name, hole.n_levels) for hole in find_holes(recipe)]
        [('t', 21)]
    """
    return tuple(found.hole for found in locate_holes(recipe))


def fill_holes(recipe: Recipe, values: Mapping[str, Fraction | Decimal | int | float]) -> Recipe:
    """Put numbers in the place of holes.

    Args:
        recipe: Any recipe.
        values: By the holes' names; holes without a value stay. Floats count as the decimals that
            they print as. A number may lie beyond its hole's range: a person's choice may.

    Returns:
        The recipe with numbers.

    Raises:
        UnknownNameError: The recipe has no hole of a name.
        RecipeError: A number cannot stand there (it would divide by zero), as `find_holes` says.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> recipe = make_recipe("lerp(a, b, search(0, 1))", {"a": "a.ckpt", "b": "b.ckpt"})
        >>> fill_holes(recipe, {"t": 0.25}).mix["model"]
        <lerp(a, b, 0.25)>
    """
    found = locate_holes(recipe)
    known = {one.hole.name for one in found}
    for name in values:
        if name not in known:
            raise UnknownNameError("hole", name, known)
    wanted: dict[str, dict[Way, Expr]] = {}
    for one in found:
        if one.hole.name in values:
            wanted.setdefault(one.root, {})[one.path] = Number(values[one.hole.name])
    return put_expressions(recipe, wanted)


def put_expressions(recipe: Recipe, wanted: Mapping[str, Mapping[Way, Expr]]) -> Recipe:
    """Put other expressions at some places of a recipe; the rest is shared.

    Args:
        recipe: Any recipe.
        wanted: What to put, by root and way, as `locate_holes` tells them.

    Raises:
        RecipeError: A number cannot stand there.
    """
    parts = {
        room: {
            name: _replaced(expression, wanted.get(f"{room}.{name}", {}), f"{room}.{name}")
            for name, expression in getattr(recipe, room).items()
        }
        for room in ("let", "mix")
    }
    return replace(recipe, let=parts["let"], mix=parts["mix"])


def read_values(recipe: Recipe, filled: Recipe) -> dict[str, Fraction] | None:
    """Find which numbers make another recipe of one with holes.

    Args:
        recipe: With holes.
        filled: Any recipe.

    Returns:
        The numbers by the holes' names, such that `fill_holes` gives the other recipe's mix; None
        where no numbers do.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> pool = {"a": "a.ckpt", "b": "b.ckpt"}
        >>> recipe = make_recipe("lerp(a, b, search(0, 1))", pool)
        >>> read_values(recipe, make_recipe("lerp(a, b, 0.3)", pool))
        {'t': Fraction(3, 10)}
    """
    values: dict[str, Fraction] = {}
    for one in locate_holes(recipe):
        room, _, name = one.root.partition(".")
        node = getattr(filled, room).get(name)
        for index in one.path:
            below = () if node is None else _children(node)
            node = below[index] if index < len(below) else None
        if not isinstance(node, Number):
            return None
        values[one.hole.name] = node.value
    made = fill_holes(recipe, values)
    return values if (made.let, made.mix) == (filled.let, filled.mix) else None


def expression_at(recipe: Recipe, place: str) -> Expr:
    """Find what stands at a place that a hole names.

    Args:
        recipe: The recipe that the holes were found in, or one with other numbers in them.
        place: A `Hole.vector` or `Hole.sum`.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> text = "a + linear([b - a, c - a], [search(0, 1), search(0, 1)])"
        >>> recipe = make_recipe(text, {"a": "a.ckpt", "b": "b.ckpt", "c": "c.ckpt"})
        >>> expression_at(recipe, find_holes(recipe)[0].sum)
        <linear([b - a, c - a], [search(0, 1), search(0, 1)])>
    """
    root, _, path = place.rpartition(":")
    room, _, name = root.partition(".")
    node: Expr = getattr(recipe, room)[name]
    for index in path.split(".") if path else ():
        node = _children(node)[int(index)]
    return node


def _children(node: Expr) -> tuple[Expr, ...]:
    if isinstance(node, Items):
        return node.items
    if isinstance(node, Call):
        return (*node.args, *(value for _, value in node.options))
    return ()


def _with_holes(root: Expr) -> set[int]:
    """Nodes with a hole in or below them, by identity; each is visited once."""
    holding: set[int] = set()
    seen: set[int] = set()
    stack = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            if _is_hole(node) or any(id(child) in holding for child in _children(node)):
                holding.add(id(node))
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if not _is_hole(node):
                stack.extend((child, False) for child in _children(node))
    return holding


def _is_hole(node: Expr) -> bool:
    return isinstance(node, Call) and node.function == "search"


def locate_holes(recipe: Recipe) -> list[Located]:
    """List the holes of a recipe with their places, as `find_holes` does.

    Args:
        recipe: Any recipe.

    Raises:
        RecipeError: As `find_holes`.
    """
    problems: list[Problem] = []
    found: list[Located] = []
    for room in ("let", "mix"):
        for name, expression in getattr(recipe, room).items():
            for one in _below(f"{room}.{name}", name, expression, problems):
                found.append(one)
                if len(found) > _MOST_HOLES:
                    raise RecipeError([Problem("too-many", f"a recipe may have {_MOST_HOLES} "
                                               "holes, but this has more", one.root)])  # fmt: skip
    if problems:
        raise RecipeError(problems)
    return _named(found)


def _below(root: str, name: str, expression: Expr, problems: list[Problem]) -> Iterator[Located]:
    holding = _with_holes(expression)
    # An entry: node, way to it, words, what is known of the hole below, the range of its option.
    start: tuple[Expr, Way, tuple[str, ...], dict[str, Any], Any] = (
        expression, (), (name,), {}, None)  # fmt: skip
    stack = [start]
    while stack:
        node, path, words, facts, option = stack.pop()
        if _is_hole(node):
            assert isinstance(node, Call)
            hole = _read(node, root, facts, option, problems)
            if hole is not None:
                yield Located(hole, root, path, words)
            continue
        below = []
        for index, child in enumerate(_children(node)):
            if id(child) not in holding:
                continue
            more, known, limits = _step_down(node, index, root, path, facts)
            below.append((child, (*path, index), words + more, known, limits))
        stack.extend(reversed(below))


def _step_down(
    node: Expr, index: int, root: str, path: Way, facts: dict[str, Any]
) -> tuple[tuple[str, ...], dict[str, Any], Any]:
    """The words that a child adds to a name, what is known of it, and what its option may be."""
    if isinstance(node, Items):
        labels = facts.get("labels", ())
        word = labels[index] if index < len(labels) else str(index + 1)
        known = dict(facts)
        known.pop("labels", None)
        if "vector" in known:
            known["label"] = word
        elif "sum" in known and "part" not in known:
            known["part"] = index
        return (word,), known, None
    assert isinstance(node, Call)
    place = f"{root}:{'.'.join(map(str, path))}"
    if node.function in _OPERATORS:
        # A weight that is computed with is no plain weight any more, nor a plain block weight.
        return (), {}, None
    function = find_function(node.function)
    if index >= len(node.args):
        parameter = node.options[index - len(node.args)][0]
    elif function is not None and not function.parameters[-1].startswith("*"):
        names = function.parameters
        parameter = names[index] if index < len(names) else str(index + 1)
    else:
        parameter = ""
    if node.function == "blocks" and parameter == "values":
        profile = node.args[0] if node.args else None
        text = profile.value if isinstance(profile, Text) else ""
        labels = PROFILES[text].labels if text in PROFILES else ()
        return (), {**facts, "vector": place, "labels": labels}, None
    if node.function == "linear" and parameter == "weights":
        models = node.args[0] if node.args else None
        items = models.items if isinstance(models, Items) else ()
        labels = tuple(
            item.name if isinstance(item, Name) else str(i + 1) for i, item in enumerate(items)
        )
        return (), {"sum": place, "labels": labels, "n_parts": len(items)}, None
    words = tuple(word for word in (node.function, parameter) if word)
    return words, {}, _option(function, parameter)


def _option(function: Function | None, name: str) -> Any:
    options = () if function is None else function.options
    return next((option for option in options if option.name == name), None)


def _read(
    node: Call, root: str, facts: dict[str, Any], option: Any, problems: list[Problem]
) -> Hole | None:
    given = dict(zip(("low", "high", "step"), node.args, strict=False)) | dict(node.options)
    numbers = {n: value.value for n, value in given.items() if isinstance(value, Number)}
    wrong = ""
    if len(numbers) < len(given) or not {"low", "high"} <= given.keys() <= {"low", "high", "step"}:
        wrong = f"a hole has numbers: search(low, high[, step]), but got {node}"
    elif numbers["low"] > numbers["high"]:
        wrong = f"a hole's low end must not be above its high end, but got {node}"
    elif "step" in numbers and not 0 < numbers["step"] <= numbers["high"] - numbers["low"]:
        wrong = f"a step must be above 0 and fit into the range, but got {node}"
    elif option is not None and option.kind == "word":
        wrong = f"{option.name!r} must be {option.range_text}, so a number cannot be searched there"
    elif option is not None and (
        (option.low is not None and numbers["low"] < option.low)
        or (option.high is not None and numbers["high"] > option.high)
    ):
        wrong = f"{option.name!r} may be {option.range_text}, but got {node}"
    elif (
        option is not None
        and option.kind == "whole"
        and not (
            "step" in numbers and numbers["step"].denominator == numbers["low"].denominator == 1
        )
    ):
        wrong = f"{option.name!r} is a whole number, so its step must be one too, but got {node}"
    if wrong:
        problems.append(Problem("hole", wrong, root, "write search(0, 1) or search(0, 1, 0.05)"))
        return None
    known = {key: value for key, value in facts.items() if key != "labels"}
    return Hole("", root, numbers["low"], numbers["high"], numbers.get("step"), **known)


def _named(found: list[Located]) -> list[Located]:
    """Name each by its last words, as few as tell it from all others."""
    longest = max((len(one.words) for one in found), default=0)
    names = [""] * len(found)
    for n_words in range(1, longest + 1):
        pairs = zip(names, found, strict=True)
        tried = [name or ".".join(one.words[-n_words:]) for name, one in pairs]
        counts = Counter(tried)
        for i, name in enumerate(tried):
            if counts[name] == 1:
                names[i] = name
    taken = {name for name in names if name}
    result = []
    for one, name in zip(found, names, strict=True):
        whole, count = name or ".".join(one.words), 1
        while not name:
            candidate = f"{whole}#{count}"
            count += 1
            if candidate not in taken:
                name = candidate
                taken.add(name)
        result.append(replace(one, hole=replace(one.hole, name=name)))
    return result


def _replaced(root: Expr, wanted: Mapping[Way, Expr], where: str) -> Expr:
    """Build an expression anew with other nodes at some places; the rest is shared."""
    if not wanted:
        return root
    touched = {path[:length] for path in wanted for length in range(len(path) + 1)}
    built: dict[Way, Expr] = {}
    stack: list[tuple[Expr, Way, bool]] = [(root, (), False)]
    while stack:
        node, path, ready = stack.pop()
        if path in wanted:
            built[path] = wanted[path]
        elif path not in touched:
            built[path] = node
        elif not ready:
            stack.append((node, path, True))
            stack.extend((c, (*path, i), False) for i, c in enumerate(_children(node)))
        else:
            children = [built.pop((*path, i)) for i in range(len(_children(node)))]
            built[path] = _rebuilt(node, children, where)
    return built[()]


def _rebuilt(node: Expr, children: list[Expr], where: str) -> Expr:
    if isinstance(node, Items):
        return Items(tuple(children))
    assert isinstance(node, Call)
    try:
        if node.function in _OPERATORS:
            # Numbers are computed with at once; a call of an operator on numbers does not exist.
            result = _OPERATORS[node.function](*children)
            assert isinstance(result, Expr)
            return result
        n_args = len(node.args)
        names = [name for name, _ in node.options]
        options = tuple(zip(names, children[n_args:], strict=True))
        return Call(node.function, tuple(children[:n_args]), options)
    except (ValueError, ZeroDivisionError) as error:
        if isinstance(error, StockpotError):
            raise
        raise RecipeError([Problem("number", f"the number cannot stand there: {error}", where,
                                   "narrow the range of the hole")]) from error  # fmt: skip
