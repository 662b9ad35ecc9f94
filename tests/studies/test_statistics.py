"""Statistics of studies, against answers by hand, laws, and scipy."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stockpot.studies import (
    Interval,
    bootstrap_means,
    correlate,
    holm,
    mantel,
    plain_data,
    random_orders,
)

UPPER = np.triu_indices(5, 1)


def distances(seed: int, n: int = 5) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(n, 3))
    found: np.ndarray = np.linalg.norm(points[:, None] - points, axis=2)
    return found


def every_relabelling(a: np.ndarray, b: np.ndarray, how: str) -> float:
    """Mantel's p by all n! relabellings and scipy's correlation: the answer, not a sample."""
    test = stats.spearmanr if how == "spearman" else stats.pearsonr
    upper = np.triu_indices(len(a), 1)
    r = test(a[upper], b[upper]).statistic
    found = [
        test(a[np.ix_(order, order)][upper], b[upper]).statistic
        for order in permutations(range(len(a)))
    ]
    return float(np.mean(np.array(found) >= r - 1e-12))


@pytest.mark.parametrize("how", ["spearman", "pearson"])
def test_mantel_agrees_with_all_relabellings(how: str) -> None:
    a, noise = distances(1), distances(2)
    b = a + 0.8 * noise
    found = mantel(a, b, how=how, n_permutations=4000, seed=3)  # type: ignore[arg-type]
    test = stats.spearmanr if how == "spearman" else stats.pearsonr
    assert found.r == pytest.approx(test(a[UPPER], b[UPPER]).statistic)
    exact = every_relabelling(a, b, how)
    assert abs(found.p - exact) < 4 * np.sqrt(exact * (1 - exact) / 4000) + 1e-3


def test_mantel_by_hand() -> None:
    # Four points on a line: 0, 1, 3, 7; the other matrix has every distance squared.
    place = np.array([0.0, 1.0, 3.0, 7.0])
    a = abs(place[:, None] - place)
    found = mantel(a, a**2, n_permutations=999)
    assert found.r == 1
    # Only the identity and what the ranks cannot tell apart reach 1: 1 of 24.
    assert found.p == pytest.approx(every_relabelling(a, a**2, "spearman"), abs=0.03)
    assert mantel(a, -a, n_permutations=50).r == -1


def test_mantel_is_valid_where_nothing_goes_together() -> None:
    found = [mantel(distances(s, 6), distances(1000 + s, 6), n_permutations=39, seed=s).p
             for s in range(200)]  # fmt: skip
    # p of 2/40 or less: 5 % of pools, and seldom more than 11 %.
    assert np.mean(np.array(found) <= 0.05) < 0.11
    assert 0.35 < float(np.mean(found)) < 0.65


def test_mantel_of_equal_distances_cannot_tell() -> None:
    flat = np.ones((5, 5)) - np.eye(5)
    found = mantel(flat, distances(0))
    assert np.isnan(found.r) and found.p == 1


@pytest.mark.parametrize("shape", [(3, 3), (4, 5)])
def test_mantel_refuses_what_is_no_matrix_of_distances(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="4 or more"):
        mantel(np.zeros(shape), np.zeros(shape))
    unknown = distances(0)
    unknown[0, 1] = np.nan
    with pytest.raises(ValueError, match="known"):
        mantel(unknown, distances(1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.permutations(range(6)))
def test_mantel_does_not_depend_on_the_order_of_objects(seed: int, order: list[int]) -> None:
    a, b = distances(seed, 6), distances(seed + 1, 6)
    here = np.ix_(order, order)
    assert mantel(a[here], b[here], n_permutations=1).r == pytest.approx(
        mantel(a, b, n_permutations=1).r
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=3, max_size=20), st.integers(0, 1000))
def test_rank_correlation_is_scipys_with_ties(values: list[int], seed: int) -> None:
    x = np.array(values, np.float64)
    y = np.random.default_rng(seed).integers(0, 4, len(x)).astype(np.float64)
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert np.isnan(correlate(x, y))
    else:
        assert correlate(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_holm_by_hand() -> None:
    # Ranked: 0.005·4, 0.01·3, 0.03·2, 0.04·1; no corrected p is below one ranked before it.
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({"x": 0.9, "y": 0.8}) == {"x": 1.0, "y": 1.0}


def test_bootstrap_of_a_mean_is_students_interval_for_many_tasks() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=(400, 1))
    found = bootstrap_means(values, lambda mean: float(mean[0]), seed=1)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_tasks_of_one_payload_are_no_independent_evidence() -> None:
    rng = np.random.default_rng(0)
    of_payload = np.repeat(rng.normal(size=8), 16)
    rows = (of_payload + 0.01 * rng.normal(size=128))[:, None]
    groups = [f"p{i // 16}" for i in range(128)]

    def width(interval: Interval) -> float:
        return interval.high - interval.low

    alone = bootstrap_means(rows, lambda mean: float(mean[0]))
    together = bootstrap_means(rows, lambda mean: float(mean[0]), groups)
    assert width(together) > 3 * width(alone)


def test_a_bootstrap_of_one_task_says_nothing() -> None:
    found = bootstrap_means(np.array([[2.0, 4.0]]), lambda mean: mean[0] / mean[1])
    assert found == Interval(0.5, -np.inf, np.inf)
    with pytest.raises(ValueError, match="tasks"):
        bootstrap_means(np.zeros((0, 1)), lambda mean: 0.0)


def test_orders_are_permutations_and_begin_the_same() -> None:
    orders = random_orders(5, 20, seed=4)
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert orders[:7] == random_orders(5, 7, seed=4)
    assert len(set(orders)) > 10


def test_plain_data_is_json() -> None:
    value = {"a": np.array([1.0, np.nan]), 2: (np.int64(3), None), "c": float("inf")}
    assert plain_data(value) == {"a": [1.0, None], "2": [3, None], "c": None}
