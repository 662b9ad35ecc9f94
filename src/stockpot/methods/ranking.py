"""Order statistics: the values of each element in their order, or some places of it.

Floats are ordered by their bits, −0 before +0, so that equal numbers are equal bytes: however the
rows came, and whoever sorts, the result is one. C runs a network of exchanges over the rows, many
columns at a time (Batcher, 10.1145/1468075.1468121, in the form of Knuth's algorithm 5.2.2 M for
any number of rows); numpy sorts whole numbers, or takes their minima and maxima where rows are few.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from stockpot.methods.feeds import Feed, panels

__all__ = ["network", "ranked"]

Doubles = npt.NDArray[np.float64]
_MAGNITUDE = np.int64(0x7FFF_FFFF_FFFF_FFFF)
# Up to so many rows, whole rows are exchanged; numpy sorts many rows faster than few.
_FEW = 4


@lru_cache(maxsize=64)
def network(n: int, first: int, last: int) -> npt.NDArray[np.int32]:
    """Find exchanges that bring rows into order.

    Args:
        n: How many rows, at least 1.
        first: The first place that is wanted, from 0.
        last: One past the last; exchanges that only others need are left out.

    Returns:
        Shape ``[k, 2]``: of the first and the second row of a pair, the first gets the lesser
        value of each column, one pair after the other.

    Example:
        >>> network(3, 0, 3).tolist(), len(network(4, 1, 3)), len(network(4, 0, 1))
        ([[0, 2], [0, 1], [1, 2]], 5, 3)
    """
    pairs: list[tuple[int, int]] = []
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top if n > 1 else 0
    while p:
        q, r, d = top, 0, p
        while True:
            pairs += ((i, i + d) for i in range(n - d) if i & p == r)
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    wanted = set(range(first, last))
    kept = []
    for pair in reversed(pairs):
        if not wanted.isdisjoint(pair):
            wanted.update(pair)
            kept.append(pair)
    found = np.array(kept[::-1], np.int32).reshape(-1, 2)
    found.flags.writeable = False
    return found


def ranked(
    rows: Feed | Doubles, first: int = 0, last: int | None = None, *, compiled: bool = True
) -> Doubles:
    """Sort every column, and give some places of the order.

    Args:
        rows: Shape ``[n, m]``, made or not; not changed.
        first: The first place, 0 for the least value.
        last: One past the last; None for all.
        compiled: Use C where it was built; the bytes are the same.

    Returns:
        Shape ``[last - first, m]``.

    Example:
        >>> ranked(np.array([[3.0, 0.0], [1.0, -0.0], [2.0, 5.0]]), 0, 2).tolist()
        [[1.0, -0.0], [2.0, 0.0]]
    """
    n = len(rows.pairs) if isinstance(rows, Feed) else len(rows)
    last = n if last is None else last
    if not compiled or panels is None:
        panel = rows.panel(compiled=False) if isinstance(rows, Feed) else rows
        return _ranked_slowly(panel, first, last)
    feed = rows if isinstance(rows, Feed) else Feed.of(rows)
    result = np.empty((last - first, feed.n_elements))
    if result.size:
        panels.rank(feed.packed, network(n, first, last), first, result)
    return result


def _ranked_slowly(panel: Doubles, first: int, last: int) -> Doubles:
    keys = np.ascontiguousarray(panel).view(np.int64)
    signs = keys >> 63
    signs &= _MAGNITUDE
    keys = np.bitwise_xor(keys, signs, out=signs)
    if len(keys) <= _FEW:
        lesser = np.empty_like(keys[0])
        for i, j in network(len(keys), first, last).tolist():
            np.minimum(keys[i], keys[j], out=lesser)
            np.maximum(keys[i], keys[j], out=keys[j])
            keys[i] = lesser
    else:
        keys.sort(axis=0)
    wanted = keys[first:last]
    wanted ^= wanted >> 63 & _MAGNITUDE
    result: Doubles = wanted.view(np.float64)
    return result
