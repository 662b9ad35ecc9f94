"""Methods that choose elements by the order of their magnitudes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import final

import numpy as np

from stockpot.methods.contract import Doubles, Task, Work
from stockpot.methods.feeds import Feed
from stockpot.methods.magnitudes import Thresholds

__all__ = ["TopK", "Trimmed"]


@final
class Trimmed(Work):
    """Deltas without their smallest elements (TIES, arXiv 2306.01708), or without both ends.

    Of N elements the ⌈(keep + cut)·N⌉ largest stay, without the ⌊cut·N⌋ largest (breadcrumbs, arXiv
    2312.06795). Elements whose magnitude equals a threshold all stay, so that no order decides.

    Args:
        task: Its parameters are ``keep`` and ``cut``.
    """

    def __init__(self, task: Task) -> None:
        keep, cut = task.parameters["keep"], task.parameters["cut"]
        assert isinstance(keep, Fraction) and isinstance(cut, Fraction)
        n = task.n_elements
        self._nothing = keep == 0
        lowest, highest = n - math.ceil((keep + cut) * n), n - 1 - math.floor(cut * n)
        self._lower = lowest if lowest > 0 else None
        self._upper = highest if highest < n - 1 else None
        if self._nothing or (self._upper is not None and self._upper < 0):
            self._nothing, self._lower, self._upper = True, None, None
        places = [place for place in (self._lower, self._upper) if place is not None]
        self._find = Thresholds(task.n_inputs, places if n else [], task.compiled)
        self.wants_pass = self._find.wants_pass

    def gather(self, start: int, panel: Doubles) -> None:
        """Look at a panel; see `Work.gather`."""
        self._find.add(panel)

    def gather_feed(self, feed: Feed) -> None:
        """Look at a panel that was not made; see `Work.gather_feed`."""
        self._find.add_feed(feed)

    def put_in_order(self, order: Sequence[int], identities: tuple[bytes, ...]) -> None:
        """Sort what was found; see `Work.put_in_order`."""
        self._find.put_in_order(order)

    def finish_pass(self) -> None:
        """Draw conclusions; see `Work.finish_pass`."""
        self._find.finish_pass()
        self.wants_pass = self._find.wants_pass

    def rows(self, start: int, panel: Doubles) -> Doubles:
        """Compute results; see `Work.rows`."""
        if self._nothing:
            return np.zeros_like(panel)
        result = panel.copy()
        for row, values in zip(result, self._find.values, strict=True):
            size = np.abs(row)
            if self._lower is not None:
                row[size < values[0]] = 0
            if self._upper is not None:
                row[size > values[-1]] = 0
        return result


@final
class TopK(Work):
    """The largest elements of b in the place of a's.

    Args:
        task: ``t``: the ⌈t·N⌉ largest of b count, and all that equal the least of those.
    """

    def __init__(self, task: Task) -> None:
        t = task.parameters["t"]
        assert isinstance(t, Fraction)
        n = task.n_elements
        place = n - math.ceil(t * n)
        self._all, self._none = place <= 0, t == 0
        self._find = Thresholds(2, [] if self._all or self._none else [place], task.compiled)
        self.wants_pass = self._find.wants_pass

    def gather(self, start: int, panel: Doubles) -> None:
        """Look at a panel; see `Work.gather`."""
        self._find.add(panel)

    def gather_feed(self, feed: Feed) -> None:
        """Look at a panel that was not made; see `Work.gather_feed`."""
        self._find.add_feed(feed)

    def finish_pass(self) -> None:
        """Draw conclusions; see `Work.finish_pass`."""
        self._find.finish_pass()
        self.wants_pass = self._find.wants_pass

    def rows(self, start: int, panel: Doubles) -> Doubles:
        """Compute results; see `Work.rows`."""
        a, b = panel
        if self._none or self._all:
            whole: Doubles = b if self._all and not self._none else a
            return whole[None].copy()
        result: Doubles = np.where(np.abs(b) >= self._find.values[1, 0], b, a)
        return result[None]
