"""Order statistics of magnitudes, exact and streamed: thresholds and ranks without a sort.

Magnitudes of doubles order as their bit patterns do, so counting patterns by their leading bits
tells where in the order a value stands, up to the width of a bin. Bins are 1/512 of an octave;
deltas of half-precision models mostly share one value a bin there, so each bin also counts what is
less, equal and more than the first that came. Where that leaves something open, further passes
look at such a bin alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.methods.contract import Doubles
from stockpot.methods.feeds import Feed, panels

__all__ = ["N_BINS", "Counts", "Thresholds", "counts_bytes"]

Bits = npt.NDArray[np.uint64]

N_BINS = 1 << 14
_SHIFT = np.uint64(43)  # 9 bits of a double's fraction and its exponent stay
_OFFSET = ((1023 - 24) << 9) - 1  # bin 1 ends at the grain of half precision
_SIGN = np.uint64((1 << 63) - 1)
_FINE = 1 << 14
_FIELDS = ("less", "equal", "more", "before")
# The first pattern of the bin, how many are less, equal and more, and how many stand before the
# bin; together, so that a look at them costs one line of the cache.
_BIN = np.dtype([("seen", np.uint64), *((name, np.uint32) for name in _FIELDS)])


def counts_bytes(n_rows: int) -> int:
    """Bytes that the counts of some rows take.

    Args:
        n_rows: How many rows.
    """
    return n_rows * N_BINS * (_BIN.itemsize + 16)


def patterns(values: Doubles) -> Bits:
    """Bit patterns of magnitudes; they order as the magnitudes do."""
    return np.ascontiguousarray(values).view(np.uint64) & _SIGN


def bins_of(bits: Bits) -> npt.NDArray[np.int64]:
    """The bin of each pattern: 0 for zero alone, then by magnitude."""
    found = (bits >> _SHIFT).astype(np.int64) - _OFFSET
    np.clip(found, 1, N_BINS - 1, out=found)
    found[bits == 0] = 0
    return found


def _ends(number: int) -> tuple[int, int]:
    """First pattern of a bin and the first beyond it."""
    if number == 0:
        return 0, 1
    low = 1 if number == 1 else (number + _OFFSET) << 43
    high = 1 << 63 if number == N_BINS - 1 else (number + 1 + _OFFSET) << 43
    return low, high


@final
class Counts:
    """How many magnitudes of each row fall into each bin.

    Args:
        n_rows: Rows of every panel.
        compiled: Use C where it was built.

    Attributes:
        bins: Shape ``[n, N_BINS]``: ``seen``, the first pattern that came; ``less``, ``equal`` and
            ``more``, how many of the bin compare so to it; ``before``, how many stand in the bins
            before, once `finish` was called.
        order: For each row, where in `bins` it stands.
    """

    def __init__(self, n_rows: int, compiled: bool = True) -> None:
        self._compiled = compiled and panels is not None
        self.bins = np.zeros((n_rows, N_BINS), _BIN)
        self.order = np.arange(n_rows, dtype=np.int32)

    def add(self, panel: Doubles) -> None:
        """Count a panel.

        Args:
            panel: Shape ``[n, m]``.
        """
        if self._compiled:
            self.add_feed(Feed.of(panel))
            return
        for values, table in zip(panel, self.bins, strict=True):  # rows are in their first order
            bits = patterns(values)
            bins = bins_of(bits)
            fresh = np.flatnonzero(table["equal"][bins] == 0)
            # Of several new ones in a bin the first counts, as it would one by one.
            table["seen"][bins[fresh[::-1]]] = bits[fresh[::-1]]
            seen = table["seen"][bins]
            for name, there in (("less", bits < seen), ("equal", bits == seen),
                                ("more", bits > seen)):  # fmt: skip
                np.add.at(table[name], bins[there], np.uint32(1))

    def add_feed(self, feed: Feed) -> None:
        """Count a panel that was not made.

        Args:
            feed: Of n rows.
        """
        assert panels is not None
        feed = Feed.of(feed.panel()) if feed.elect else feed
        panels.count(feed.packed, self.bins.view(np.uint8))

    def put_in_order(self, order: Sequence[int]) -> None:
        """Change the order of rows.

        Args:
            order: For each place, the row that belongs there.
        """
        self.order = self.order[list(order)]

    def table(self, row: int) -> npt.NDArray[np.void]:
        """The bins of a row.

        Args:
            row: Which.
        """
        found: npt.NDArray[np.void] = self.bins[self.order[row]]
        return found

    def finish(self) -> None:
        """Fill in ``before``."""
        if self._compiled:
            assert panels is not None
            panels.total(self.bins.view(np.uint8))
            return
        for table in self.bins:
            counts = counts_of(table)
            table["before"] = np.cumsum(counts) - counts


def counts_of(table: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """How many magnitudes each bin of a row holds.

    Args:
        table: A row of `Counts.bins`.
    """
    counts = table["less"].astype(np.int64)
    counts += table["equal"]
    counts += table["more"]
    return counts


@final
class Thresholds:
    """Finds the magnitudes at given places of each row's order, exactly.

    Args:
        n_rows: Rows of every panel.
        places: Indices into the ascending order of a row's magnitudes.
        compiled: Use C where it was built.

    Attributes:
        wants_pass: Whether it must see the panels again.
        values: Once it needs no pass: the magnitudes, shape ``[n, len(places)]``.

    Example:
        >>> find = Thresholds(1, [2])
        >>> while find.wants_pass:
        ...     find.add(np.array([[5.0, -7.0, 0.0, 6.0]]))
        ...     find.finish_pass()
        >>> find.values.tolist()
        [[6.0]]
    """

    def __init__(self, n_rows: int, places: list[int], compiled: bool = True) -> None:
        self._places = places
        self._counts: Counts | None = Counts(n_rows, compiled) if places else None
        self.values = np.zeros((n_rows, len(places)))
        self.wants_pass = bool(places)
        # (row, place) -> lowest pattern, one past the highest, rank within, counts of sub-bins
        self._open: dict[tuple[int, int], tuple[int, int, int]] = {}
        self._fine: dict[tuple[int, int], npt.NDArray[np.int64]] = {}

    def add_feed(self, feed: Feed) -> None:
        """Look at a panel that was not made.

        Args:
            feed: Of n rows.
        """
        if self._counts is not None:
            self._counts.add_feed(feed)
        else:
            self.add(feed.panel())

    def add(self, panel: Doubles) -> None:
        """Look at a panel.

        Args:
            panel: Shape ``[n, m]``.
        """
        if self._counts is not None:
            self._counts.add(panel)
            return
        for (row, place), (low, high, _) in self._open.items():
            bits = patterns(panel[row])
            inside = bits[(bits >= low) & (bits < high)] - np.uint64(low)
            np.add.at(self._fine[row, place], inside >> np.uint64(_step(low, high)), 1)

    def put_in_order(self, order: Sequence[int]) -> None:
        """Change the order of rows after the first pass.

        Args:
            order: For each place, the row that belongs there.
        """
        if self._counts is not None:
            self._counts.put_in_order(order)

    def finish_pass(self) -> None:
        """Narrow the intervals."""
        if self._counts is not None:
            for row in range(len(self._counts.bins)):
                table = self._counts.table(row)
                counts = counts_of(table)
                total = np.cumsum(counts)
                for i, place in enumerate(self._places):
                    found = int(np.searchsorted(total, place, side="right"))
                    rank = place - (int(total[found]) - int(counts[found]))
                    low, high = _ends(found)
                    less, equal = int(table["less"][found]), int(table["equal"][found])
                    seen = table["seen"][found]
                    if less <= rank < less + equal:
                        self.values[row, i] = seen.view(np.float64)
                    elif rank < less:
                        self._open[row, i] = (low, int(seen), rank)
                    else:
                        self._open[row, i] = (int(seen) + 1, high, rank - less - equal)
            self._counts = None
        else:
            self._narrow()
        self._fine = {key: np.zeros(_FINE + 1, np.int64) for key in self._open}
        self.wants_pass = bool(self._open)

    def _narrow(self) -> None:
        for key, (low, high, rank) in list(self._open.items()):
            step = _step(low, high)
            total = np.cumsum(self._fine[key])
            found = int(np.searchsorted(total, rank, side="right"))
            rank -= int(total[found]) - int(self._fine[key][found])
            low, high = low + (found << step), min(high, low + ((found + 1) << step))
            if high - low == 1:
                self.values[key] = np.uint64(low).view(np.float64)
                del self._open[key]
            else:
                self._open[key] = (low, high, rank)


def _step(low: int, high: int) -> int:
    """How far to shift an interval's patterns so that few enough bins are left."""
    return max(0, (high - low - 1).bit_length() - 14)
