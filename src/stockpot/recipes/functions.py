"""The table of functions that an expression may call.

A recipe may name any function of this table. Those marked ``linear`` fold to coefficients; the
others are kept word for word (parsed, printed, compared) and wait for the engine's methods. A new
method is one more row here, plus a rule in `rules` if it is linear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["FUNCTIONS", "OPERATORS", "RESERVED", "Function", "text_slots"]

#: Operators: the name of the call they build, how many operands, how tightly they bind.
OPERATORS: Mapping[str, tuple[str, int, int]] = MappingProxyType(
    {
        "fill": ("|", 2, 1),
        "intersect": ("&", 2, 2),
        "add": ("+", 2, 3),
        "subtract": ("-", 2, 3),
        "multiply": ("*", 2, 4),
        "divide": ("/", 2, 4),
        "negate": ("-", 1, 5),
    }
)


@dataclass(frozen=True, slots=True)
class Function:
    """One row of the table.

    Attributes:
        name: What stands before the bracket.
        parameters: Names of the parameters, in order; one that starts with ``*`` takes the rest.
        summary: What it means, in a line for people.
        linear: Whether it folds to coefficients today.
        gives: ``model``, ``number`` or ``set``.
        text: Positions whose string literal is a text and not the name of a model.
        symmetric: Whether the order of the arguments is without meaning.
        named: Whether it takes options of any name and no arguments by position.

    Example:
        >>> FUNCTIONS["lerp"].signature
        'lerp(a, b, t)'
    """

    name: str
    parameters: tuple[str, ...]
    summary: str
    linear: bool = True
    gives: Literal["model", "number", "set"] = "model"
    text: tuple[int, ...] = ()
    symmetric: bool = False
    named: bool = False

    @property
    def signature(self) -> str:
        """How a call is written."""
        return f"{self.name}({', '.join(self.parameters)})"


def _later(
    name: str, *parameters: str, summary: str, text: tuple[int, ...] = (), symmetric: bool = False
) -> Function:
    return Function(name, parameters, summary, linear=False, text=text, symmetric=symmetric)


_ROWS: Iterable[Function] = (
    Function(
        "mean", ("*models",), "plain average of models, sets and lists of them", symmetric=True
    ),
    Function("lerp", ("a", "b", "t"), "a + t*(b - a): t = 0 is a, t = 1 is b"),
    Function("weighted_sum", ("a", "b", "t"), "A1111's name for lerp(a, b, t)"),
    Function("add_difference", ("a", "b", "c", "t"), "a + t*(b - c)"),
    Function("linear", ("models", "weights"), "sum of weight times model, weights as they stand"),
    Function("blocks", ("profile", "values"), "a number for each block", gives="number", text=(0,)),
    Function(
        "components",
        ("component=number",),
        "a number for each component, 0 for those not named",
        gives="number",
        named=True,
    ),
    Function(
        "glob",
        ("pattern",),
        "the pool's names that match; `*` is any run of characters",
        gives="set",
        text=(0,),
    ),
    Function(
        "search", ("low", "high", "step"), "a hole that `tune` fills", linear=False, gives="number"
    ),
    _later("slerp", "a", "b", "t", summary="interpolation on the sphere"),
    _later("karcher_mean", "*models", summary="mean of directions"),
    _later("task_arithmetic", "base", "*models", summary="base plus scaled sum of differences"),
    _later("ties", "base", "*models", summary="trim, elect a sign by magnitude, average"),
    _later("ties_soup", "base", "*models", summary="TIES with the sign elected by count"),
    _later("dare", "base", "*models", summary="random drop of differences, rescaled"),
    _later("drop", "base", "*models", summary="random drop of differences, not rescaled"),
    _later("della", "base", "*models", summary="drop by rank of magnitude"),
    _later("breadcrumbs", "base", "*models", summary="drops largest and smallest differences"),
    _later("model_stock", "base", "*models", summary="ratio from the angle of the differences"),
    _later("geometric_median", "*models", summary="least sum of distances, whole tensor"),
    _later("median", "*models", summary="median of each element"),
    _later("trimmed_mean", "*models", summary="mean of each element without the extremes"),
    _later("tgmd", "base", "*models", summary="drop, election by count, geometric median"),
    _later("dgmla", "base", "*models", summary="DELLA, election by count, geometric median"),
    _later("iso_c", "base", "a", summary="singular values of the difference made equal"),
    _later("iso_z", "base", "a", summary="singular values drawn towards their mean"),
    _later("rebasin", "a", "b", summary="b with its units permuted to match a"),
    _later("basin_sum", "a", "b", "t", summary="interpolation over a re-based model"),
    _later("lora", "a", "adapter", "scale", summary="a LoRA or LyCORIS file baked in"),
    _later("train_difference", "a", "b", "c", "t", summary="supermerger's trainDifference"),
    _later("cosine_a", "a", "b", "t", summary="supermerger's cosineA"),
    _later("cosine_b", "a", "b", "t", summary="supermerger's cosineB"),
    _later("smooth_add", "a", "b", "c", "t", summary="supermerger's smoothAdd"),
    _later("tensor_swap", "a", "b", "low", "high", summary="supermerger's tensor swap"),
    _later("top_k_sum", "a", "b", "t", summary="the largest elements of b over a"),
    _later("pick_component", "a", "component", summary="the keys of one component", text=(1,)),
    _later("ties_dropout", "base", "*models", summary="random drop of differences, then as `ties`"),
    _later(
        "foreign",
        "method",
        "*arguments",
        summary="another tool's method, kept as it was written",
        text=(0,),
    ),
)

#: Every function that an expression may call, by name.
FUNCTIONS: Mapping[str, Function] = MappingProxyType({row.name: row for row in _ROWS})

#: Names that neither a pool entry nor a `let` may have.
RESERVED: frozenset[str] = frozenset(FUNCTIONS) | {"pool"}


def text_slots(function: str) -> tuple[int, ...]:
    """Positions of a call at which a string literal is a text and not a model's name.

    Args:
        function: Name of a function; one that the table lacks has no such place.

    Example:
        >>> text_slots("blocks"), text_slots("mean")
        ((0,), ())
    """
    row = FUNCTIONS.get(function)
    return row.text if row else ()
