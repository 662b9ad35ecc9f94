"""Who was trained from whom, as far as the weights tell.

After model tree heritage recovery (Horwitz, Shul, Hoshen: 2405.18432): training takes a model a
little way from its parent, so the tree that joins all models over the least distance joins
children to parents; and training drifts the statistics of weights one way, which says who came
first. Both drifts that are used here are weak for one pair of tensors, and are counted over all
blocks: outliers grow (kurtosis, as in the paper), and so do lengths, because a step in a random
direction of so many dimensions is nearly at right angles to the weights.

What the numbers do not decide is left open: an edge with a rival of nearly the same length, a
direction on which the blocks do not agree. Mixes have no parents in this sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.compare.comparison import Comparison, Place

__all__ = ["Descent", "FamilyTree", "find_family_tree"]

Doubles = npt.NDArray[np.float64]

# A rival edge less than this much longer leaves the parent open.
_RIVAL = 1.05
# Blocks must agree by this much (from -1 to 1) for a direction to count as told.
_AGREED = 0.3


@final
@dataclass(frozen=True, slots=True)
class Descent:
    """One edge of a family tree.

    Attributes:
        parent: Index; of the two models simply the first where the direction is open.
        child: Index.
        distance: Between the two.
        rival: How much longer the best edge in its place would be, as a ratio; infinite without
            one.
        instead: Indices of the two models that this other edge would join; empty without one.
        drift: How the blocks vote on the direction, from −1 (the child came first) to 1.
        is_directed: Whether the direction is told: by the drift, or by a known base.
    """

    parent: int
    child: int
    distance: float
    rival: float
    instead: tuple[int, ...]
    drift: float
    is_directed: bool

    @property
    def is_certain(self) -> bool:
        """Whether no other edge would do nearly as well."""
        return self.rival >= _RIVAL


@final
@dataclass(frozen=True, slots=True)
class FamilyTree:
    """The tree over one component.

    Attributes:
        component: Which.
        root: Index of the model that all others descend from; None where it is open.
        edges: Parents before children.
        apart: Models that share nothing with the others here, or whose component is the same as an
            earlier model's.
    """

    component: str
    root: int | None
    edges: tuple[Descent, ...]
    apart: tuple[int, ...]


def find_family_tree(
    comparison: Comparison, component: str, *, base: int | None = None
) -> FamilyTree:
    """Join models to those that they were probably trained from.

    Args:
        comparison: What was found.
        component: Such as ``unet``.
        base: Index of the model that the others descend from, where that is known; by default the
            comparison's own.

    Returns:
        The tree.
    """
    pairs = comparison.pairs(Place(component))
    distances = pairs.distances()
    base = comparison.base if base is None else base
    members = _distinct(distances, base)
    apart = tuple(i for i in range(len(comparison.models)) if i not in members)
    joined = _least_tree(distances, members)
    drift = _drift(comparison, component)
    root = base if base in members else None
    directed = root is not None
    if root is None and joined:
        root, directed = _best_root(joined, drift, members), False
    edges = []
    for parent, child in _from_root(joined, root):
        rival, instead = _rival(distances, joined, members, (parent, child))
        vote = float(drift[parent, child])
        edges.append(
            Descent(parent, child, float(distances[parent, child]), rival, instead,
                    vote, directed or vote >= _AGREED)
        )  # fmt: skip
    if not directed:
        # A root that the drift chose counts where the edges around it agree; then it turns all.
        near = [edge.drift for edge in edges if root in (edge.parent, edge.child)]
        if near and min(near) > -_AGREED and sum(near) / len(near) >= _AGREED:
            edges = [replace(edge, is_directed=True) for edge in edges]
        else:
            root = None
    return FamilyTree(component, root, tuple(edges), apart)


def _distinct(distances: Doubles, base: int | None) -> list[int]:
    """Models that share something with others, one of each set of equals, the base before all."""
    n = len(distances)
    order = sorted(range(n), key=lambda i: (i != base, i))
    kept: list[int] = []
    for i in order:
        alone = n > 1 and np.isnan(np.delete(distances[i], i)).all()
        if not alone and not any(distances[i, j] == 0 for j in kept):
            kept.append(i)
    return sorted(kept)


def _least_tree(distances: Doubles, members: Sequence[int]) -> list[tuple[int, int]]:
    """The minimum spanning tree (Prim); pairs that were not compared cannot be joined."""
    rest, edges = list(members[1:]), []
    reached = list(members[:1])
    while rest:
        options = [(distances[i, j], i, j) for i in reached for j in rest
                   if not np.isnan(distances[i, j])]  # fmt: skip
        if not options:
            break
        _, i, j = min(options)
        edges.append((i, j))
        reached.append(j)
        rest.remove(j)
    return edges


def _drift(comparison: Comparison, component: str) -> Doubles:
    """How blocks vote for i having come before j, shape ``[n, n]``, antisymmetric."""
    n = len(comparison.models)
    votes, counts = np.zeros((n, n)), np.zeros((n, n))
    for group in comparison.groups:
        if group.place.component != component or group.gram.n_elements < 64:
            continue
        here = np.ix_(group.members, group.members)
        length = np.sqrt(np.maximum(group.gram.products().diagonal(), 0.0))
        signs = [np.sign(length - length[:, None])]
        if group.n_matrices:
            signs.append(np.sign(group.kurtosis - group.kurtosis[:, None]))
        for sign in signs:
            # A block that did not move has no say.
            moved = group.gram.squared > 0
            votes[here] += sign * moved
            counts[here] += moved
    result: Doubles = np.where(counts > 0, votes / np.maximum(counts, 1), 0.0)
    return result


def _best_root(edges: Sequence[tuple[int, int]], drift: Doubles, members: Sequence[int]) -> int:
    """The root from which most votes point outwards."""

    def outward(root: int) -> float:
        return sum(float(drift[parent, child]) for parent, child in _from_root(edges, root))

    return max(members, key=lambda root: (outward(root), -root))


def _from_root(edges: Sequence[tuple[int, int]], root: int | None) -> list[tuple[int, int]]:
    """The same edges, each from parent to child, parents first."""
    if root is None:
        return list(edges)
    neighbours: dict[int, list[int]] = {}
    for i, j in edges:
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    ordered, seen, queue = [], {root}, [root]
    while queue:
        here = queue.pop(0)
        for other in sorted(neighbours.get(here, [])):
            if other not in seen:
                seen.add(other)
                ordered.append((here, other))
                queue.append(other)
    # Trees that no compared pair joins to the root's keep the order in which they came.
    return ordered + [edge for edge in edges if edge[0] not in seen]


def _rival(
    distances: Doubles,
    edges: Sequence[tuple[int, int]],
    members: Sequence[int],
    edge: tuple[int, int],
) -> tuple[float, tuple[int, ...]]:
    """The best edge that could replace one: its length over the edge's own, and its ends."""
    side = _reachable([pair for pair in edges if set(pair) != set(edge)], edge[0])
    rest = [j for j in members if j not in side]
    options = [(float(distances[i, j]), (i, j)) for i in sorted(side) for j in rest
               if {i, j} != set(edge) and not np.isnan(distances[i, j])]  # fmt: skip
    own = float(distances[edge])
    if not options or own <= 0:
        return float("inf"), ()
    length, ends = min(options)
    return length / own, ends


def _reachable(edges: Sequence[tuple[int, int]], start: int) -> set[int]:
    seen = {start}
    grown = True
    while grown:
        grown = False
        for i, j in edges:
            if (i in seen) != (j in seen):
                seen |= {i, j}
                grown = True
    return seen
