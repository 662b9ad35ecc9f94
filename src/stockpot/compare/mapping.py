"""Maps of a pool: points on a plane whose distances tell those of the weights, as far as they can.

`place_by_distance` is metric multidimensional scaling by majorisation (SMACOF, de Leeuw 1977); its
axes mean nothing, its distances do, and its stress says how well. `place_by_spectrum` is the chart
that the AstolfoMix author draws: eigenvectors of a weighted graph's Laplacian, whose positions
tell who is connected and not how far apart anybody is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.compare.grouping import centred

__all__ = ["Map", "place_by_distance", "place_by_spectrum", "scale_bar"]

Doubles = npt.NDArray[np.float64]
_MOST_STEPS = 3000
_STILL = 1e-12


@final
@dataclass(frozen=True, eq=False)
class Map:
    """Models on a plane.

    Attributes:
        points: Shape ``[n, 2]``, in the unit of the distances, centred on the mean.
        stress: Kruskal's stress-1 over the known pairs: 0 is exact; above 0.2 the map misleads.
        worst: Per model, the root mean square of what its distances are off, over the root mean
            square of its distances, shape ``[n]``.
    """

    points: Doubles
    stress: float
    worst: Doubles


def place_by_distance(distances: Doubles) -> Map:
    """Place models on a plane so that distances on it are as those of the weights.

    The result is the same every time: it starts from classical scaling, and is turned so that the
    widest direction lies flat.

    Args:
        distances: Shape ``[n, n]``; unknown pairs (NaN) are left out of the sum.

    Returns:
        The map.

    Example:
        >>> import numpy as np
        >>> corners = np.array([[0, 0], [3, 0], [3, 4], [0, 4]], float)
        >>> gaps = corners[:, None] - corners
        >>> found = place_by_distance(np.sqrt((gaps**2).sum(-1)))
        >>> found.stress < 1e-6
        True
    """
    n = len(distances)
    known = ~np.isnan(distances)
    np.fill_diagonal(known, False)
    target = np.where(known, distances, 0.0)
    if n < 2 or not target.any():
        return Map(np.zeros((n, 2)), 0.0, np.zeros(n))
    scale = float(target.max())
    target = target / scale
    points = _classical(_filled(target, known))
    weights = known.astype(np.float64)
    laplacian = np.diag(weights.sum(axis=1)) - weights
    inverse = np.linalg.pinv(laplacian)
    total = float((target**2 * weights).sum())
    before = np.inf
    for _ in range(_MOST_STEPS):
        gaps = _gaps(points)
        stress = float(((gaps - target) ** 2 * weights).sum()) / total
        if before - stress < _STILL:
            break
        before = stress
        # (Guttman's transform) X ← V⁺ B(X) X
        ratio = np.where(gaps > 1e-15, -weights * target / np.maximum(gaps, 1e-15), 0.0)
        np.fill_diagonal(ratio, 0.0)
        np.fill_diagonal(ratio, -ratio.sum(axis=1))
        points = inverse @ (ratio @ points)
    points = _turned(points)
    off = (_gaps(points) - target) ** 2 * weights
    own = (target**2 * weights).sum(axis=1)
    worst = np.sqrt(off.sum(axis=1) / np.maximum(own, 1e-300)) * (own > 0)
    return Map(points * scale, float(np.sqrt(off.sum() / total)), worst)


def place_by_spectrum(distances: Doubles) -> Map:
    """Place models as the AstolfoMix author's charts do: a spectral layout of a weighted graph.

    Every pair is joined with its distance as the weight; the axes are the two eigenvectors after
    the first of the graph's Laplacian, D − A (as in networkx's ``spectral_layout``), scaled to 1.
    With distances as weights, far models pull apart in them; the picture keeps no distances.

    Args:
        distances: Shape ``[n, n]``; unknown pairs count as not joined.

    Returns:
        The map. Its stress is against the distances, after the best common scale.
    """
    n = len(distances)
    if n < 3:
        return place_by_distance(distances)
    weights = np.nan_to_num(distances)
    np.fill_diagonal(weights, 0.0)
    _, vectors = np.linalg.eigh(np.diag(weights.sum(axis=1)) - weights)
    points = vectors[:, 1:3].copy()
    points -= points.mean(axis=0)
    points *= np.where(points[abs(points).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    points /= max(float(abs(points).max()), 1e-300)
    known = ~np.isnan(distances) & ~np.eye(n, dtype=bool)
    gaps, target = _gaps(points), np.nan_to_num(distances)
    fit = float((gaps * target)[known].sum() / max(float((gaps**2)[known].sum()), 1e-300))
    off = ((fit * gaps - target) ** 2) * known
    total = float((target**2 * known).sum())
    own = (target**2 * known).sum(axis=1)
    worst = np.sqrt(off.sum(axis=1) / np.maximum(own, 1e-300)) * (own > 0)
    return Map(points, float(np.sqrt(off.sum() / total)) if total else 0.0, worst)


def _filled(target: Doubles, known: npt.NDArray[np.bool_]) -> Doubles:
    """Unknown distances by the shortest way over known ones; only to begin with."""
    length = np.where(known, target, np.inf)
    np.fill_diagonal(length, 0.0)
    for k in range(len(length)):
        length = np.minimum(length, length[:, k, None] + length[k])
    return np.where(np.isinf(length), float(target.max()), length)


def _classical(distances: Doubles) -> Doubles:
    values, vectors = np.linalg.eigh(centred(distances))
    points: Doubles = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0.0))
    # Models at one point would never part: a fixed nudge, far below what is seen.
    angle = np.arange(len(points)) * 2.399963
    spread = max(float(np.abs(points).max()), 1e-9)
    return points + 1e-6 * spread * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _gaps(points: Doubles) -> Doubles:
    difference = points[:, None] - points
    result: Doubles = np.sqrt((difference**2).sum(axis=-1))
    return result


def _turned(points: Doubles) -> Doubles:
    """Centre; widest direction first; the point farthest out has positive coordinates."""
    points = points - points.mean(axis=0)
    values, vectors = np.linalg.eigh(points.T @ points)
    turned: Doubles = points @ vectors[:, ::-1]
    farthest = turned[abs(turned).argmax(axis=0), [0, 1]]
    turned *= np.where(farthest < 0, -1.0, 1.0)
    return turned


def scale_bar(points: Sequence[Sequence[float]] | Doubles) -> float:
    """Choose the length of a scale bar: 1, 2 or 5 times a power of ten, about a fifth of the map.

    Args:
        points: Shape ``[n, 2]``.

    Returns:
        The length, in the map's unit; 0 where all points are one.

    Example:
        >>> scale_bar([[0.0, 0.0], [12.0, 3.0]])
        2.0
    """
    array = np.asarray(points, np.float64)
    width = float((array.max(axis=0) - array.min(axis=0)).max()) if len(array) else 0.0
    if width <= 0:
        return 0.0
    power = 10.0 ** np.floor(np.log10(width / 5))
    return float(max(step * power for step in (1, 2, 5) if step * power <= width / 5 * (1 + 1e-9)))
