"""Does a growing mix converge, or does the mean of more models simply move less?

The mean of the first k of n models moves by ever smaller steps whatever the models are. If they
lay independently and equally far from a common centre, the distance from the k-th mean to the last
would be √((1/k − 1/n)/(1 − 1/n)) of that from the first. What is worth noticing is a difference
from the same models in random orders. Everything follows from the members' distances: means are
never made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from stockpot.compare.grouping import centred

__all__ = ["Convergence", "members_of_chain", "trace_convergence"]

Doubles = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Convergence:
    """How a running mean approaches its next member and its end.

    Rows are k = 1 … n. Bands are over random orders: 5 %, 50 % and 95 %.

    Attributes:
        order: Indices of the members as they were added.
        to_next: Distance from the k-th mean to the member that comes next, shape ``[n − 1]``.
        to_end: Distance from the k-th mean to the last, shape ``[n]``.
        next_band: The same over random orders, shape ``[3, n − 1]``.
        end_band: The same over random orders, shape ``[3, n]``.
        arithmetic: `to_end` for members equally far from their centre and at right angles, with
            the pool's own mean square distance, shape ``[n]``.
        n_orders: How many random orders.
        slower: Share of random orders whose mean is closer to its end, summed over all k: near 0
            this order settles earlier than chance, near 1 later.
    """

    order: tuple[int, ...]
    to_next: Doubles
    to_end: Doubles
    next_band: Doubles
    end_band: Doubles
    arithmetic: Doubles
    n_orders: int
    slower: float

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.slower < 0.025:
            return "the mean settles earlier than in random orders of the same models"
        if self.slower > 0.975:
            return "the mean settles later than in random orders of the same models"
        return "the mean settles as it does in any order of these models: 1/k arithmetic"

    def to_json(self) -> dict[str, Any]:
        """The same as plain data.

        Returns:
            Every attribute by its name, and the verdict.
        """
        return {
            "order": list(self.order),
            "to_next": self.to_next.tolist(),
            "to_end": self.to_end.tolist(),
            "next_band": self.next_band.tolist(),
            "end_band": self.end_band.tolist(),
            "arithmetic": self.arithmetic.tolist(),
            "n_orders": self.n_orders,
            "slower": self.slower,
            "verdict": self.verdict,
        }


def trace_convergence(
    distances: Doubles,
    order: Sequence[int] | None = None,
    *,
    n_orders: int = 1000,
    seed: int = 0,
) -> Convergence:
    """Follow the running mean of models as they are added, against random orders.

    Args:
        distances: Of the members, shape ``[n, n]``, n ≥ 2; all known.
        order: Indices of the members as they were added; by default as they come.
        n_orders: Random orders to compare with; at least 1.
        seed: Of the random orders.

    Returns:
        The curves.

    Raises:
        ValueError: There are fewer than two members, or a distance is not known.

    Example:
        >>> import numpy as np
        >>> place = np.array([0.0, 6.0, 3.0])
        >>> found = trace_convergence(abs(place[:, None] - place), n_orders=10)
        >>> found.to_next.tolist(), found.to_end.tolist()
        ([6.0, 0.0], [3.0, 0.0, 0.0])
    """
    order = tuple(range(len(distances)) if order is None else order)
    n = len(order)
    if n < 2 or np.isnan(distances[np.ix_(order, order)]).any():
        raise ValueError("convergence needs two members, and every distance between them")
    if n_orders < 1:
        raise ValueError(f"there must be at least 1 random order, but got {n_orders}")
    scatter = centred(distances[np.ix_(order, order)])
    to_next, to_end = _curves(scatter, np.arange(n))
    rng = np.random.default_rng(seed)
    drawn = [_curves(scatter, rng.permutation(n)) for _ in range(n_orders)]
    ends = np.array([end for _, end in drawn])
    k = np.arange(1, n + 1)
    # (mean square distance from the centre) = n − 1 of n parts of each member's own variance
    variance = float(np.trace(scatter)) / (n - 1)
    return Convergence(
        order,
        to_next,
        to_end,
        np.quantile(np.array([step for step, _ in drawn]), [0.05, 0.5, 0.95], axis=0),
        np.quantile(ends, [0.05, 0.5, 0.95], axis=0),
        np.sqrt(variance * (1 / k - 1 / n)),
        n_orders,
        float((ends.sum(axis=1) < to_end.sum()).mean()),
    )


def members_of_chain(distances: Doubles) -> Doubles:
    """Find the members' distances from those of a chain of running means.

    Where row k holds m_k = (1 − 1/k)·m_{k−1} + θ_k/k, the members are θ_k = k·m_k − (k−1)·m_{k−1},
    so that their distances follow without the files.

    Args:
        distances: Of m₁ … m_n, shape ``[n, n]``; all known.

    Returns:
        Distances of θ₁ … θ_n, shape ``[n, n]``. Rounding of the means grows k-fold in them.

    Raises:
        ValueError: The rows are no chain of running means: a squared distance came out below zero.

    Example:
        >>> import numpy as np
        >>> means = np.array([0.0, 3.0, 3.0])
        >>> members_of_chain(abs(means[:, None] - means))[1].tolist()
        [6.0, 0.0, 3.0]
    """
    n = len(distances)
    made = np.zeros((n, n))
    for k in range(n):
        made[k, k] = k + 1
        if k:
            made[k, k - 1] = -k
    squared = mixed_distances(distances**2, made)
    worst = float(squared.min())
    if worst < -1e-6 * float(squared.max()):
        raise ValueError("these rows are no running means of a chain, each of one model more")
    result: Doubles = np.sqrt(np.maximum(squared, 0.0))
    np.fill_diagonal(result, 0.0)
    return result


def mixed_distances(squared: Doubles, shares: Doubles) -> Doubles:
    """Squared distances of mixes, from those of what they are made of.

    For shares that sum to 1, ‖Σaᵢxᵢ − Σbᵢxᵢ‖² = −½ (a − b)ᵀ D² (a − b).

    Args:
        squared: ‖xᵢ − xⱼ‖², shape ``[n, n]``.
        shares: One row a mix, each with the same sum, shape ``[m, n]``.

    Returns:
        Shape ``[m, m]``; rounding may leave numbers slightly below zero.
    """
    cross = shares @ squared @ shares.T
    own = cross.diagonal()
    result: Doubles = cross - (own[:, None] + own) / 2
    return result


def _curves(scatter: Doubles, order: npt.NDArray[np.int64]) -> tuple[Doubles, Doubles]:
    """Distances from each mean to the next member, and to the last mean, which is the centre."""
    ordered = scatter[np.ix_(order, order)]
    n = len(order)
    sums = np.cumsum(np.cumsum(ordered, axis=0), axis=1).diagonal()
    k = np.arange(1, n + 1)
    to_end = np.sqrt(np.maximum(sums / k**2, 0.0))
    to_end[-1] = 0.0
    columns = np.cumsum(ordered, axis=0)
    inner = columns[np.arange(n - 1), np.arange(1, n)] / k[:-1]
    step = ordered.diagonal()[1:] + sums[:-1] / k[:-1] ** 2 - 2 * inner
    return np.sqrt(np.maximum(step, 0.0)), to_end
