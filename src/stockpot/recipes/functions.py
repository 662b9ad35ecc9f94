"""The table of functions that an expression may call.

A recipe may name any function of this table. Those marked ``linear`` fold to coefficients; methods
stand in the folded table as they are and run on tensors (`stockpot.methods` has one for each);
composed ones are written with the others; the rest are kept word for word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Literal

from .signatures import Function, Parameter

__all__ = ["FUNCTIONS", "OPERATORS", "PLUGINS", "RESERVED", "find_function", "text_slots"]

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


#: Entry point group of methods from outside; an entry's name is the function's.
PLUGINS = "stockpot.methods"


def _kept(
    name: str, *parameters: str, summary: str, text: tuple[int, ...] = (), symmetric: bool = False
) -> Function:
    return Function(
        name, parameters, summary, linear=False, text=text, symmetric=symmetric, kind="kept"
    )


def _method(
    name: str,
    *parameters: str,
    summary: str,
    formula: str,
    source: str,
    options: tuple[Parameter, ...] = (),
    kind: Literal["method", "composed"] = "method",
    takes: Literal["models", "deltas", "either"] = "models",
    gives: Literal["model", "list"] = "model",
    version: int = 1,
) -> Function:
    symmetric = parameters[-1].startswith("*")
    return Function(
        name, parameters, summary, linear=False, gives=gives, symmetric=symmetric, kind=kind,
        options=options, takes=takes, formula=formula, source=source, version=version,
    )  # fmt: skip


_ONE = Fraction(1)
_PAPER_TIES = "arXiv 2306.01708"
_PAPER_DARE = "arXiv 2311.03099"
_PAPER_DELLA = "arXiv 2406.11617"
_PAPER_MEDIAN = "arXiv 1912.13445"
_PAPER_ISO = "arXiv 2502.04959"
_PAPER_REBASIN = "arXiv 2209.04836"
_AUTHOR = "the author of AstolfoMix"
_SUPERMERGER = "supermerger"

_SCALE = Parameter("scale", "λ: factor of the merged delta", _ONE, None, None)
_SEED = Parameter("seed", "of the masks", Fraction(0), Fraction(0), None, "whole")
_KEEP = Parameter("keep", "fraction of each delta's elements that stays, the largest first",
                  Fraction(1, 5))  # fmt: skip
_ALL = Parameter("keep", _KEEP.meaning, _ONE)
_P = Parameter("p", "probability that an element of a delta is dropped")
_TENTH = Parameter("p", _P.meaning, Fraction(1, 10))
_EPS = Parameter("eps", "how far the probability follows the rank of the magnitude: above 0 large "
                 "elements stay, below 0 they drop", None, Fraction(-2), Fraction(2))  # fmt: skip
_NO_EPS = Parameter("eps", _EPS.meaning, Fraction(0), _EPS.low, _EPS.high)
_AUTHORS_EPS = Parameter("eps", _EPS.meaning, Fraction(-1, 10), _EPS.low, _EPS.high)
_RESCALE = Parameter("rescale", "1 divides what stays by 1 - p, 0 leaves it", Fraction(0),
                     kind="whole")  # fmt: skip
_VOTES = ("magnitude", "count")
_ELECT = Parameter("elect", "sign by the sum of the deltas, or by heads", "magnitude",
                   kind="word", words=_VOTES)  # fmt: skip
_BY_COUNT = Parameter("elect", _ELECT.meaning, "count", kind="word", words=_VOTES)
_MEDIAN = (
    Parameter("maxiter", "most iterations", Fraction(100), Fraction(0), Fraction(10_000), "whole"),
    Parameter("ftol", "relative gain of the sum of distances at which to stop",
              Fraction(1, 10**20)),
    Parameter("eps_guard", "least distance that counts, against division by zero",
              Fraction(1, 10**6), Fraction(0), None),
)  # fmt: skip
_COS_GUARD = Parameter("cos_eps_guard", "least norm that has an angle", Fraction(1, 10**6),
                       Fraction(0), None)  # fmt: skip
_T = Parameter("t", "0 is a, 1 is b", Fraction(1, 2), None, None)
_SHARE = Parameter("t", "how much", _ONE, None, None)

_RULES: Iterable[Function] = (
    Function(
        "mean", ("*models",), "plain average of models, sets and lists of them", symmetric=True,
        formula="Σ θᵢ / n", source="model soups, arXiv 2203.05482",
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
        "lora", ("adapter",), "the difference that a LoRA or LyCORIS file adds to a model",
        formula="α/r · up·down; locon, loha, lokr and full differences alike",
        source="arXiv 2106.09685, 2309.14859",
    ),
    Function(
        "glob",
        ("pattern",),
        "the pool's names that match; `*` is any run of characters",
        gives="set",
        text=(0,),
    ),
)  # fmt: skip

_METHODS: Iterable[Function] = (
    _method("slerp", "a", "b", "t", summary="interpolation on the sphere", options=(_T,),
            formula="(sin((1-t)ω)·a/‖a‖ + sin(tω)·b/‖b‖)/sin ω · ((1-t)‖a‖ + t‖b‖); "
            "cos ω = ⟨a, b⟩/‖a‖‖b‖", source="Shoemake 1985", version=2),
    _method("karcher_mean", "*models", summary="mean of directions on the sphere",
            takes="either",
            formula="mean norm times the point of the sphere with Σ log(θᵢ/‖θᵢ‖) = 0",
            source="Karcher 1977", version=2),
    _method("model_stock", "base", "*models", kind="composed", options=(_COS_GUARD,),
            summary="ratio from the angle of the differences",
            formula="θ₀ + t·Στᵢ/n; t = nc/(1 + (n-1)c), c = mean cosine of the pairs of τ",
            source="arXiv 2403.19522"),
    _method("stock", "*deltas", takes="deltas", options=(_COS_GUARD,),
            summary="mean of deltas, scaled by their angle", formula="t·Στᵢ/n, as in model_stock",
            source="arXiv 2403.19522", version=2),
    _method("geometric_median", "*models", takes="either", options=_MEDIAN,
            summary="least sum of distances, whole tensor",
            formula="argmin over y of Σ ‖θᵢ - y‖: y = Σ wᵢθᵢ, wᵢ ∝ 1/max(‖θᵢ - y‖, eps_guard)",
            source=f"Weiszfeld 1937; {_PAPER_MEDIAN}", version=2),
    _method("element_geometric_median", "*models", takes="either",
            options=_MEDIAN, summary="least sum of distances, each element on its own",
            formula="as geometric_median with |θᵢ - y| of the element", source="Weiszfeld 1937"),
    _method("median", "*models", takes="either",
            summary="median of each element; the middle of the two where n is even",
            formula="median(θ₁ … θₙ)", source="–"),
    _method("trimmed_mean", "*models", takes="either",
            options=(Parameter("cut", "fraction cut from each end; n·cut is rounded down",
                               Fraction(1, 10), Fraction(0), Fraction(1, 2)),),
            summary="mean of each element without the extremes",
            formula="mean of the sorted θ₍k+1₎ … θ₍n-k₎, k = ⌊n·cut⌋", source="–"),
    _method("trimmed", "*deltas", gives="list", takes="deltas", options=(
            _ALL, Parameter("cut", "fraction of the largest elements that is dropped",
                            Fraction(0))),
            summary="deltas without their smallest, or largest, elements",
            formula="τ where its magnitude is within the largest keep + cut of its tensor and not "
            "among the largest cut; what equals a threshold stays", source=_PAPER_TIES),
    _method("masked", "*deltas", gives="list", takes="deltas",
            options=(_P, _NO_EPS, _RESCALE, _SEED),
            summary="deltas with elements dropped at random",
            formula="mask·τ; keep probability (1-p) + eps·(rank/N - (N+1)/2N) within 0 … 1",
            source=f"{_PAPER_DARE}; {_PAPER_DELLA}"),
    _method("elected", "*deltas", gives="list", takes="deltas", options=(_ELECT,),
            summary="deltas where they have the elected sign, else 0",
            formula="τ·[sgn τ = γ]; γ = sgn Σ τᵢ, or sgn Σ sgn τᵢ", source=_PAPER_TIES),
    _method("kept_mean", "*deltas", takes="deltas",
            summary="mean of the deltas that are not 0, element by element",
            formula="Σ τᵢ / max(1, #{τᵢ ≠ 0})", source=_PAPER_TIES),
    _method("isotropic", "delta", takes="deltas", options=(
            Parameter("z", "0 makes singular values equal, 1 leaves them", Fraction(4, 5),
                      None, None),),
            summary="singular values drawn towards their mean",
            formula="U·(S̄ + z(S - S̄))·Vᵀ of τ as [out, rest]; tensors of one axis stay",
            source=f"{_PAPER_ISO}; {_AUTHOR}"),
    _method("low_rank", "delta", takes="deltas", options=(
            Parameter("rank", "singular values that stay", None, Fraction(0), None, "whole"),),
            summary="the best delta of a rank",
            formula="U·S·Vᵀ of τ as [out, rest], the largest `rank` of S; tensors of one axis stay",
            source="Eckart and Young 1936"),
    _method("train_difference", "a", "b", "c", "t", options=(_SHARE,),
            summary="supermerger's trainDifference",
            formula="a + 1.8·t·(b - c)·|b - a|/(|b - c| + |b - a|)", source=_SUPERMERGER),
    _method("cosine_a", "a", "b", "t", options=(_SHARE,), summary="supermerger's cosineA",
            formula="b + k(a - b); k = clamp(s - t, 0, 1), s = cosine of the columns of a and b, "
            "each tensor on its own", source=_SUPERMERGER),
    _method("cosine_b", "a", "b", "t", options=(_SHARE,), summary="supermerger's cosineB",
            formula="as cosine_a, s = mean of the column's cosine and the tensor's",
            source=_SUPERMERGER),
    _method("smooth_add", "a", "b", "c", "t", options=(_SHARE,), kind="composed",
            summary="supermerger's smoothAdd", formula="a + t·smoothed(b - c)",
            source=_SUPERMERGER),
    _method("smoothed", "delta", takes="deltas", summary="a delta through two filters",
            formula="gaussian (σ = 1) of the median of 3 along each axis, edges reflected",
            source=_SUPERMERGER),
    _method("tensor_swap", "a", "b", "low", "high", options=(
            Parameter("low", "where b begins, as a fraction of the first axis"),
            Parameter("high", "where b ends")),
            summary="supermerger's tensor swap",
            formula="b in the rows ⌊low·d⌋ … ⌊high·d⌋ of the first axis, else a",
            source=_SUPERMERGER),
    _method("rebasin", "a", "b", summary="b with its units permuted to match a",
            formula="argmax over permutations P that leave b's function of ⟨a, P b⟩",
            source=f"Git Re-Basin, {_PAPER_REBASIN}"),
    _method("top_k_sum", "a", "b", "t", options=(
            Parameter("t", "fraction of b's elements that replace a's"),),
            summary="the largest elements of b over a",
            formula="b where |b| is among the largest t of its tensor, else a; what equals the "
            "threshold counts as large", source=_SUPERMERGER),
)  # fmt: skip

_COMPOSED: Iterable[Function] = (
    _method("amplify", "a", "b", "t", kind="composed",
            options=(Parameter("t", "1 is b, above goes beyond", Fraction(2), None, None),),
            summary="beyond b, on the line from a", formula="a + t(b - a)", source=_AUTHOR),
    _method("basin_sum", "a", "b", "t", kind="composed",
            options=(Parameter("t", "1 is a", Fraction(1, 2), None, None),),
            summary="interpolation of a, b and the re-based b",
            formula="t(ta + (1-t)b) + (1-t)(ta + (1-t)·rebasin(a, b))", source=_AUTHOR),
    _method("task_arithmetic", "base", "*models", kind="composed", options=(_SCALE,),
            summary="base plus scaled sum of differences", formula="θ₀ + λ Σ τᵢ",
            source="arXiv 2212.04089"),
    _method("ties", "base", "*models", kind="composed", options=(_KEEP, _ELECT, _SCALE),
            summary="trim, elect a sign by magnitude, average",
            formula="θ₀ + λ·kept_mean(elected(trimmed(τ, keep), elect))", source=_PAPER_TIES),
    _method("ties_soup", "base", "*models", kind="composed", options=(_ALL, _BY_COUNT, _SCALE),
            summary="TIES with the sign elected by count",
            formula="θ₀ + λ·kept_mean(elected(τ, count))", source=_AUTHOR),
    _method("dare", "base", "*models", kind="composed", options=(_P, _SEED, _SCALE),
            summary="random drop of differences, rescaled",
            formula="θ₀ + λ·Σ maskᵢτᵢ/(1-p)/n", source=_PAPER_DARE),
    _method("drop", "base", "*models", kind="composed", options=(_P, _SEED, _SCALE),
            summary="random drop of differences, not rescaled",
            formula="θ₀ + λ·Σ maskᵢτᵢ/n", source=_AUTHOR),
    _method("della", "base", "*models", kind="composed",
            options=(_P, _EPS, _RESCALE, _SEED, _SCALE),
            summary="drop by rank of magnitude",
            formula="as drop; keep probability (1-p) + eps·(rank/N - (N+1)/2N)",
            source=_PAPER_DELLA),
    _method("breadcrumbs", "base", "*models", kind="composed", options=(
            Parameter("keep", "fraction of each delta's elements that stays", Fraction(9, 10)),
            Parameter("cut", "fraction of the largest elements that is dropped",
                      Fraction(1, 100)), _SCALE),
            summary="drops largest and smallest differences",
            formula="θ₀ + λ·Σ trimmed(τᵢ, keep, cut)/n", source="arXiv 2312.06795"),
    _method("tgmd", "base", "*models", kind="composed",
            options=(_TENTH, _ALL, _BY_COUNT, _RESCALE, _SEED, _SCALE, *_MEDIAN, _COS_GUARD),
            summary="drop, election by count, geometric median",
            formula="θ₀ + λ·geometric_median(elected(masked(τ, p), elect))", source=_AUTHOR),
    _method("dgmla", "base", "*models", kind="composed",
            options=(_TENTH, _AUTHORS_EPS, _ALL, _BY_COUNT, _RESCALE, _SEED, _SCALE, *_MEDIAN,
                     _COS_GUARD),
            summary="DELLA, election by count, geometric median",
            formula="θ₀ + λ·geometric_median(elected(masked(τ, p, eps), elect))", source=_AUTHOR),
    _method("ties_dropout", "base", "*models", kind="composed", options=(
            _P, _NO_EPS, _KEEP, _ELECT, _RESCALE,
            Parameter("centre", "how the elected deltas become one", "mean", kind="word",
                      words=("mean", "stock", "median")), _SEED, _SCALE, *_MEDIAN, _COS_GUARD),
            summary="random drop of differences, then as `ties`",
            formula="θ₀ + λ·centre(elected(trimmed(masked(τ, p, eps), keep), elect))",
            source="sd-mecha"),
    _method("iso_c", "base", "a", kind="composed",
            summary="singular values of the difference made equal",
            formula="θ₀ + isotropic(a - θ₀, z=0)", source=_PAPER_ISO),
    _method("iso_z", "base", "a", kind="composed", options=(
            Parameter("z", "0 is iso_c, 1 is a", Fraction(4, 5), None, None),),
            summary="singular values drawn towards their mean",
            formula="θ₀ + isotropic(a - θ₀, z)", source=_AUTHOR),
)  # fmt: skip

_KEPT: Iterable[Function] = (
    Function(
        "search", ("low", "high", "step"), "a hole that `tune` fills", linear=False, gives="number",
        kind="kept",
    ),
    _kept("pick_component", "a", "component", summary="the keys of one component", text=(1,)),
    _kept(
        "foreign",
        "method",
        "*arguments",
        summary="another tool's method, kept as it was written",
        text=(0,),
    ),
)  # fmt: skip

#: Every function that comes with Stockpot, by name.
FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {row.name: row for rows in (_RULES, _METHODS, _COMPOSED, _KEPT) for row in rows}
)

#: Names that neither a pool entry nor a `let` may have.
RESERVED: frozenset[str] = frozenset(FUNCTIONS) | {"pool"}


def find_function(name: str) -> Function | None:
    """Look a function up, here and among the methods of installed packages.

    Args:
        name: What stands before the bracket.

    Returns:
        Its row. A package's code is loaded only when a recipe names its method.

    Example:
        >>> find_function("lerp").parameters, find_function("no_such_thing")
        (('a', 'b', 't'), None)
    """
    return FUNCTIONS.get(name) or _plugin(name)


@lru_cache(maxsize=1024)
def _plugin(name: str) -> Function | None:
    for entry in entry_points(group=PLUGINS, name=name):
        row = getattr(entry.load(), "function", None)
        if isinstance(row, Function) and row.name == name and row.kind == "method":
            return row
    return None


def text_slots(function: str) -> tuple[int, ...]:
    """Positions of a call at which a string literal is a text and not a model's name.

    Args:
        function: Name of a function; one that the table lacks has no such place.

    Example:
        >>> text_slots("blocks"), text_slots("mean")
        ((0,), ())
    """
    row = find_function(function)
    return row.text if row else ()
