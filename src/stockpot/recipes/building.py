"""Python helpers with the names that expressions have, so that code is equal in power to text."""

from __future__ import annotations

from collections.abc import Iterable

from .expressions import Call, Expr, Items, Name, Number, Operand, Text, as_expression

__all__ = [
    "POOL", "add_difference", "blocks", "call", "glob", "lerp", "linear", "mean", "model",
    "search", "weighted_sum",
]  # fmt: skip

#: The set of all pool entries: `pool` in text.
POOL = Name("pool")


def model(name: str) -> Name:
    """Name a model of the pool, or a `let`.

    Args:
        name: Any text that is not empty.

    Example:
        >>> 0.5 * model("a") + 0.5 * model("10-vcb te")
        <0.5*a + 0.5*"10-vcb te">
    """
    return Name(name)


def mean(*models: Operand) -> Call:
    """Average models, sets and lists of them, each model with the same weight.

    Args:
        *models: At least one.

    Example:
        >>> mean(POOL - model("pony"))
        <mean(pool - pony)>
    """
    return Call("mean", tuple(map(as_expression, models)))


def lerp(a: Operand, b: Operand, t: Operand) -> Call:
    """Go from one model to another: ``a + t*(b - a)``.

    Args:
        a: What ``t = 0`` gives.
        b: What ``t = 1`` gives.
        t: A number or block weights; beyond [0, 1] it amplifies.

    Example:
        >>> lerp(model("a"), model("b"), 0.3)
        <lerp(a, b, 0.3)>
    """
    return Call("lerp", (as_expression(a), as_expression(b), as_expression(t)))


def weighted_sum(a: Operand, b: Operand, t: Operand) -> Call:
    """A1111's name for `lerp`: ``(1 - t)*a + t*b``.

    Args:
        a: A1111's primary model.
        b: A1111's secondary model.
        t: A1111's multiplier; 1 is all of b.

    Example:
        >>> weighted_sum(model("a"), model("b"), 0.3)
        <weighted_sum(a, b, 0.3)>
    """
    return Call("weighted_sum", (as_expression(a), as_expression(b), as_expression(t)))


def add_difference(a: Operand, b: Operand, c: Operand, t: Operand) -> Call:
    """Add what one model has over another: ``a + t*(b - c)``.

    Args:
        a: What to add to.
        b: The model with the wanted change.
        c: What b was trained from.
        t: How much of it; a number or block weights.

    Example:
        >>> add_difference(model("a"), model("b"), model("c"), 1)
        <add_difference(a, b, c, 1)>
    """
    return Call("add_difference", tuple(map(as_expression, (a, b, c, t))))


def linear(models: Iterable[Operand], weights: Iterable[Operand]) -> Call:
    """Sum models with weights as they stand.

    Args:
        models: As many as weights.
        weights: Numbers or block weights; a model has weights that sum to 1.

    Example:
        >>> linear([model("a"), model("b")], [0.25, 0.75])
        <linear([a, b], [0.25, 0.75])>
    """
    return Call("linear", (_items(models), _items(weights)))


def blocks(profile: str, values: Iterable[Operand]) -> Call:
    """A number for each block, to stand wherever a number may.

    Args:
        profile: Name of a block-weight profile, which says the order of the numbers.
        values: As many as the profile has; what it does not cover counts as 0.

    Example:
        >>> blocks("supermerger-xl", [0.5, 0.25])
        <blocks("supermerger-xl", [0.5, 0.25])>
    """
    return Call("blocks", (Text(profile), _items(values)))


def glob(pattern: str) -> Call:
    """The set of pool entries whose names match.

    Args:
        pattern: ``*`` is any run of characters.

    Example:
        >>> mean(glob("anime-*"))
        <mean(glob("anime-*"))>
    """
    return Call("glob", (Text(pattern),))


def search(low: Operand, high: Operand, step: Operand | None = None) -> Call:
    """A hole in place of a number, for `tune` to fill.

    Args:
        low: Least value.
        high: Greatest value.
        step: Grid to stay on; None for any value.

    Example:
        >>> lerp(model("a"), model("b"), search(0, 1))
        <lerp(a, b, search(0, 1))>
    """
    ends = (as_expression(low), as_expression(high))
    return Call("search", ends if step is None else (*ends, as_expression(step)))


def call(function: str, *args: Operand | str, **options: Operand | str) -> Call:
    """Any function by its name, those that do not fold yet among them.

    Args:
        function: A name of `FUNCTIONS`.
        *args: Texts are names of models, save where the function takes a text.
        **options: Named arguments; texts stay texts.

    Example:
        >>> call("ties", "base", "a", "b", keep=0.2)
        <ties(base, a, b, keep=0.2)>
    """
    return Call(
        function, tuple(map(_value, args)), tuple((n, _value(v)) for n, v in options.items())
    )


def _value(value: Operand | str) -> Expr:
    return Text(value) if isinstance(value, str) else as_expression(value)


def _items(values: Iterable[Operand]) -> Items:
    return Items(tuple(v if isinstance(v, Expr) else Number(v) for v in values))
