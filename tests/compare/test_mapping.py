"""Maps keep distances where a plane can, say how far they cannot, and come out the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.compare import place_by_distance, place_by_spectrum, scale_bar

Doubles = npt.NDArray[np.float64]


def gaps(points: Doubles) -> Doubles:
    difference = points[:, None] - points
    result: Doubles = np.sqrt((difference**2).sum(-1))
    return result


@given(st.integers(2, 12), st.integers(0, 100))
def test_a_plane_comes_back(n: int, seed: int) -> None:
    distances = gaps(np.random.default_rng(seed).standard_normal((n, 2)) * 7)
    found = place_by_distance(distances)
    assert found.stress < 1e-4
    assert gaps(found.points) == pytest.approx(distances, abs=1e-2)
    assert found.points.tobytes() == place_by_distance(distances).points.tobytes()


def test_no_better_place_is_near() -> None:
    """The stress is a local minimum: any nudge makes it worse."""
    rng = np.random.default_rng(3)
    target = gaps(rng.standard_normal((8, 30)))
    found = place_by_distance(target)

    def stress(points: Doubles) -> float:
        return float(np.sqrt(((gaps(points) - target) ** 2).sum() / (target**2).sum()))

    assert found.stress == pytest.approx(stress(found.points), rel=1e-9)
    assert 0.1 < found.stress < 0.6
    for _ in range(50):
        assert stress(found.points + 0.05 * rng.standard_normal((8, 2))) > found.stress
    assert found.worst == pytest.approx(np.full(8, found.stress), rel=0.6)


def test_unknown_pairs_are_left_out_and_equal_models_lie_together() -> None:
    points = np.array([[0, 0], [4, 0], [0, 3], [4, 3], [2, 8], [2, 8]], float)
    distances = gaps(points)
    distances[0, 3] = distances[3, 0] = np.nan
    found = place_by_distance(distances)
    assert found.stress < 1e-3
    assert gaps(found.points)[0, 3] == pytest.approx(5, abs=0.05)
    assert gaps(found.points)[4, 5] == pytest.approx(0, abs=0.01)


def test_small_and_flat_pools() -> None:
    assert place_by_distance(np.zeros((3, 3))).points.tolist() == [[0, 0]] * 3
    assert place_by_distance(np.zeros((1, 1))).stress == 0
    assert scale_bar(np.zeros((2, 2))) == 0
    two = place_by_distance(np.array([[0.0, 3.0], [3.0, 0.0]]))
    assert gaps(two.points)[0, 1] == pytest.approx(3)


def test_the_spectral_chart_is_the_laplacians() -> None:
    """Against networkx's own layout of the same weighted graph."""
    import networkx

    distances = gaps(np.random.default_rng(5).standard_normal((7, 4)))
    found = place_by_spectrum(distances)
    graph = networkx.from_numpy_array(distances)
    theirs = np.array(list(networkx.spectral_layout(graph, weight="weight").values()))
    for axis in range(2):
        ours = found.points[:, axis]
        other = theirs[:, axis]
        assert abs(np.corrcoef(ours, other)[0, 1]) == pytest.approx(1, abs=1e-9)
    assert found.stress > place_by_distance(distances).stress
