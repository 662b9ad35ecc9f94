"""Panels that were not made: every kernel in C against numpy's arithmetic, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.checkpoints import DTYPES
from stockpot.methods import (
    BLOCK_ELEMENTS,
    HAS_COMPILED_KERNEL,
    Feed,
    GramAccumulator,
    Row,
    find_nonfinite,
    is_finite,
    weighted_rows,
)
from stockpot.methods.elements import elect
from stockpot.methods.feeds import Bits, Chances
from stockpot.methods.gram import Doubles
from stockpot.methods.randomness import random_bits

KERNELS = [True, False] if HAS_COMPILED_KERNEL else [False]
KINDS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
RAW = {8: np.uint64, 4: np.uint32, 2: np.uint16, 1: np.uint8}


def feed_of(
    values: Doubles, name: str, start: int = 0, deltas: bool = True
) -> tuple[Feed, Doubles]:
    """Rows of a type as a feed, and the doubles that it stands for."""
    rounded = values.astype(KINDS[name])
    terms = tuple(Row(memoryview(row).cast("B"), DTYPES[name]) for row in rounded)
    wide = rounded.astype(np.float64)
    n = len(values)
    if not deltas:
        return Feed(terms, tuple((i, -1) for i in range(n)), start, values.shape[1]), wide
    pairs = tuple((i, 0) for i in range(1, n))
    return Feed(terms, pairs, start, values.shape[1]), wide[1:] - wide[0]


def values_of(n: int, m: int, seed: int = 0) -> Doubles:
    rng = np.random.default_rng([seed, n, m])
    values = 0.03 * rng.standard_normal(m) + 0.002 * rng.standard_normal((n, m))
    values[:, rng.random(m) < 0.1] = 0.0  # some elements nobody changed
    return values


def masked(panel: Doubles, stays: np.ndarray, factor: float) -> Doubles:
    result: Doubles = np.where(stays, panel * factor, 0.0) + 0.0
    return result


@given(
    st.sampled_from(sorted(KINDS)), st.integers(2, 7), st.integers(1, 700), st.integers(0, 100),
    st.sampled_from(["", "bits", "chances"]), st.sampled_from(["", "magnitude", "count"]),
    st.booleans(),
)  # fmt: skip
def test_rows_masks_and_elections(
    name: str, n: int, m: int, start: int, mask: str, elected: str, deltas: bool
) -> None:
    feed, panel = feed_of(values_of(n, m), name, start, deltas)
    rows = len(panel)
    if mask == "bits":
        stays = np.random.default_rng(m).random((rows, start + m)) < 0.6
        feed = replace(feed, mask=Bits(np.packbits(stays, axis=1), 1.25))
        panel = masked(panel, stays[:, start:], 1.25)
    elif mask == "chances":
        streams = [(17 * i, 2**63 + i) for i in range(rows)]
        limit = 2**52 + 12345
        feed = replace(feed, mask=Chances(streams, limit, 2.0))
        stays = np.array([random_bits(stream, start, m) < limit for stream in streams])
        panel = masked(panel, stays, 2.0)
    if elected:
        feed = replace(feed, elect=elected)
        panel = elect(panel, {"elect": elected}, compiled=False)
    for compiled in KERNELS:
        assert feed.panel(compiled=compiled).tobytes() == panel.tobytes()
    if not HAS_COMPILED_KERNEL:
        return
    weights = np.random.default_rng(n).random(rows)
    weights[0] = 0.0
    assert (
        feed.weigh(weights.tolist()).tobytes() == weighted_rows(panel, weights.tolist()).tobytes()
    )
    if m > 10:
        cut = feed.cut(3, m - 2)
        assert cut.start == start + 3
        assert cut.panel().tobytes() == feed.panel()[:, 3 : m - 2].tobytes()


@pytest.mark.parametrize("pivot", [-1, 0, 2])
@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize(("n", "m"), [(4, 1), (5, 77), (10, 1000), (4, BLOCK_ELEMENTS + 300)])
def test_inner_products(name: str, n: int, m: int, pivot: int) -> None:
    """With rows that are equal, nearly equal, zero, and rows that no tile is full of."""
    values = values_of(n, m)
    values[3] = values[2]
    values[3, 0] += 1e-3
    if n > 5:
        values[5], values[6], values[7] = values[4], values[4], values[0]
    feed, panel = feed_of(values, name)
    sums, twin = (GramAccumulator(n - 1, pivot, compiled=c) for c in (True, False))
    if HAS_COMPILED_KERNEL:
        sums.add_feed(feed, last=True)
    else:
        sums.add(panel)
    twin.add(panel)
    one, other = sums.finish(), twin.finish()
    for part in ("inner", "cross", "squared"):
        assert getattr(one, part).tobytes() == getattr(other, part).tobytes(), part
    assert one.pivot_square == other.pivot_square
    assert one.n_elements == other.n_elements == m
    if n > 5:
        assert one.squared[3, 4] == one.squared[3, 5] == one.squared[4, 5] == 0
    assert one.squared[1, 2] > 0


def test_a_feed_may_end_within_a_block() -> None:
    feed, panel = feed_of(values_of(4, 2 * BLOCK_ELEMENTS + 100), "F16")
    pieces, whole = GramAccumulator(3, -1), GramAccumulator(3, -1)
    for start, stop in ((0, BLOCK_ELEMENTS + 5), (BLOCK_ELEMENTS + 5, panel.shape[1])):
        if HAS_COMPILED_KERNEL:
            pieces.add_feed(feed.cut(start, stop), last=stop == panel.shape[1])
        else:
            pieces.add(feed.cut(start, stop).panel())
    whole.add(panel)
    assert pieces.finish().squared.tobytes() == whole.finish().squared.tobytes()


def test_without_a_pivot_the_order_of_rows_decides_about_no_digit() -> None:
    _, panel = feed_of(values_of(6, 3000), "F32", deltas=False)
    order = [4, 1, 5, 0, 3, 2]
    grams = []
    for rows in (panel, panel[order]):
        sums = GramAccumulator(6, -1)
        sums.add(rows)
        grams.append(sums.finish())
    picked = grams[0].pick(order)
    assert picked.products().tobytes() == grams[1].products().tobytes()
    assert picked.squared.tobytes() == grams[1].squared.tobytes()
    wide = panel.astype(np.longdouble)
    assert grams[0].products() == pytest.approx((wide @ wide.T).astype(float), rel=1e-13)


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_what_is_not_finite(name: str) -> None:
    """Every pattern of the small types, and patterns at the edge of the wide ones."""
    dtype = DTYPES[name]
    raw = RAW[dtype.itemsize]
    if dtype.itemsize <= 2:
        patterns = np.arange(1 << (8 * dtype.itemsize), dtype=np.uint32).astype(raw)
    else:
        top = np.array(np.inf, KINDS[name]).view(raw)
        sign = raw(1 << (8 * dtype.itemsize - 1))
        patterns = np.array([0, sign, top - raw(1), top, top + raw(1), top | sign, ~raw(0)], raw)
    bad = find_nonfinite(memoryview(patterns).cast("B"), dtype)
    assert bad.any() and not bad.all()
    assert is_finite(Row(memoryview(patterns[~bad]).cast("B"), dtype))
    for pattern in patterns[bad][:200]:
        row = np.zeros(100, raw)
        row[37] = pattern
        assert not is_finite(Row(memoryview(row).cast("B"), dtype))


def test_lengths_that_do_not_fit_are_refused() -> None:
    feed, panel = feed_of(values_of(3, 40), "F16")
    wrong = [
        replace(feed, n_elements=41),
        replace(feed, pairs=((0, 3),)),
        replace(feed, mask=Bits(np.zeros((2, 4), np.uint8), 1.0)),
    ]
    for one in wrong if HAS_COMPILED_KERNEL else ():
        with pytest.raises(ValueError, match="lengths do not fit"):
            one.panel()
    with pytest.raises(ValueError, match="must have 3 rows, but has 2"):
        GramAccumulator(3, -1).add_feed(feed, last=True)
    assert panel.shape == (2, 40)
