"""`combine` against exact fractions, for every pair of types, with both kernels."""

from __future__ import annotations

import bisect
import itertools
import math
import struct
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.checkpoints import DTYPES, DType
from stockpot.methods import HAS_COMPILED_KERNEL, Row, combine

FLOATS = [name for name, dtype in DTYPES.items() if dtype.is_float]
KERNELS = [True, False] if HAS_COMPILED_KERNEL else [False]
RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def decode(data: bytes, dtype: DType) -> list[float]:
    """Values of a row, by torch's own conversions."""
    if not data:
        return []
    row = torch.frombuffer(bytearray(data), dtype=TORCH[dtype.name])
    return row.to(torch.float64).tolist()


def encode(values: list[float], name: str) -> bytes:
    """A row of values that the type holds exactly."""
    exact = torch.tensor(values, dtype=torch.float64).to(TORCH[name])
    assert exact.to(torch.float64).tolist() == values
    return exact.view(torch.uint8).numpy().tobytes() if values else b""


def finite(data: bytes, dtype: DType) -> bytes:
    """Any bytes as a row of finite values: what is too large loses its top exponent bit."""
    raw = np.frombuffer(data, RAW[dtype.itemsize]).copy()
    values = np.array(decode(data, dtype))
    top = raw.dtype.type(1 << (8 * dtype.itemsize - 2))
    return np.where(np.isfinite(values), raw, raw & ~top).tobytes()


@cache
def positive_values(name: str) -> list[float]:
    """Every finite value of a small type from +0 up; the index is the bit pattern."""
    dtype = DTYPES[name]
    patterns = np.arange(1 << (8 * dtype.itemsize - 1)).astype(RAW[dtype.itemsize])
    values = decode(patterns.tobytes(), dtype)
    return values[: next(i for i, value in enumerate(values) if not math.isfinite(value))]


def rounded(value: Fraction, name: str) -> tuple[int, bool]:
    """Bit pattern of the nearest magnitude, ties to even, and whether that is too large."""
    size, dtype = abs(value), DTYPES[name]
    if name == "F64":
        try:
            pattern = struct.unpack("<Q", struct.pack("<d", size.numerator / size.denominator))[0]
        except OverflowError:
            pattern = 0x7FF << 52
        return pattern, pattern >= 0x7FF << 52
    if name == "F32":
        largest = Fraction(dtype.max_value)
        if size >= largest + Fraction(2) ** 103:
            return 0x7F800000, True
        near = int(np.float32(min(float(size), dtype.max_value)).view(np.uint32))
        patterns = [p for p in (near - 1, near, near + 1) if 0 <= p < 0x7F800000]
        gaps = [abs(Fraction(float(np.uint32(p).view(np.float32))) - size) for p in patterns]
        return min(zip(gaps, (p & 1 for p in patterns), patterns, strict=True))[2], False
    values = positive_values(name)
    upper = bisect.bisect_left(values, size)
    if upper == len(values):
        last = Fraction(values[-1])
        half = (last - Fraction(values[-2])) / 2
        # The last pattern decides a tie like any other: even stays, odd goes up.
        is_even = (upper - 1) % 2 == 0
        too_large = size > last + half or (size == last + half and not is_even)
        return (upper if too_large else upper - 1), too_large
    if upper == 0:
        return 0, False
    low, high = Fraction(values[upper - 1]), Fraction(values[upper])
    if size - low == high - size:
        return upper - upper % 2, False
    return (upper if high - size < size - low else upper - 1), False


def expected(
    rows: list[tuple[str, bytes]], weights: list[Fraction], out: str
) -> tuple[list[int], bool]:
    """The row that exact arithmetic gives, and whether something in it overflows."""
    columns = zip(*(decode(data, DTYPES[name]) for name, data in rows), strict=True)
    sign_bit = 1 << (8 * DTYPES[out].itemsize - 1)
    patterns, overflow = [], False
    for column in columns:
        exact = sum((w * Fraction(x) for w, x in zip(weights, column, strict=True)), Fraction(0))
        pattern, too_large = rounded(exact, out)
        signs = [(math.copysign(1, x) < 0) != (w < 0) for w, x in zip(weights, column, strict=True)]
        negative = exact < 0 or (exact == 0 and not any(column) and all(signs))
        patterns.append(pattern | (sign_bit if negative else 0))
        overflow |= too_large
    return patterns, overflow


def run(
    rows: list[tuple[str, bytes]], weights: list[Fraction], out: str, compiled: bool
) -> tuple[list[int], bool, bool]:
    """`combine` on rows given as type and bytes."""
    n = len(rows[0][1]) // DTYPES[rows[0][0]].itemsize
    result = bytearray(n * DTYPES[out].itemsize)
    panel = [Row(memoryview(bytearray(data)), DTYPES[name]) for name, data in rows]
    before = [bytes(row.data) for row in panel]
    facts = combine(panel, weights, Row(memoryview(result), DTYPES[out]), compiled=compiled)
    assert [bytes(row.data) for row in panel] == before
    patterns = np.frombuffer(result, RAW[DTYPES[out].itemsize]).tolist()
    return patterns, facts.nonfinite_input, facts.overflow


simple = st.sampled_from([Fraction(1, n) for n in (1, 2, 3, 4, 7, 8)])
decimals = st.integers(-(10**12), 10**12).filter(bool).map(lambda n: Fraction(n, 10**11))
huge = st.builds(Fraction, st.integers(1, 10**40), st.integers(10**30, 10**45))
weight = st.one_of(
    simple, st.sampled_from([Fraction(-1), Fraction(2), Fraction(-3, 10)]), decimals, huge
)


def rows_of(name: str, n: int) -> st.SearchStrategy[tuple[str, bytes]]:
    """Rows of any finite bit patterns, and of tame ones."""
    dtype = DTYPES[name]
    wild = st.binary(min_size=n * dtype.itemsize, max_size=n * dtype.itemsize)
    special = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1.5, -3.0, 2.0**-9, dtype.max_value])
    tame = st.lists(special, min_size=n, max_size=n).map(lambda v: encode(v, name))
    return st.one_of(wild.map(lambda data: finite(data, dtype)), tame).map(
        lambda data: (name, data)
    )


@st.composite
def panels(draw: st.DrawFn, name: str) -> tuple[list[tuple[str, bytes]], list[Fraction]]:
    n_rows = draw(st.integers(1, 5))
    n = draw(st.integers(1, 12))
    names = [name] * n_rows
    if draw(st.booleans()):
        names[1:] = [draw(st.sampled_from(FLOATS)) for _ in names[1:]]
    rows = [draw(rows_of(one, n)) for one in names]
    weights = draw(st.lists(weight, min_size=n_rows, max_size=n_rows))
    if draw(st.booleans()):
        weights = [Fraction(1, n_rows)] * n_rows
    return rows, weights


@pytest.mark.parametrize("out", FLOATS)
@pytest.mark.parametrize("name", FLOATS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_panel_is_the_exact_sum_rounded_once(name: str, out: str, data: st.DataObject) -> None:
    rows, weights = data.draw(panels(name))
    wanted, overflow = expected(rows, weights, out)
    for compiled in KERNELS:
        got, nonfinite, too_large = run(rows, weights, out, compiled)
        assert (nonfinite, too_large) == (False, overflow)
        assert got == wanted


@pytest.mark.parametrize("compiled", KERNELS)
@pytest.mark.parametrize("out", [name for name in FLOATS if name != "F64"])
def test_ties_go_to_even_and_a_hair_beside_them_does_not(out: str, compiled: bool) -> None:
    rng = np.random.default_rng(0)
    if out == "F32":
        patterns = rng.integers(0, 0x7F7FFFFF, 200).astype(np.uint32)
        low = patterns.view(np.float32).astype(np.float64)
        high = (patterns + 1).astype(np.uint32).view(np.float32).astype(np.float64)
    else:
        values = np.array(positive_values(out))
        picks = rng.integers(0, len(values) - 1, 300)
        low, high = values[picks], values[picks + 1]
    signs = rng.choice([-1.0, 1.0], len(low))
    a, b = (encode((signs * v).tolist(), "F64") for v in (low, high))
    # Far below the last place of a double that holds the midpoint, yet it decides.
    for hair in (0.0, 2.0**-300, -(2.0**-300)):
        rows = [("F64", a), ("F64", b), ("F64", encode([hair] * len(low), "F64"))]
        weights = [Fraction(1, 2), Fraction(1, 2), Fraction(1)]
        for order in itertools.permutations(range(3)):
            shuffled = [rows[i] for i in order], [weights[i] for i in order]
            got, *flags = run(*shuffled, out, compiled)
            assert got == expected(rows, weights, out)[0]
            assert flags == [False, False]


@pytest.mark.parametrize("compiled", KERNELS)
@pytest.mark.parametrize("out", FLOATS)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_order_and_cuts_change_nothing(out: str, compiled: bool, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FLOATS))
    size = DTYPES[name].itemsize
    n = 2100  # longer than a block of the C code, so that its cuts are in it
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = []
    for _ in range(data.draw(st.integers(2, 6))):
        normal = torch.from_numpy(rng.normal(0, 0.03, n)).to(TORCH[name])
        rows.append((name, normal.view(torch.uint8).numpy().tobytes()))
    weights = data.draw(st.lists(weight, min_size=len(rows), max_size=len(rows)))
    whole = run(rows, weights, out, compiled)
    order = data.draw(st.permutations(range(len(rows))))
    assert run([rows[i] for i in order], [weights[i] for i in order], out, compiled) == whole
    pieces: list[int] = []
    for start in range(0, n, 700):
        cut = [(name, row[start * size : (start + 700) * size]) for name, row in rows]
        pieces += run(cut, weights, out, compiled)[0]
    assert pieces == whole[0]
    assert run(rows, weights, out, not compiled if HAS_COMPILED_KERNEL else False) == whole


@pytest.mark.parametrize("compiled", KERNELS)
@pytest.mark.parametrize("name", FLOATS)
def test_nan_and_infinity_are_told_and_kept_where_they_are(name: str, compiled: bool) -> None:
    nan, inf = math.nan, math.inf
    values = [1.0, nan, inf, -inf, inf, -2.0]
    other = [1.0, 0.0, 1.0, 1.0, -inf, 4.0]
    if name == "F8_E4M3":  # it has no infinities
        values, other = [1.0, nan, 2.0, -2.0, nan, -2.0], [1.0, 0.0, 1.0, 1.0, 1.0, 4.0]
    rows = [
        (name, torch.tensor(v, dtype=torch.float64).to(TORCH[name]).view(torch.uint8).numpy())
        for v in (values, other)
    ]
    panel = [(name, data.tobytes()) for name, data in rows]
    half = [Fraction(1, 2)] * 2
    got, nonfinite, overflow = run(panel, half, "F32", compiled)
    assert (nonfinite, overflow) == (True, False)
    result = np.array(got, np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        wanted = np.array([(x + y) / 2 for x, y in zip(values, other, strict=True)], np.float32)
    np.testing.assert_array_equal(result, wanted)
    # A negative weight turns infinities over.
    got, *_ = run(panel[:1], [Fraction(-1)], "F32", compiled)
    np.testing.assert_array_equal(np.array(got, np.uint32).view(np.float32), -np.float32(values))


@pytest.mark.parametrize("compiled", KERNELS)
@pytest.mark.parametrize(
    ("out", "largest", "too_large"),
    [
        ("F16", 65519.0, 65520.0),
        ("BF16", 3.39e38, 3.4e38),
        ("F8_E4M3", 464.0, 464.5),
        ("F8_E5M2", 61439.0, 61440.0),
        ("F32", 3.4028235e38, 3.5e38),
    ],
)
def test_overflow_is_told_at_the_first_value_that_rounds_beyond(
    out: str, largest: float, too_large: float, compiled: bool
) -> None:
    for value in (largest, -largest):
        patterns, _, overflow = run([("F64", encode([value], "F64"))], [Fraction(1)], out, compiled)
        assert not overflow
        assert patterns == expected([("F64", encode([value], "F64"))], [Fraction(1)], out)[0]
    for value in (too_large, -too_large, 1e300):
        assert run([("F64", encode([value], "F64"))], [Fraction(1)], out, compiled)[2]


@pytest.mark.parametrize("compiled", KERNELS)
def test_sums_that_overflow_on_the_way_come_back(compiled: bool) -> None:
    big = ("F64", encode([1.7e308, 1.0], "F64"))
    weights = [Fraction(1), Fraction(1), Fraction(-1)]
    for out in ("F64", "F32"):
        rows = (
            [big, big, big] if out == "F64" else [big, big, ("F64", encode([1.7e308, 1.0], "F64"))]
        )
        got, nonfinite, overflow = run(rows, weights, out, compiled)
        assert got == expected(rows, weights, out)[0]
        assert (nonfinite, overflow) == (False, out == "F32")


@pytest.mark.parametrize("compiled", KERNELS)
def test_weights_of_any_length_are_exact(compiled: bool) -> None:
    rows = [("F32", encode([1.0, 3.0, -0.5], "F32"))] * 2
    for pair in (
        [Fraction(10) ** 900, Fraction(1) - Fraction(10) ** 900],
        [Fraction(1, 10**400), Fraction(1)],
        [Fraction(1, 3**800), Fraction(3**800 - 1, 3**800)],
    ):
        for out in ("F16", "F64"):
            got, *flags = run(rows, pair, out, compiled)
            assert got == expected(rows, pair, out)[0]
            assert flags == [False, False]


@pytest.mark.parametrize("compiled", KERNELS)
def test_hand_computed(compiled: bool) -> None:
    a, b, c = (("F16", encode(v, "F16")) for v in ([1.0, 2.0], [2.0, 4.0], [0.5, -2.0]))
    quarter = run([a, b], [Fraction(1, 4), Fraction(3, 4)], "F32", compiled)[0]
    assert np.array(quarter, np.uint32).view(np.float32).tolist() == [1.75, 3.5]
    difference = run([a, b, c], [Fraction(1), Fraction(1, 2), Fraction(-1, 2)], "F16", compiled)[0]
    assert np.array(difference, np.uint16).view(np.float16).tolist() == [1.75, 5.0]
    third = run([a, b, c], [Fraction(1, 3)] * 3, "F16", compiled)[0]
    # 3.5/3 = 1.1666… lies between 1.166015625 and 1.1669921875
    assert np.array(third, np.uint16).view(np.float16).tolist() == [1.1669921875, 1.3330078125]


@pytest.mark.parametrize("compiled", KERNELS)
@pytest.mark.parametrize("out", FLOATS)
def test_zeros_keep_their_sign_where_all_agree(out: str, compiled: bool) -> None:
    plus, minus = (encode([v], "F32") for v in (0.0, -0.0))
    sign = 1 << (8 * DTYPES[out].itemsize - 1)
    half = [Fraction(1, 2)] * 2
    assert run([("F32", minus)] * 2, half, out, compiled)[0] == [sign]
    assert run([("F32", minus), ("F32", plus)], half, out, compiled)[0] == [0]
    assert run([("F32", plus)], [Fraction(-1)], out, compiled)[0] == [sign]
    one, minus_one = (("F32", encode([v], "F32")) for v in (0.1 * 0 + 1.5, -1.5))
    assert run([one, minus_one], half, out, compiled)[0] == [0]


@pytest.mark.parametrize("compiled", KERNELS)
def test_empty_rows(compiled: bool) -> None:
    for name, out in itertools.product(FLOATS, FLOATS):
        assert run([(name, b"")] * 2, [Fraction(1, 2)] * 2, out, compiled) == ([], False, False)


@pytest.mark.parametrize("compiled", KERNELS)
def test_a_model_alone_comes_out_as_it_is(compiled: bool) -> None:
    for name in FLOATS:
        dtype = DTYPES[name]
        patterns = np.arange(1 << min(16, 8 * dtype.itemsize)).astype(RAW[dtype.itemsize])
        row = finite(patterns.tobytes(), dtype)
        got, *_ = run([(name, row)], [Fraction(1)], name, compiled)
        assert got == np.frombuffer(row, RAW[dtype.itemsize]).tolist()
        same = run([(name, row)] * 3, [Fraction(1, 3)] * 3, name, compiled)[0]
        # Identical models have their own mean; only the sign of zero counts as one.
        assert same == got


def test_a_weight_of_zero_is_refused() -> None:
    row = Row(memoryview(bytearray(2)), DTYPES["F16"])
    with pytest.raises(ValueError, match="a weight must not be zero; leave that row out"):
        combine([row], [Fraction(0)], row)


@pytest.mark.parametrize("compiled", KERNELS)
def test_rows_of_different_lengths_are_refused(compiled: bool) -> None:
    short, long = (Row(memoryview(bytearray(n)), DTYPES["F16"]) for n in (2, 4))
    with pytest.raises(ValueError, match="every row must have as many elements as the output"):
        combine([short], [Fraction(1)], long, compiled=compiled)
