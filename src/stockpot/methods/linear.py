"""Weighted sums of rows, correctly rounded.

out = Σ wᵢ·θᵢ with exact rational weights wᵢ; mean, weighted sum, add difference, block weights and
everything that folds to them (model soups, 2203.05482; task arithmetic, 2212.04089).

The result is the exact sum rounded once to the output's type, ties to even. So no order of inputs,
chunking, thread count or machine can change a byte. It costs little, because a common denominator
q makes the weights integers pᵢ:

1. If every product and partial sum of pᵢ·θᵢ fits the 53 bits of a double, the sum is exact, and so
   is the rounding of sum/q. Checkpoints in fp16 are in this case for any sensible weights: their
   values are whole multiples of 2⁻²⁴ below 2⁴⁰ of them.
2. Otherwise the sum carries an error bound, and only elements whose rounding changes within the
   bound are doubtful (`doubtful.settle` decides them exactly).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import DTYPES, DType
from stockpot.methods import doubtful

try:
    import stockpot.methods._linear as _linear
except ImportError:  # built without a compiler
    _linear = None  # type: ignore[assignment, unused-ignore]

__all__ = [
    "CODES",
    "HAS_COMPILED_KERNEL",
    "Kernel",
    "Row",
    "RowFacts",
    "combine",
    "kernel",
    "narrow",
]

HAS_COMPILED_KERNEL = _linear is not None
"""Whether the C kernel was built; without it torch computes the same bytes, more slowly."""

CODES = {"F64": 0, "F32": 1, "F16": 2, "BF16": 3, "F8_E4M3": 4, "F8_E5M2": 5}
_EXACT_INTEGER = 1 << 53
_UNIT = 2.0**-53
_TINY = 2.0**-900
_HUGE = 2.0**900

Kernel = Callable[
    [memoryview, int, list[memoryview], list[int], list[float], float, float],
    tuple[float, float, int, int, bytes],
]


@dataclass(frozen=True, slots=True)
class Row:
    """The same slice of one tensor, from one model.

    Attributes:
        data: Bytes of the elements, shape ``[n]``, little-endian.
        dtype: Their type, a float.
    """

    data: memoryview
    dtype: DType


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What was noticed while a row was computed.

    Attributes:
        nonfinite_input: Some input holds NaN or an infinity. The output has there what arithmetic
            on them gives; elsewhere it is as ever.
        overflow: Some result of finite inputs does not fit the output's type, which has infinity
            there, or NaN where the type has none.
        n_settled: Elements that needed the exact second look.
    """

    nonfinite_input: bool
    overflow: bool
    n_settled: int


def combine(
    rows: Sequence[Row],
    weights: Sequence[Fraction],
    out: Row,
    *,
    compiled: bool = HAS_COMPILED_KERNEL,
) -> RowFacts:
    """Compute one row of a linear merge.

    Args:
        rows: The panel: one row a model, all of `n` elements; at least one. Not changed.
        weights: The exact weight of each row; none is zero.
        out: Where the result goes: `n` elements of any float type, writable.
        compiled: Use the C kernel; otherwise torch. Both give the same bytes.

    Returns:
        What was noticed.

    Raises:
        ValueError: A weight is zero, or rows differ in length.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> half = DTYPES["F16"]
        >>> a, b = (np.array([v], np.float16) for v in (1.0, 2.0))
        >>> out = np.empty(1, np.float16)
        >>> panel = [Row(memoryview(x).cast("B"), half) for x in (a, b)]
        >>> facts = combine(panel, [Fraction(1, 4), Fraction(3, 4)],
        ...                 Row(memoryview(out).cast("B"), half))
        >>> out.tolist(), facts.overflow
        ([1.75], False)
    """
    if not all(weights):
        raise ValueError("a weight must not be zero; leave that row out")
    n = out.data.nbytes // out.dtype.itemsize
    if any(row.data.nbytes != n * row.dtype.itemsize for row in rows):
        raise ValueError("every row must have as many elements as the output")
    if n == 0:
        return RowFacts(False, False, 0)
    run = kernel(compiled)
    divisor = math.lcm(*(weight.denominator for weight in weights))
    numerators = [int(weight * divisor) for weight in weights]
    whole = divisor <= _EXACT_INTEGER and all(abs(n) <= _EXACT_INTEGER for n in numerators)
    scale = float(divisor) if whole else 1.0
    factors = [float(n) for n in numerators] if whole else [_nearest(w) for w in weights]
    buffers = [row.data for row in rows]
    codes = [CODES[row.dtype.name] for row in rows]
    code = CODES[out.dtype.name]

    largest, grain, nonfinite, overflow, _ = run(
        out.data, code, buffers, codes, factors, scale, -1.0
    )
    if nonfinite:
        return _with_nonfinite(rows, weights, out, compiled)
    if largest == 0.0 and all(factors):
        return RowFacts(False, False, 0)
    if whole and _is_exact(largest, grain, divisor, out.dtype):
        return RowFacts(False, bool(overflow), 0)

    smallest = min(map(abs, factors)) * grain
    if out.dtype.name == "F64" or not (_TINY < smallest and largest < _HUGE):
        # A double has no wider type to show its own doubt, and where products may underflow or
        # sums overflow the bound means nothing: look at every element.
        found = np.arange(n)
    else:
        slack = (len(rows) + 4) * _UNIT
        *_, listed = run(out.data, code, buffers, codes, factors, scale, slack)
        found = np.frombuffer(listed, np.uint32).astype(np.int64)
    doubtful.settle([(row.data, row.dtype) for row in rows], weights, (out.data, out.dtype), found)
    if overflow or len(found):
        overflow = bool(doubtful.find_nonfinite(out.data, out.dtype).any())
    return RowFacts(False, bool(overflow), len(found))


def narrow(
    values: npt.NDArray[np.float64], out: Row, *, compiled: bool = HAS_COMPILED_KERNEL
) -> RowFacts:
    """Round doubles to a type, once, ties to even.

    Args:
        values: Shape ``[n]``, contiguous.
        out: Where the result goes: `n` elements of any float type, writable.
        compiled: Use the C kernel; otherwise torch. Both give the same bytes.

    Returns:
        What was noticed.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> out = np.empty(2, np.float16)
        >>> facts = narrow(np.array([0.1, 1e6]), Row(memoryview(out).cast("B"), DTYPES["F16"]))
        >>> out.tolist(), facts.overflow
        ([0.0999755859375, inf], True)
    """
    if not values.size:
        return RowFacts(False, False, 0)
    data = values.data.cast("B")
    facts = kernel(compiled)(
        out.data, CODES[out.dtype.name], [data], [CODES["F64"]], [1.0], 1.0, -1.0
    )
    if facts[2]:
        columns = np.flatnonzero(~np.isfinite(values))
        whole = [(data, DTYPES["F64"])]
        doubtful.put_nonfinite(whole, [Fraction(1)], (out.data, out.dtype), columns)
    return RowFacts(bool(facts[2]), bool(facts[3]), 0)


def _nearest(weight: Fraction) -> float:
    try:
        return float(weight)
    except OverflowError:
        return math.inf if weight > 0 else -math.inf


def _with_nonfinite(
    rows: Sequence[Row], weights: Sequence[Fraction], out: Row, compiled: bool
) -> RowFacts:
    """Combine the finite columns as ever, and the others by the rules of infinities."""
    masks = [doubtful.find_nonfinite(row.data, row.dtype) for row in rows]
    columns = np.flatnonzero(np.logical_or.reduce(masks))
    pairs = [(row.data, row.dtype) for row in rows]
    finite = [Row(doubtful.with_zeros(data, dtype, columns), dtype) for data, dtype in pairs]
    facts = combine(finite, weights, out, compiled=compiled)
    doubtful.put_nonfinite(pairs, weights, (out.data, out.dtype), columns)
    return RowFacts(True, facts.overflow, facts.n_settled)


def _is_exact(largest: float, grain: float, divisor: int, out: DType) -> bool:
    """Whether sum and rounding are exact: all partial sums are multiples of `grain`.

    |sum/q − midpoint| is 0 or at least min(grain/2, midpoint's step)/q, so the quotient's own
    rounding cannot reach across a midpoint while q leaves that many bits.
    """
    if out.name == "F64":
        return largest < 2.0**53 * grain
    return largest <= 2.0**50 * grain and divisor.bit_length() + out.mantissa_bits <= 48


def kernel(compiled: bool) -> Kernel:
    """Give the function that walks over rows.

    Args:
        compiled: The C kernel; otherwise torch's.

    Returns:
        A function as `linear_torch.combine` describes it.

    Raises:
        ImportError: The C kernel is wanted and was not built.
    """
    if not compiled:
        from stockpot.methods import linear_torch

        return linear_torch.combine
    if _linear is None:
        raise ImportError("the C kernel is not built; install again with a C compiler")
    found: Kernel = _linear.combine
    return found
