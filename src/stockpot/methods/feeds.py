"""Panels that were not made yet: what was read of the files, and what happens to it on the way.

A panel of doubles is four times as large as the halves that it comes from, and whoever walks over
it waits for memory. A feed tells C how rows come about, so that a walk can make a few columns at a
time, use them, and forget them. Where C was not built nobody walks over feeds: panels do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.methods.doubtful import find_nonfinite, to_float64
from stockpot.methods.linear import CODES, Row
from stockpot.methods.randomness import random_bits

panels: ModuleType | None
"""The kernels, where they were built."""
try:
    import stockpot.methods._panels as panels
except ImportError:  # built without a compiler
    panels = None

__all__ = ["Bits", "Chances", "Feed", "is_finite", "panels"]

Doubles = npt.NDArray[np.float64]
_RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_ELECTIONS = {"": 0, "magnitude": 1, "count": 2}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Bits:
    """A mask that is known: elements stay where a bit is set.

    Attributes:
        packed: A bit for each element of the tensor, the highest of a byte first; shape
            ``[n, bytes]``, contiguous.
        factor: What stays is multiplied by it.
    """

    packed: npt.NDArray[np.uint8]
    factor: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class Chances:
    """A mask that is drawn: elements stay where their random number is below a limit.

    Attributes:
        streams: Two 64-bit numbers for each row that name its sequence.
        limit: For numbers of 53 bits.
        factor: What stays is multiplied by it.
    """

    streams: Sequence[tuple[int, int]]
    limit: int
    factor: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """Rows of a panel, not made yet.

    Attributes:
        terms: What was read, all of one length.
        pairs: For each row its term, and the term that is subtracted, or −1.
        start: Index of the first element in the flattened tensor.
        n_elements: Length of the rows.
        mask: Elements that are dropped, if any.
        elect: Then only those with the elected sign stay: ``magnitude``, ``count``, or nobody is
            elected.
    """

    terms: tuple[Row, ...]
    pairs: tuple[tuple[int, int], ...]
    start: int
    n_elements: int
    mask: Bits | Chances | None = None
    elect: str = ""

    @classmethod
    def of(cls, panel: Doubles, start: int = 0) -> Feed:
        """Look at a panel as a feed.

        Args:
            panel: Shape ``[n, m]``.
            start: Index of its first element.

        Returns:
            The feed; it reads from the panel.
        """
        from stockpot.checkpoints import DTYPES

        panel = np.ascontiguousarray(panel)
        terms = tuple(Row(row.data.cast("B") if row.size else memoryview(b""), DTYPES["F64"])
                      for row in panel)  # fmt: skip
        return cls(terms, tuple((i, -1) for i in range(len(panel))), start, panel.shape[1])

    def cut(self, start: int, stop: int) -> Feed:
        """Take some of the columns.

        Args:
            start: First column, from 0.
            stop: One past the last.

        Returns:
            The feed of these alone.
        """
        terms = tuple(
            Row(row.data[start * row.dtype.itemsize : stop * row.dtype.itemsize], row.dtype)
            for row in self.terms
        )
        return replace(self, terms=terms, start=self.start + start, n_elements=stop - start)

    def panel(self, *, compiled: bool = panels is not None) -> Doubles:
        """Make the panel.

        Args:
            compiled: Use C; otherwise numpy.

        Returns:
            Shape ``[n, m]``.

        Example:
            >>> from stockpot.checkpoints import DTYPES
            >>> rows = [np.array(v, np.float16) for v in ([3.0, 1.0], [1.0, 1.5])]
            >>> terms = tuple(Row(memoryview(row).cast("B"), DTYPES["F16"]) for row in rows)
            >>> Feed(terms, ((0, 1),), 0, 2).panel().tolist()
            [[2.0, -0.5]]
        """
        if not compiled:
            return self._panel_slowly()
        result = np.empty((len(self.pairs), self.n_elements))
        if result.size:
            assert panels is not None
            panels.fill(self.packed, result)
        return result

    def weigh(self, weights: Sequence[float]) -> Doubles:
        """Sum weighted rows; see `stockpot.methods.weighted_rows`, the twin.

        Args:
            weights: One for each row.

        Returns:
            Shape ``[m]``.
        """
        result = np.empty(self.n_elements)
        if result.size:
            assert panels is not None
            panels.weigh(self.packed, np.array(weights, np.float64), result)
        return result

    def _panel_slowly(self) -> Doubles:
        terms = [
            to_float64(np.frombuffer(row.data, _RAW[row.dtype.itemsize]), row.dtype)
            for row in self.terms
        ]
        result = np.array(
            [terms[one] if other < 0 else terms[one] - terms[other] for one, other in self.pairs]
        )
        if self.mask is not None:
            if isinstance(self.mask, Bits):
                stays = np.unpackbits(self.mask.packed, axis=1)[:, self.start :] == 1
                stays = stays[:, : self.n_elements]
            else:
                drawn = [random_bits(s, self.start, self.n_elements) for s in self.mask.streams]
                stays = np.array(drawn) < np.uint64(self.mask.limit)
            result = np.where(stays, result * self.mask.factor, 0.0) + 0.0  # no negative zeros
        return _elected(result, self.elect) if self.elect else result

    @property
    def packed(self) -> tuple[object, ...]:
        """All of it as C takes it."""
        kind, mask, limit, factor = 0, memoryview(b""), 0, 1.0
        if isinstance(self.mask, Bits):
            kind, mask, factor = 1, self.mask.packed.data.cast("B"), self.mask.factor
        elif isinstance(self.mask, Chances):
            kind, limit, factor = 2, self.mask.limit, self.mask.factor
            mask = np.array(self.mask.streams, np.uint64).data.cast("B")
        return (
            [row.data for row in self.terms], bytes(CODES[row.dtype.name] for row in self.terms),
            np.array(self.pairs, np.int32).tobytes(), self.n_elements, self.start, kind, mask,
            limit, factor, _ELECTIONS[self.elect],
        )  # fmt: skip


def _elected(panel: Doubles, election: str) -> Doubles:
    """The rows with 0 where they have not the elected sign."""
    total = np.zeros(panel.shape[1])
    for row in panel:
        total += np.sign(row) if election == "count" else row
    sign = np.sign(total)
    result = np.empty_like(panel)
    for row, out in zip(panel, result, strict=True):
        np.multiply(row, row * sign > 0, out=out)
        out += 0.0  # no negative zeros
    return result


def is_finite(row: Row) -> bool:
    """Say whether every value of a row is finite.

    Args:
        row: Of any float type.

    Returns:
        Whether neither NaN nor an infinity is among them.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> half = np.array([0.5, np.inf], np.float16)
        >>> is_finite(Row(memoryview(half).cast("B"), DTYPES["F16"]))
        False
    """
    if panels is None:
        return not find_nonfinite(row.data, row.dtype).any()
    found: bool = panels.is_finite(row.data, CODES[row.dtype.name])
    return found
