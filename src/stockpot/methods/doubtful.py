"""Exact decisions for the few elements whose rounding a bounded error leaves open.

The sum of a column is carried as an unevaluated pair (hi, lo) by error-free transformations
(Knuth's two-sum, Dekker's two-product); where the pair holds the sum exactly, comparing it with
the midpoint between two neighbours of the output's type decides. What the pair cannot hold is
summed as fractions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import DType

__all__ = [
    "find_nonfinite",
    "put_nonfinite",
    "round_fraction",
    "settle",
    "to_float64",
    "with_zeros",
]

Doubles = npt.NDArray[np.float64]
Bits = npt.NDArray[np.unsignedinteger[Any]]
# Doubles that are held at once: a few MB, whatever the number of models.
_LOOK_AT_ONCE = 1 << 17


def settle(
    rows: Sequence[tuple[memoryview, DType]],
    weights: Sequence[Fraction],
    out: tuple[memoryview, DType],
    where: npt.NDArray[np.int64],
) -> None:
    """Write the correctly rounded weighted sum at some elements of a row.

    Args:
        rows: Bytes and type of each model's row, `n` elements each, all finite.
        weights: Exact weight of each row.
        out: Bytes and type of the output row.
        where: Indices of the elements to decide, shape ``[m]``.
    """
    step = max(1, _LOOK_AT_ONCE // len(rows))
    for begin in range(0, len(where), step):
        piece = where[begin : begin + step]
        columns = np.stack([to_float64(_picked(data, t, piece), t) for data, t in rows])
        rounded = _rounded_sums(columns, weights, out[1])
        target = np.frombuffer(out[0], _RAW[out[1].itemsize])
        target[piece] = rounded


def to_float64(raw: Bits, dtype: DType) -> Doubles:
    """Widen elements to double; always exact.

    Args:
        raw: Bit patterns as unsigned integers of the type's size, shape ``[n]``.
        dtype: What the patterns mean.

    Returns:
        The values, shape ``[n]``.
    """
    if dtype.name == "F64":
        return raw.view(np.float64)
    if dtype.name == "F32":
        return raw.view(np.float32).astype(np.float64)
    if dtype.name == "F16":
        return raw.view(np.float16).astype(np.float64)
    width = 8 * dtype.itemsize
    bits = raw.astype(np.uint64)
    magnitude = bits & np.uint64((1 << (width - 1)) - 1)
    bias = 2 ** (width - 2 - dtype.mantissa_bits) - 1
    values = (magnitude << np.uint64(52 - dtype.mantissa_bits)).view(np.float64)
    values = values * 2.0 ** (1023 - bias)
    signed: Doubles = np.where(bits >> np.uint64(width - 1) == 1, -values, values)
    return signed


def round_fraction(value: Fraction, dtype: DType) -> float:
    """Round an exact value to a float type, to nearest, ties to even.

    Args:
        value: Any rational number.
        dtype: The type to round to; its subnormals count.

    Returns:
        The nearest value of that type, as a double; infinite where it is too large.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> round_fraction(Fraction(1, 3), DTYPES["F16"])
        0.333251953125
    """
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if size < Fraction(2) ** exponent:
        exponent -= 1
    last_place = max(exponent, dtype.min_exponent) - dtype.mantissa_bits
    # Python rounds fractions half to even.
    rounded = round(size / Fraction(2) ** last_place) * Fraction(2) ** last_place
    result = math.inf if rounded > Fraction(dtype.max_value) else float(rounded)
    return -result if value < 0 else result


def find_nonfinite(data: memoryview, dtype: DType) -> npt.NDArray[np.bool_]:
    """Mark elements that are NaN or infinite.

    Args:
        data: Bytes of the elements, shape ``[n]``.
        dtype: Their type, a float.

    Returns:
        True where an element is not finite, shape ``[n]``.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> row = np.array([1, np.inf, np.nan], np.float16)
        >>> find_nonfinite(memoryview(row).cast("B"), DTYPES["F16"]).tolist()
        [False, True, True]
    """
    kind = _RAW[dtype.itemsize]
    # The smallest pattern that is no number: infinity, or the NaN of the type that has none.
    first = (1 << (8 * dtype.itemsize - 1)) - 1 if dtype.name == "F8_E4M3" else _infinity(dtype)
    magnitude = np.frombuffer(data, kind) & kind((1 << (8 * dtype.itemsize - 1)) - 1)
    marked: npt.NDArray[np.bool_] = magnitude >= kind(first)
    return marked


def with_zeros(data: memoryview, dtype: DType, where: npt.NDArray[np.int64]) -> memoryview:
    """Copy a row with some elements set to zero.

    Args:
        data: Bytes of the row.
        dtype: Its type.
        where: Indices of the elements.

    Returns:
        The copy's bytes.
    """
    copy = np.frombuffer(data, _RAW[dtype.itemsize]).copy()
    copy[where] = 0
    return copy.data.cast("B")


def put_nonfinite(
    rows: Sequence[tuple[memoryview, DType]],
    weights: Sequence[Fraction],
    out: tuple[memoryview, DType],
    where: npt.NDArray[np.int64],
) -> None:
    """Write what sums with NaN and infinities come to: NaN, unless all infinities agree.

    Args:
        rows: Bytes and type of each model's row.
        weights: Weight of each row.
        out: Bytes and type of the output row.
        where: Indices of the elements, each with a NaN or an infinity in some row.
    """
    up, down = np.zeros(len(where), bool), np.zeros(len(where), bool)
    for (data, dtype), weight in zip(rows, weights, strict=True):
        raw = _picked(data, dtype, where).astype(np.uint64)
        sign = raw >> np.uint64(8 * dtype.itemsize - 1) == 1
        magnitude = raw & np.uint64((1 << (8 * dtype.itemsize - 1)) - 1)
        top = np.uint64(_infinity(dtype))
        has_infinity = dtype.name != "F8_E4M3"
        infinite = (magnitude == top) & has_infinity
        broken = find_nonfinite(data, dtype)[where] & ~infinite
        up |= broken | (infinite & (sign == (weight < 0)))
        down |= broken | (infinite & (sign != (weight < 0)))
    dtype = out[1]
    nan = (1 << (8 * dtype.itemsize - 1)) - 1
    if dtype.name != "F8_E4M3":
        nan = _infinity(dtype) | (1 << (dtype.mantissa_bits - 1))
    patterns = np.where(up & down, nan, nan if dtype.name == "F8_E4M3" else _infinity(dtype))
    patterns = patterns.astype(np.uint64)
    patterns |= (down & ~up).astype(np.uint64) << np.uint64(8 * dtype.itemsize - 1)
    np.frombuffer(out[0], _RAW[dtype.itemsize])[where] = patterns.astype(_RAW[dtype.itemsize])


_RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def _picked(data: memoryview, dtype: DType, where: npt.NDArray[np.int64]) -> Bits:
    return np.ascontiguousarray(np.frombuffer(data, _RAW[dtype.itemsize])[where])


def _rounded_sums(columns: Doubles, weights: Sequence[Fraction], dtype: DType) -> Bits:
    divisor = math.lcm(*(weight.denominator for weight in weights))
    numerators = [int(weight * divisor) for weight in weights]
    n = columns.shape[1]
    result = np.zeros(n)
    open_ = np.ones(n, bool)
    if divisor < 1 << 26 and all(abs(p) < 1 << 26 for p in numerators):
        result, open_ = _by_pairs(columns, numerators, divisor, dtype)
    for j in np.flatnonzero(open_):
        column = columns[:, j]
        exact = sum(
            (w * Fraction(float(x)) for w, x in zip(weights, column, strict=True)), Fraction(0)
        )
        result[j] = round_fraction(exact, dtype)
        if not column.any():
            # A sum of zeros keeps their sign where all agree, as the kernels do.
            signs = np.signbit(column) ^ np.array([weight < 0 for weight in weights])
            result[j] = -0.0 if signs.all() else 0.0
    return _to_bits(result, dtype)


def _by_pairs(
    columns: Doubles, numerators: list[int], divisor: int, dtype: DType
) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """Decide by pairs of doubles; the second result marks what they cannot decide."""
    hi = np.zeros(columns.shape[1])
    lo = np.zeros_like(hi)
    inexact = np.zeros(hi.shape, bool)
    with np.errstate(over="ignore", invalid="ignore"):  # such elements are not sure
        for numerator, x in zip(numerators, columns, strict=True):
            # Products of a 26-bit integer with half of a double's 53 bits are exact.
            high = _high_half(x)
            for product in (numerator * high, numerator * (x - high)):
                hi, error = _two_sum(hi, product)
                lo, rest = _two_sum(lo, error)
                inexact |= rest != 0
        hi, lo = _two_sum(hi, lo)
        if dtype.name == "F64":
            result, sure = _divided(hi, lo, divisor)
            sure &= ~inexact & (np.abs(hi) > 2.0**-900) & (np.abs(hi) < 2.0**900)
            return result, ~sure
        below, above = _neighbours(hi / divisor, dtype)
        middle = below + (above - below) / 2  # exact: one bit more than the type has
        # sign of (hi + lo) − q·middle; q·middle has at most 26 + 26 bits, hi is within a rounding
        # of it
        excess = (hi - divisor * middle) + lo
        even = (_to_bits(below, dtype) & 1) == 0
        upper = (excess > 0) | ((excess == 0) & ~even)
        result = np.copysign(np.where(upper, above, below), hi)  # zeros have a sign too
        sure = (np.abs(result) <= dtype.max_value) & ~inexact & (np.abs(hi) > 2.0**-900)
    return result, ~sure


def _divided(hi: Doubles, lo: Doubles, divisor: int) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """(hi + lo)/divisor rounded to double, and where that is sure."""
    near = hi / divisor
    high = _high_half(near)
    first, lost = _two_sum(hi, -divisor * high)
    rest, lost_too = _two_sum(first, -divisor * (near - high))
    # What the division left, in units of the quotient's last place: rounds to -1, 0 or 1.
    fraction, exponent = np.frexp(near)
    last_place = np.ldexp(1.0, exponent - 53)
    left = (rest + (lost + lost_too + lo)) / (divisor * last_place)
    steps = np.rint(left)
    # Below a power of two places are half as wide, and near a tie the remainder's own errors count.
    sure = (np.abs(left - steps) < 0.499) & (np.abs(left) < 2) & (np.abs(fraction) != 0.5)
    return near + steps * last_place, sure


def _high_half(values: Doubles) -> Doubles:
    """The upper 26 bits of doubles (Veltkamp); the rest of each fits 26 bits too."""
    spread = values * (2.0**27 + 1)
    high: Doubles = spread - (spread - values)
    return high


def _neighbours(values: Doubles, dtype: DType) -> tuple[Doubles, Doubles]:
    """The two adjacent values of a type that a value's midpoint question is about."""
    _, exponent = np.frexp(values)
    step = np.ldexp(1.0, np.maximum(exponent - 1, dtype.min_exponent) - dtype.mantissa_bits)
    below = np.floor(values / step) * step
    return below, below + step


def _two_sum(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles]:
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def _to_bits(values: Doubles, dtype: DType) -> Bits:
    """Bit patterns of values that the type holds exactly."""
    with np.errstate(over="ignore"):
        if dtype.name == "F64":
            return np.ascontiguousarray(values).view(np.uint64)
        if dtype.name == "F32":
            return values.astype(np.float32).view(np.uint32)
        if dtype.name == "F16":
            return values.astype(np.float16).view(np.uint16)
    size, sign = np.abs(values), np.signbit(values)
    width = 8 * dtype.itemsize
    _, exponent = np.frexp(size)
    exponent = np.where(size == 0, dtype.min_exponent, exponent - 1)
    exponent = np.maximum(exponent, dtype.min_exponent)
    finite = np.isfinite(size)
    significand = np.where(finite, size, 0) / np.ldexp(1.0, exponent - dtype.mantissa_bits)
    field = (exponent - dtype.min_exponent).astype(np.int64) << dtype.mantissa_bits
    top = (1 << (width - 1)) - 1 if dtype.name == "F8_E4M3" else _infinity(dtype)
    bits = np.where(finite, field + significand.astype(np.int64), top)
    bits |= sign.astype(np.int64) << (width - 1)
    return bits.astype(_RAW[dtype.itemsize])


def _infinity(dtype: DType) -> int:
    width = 8 * dtype.itemsize
    return ((1 << (width - 1 - dtype.mantissa_bits)) - 1) << dtype.mantissa_bits
