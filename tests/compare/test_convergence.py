"""Running means from distances alone: against means that are made."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.compare import members_of_chain, trace_convergence

Doubles = npt.NDArray[np.float64]


def gaps(points: Doubles) -> Doubles:
    difference = points[:, None] - points
    result: Doubles = np.sqrt((difference**2).sum(-1))
    return result


@given(st.integers(2, 7), st.integers(0, 50))
def test_against_means_that_are_made(n: int, seed: int) -> None:
    models = np.random.default_rng(seed).standard_normal((n, 40))
    order = np.random.default_rng(seed + 1).permutation(n)
    means = np.array([models[order[: k + 1]].mean(axis=0) for k in range(n)])
    found = trace_convergence(gaps(models), order.tolist(), n_orders=5)
    expected_end = np.linalg.norm(means - means[-1], axis=1)
    expected_next = np.linalg.norm(means[:-1] - models[order[1:]], axis=1)
    assert found.to_end == pytest.approx(expected_end, rel=1e-9, abs=1e-9)
    assert found.to_next == pytest.approx(expected_next, rel=1e-9, abs=1e-9)
    assert members_of_chain(gaps(means)) == pytest.approx(gaps(models[order]), rel=1e-6, abs=1e-6)


def test_independent_models_follow_the_arithmetic_in_any_order() -> None:
    found = trace_convergence(gaps(np.eye(12)), n_orders=50)
    assert found.to_end == pytest.approx(found.arithmetic, abs=1e-12)
    assert found.end_band[0] == pytest.approx(found.end_band[2], abs=1e-12)


def test_order_that_matters_is_told_from_chance() -> None:
    rng = np.random.default_rng(0)
    size = np.array([8.0] * 3 + [1.0] * 12)
    models = size[:, None] * rng.standard_normal((15, 200))
    late = trace_convergence(gaps(models), range(15))
    early = trace_convergence(gaps(models), [*range(3, 15), *range(3)])
    usual = trace_convergence(gaps(rng.standard_normal((15, 200))), range(15))
    assert "later than in random orders" in late.verdict
    assert "1/k arithmetic" in usual.verdict
    assert early.slower != late.slower
    assert (
        trace_convergence(gaps(models), seed=7).slower
        == trace_convergence(gaps(models), seed=7).slower
    )


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match="two members"):
        trace_convergence(np.zeros((1, 1)))
    with pytest.raises(ValueError, match="every distance"):
        trace_convergence(np.array([[0, np.nan], [np.nan, 0]]))
    with pytest.raises(ValueError, match="at least 1 random order, but got 0"):
        trace_convergence(np.zeros((2, 2)), n_orders=0)
    with pytest.raises(ValueError, match="no running means"):
        members_of_chain(np.array([[0.0, 1.0, 9.0], [1.0, 0.0, 1.0], [9.0, 1.0, 0.0]]))
