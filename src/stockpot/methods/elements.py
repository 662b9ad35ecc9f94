"""Methods that treat every element on its own: robust centres, elections, supermerger's formulas.

Each is a function from a panel ``[n, m]`` and the call's parameters to a row ``[m]``, or to rows.
Where only the values count, and not whose they are, it takes them in their order (`ranking`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import final

import numpy as np

from stockpot.methods.contract import Doubles, Parameters, Task, Work
from stockpot.methods.feeds import Feed, panels

__all__ = [
    "Elected", "all_places", "elect", "element_geometric_median", "inner_places", "mean_of_kept",
    "median", "middle_places", "train_difference", "trimmed_mean",
]  # fmt: skip


def all_places(n: int, parameters: Parameters) -> tuple[int, int]:
    """Every place of the order counts.

    Args:
        n: How many values.
        parameters: Of no meaning here.

    Returns:
        The first place, and one past the last.
    """
    return 0, n


def middle_places(n: int, parameters: Parameters) -> tuple[int, int]:
    """The place in the middle of the order, or both where n is even.

    Args:
        n: How many values.
        parameters: None.

    Returns:
        The first place, and one past the last.

    Example:
        >>> middle_places(5, {}), middle_places(6, {})
        ((2, 3), (2, 4))
    """
    return (n - 1) // 2, n // 2 + 1


def median(ranked: Doubles, parameters: Parameters) -> Doubles:
    """The median of each element; where n is even, the middle of the two in the middle.

    Args:
        ranked: The one or two values in the middle, shape ``[1, m]`` or ``[2, m]``.
        parameters: None.

    Returns:
        Shape ``[m]``.

    Example:
        >>> median(np.array([[2.0], [3.0]]), {}).tolist()
        [2.5]
    """
    low, high = ranked[0], ranked[-1]
    result: Doubles = low + (high - low) / 2
    return result


def inner_places(n: int, parameters: Parameters) -> tuple[int, int]:
    """The places of the order without the k least and the k greatest.

    Args:
        n: How many values.
        parameters: ``cut``, a fraction: k = ⌊n·cut⌋, but at least one value stays.

    Returns:
        The first place, and one past the last.

    Example:
        >>> from fractions import Fraction
        >>> inner_places(4, {"cut": Fraction(1, 4)}), inner_places(4, {"cut": Fraction(1)})
        ((1, 3), (1, 3))
    """
    cut = parameters["cut"]
    assert not isinstance(cut, str)
    k = min(math.floor(n * cut), (n - 1) // 2)
    return k, n - k


def trimmed_mean(ranked: Doubles, parameters: Parameters) -> Doubles:
    """The mean of each element without its least and greatest values.

    Args:
        ranked: The values that are left, least first, so that the order of the sum is theirs;
            shape ``[k, m]``.
        parameters: ``cut`` was heard by `inner_places`.

    Returns:
        Shape ``[m]``.

    Example:
        >>> trimmed_mean(np.array([[1.0], [2.0]]), {}).tolist()
        [1.5]
    """
    total = np.zeros(ranked.shape[1])
    for row in ranked:
        total += row
    total /= len(ranked)
    return np.clip(total, ranked[0], ranked[-1])


def element_geometric_median(ranked: Doubles, parameters: Parameters) -> Doubles:
    """Weiszfeld's iteration on every element alone: a smooth way to the median.

    From the mean on, y = Σ wᵢθᵢ / Σ wᵢ with wᵢ = 1/max(|θᵢ − y|, eps_guard). For an odd number of
    values it nears the median; for an even one any point between the middle two is as good, and
    the mean decides where between them it ends.

    Args:
        ranked: All values, least first: one order of sums, whatever came; shape ``[n, m]``.
        parameters: ``maxiter``, ``ftol``, ``eps_guard``.

    Returns:
        Shape ``[m]``.

    Example:
        >>> from fractions import Fraction as F
        >>> options = {"maxiter": F(100), "ftol": F(0), "eps_guard": F(1, 10**6)}
        >>> element_geometric_median(np.array([[1.0], [2.0], [99.0]]), options).round(4).tolist()
        [2.0]
    """
    guard, ftol = float(parameters["eps_guard"]), float(parameters["ftol"])
    y = np.zeros(ranked.shape[1])
    for row in ranked:
        y += row
    y /= len(ranked)
    moving = np.ones(len(y), bool)
    before = np.full(len(y), np.inf)
    for _ in range(int(parameters["maxiter"])):
        columns = np.flatnonzero(moving)
        if not len(columns):
            break
        at = y[columns]
        weights, total, spread = np.zeros(len(at)), np.zeros(len(at)), np.zeros(len(at))
        for row in ranked:
            distance = np.abs(row[columns] - at)
            spread += distance
            weight = 1 / np.maximum(distance, guard)
            weights += weight
            total += weight * row[columns]
        y[columns] = np.clip(total / weights, ranked[0, columns], ranked[-1, columns])
        moving[columns] = np.abs(before[columns] - spread) > ftol * spread
        before[columns] = spread
    return y


@final
class Elected(Work):
    """`elect` as a method.

    Args:
        task: ``elect``.
    """

    def __init__(self, task: Task) -> None:
        self._parameters, self._compiled = task.parameters, task.compiled

    def rows(self, start: int, panel: Doubles) -> Doubles:
        """Compute results; see `Work.rows`."""
        return elect(panel, self._parameters, compiled=self._compiled)

    def pass_on(self, feed: Feed) -> Feed | None:
        """Leave the election to who reads the result; see `Work.pass_on`."""
        return None if feed.elect else replace(feed, elect=str(self._parameters["elect"]))


def elect(panel: Doubles, parameters: Parameters, *, compiled: bool = True) -> Doubles:
    """Keep each delta where it has the sign that all of them elect, TIES' second step.

    Args:
        panel: Deltas, shape ``[n, m]``.
        parameters: ``elect``: by ``magnitude``, the sign of the sum; by ``count``, the sign that
            more of them have (TIES-SOUP). A draw elects nobody.
        compiled: Use C where it was built; the bits are the same.

    Returns:
        Shape ``[n, m]``: the deltas, with 0 where they dissent.

    Example:
        >>> panel = np.array([[3.0, 3.0], [-1.0, -1.0], [-1.0, 0.0]])
        >>> elect(panel, {"elect": "magnitude"}).tolist()
        [[3.0, 3.0], [0.0, 0.0], [0.0, 0.0]]
        >>> elect(panel, {"elect": "count"}).tolist()
        [[0.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]
    """
    feed = replace(Feed.of(panel), elect=str(parameters["elect"]))
    return feed.panel(compiled=compiled and panels is not None)


def mean_of_kept(panel: Doubles, parameters: Parameters) -> Doubles:
    """The mean of the deltas that are not zero, TIES' third step.

    Args:
        panel: Deltas, shape ``[n, m]``.
        parameters: None.

    Returns:
        Shape ``[m]``; 0 where all are.

    Example:
        >>> mean_of_kept(np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), {}).tolist()
        [2.0, 0.0]
    """
    total, count = np.zeros(panel.shape[1]), np.zeros(panel.shape[1])
    for row in panel:
        total += row
        count += row != 0
    result: Doubles = total / np.maximum(count, 1)
    return result


def train_difference(panel: Doubles, parameters: Parameters) -> Doubles:
    """Supermerger's trainDifference: b − c, damped where b is near a.

    Args:
        panel: Rows a, b, c, shape ``[3, m]``.
        parameters: ``t``.

    Returns:
        Shape ``[m]``: a + 1.8·t·(b − c)·|b − a|/(|b − c| + |b − a|).

    Example:
        >>> from fractions import Fraction
        >>> train_difference(np.array([[0.0], [1.0], [0.0]]), {"t": Fraction(1)}).tolist()
        [0.9]
    """
    a, b, c = panel
    learnt, away = b - c, np.abs(b - a)
    both = np.abs(learnt) + away
    share = np.divide(away, both, out=np.zeros_like(both), where=both != 0)
    result: Doubles = a + (float(parameters["t"]) * 1.8) * (learnt * share)
    return result
