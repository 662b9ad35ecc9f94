"""What stands out in a pool: equal models, odd ones, families, and how many directions there are.

All of it is arithmetic on n×n numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import numpy.typing as npt

from stockpot.compare.comparison import Comparison, Place
from stockpot.errors import MissingExtraError

__all__ = [
    "Duplicates",
    "Families",
    "Outlier",
    "effective_dimension",
    "find_duplicates",
    "find_families",
    "find_outliers",
]

Doubles = npt.NDArray[np.float64]

# An outlier lies this many robust deviations out (Iglewicz and Hoaglin's rule), and clearly so.
_FAR_OUT = 3.5
_CLEARLY = 1.5
# Families that hang together less than this are no families (Kaufman and Rousseeuw's reading).
_LOOSE = 0.25


@final
@dataclass(frozen=True, slots=True)
class Duplicates:
    """Models that are the same, wholly or in one component.

    Attributes:
        component: Which; empty for the whole model.
        models: Indices, at least two.
        kind: ``identical`` by hash; ``values`` where every value agrees and the hash does not,
            because of other types or names.
    """

    component: str
    models: tuple[int, ...]
    kind: Literal["identical", "values"]


@final
@dataclass(frozen=True, slots=True)
class Outlier:
    """A model far from all others.

    Attributes:
        model: Its index.
        ratio: Its median distance to the others, over the pool's median of these.
    """

    model: int
    ratio: float


@final
@dataclass(frozen=True, eq=False)
class Families:
    """Models that lie together.

    Attributes:
        members: Indices of each family, largest first; one family where none stand apart.
        silhouette: How clearly they stand apart, from −1 to 1; 0 for one family.
        merges: The dendrogram as scipy has it: left, right, height and size of each of its n − 1
            joints, shape ``[n − 1, 4]``.
        order: Indices as the dendrogram's leaves stand side by side.
    """

    members: tuple[tuple[int, ...], ...]
    silhouette: float
    merges: Doubles
    order: tuple[int, ...]


def find_duplicates(comparison: Comparison) -> tuple[Duplicates, ...]:
    """Find models that are the same, wholly or in one component.

    Identity is told by hash. Where hashes differ and every value is equal, that is said as such;
    a distance of 0 over a part of the keys says nothing.

    Args:
        comparison: What was found.

    Returns:
        Whole models first, then by component.
    """
    found = []
    by_hash: dict[tuple[str, str], list[int]] = {}
    for i, model in enumerate(comparison.models):
        if model.content:
            by_hash.setdefault(("", model.content), []).append(i)
        for component, digest in model.components.items():
            by_hash.setdefault((component, digest), []).append(i)
    for (component, _), models in by_hash.items():
        if len(models) > 1:
            found.append(Duplicates(component, tuple(models), "identical"))
    for component in comparison.components:
        pairs = comparison.pairs(Place(component))
        same = (pairs.squared == 0) & (pairs.coverage() == 1)
        seen: set[int] = set()
        for i in range(len(comparison.models)):
            twins = [j for j in range(len(comparison.models)) if same[i, j] and pairs.sizes[j]]
            hashes = {comparison.models[j].components.get(component) for j in twins}
            if i not in seen and len(hashes) > 1:
                found.append(Duplicates(component, tuple(twins), "values"))
            seen |= set(twins)
    order = {name: i for i, name in enumerate(("", *comparison.components))}
    return tuple(sorted(found, key=lambda d: (order.get(d.component, len(order)), d.models)))


def find_outliers(distances: Doubles) -> tuple[Outlier, ...]:
    """Find models whose typical distance to the others is far above the pool's.

    Args:
        distances: Shape ``[n, n]``; NaN where a pair was not compared.

    Returns:
        Farthest first; empty below five models, where nothing is typical.

    Example:
        >>> import numpy as np
        >>> place = np.array([0.0, 1.0, 2.1, 2.9, 4.0, 90.0])
        >>> [found.model for found in find_outliers(abs(place[:, None] - place))]
        [5]
    """
    typical = _typical(distances)
    known = typical[~np.isnan(typical)]
    if len(known) < 5 or not (middle := float(np.median(known))) > 0:
        return ()
    # Distances multiply rather than add: a fine-tune twice as long lies so many times as far.
    logs = np.log(np.maximum(known, middle * 1e-6) / middle)
    deviation = float(np.median(abs(logs - np.median(logs)))) * 1.4826
    found = []
    for model, distance in enumerate(typical):
        ratio = float(distance / middle)
        if ratio > _CLEARLY and np.log(ratio) > _FAR_OUT * deviation:
            found.append(Outlier(model, ratio))
    return tuple(sorted(found, key=lambda outlier: -outlier.ratio))


def _typical(distances: Doubles) -> Doubles:
    others = np.where(np.eye(len(distances), dtype=bool), np.nan, distances)
    known = ~np.isnan(others).all(axis=1) if len(others) > 1 else np.zeros(len(others), bool)
    typical = np.full(len(distances), np.nan)
    if known.any():
        typical[known] = np.nanmedian(others[known], axis=1)
    return typical


def find_families(distances: Doubles) -> Families:
    """Group models by average linkage, and cut where the groups stand apart most clearly.

    Args:
        distances: Shape ``[n, n]``, n ≥ 2; all known.

    Returns:
        The families and the dendrogram.

    Raises:
        ValueError: A distance is not known, or there are fewer than two models.
        MissingExtraError: scipy is not installed.

    Example:
        >>> import numpy as np
        >>> place = np.array([0.0, 1.0, 50.0, 51.0, 52.0])
        >>> find_families(abs(place[:, None] - place)).members
        ((2, 3, 4), (0, 1))
    """
    try:
        from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
        from scipy.spatial.distance import squareform
    except ImportError as error:
        raise MissingExtraError("comparing models", "compare") from error
    n = len(distances)
    if n < 2 or np.isnan(distances).any():
        raise ValueError("families need two models, and every distance between them")
    condensed = squareform(distances, checks=False)
    merges = optimal_leaf_ordering(linkage(condensed, "average"), condensed)
    best, labels = 0.0, np.ones(n, int)
    for k in range(2, min(n - 1, 12) + 1):
        candidate = fcluster(merges, k, "maxclust")
        score = _silhouette(distances, candidate)
        if score > max(best, _LOOSE):
            best, labels = score, candidate
    members = [tuple(map(int, np.flatnonzero(labels == label))) for label in np.unique(labels)]
    members.sort(key=lambda family: (-len(family), family))
    return Families(tuple(members), best, merges, tuple(map(int, leaves_list(merges))))


def _silhouette(distances: Doubles, labels: npt.NDArray[np.int64]) -> float:
    """Mean silhouette (Rousseeuw 1987); a family of one counts 0."""
    kinds = np.unique(labels)
    if len(kinds) < 2:
        return 0.0
    inside = labels[:, None] == kinds
    totals = distances @ inside
    counts = inside.sum(axis=0)
    own = inside.argmax(axis=1)
    rows = np.arange(len(labels))
    n_own = counts[own]
    near = totals[rows, own] / np.maximum(n_own - 1, 1)
    means = totals / counts
    means[rows, own] = np.inf
    away = means.min(axis=1)
    largest = np.maximum(near, away)
    scores = np.where((n_own > 1) & (largest > 0), (away - near) / np.maximum(largest, 1e-300), 0.0)
    return float(scores.mean())


def effective_dimension(distances: Doubles) -> float:
    """Count the directions in which a pool spreads: the participation ratio (Σλ)²/Σλ².

    λ are the eigenvalues of the models' scatter around their mean. n models that moved away from
    one base independently and equally far give n − 1; models on a line give 1.

    Args:
        distances: Shape ``[n, n]``; all known.

    Returns:
        From 1 to n − 1; 0 where all models are equal.

    Example:
        >>> import numpy as np
        >>> place = np.array([0.0, 1.0, 5.0])
        >>> round(effective_dimension(abs(place[:, None] - place)), 9)
        1.0
    """
    scatter = centred(distances)
    total = float(np.trace(scatter))
    return total * total / float((scatter * scatter).sum()) if total > 0 else 0.0


def centred(distances: Doubles, keep: Sequence[int] | None = None) -> Doubles:
    """Inner products of differences to the mean, from distances (Torgerson 1952).

    Args:
        distances: Shape ``[n, n]``; all known.
        keep: Models whose mean is the centre; by default all.

    Returns:
        Shape ``[n, n]``.
    """
    squared = distances**2
    rows = list(range(len(distances)) if keep is None else keep)
    means = squared[:, rows].mean(axis=1)
    whole = float(squared[np.ix_(rows, rows)].mean())
    result: Doubles = (means[:, None] + means - squared - whole) / 2
    return result
