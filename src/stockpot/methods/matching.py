"""Re-basin: the units of one model in the places of those of another that they are most like.

Git Re-Basin (arXiv 2209.04836) by weights, restricted to permutations that leave the function as it
is and that need not know of each other; so the best ones are found, and not only good ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.errors import MissingExtraError
from stockpot.methods.contract import Doubles, Task, Work

__all__ = ["Permuted", "best_order", "held_by_matching", "order_blocks"]

Order = npt.NDArray[np.int64]


def best_order(profit: Doubles) -> Order:
    """Assign each place the unit for which the profits' sum is greatest.

    Args:
        profit: Shape ``[n, n]``: of place i by unit j.

    Returns:
        The unit of each place (Kuhn 1955, as scipy solves it).

    Example:
        >>> best_order(np.array([[1.0, 3.0], [2.0, 3.5]])).tolist()
        [1, 0]
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingExtraError("re-basin", "compare") from error
    return np.asarray(linear_sum_assignment(profit, maximize=True)[1], np.int64)


def order_blocks(profits: Sequence[Doubles], n_blocks: int) -> list[Order]:
    """Assign units whose blocks stay whole: blocks to blocks, and units within them.

    Args:
        profits: For each kind of units, shape ``[n, n]``; the kinds' blocks move together.
        n_blocks: Of equal length.

    Returns:
        For each kind, the unit of each place. The sum of profits is the greatest there is.
    """
    if n_blocks == 1:
        return [best_order(profit) for profit in profits]
    sizes = [len(profit) // n_blocks for profit in profits]
    inner: dict[tuple[int, int], list[Order]] = {}
    sums = np.zeros((n_blocks, n_blocks))
    for i in range(n_blocks):
        for j in range(n_blocks):
            inner[i, j] = []
            for profit, size in zip(profits, sizes, strict=True):
                part = profit[i * size : (i + 1) * size, j * size : (j + 1) * size]
                order = best_order(part)
                inner[i, j].append(order)
                sums[i, j] += part[np.arange(size), order].sum()
    blocks = best_order(sums)
    return [
        np.concatenate([j * size + inner[i, int(j)][kind] for i, j in enumerate(blocks)])
        for kind, size in enumerate(sizes)
    ]


@final
class Permuted(Work):
    """The second input, its units put in order; the order comes with the task."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._whole = np.empty(task.n_elements)
        self.wants_pass = True

    def gather(self, start: int, panel: Doubles) -> None:
        """Keep the second input; see `Work.gather`."""
        self._whole[start : start + panel.shape[1]] = panel[1]

    def finish_pass(self) -> None:
        """Put its units in order; see `Work.finish_pass`."""
        tensor = self._whole.reshape(self._task.shape)
        for axis, order in self._task.orders:
            tensor = np.take(tensor, order, axis=axis)
        self._whole = np.ascontiguousarray(tensor).reshape(-1)
        self.wants_pass = False

    def rows(self, start: int, panel: Doubles) -> Doubles:
        """Take elements; see `Work.rows`."""
        return self._whole[None, start : start + panel.shape[1]]


def held_by_matching(shape: tuple[int, ...]) -> int:
    """Bytes of whole tensors (both inputs, the result and a copy), and of profits and their sums.

    Args:
        shape: Of the tensor.
    """
    longest = max(shape[:2], default=0)
    return 32 * int(np.prod(shape, dtype=np.int64)) + 8 * longest * longest
