"""Sums of inner products: against longdouble arithmetic, whatever the cut, with digits to spare."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.checkpoints import DTYPES
from stockpot.methods import (
    BLOCK_ELEMENTS,
    HAS_COMPILED_KERNEL,
    Gram,
    GramAccumulator,
    Row,
    one_blas_thread,
    sum_grams,
    widen,
)
from stockpot.methods.gram import Doubles


def gram_of(panel: Doubles, pivot: int = 0, cuts: tuple[int, ...] = ()) -> Gram:
    """Sum up a panel that comes in pieces."""
    sums = GramAccumulator(len(panel), pivot)
    with one_blas_thread():
        for piece in np.split(panel, sorted(cuts), axis=1):
            sums.add(piece)
        return sums.finish()


def as_bytes(gram: Gram) -> tuple[bytes, ...]:
    numbers = np.array([gram.pivot_square, gram.n_elements])
    return tuple(part.tobytes() for part in (gram.inner, gram.cross, gram.squared, numbers))


def fine_tunes(n: int, m: int, spread: float, seed: int = 0) -> Doubles:
    """Rows as models are: one base, and small differences; all of them values of fp16."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(m) * 0.03
    rows = [base + spread * 0.03 * rng.standard_normal(m) for _ in range(n)]
    return np.array(rows).astype(np.float16).astype(np.float64)


def test_hand_computed() -> None:
    gram = gram_of(np.array([[1.0, 2.0, 2.0], [1.0, 0.0, 2.0], [4.0, 2.0, 6.0]]), pivot=1)
    assert gram.inner.tolist() == [[4, 0, 4], [0, 0, 0], [4, 0, 29]]
    assert gram.cross.tolist() == [0, 0, 11]
    assert gram.pivot_square == 5
    assert gram.squared.tolist() == [[0, 4, 25], [4, 0, 29], [25, 29, 0]]
    assert gram.products().tolist() == [[9, 5, 20], [5, 5, 16], [20, 16, 56]]
    assert gram.distances()[0, 2] == 5
    assert gram.cosines()[0, 1] == pytest.approx(5 / (3 * 5**0.5), rel=1e-15)
    assert gram.deltas(0).tolist() == [[0, 0, 0], [0, 4, 0], [0, 0, 25]]
    assert gram.delta_cosines(0)[1, 2] == 0
    assert np.isnan(gram.delta_cosines(0)[0, 1])
    assert gram.n_elements == 3


@given(
    st.integers(1, 5),
    st.lists(st.integers(0, 3 * BLOCK_ELEMENTS), max_size=6),
    st.integers(0, 3 * BLOCK_ELEMENTS),
    st.data(),
)
def test_the_cut_of_the_panels_does_not_matter(
    n: int, cuts: list[int], m: int, data: st.DataObject
) -> None:
    pivot = data.draw(st.integers(0, n - 1))
    panel = np.random.default_rng(m).standard_normal((n, m))
    inside = tuple(cut for cut in cuts if cut <= m)
    assert as_bytes(gram_of(panel, pivot, inside)) == as_bytes(gram_of(panel, pivot))


@pytest.mark.parametrize("pivot", [0, 3])
@pytest.mark.parametrize("spread", [1.0, 0.03, 1e-3])
def test_agrees_with_wider_arithmetic(spread: float, pivot: int) -> None:
    panel = fine_tunes(5, 2 * BLOCK_ELEMENTS + 77, spread)
    wide = panel.astype(np.longdouble)
    gaps = wide[:, None] - wide[None]
    expected = np.sqrt((gaps * gaps).sum(-1)).astype(np.float64)
    gram = gram_of(panel, pivot)
    assert gram.distances() == pytest.approx(expected, rel=1e-11)
    assert gram.products() == pytest.approx((wide @ wide.T).astype(np.float64), rel=1e-11)
    deltas = wide - wide[2]
    assert gram.deltas(2) == pytest.approx(
        (deltas @ deltas.T).astype(np.float64), rel=1e-9, abs=1e-9 * gram.squared.max()
    )


def test_near_rows_far_from_the_pivot_keep_their_digits() -> None:
    base = fine_tunes(1, BLOCK_ELEMENTS + 5, 0.0)[0]
    nudge = np.zeros_like(base)
    nudge[[3, BLOCK_ELEMENTS + 1]] = 3 * 2.0**-24, 4 * 2.0**-24
    gram = gram_of(np.array([base + 100.0, base, base + nudge]))
    assert gram.distances()[1, 2] == 5 * 2.0**-24


def test_equal_rows_have_no_distance_at_all_and_equal_products() -> None:
    rows = fine_tunes(4, 3 * BLOCK_ELEMENTS // 2, 0.03)
    gram = gram_of(rows[[0, 1, 2, 1, 3, 1, 0]], pivot=4)
    for i, j in ((1, 3), (1, 5), (3, 5), (0, 6)):
        assert gram.squared[i, j] == 0
        assert gram.inner[i].tobytes() == gram.inner[j].tobytes()
        assert gram.inner[i, i] + gram.inner[j, j] - 2 * gram.inner[i, j] == 0
    assert np.count_nonzero(gram.squared == 0) == 7 + 2 * 4


@given(st.integers(2, 6), st.integers(1, 300))
def test_distances_are_a_metric(n: int, m: int) -> None:
    gram = gram_of(np.random.default_rng([n, m]).standard_normal((n, m)))
    d = gram.distances()
    assert (d == d.T).all() and (d.diagonal() == 0).all() and (d >= 0).all()
    assert (d[:, None] <= d[:, :, None] + d[None] + 1e-12 * d.max()).all()


def test_tensors_add_up_and_start_anew() -> None:
    panel = fine_tunes(3, 500, 0.1)
    sums = GramAccumulator(3)
    sums.add(panel[:, :200])
    first = sums.finish()
    sums.add(panel[:, 200:])
    both = sum_grams([first, sums.finish()])
    assert both.n_elements == 500
    assert both.squared == pytest.approx(gram_of(panel).squared, rel=1e-14)
    assert both.cross == pytest.approx(gram_of(panel).cross, rel=1e-12)
    assert sums.finish().n_elements == 0


@pytest.mark.parametrize("rows", [[2, 0], [1, 2]])
def test_picked_rows_are_as_if_they_came_alone(rows: list[int]) -> None:
    panel = fine_tunes(3, 1000, 0.1)
    picked, alone = gram_of(panel).pick(rows), gram_of(panel[rows], pivot=rows.index(0) if 0 in rows
                                                       else 0)  # fmt: skip
    assert picked.pivot == alone.pivot
    assert picked.squared == pytest.approx(alone.squared, rel=1e-12)
    assert picked.products() == pytest.approx(alone.products(), rel=1e-12)
    assert picked.inner == pytest.approx(alone.inner, rel=1e-9, abs=1e-15)


def test_nan_spoils_its_own_row_only() -> None:
    panel = fine_tunes(4, 100, 0.1)
    whole = gram_of(panel)
    panel[2, 50] = np.nan
    gram = gram_of(panel)
    rest = np.ix_([0, 1, 3], [0, 1, 3])
    assert gram.squared[rest] == pytest.approx(whole.squared[rest], rel=1e-14)
    assert np.isnan(gram.inner[2, 2])


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match="pivot must be one of 2 rows, but is 2"):
        GramAccumulator(2, pivot=2)
    with pytest.raises(ValueError, match=r"must have 2 rows, but its shape is \(3, 1\)"):
        GramAccumulator(2).add(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="rows and pivot are the same"):
        gram_of(np.ones((2, 1))) + gram_of(np.ones((3, 1)))
    with pytest.raises(ValueError, match="at least one"):
        sum_grams([])


@pytest.mark.parametrize("compiled", [True, False] if HAS_COMPILED_KERNEL else [False])
@pytest.mark.parametrize("name", ["F64", "F32", "F16"])
def test_widening_is_exact_and_notices_what_is_not_finite(name: str, compiled: bool) -> None:
    values = fine_tunes(1, 3000, 0.0)[0].astype({"F64": "f8", "F32": "f4", "F16": "f2"}[name])
    row = Row(memoryview(values).cast("B"), DTYPES[name])
    out = np.empty(3000)
    assert widen(row, out, compiled=compiled)
    assert (out == values.astype(np.float64)).all()
    values[1234] = np.nan
    assert not widen(row, out, compiled=compiled)
    assert widen(Row(memoryview(b""), DTYPES[name]), np.empty(0), compiled=compiled)
