"""Duplicates by hash, outliers, families, dimensions: hand-made pools with known answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.checkpoints import MemorySource
from stockpot.compare import (
    Comparison,
    compare,
    effective_dimension,
    find_duplicates,
    find_families,
    find_outliers,
)

Doubles = npt.NDArray[np.float64]


def gaps(points: Doubles) -> Doubles:
    difference = points[:, None] - points
    result: Doubles = np.sqrt((difference**2).sum(-1))
    return result


def test_duplicates_are_told_by_hash_and_by_component(zoo: Comparison) -> None:
    found = find_duplicates(zoo)
    assert not [d for d in found if d.component == ""]
    vae = [d for d in found if d.component == "vae" and d.kind == "identical"]
    assert {zoo.names[i] for d in vae for i in d.models} == set(zoo.names) - {
        "style-glossy", "content-angular"}  # fmt: skip


def test_equal_values_under_other_hashes_are_another_thing(
    make_source: Callable[..., MemorySource],
) -> None:
    half = np.array([1, 2, 3], np.float16)
    found = compare(
        {
            "a": make_source({"w": half}),
            "b": make_source({"w": half}),
            "c": make_source({"w": half.astype(np.float32)}),
            "d": make_source({"w": half, "v": half}),
        }
    )
    told = [(d.component, d.models, d.kind) for d in find_duplicates(found)]
    # d agrees where it can be compared, but has a key more: it is no duplicate.
    assert told == [
        ("", (0, 1), "identical"),
        ("model", (0, 1), "identical"),
        ("model", (0, 1, 2), "values"),
    ]
    assert found.pairs().distances()[0, 3] == 0


def test_outliers_need_a_crowd_and_distance() -> None:
    rng = np.random.default_rng(0)
    crowd = rng.standard_normal((9, 50))
    assert find_outliers(gaps(crowd)) == ()
    crowd[4] *= 20
    assert [o.model for o in find_outliers(gaps(crowd))] == [4]
    assert find_outliers(gaps(crowd[3:7])) == ()  # four models: nothing is typical
    unknown = gaps(crowd)
    unknown[2] = unknown[:, 2] = np.nan
    assert [o.model for o in find_outliers(unknown)] == [4]
    assert find_outliers(np.zeros((6, 6))) == ()


def test_families_are_found_and_none_is_made_up() -> None:
    rng = np.random.default_rng(1)
    centres = 30 * rng.standard_normal((3, 20))
    points = np.repeat(centres, (5, 4, 2), axis=0) + rng.standard_normal((11, 20))
    found = find_families(gaps(points))
    assert found.members == ((0, 1, 2, 3, 4), (5, 6, 7, 8), (9, 10))
    assert found.silhouette > 0.8 and len(found.merges) == 10
    assert sorted(found.order) == list(range(11))
    alike = find_families(gaps(rng.standard_normal((8, 400))))
    assert alike.members == (tuple(range(8)),) and alike.silhouette == 0
    with pytest.raises(ValueError, match="two models"):
        find_families(np.zeros((1, 1)))
    with pytest.raises(ValueError, match="every distance"):
        find_families(np.array([[0, np.nan], [np.nan, 0]]))


@given(st.integers(2, 9))
def test_independent_models_spread_in_one_direction_fewer_than_they_are(n: int) -> None:
    assert effective_dimension(gaps(np.eye(n))) == pytest.approx(n - 1)
    assert effective_dimension(gaps(np.arange(n, dtype=float)[:, None])) == pytest.approx(1)
    assert effective_dimension(np.zeros((n, n))) == 0
