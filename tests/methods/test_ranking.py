"""Sorted columns: C against numpy against Python's own order, and no order of the rows shows."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.checkpoints import DTYPES
from stockpot.methods import HAS_COMPILED_KERNEL, Feed, Row, ranked
from stockpot.methods.feeds import Bits, panels
from stockpot.methods.ranking import network

KERNELS = [True, False] if HAS_COMPILED_KERNEL else [False]
RAW = {8: np.uint64, 4: np.uint32, 2: np.uint16, 1: np.uint8}
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def place(value: float) -> int:
    """Where a double stands among all: its bits as a whole number with a sign."""
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF) - 1


@given(st.lists(st.lists(FINITE, min_size=3, max_size=3), min_size=1, max_size=12), st.data())
def test_columns_are_in_order_whatever_came(rows: list[list[float]], data: st.DataObject) -> None:
    panel = np.array(rows)
    panel[:, 1] = np.where(panel[:, 1] < 0, -0.0, 0.0)  # zeros of both signs have one order too
    expected = np.array([sorted(column, key=place) for column in panel.T.tolist()]).T
    mixed = panel[data.draw(st.permutations(range(len(panel))))]
    first = data.draw(st.integers(0, len(panel) - 1))
    last = data.draw(st.integers(first + 1, len(panel)))
    for compiled in KERNELS:
        for one in (panel, mixed):
            assert ranked(one, compiled=compiled).tobytes() == expected.tobytes()
            some = ranked(one, first, last, compiled=compiled)
            assert some.tobytes() == expected[first:last].tobytes()


@pytest.mark.parametrize("n", [*range(1, 18), 20, 31, 64, 216])
def test_the_network_sorts(n: int) -> None:
    """Zeros and ones in every number: what sorts these sorts all (Knuth 5.3.4, theorem Z)."""
    rng = np.random.default_rng(n)
    bits = rng.random((n, 500)) < rng.random(500)
    if n <= 12:
        bits = np.array([[i >> k & 1 for i in range(1 << n)] for k in range(n)], bool)
    for first, last in ((0, n), ((n - 1) // 2, n // 2 + 1)):
        rows = bits.copy()
        for i, j in network(n, first, last).tolist():
            rows[i], rows[j] = rows[i] & rows[j], rows[i] | rows[j]
        assert (rows[first:last] == np.sort(bits, axis=0)[first:last]).all()


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize(("n", "m"), [(1, 3), (3, 1), (3, 1000), (8, 129), (65, 700), (600, 70)])
def test_rows_as_they_were_read(name: str, n: int, m: int) -> None:
    """In their own type, as differences, masked, elected, and of two types: as their panel."""
    rng = np.random.default_rng([n, m])
    dtype = DTYPES[name]
    raw = RAW[dtype.itemsize]
    low = rng.integers(0, 0x38 << 8 * (dtype.itemsize - 1), (n + 1, m)).astype(raw)
    low |= rng.integers(0, 2, low.shape).astype(raw) << raw(8 * dtype.itemsize - 1)
    low[:, ::5] &= raw(1 << (8 * dtype.itemsize - 1))  # zeros of both signs
    terms = tuple(Row(memoryview(row).cast("B"), dtype) for row in low)
    plain = Feed(terms[:n], tuple((i, -1) for i in range(n)), 0, m)
    deltas = Feed(terms, tuple((i, n) for i in range(n)), 0, m)
    stays = np.packbits(rng.random((n, m)) < 0.7, axis=1)
    masked = replace(plain, mask=Bits(stays, 1.25), elect="magnitude")
    other = Row(memoryview(rng.standard_normal(m)).cast("B"), DTYPES["F64"])
    mixed = replace(plain, terms=(other, *terms[1:n]))
    for feed in (plain, deltas, masked, mixed):
        panel = feed.panel(compiled=False)
        expected = ranked(panel, compiled=False)
        assert (expected[1:] >= expected[:-1]).all()
        for first, last in ((0, n), (n // 3, n // 3 + 1)):
            for compiled in KERNELS:
                found = ranked(feed, first, last, compiled=compiled)
                assert found.tobytes() == expected[first:last].tobytes()


def test_no_columns_are_no_columns() -> None:
    for compiled in KERNELS:
        assert ranked(np.empty((3, 0)), 1, 2, compiled=compiled).shape == (1, 0)


def test_c_refuses_what_does_not_fit() -> None:
    if panels is None:
        return
    feed, out = Feed.of(np.zeros((3, 4))).packed, np.empty((1, 4))
    for pairs, first, target in (
        ([0, 3], 0, out), ([0, -1], 0, out), ([1, 1], 0, out), ([0, 1, 2], 0, out),
        ([0, 1], 3, out), ([0, 1], -1, out), ([0, 1], 0, np.empty(5)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="lengths do not fit"):
            panels.rank(feed, np.array(pairs, np.int32), first, target)
