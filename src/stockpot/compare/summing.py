"""One tensor of all models: read, hashed, and its inner products summed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from blake3 import blake3

from stockpot.checkpoints import Source, TensorInfo
from stockpot.compare.comparison import Doubles
from stockpot.compare.sampling import Sample
from stockpot.compare.units import Survey, Unit
from stockpot.engine import Meter, Stop, size_text
from stockpot.errors import MemoryBudgetError, StoppedError
from stockpot.methods import (
    BLOCK_ELEMENTS,
    HAS_COMPILED_KERNEL,
    Feed,
    Gram,
    GramAccumulator,
    Row,
    is_finite,
    widen,
)

__all__ = ["AHEAD", "By", "Cut", "Found", "Summer", "take_memory"]

By = Literal["component", "block", "tensor"]

_FIXED_BYTES = 48 << 20  # headers, hash states, thread stacks, the matrix library's own room
_TABLE_BYTES = 1500  # what header, survey and hashes keep of one tensor of one model
_MOST_BLOCKS = 128  # read at once from one file: 4 MiB of fp16, as many files take turns
_MOST_RAW_BYTES = 128 << 20  # of all files together, in one thread
_SAMPLED_EVERY = 32  # one block of so many is looked at for rounding and kurtosis
AHEAD = 64
"""How many results may wait for their turn."""


@dataclass(frozen=True)
class Found:
    """What one tensor gave.

    Attributes:
        members: Indices of the models that have it whole and finite.
        gram: Their inner products.
        rounding: Of a sample of blocks; see `stockpot.compare.sampling`.
        kurtosis: The same; None where it means nothing.
    """

    members: tuple[int, ...]
    gram: Gram
    rounding: Doubles
    kurtosis: Doubles | None


@dataclass(frozen=True, slots=True)
class Cut:
    """How a walk cuts its work.

    Attributes:
        threads: How many tensors are worked on at once.
        n_blocks: Blocks that are read at once from one file.
    """

    threads: int
    n_blocks: int


def take_memory(survey: Survey, n: int, by: By, memory: int, threads: int) -> Cut:
    """Cut the work so that it fits the budget.

    Args:
        survey: What will be read.
        n: How many models.
        by: How fine sums are kept.
        memory: Ceiling in bytes.
        threads: Wanted threads; fewer are used where the budget is small.

    Raises:
        MemoryBudgetError: Not even one thread fits.
    """
    itemsize = max((info.dtype.itemsize for unit in survey.units for _, _, info in unit.members),
                   default=2)  # fmt: skip
    matrices = 16 * n * n
    n_groups = len({(unit.place(by), unit.indices) for unit in survey.units})
    fixed = _FIXED_BYTES + _TABLE_BYTES * survey.n_tensors + matrices * (n_groups + AHEAD)
    blocks = 4 * 8 * n * BLOCK_ELEMENTS  # widened, differences, a partial block, a temporary
    raw = n * itemsize * BLOCK_ELEMENTS
    for n_threads in range(max(1, threads), 0, -1):
        each = (memory - fixed) // n_threads - blocks - 4 * matrices
        if each >= raw:
            most = max(1, min(_MOST_BLOCKS, _MOST_RAW_BYTES // raw))
            return Cut(n_threads, min(most, each // raw))
    raise MemoryBudgetError(
        f"comparing {n} models needs at least {size_text(fixed + blocks + raw + 4 * matrices)}, "
        f"but --memory allows {size_text(memory)}; allow more"
    )


class Summer:
    """One thread's buffers and its way through a tensor.

    Args:
        sources: The models.
        base: Index of the base, or None.
        n_blocks: Blocks that are read at once from one file.
        meter: Counts bytes.
        asked: Ends the walk early.

    Attributes:
        digests: Model, key and hash of what was read for the last tensor.
        nonfinite: Models in which that one is not finite.
    """

    def __init__(
        self, sources: list[Source], base: int | None, n_blocks: int, meter: Meter, asked: Stop
    ) -> None:
        self._asked = asked
        self._sources, self._base, self._meter = sources, base, meter
        self._step = n_blocks * BLOCK_ELEMENTS
        self._raw: list[memoryview] = []
        self._panel = np.empty((len(sources), BLOCK_ELEMENTS))
        self.digests: list[tuple[int, str, str]] = []
        self.nonfinite: list[int] = []

    def tensor(self, unit: Unit) -> Found | None:
        """Walk through one tensor of all models that have it.

        Args:
            unit: Which one.

        Returns:
            Its sums; None where it is only hashed, or nobody has it finite.
        """
        self.digests, self.nonfinite = [], []
        members = list(unit.members)
        found = self._walk(unit, members, first=True)
        if unit.compared and self.nonfinite:
            broken = set(self.nonfinite)
            members = [member for member in members if member[0] not in broken]
            # The pivot's NaN would be in every difference; the others' are in their own rows.
            found = self._walk(unit, members, first=False) if members else None
        return found

    def _walk(
        self, unit: Unit, members: list[tuple[int, str, TensorInfo]], first: bool
    ) -> Found | None:
        indices = tuple(index for index, _, _ in members)
        pivot = indices.index(self._base) if self._base in indices else 0
        sums = GramAccumulator(len(members), pivot) if unit.compared else None
        sample = Sample([info for _, _, info in members], unit)
        hashers = [blake3() for _ in members]
        finite = [True] * len(members)
        for start in range(0, unit.n_elements, self._step):
            if self._asked.now:
                raise StoppedError("stopped")
            stop = min(start + self._step, unit.n_elements)
            rows = []
            for i, (index, key, info) in enumerate(members):
                data = self._buffer(i, (stop - start) * info.dtype.itemsize)
                self._sources[index].read_into(key, start, stop, data)
                if first:
                    hashers[i].update(data)
                    self._meter.add(data.nbytes)
                rows.append(data)
            if sums is None:
                continue
            self._sum(start, stop, unit.n_elements, members, rows, sums, sample, finite)
        if first:
            self.digests = [
                (index, key, hasher.hexdigest())
                for (index, key, _), hasher in zip(members, hashers, strict=True)
            ]
            self.nonfinite = [
                index for index, good in zip(indices, finite, strict=True) if not good
            ]
        if sums is None:
            return None
        return Found(indices, sums.finish(), *sample.result())

    def _sum(
        self, start: int, stop: int, n_elements: int, members: list[tuple[int, str, TensorInfo]],
        data: list[memoryview], sums: GramAccumulator, sample: Sample, finite: list[bool],
    ) -> None:  # fmt: skip
        """Add what was read: straight from the bytes where C was built, else as panels."""
        n = len(members)
        terms = tuple(Row(data[i], info.dtype) for i, (_, _, info) in enumerate(members))
        if HAS_COMPILED_KERNEL:
            for i, row in enumerate(terms):
                finite[i] &= is_finite(row)
            feed = Feed(terms, tuple((i, -1) for i in range(n)), start, stop - start)
            sums.add_feed(feed, last=stop == n_elements)
        for begin in range(0, stop - start, BLOCK_ELEMENTS):
            sampled = (start + begin) // BLOCK_ELEMENTS % _SAMPLED_EVERY == 0
            if HAS_COMPILED_KERNEL and not sampled:
                continue
            end = min(begin + BLOCK_ELEMENTS, stop - start)
            panel = self._panel[:n, : end - begin]
            for i, row in enumerate(terms):
                size = row.dtype.itemsize
                part = Row(row.data[begin * size : end * size], row.dtype)
                finite[i] &= widen(part, panel[i])
            if not HAS_COMPILED_KERNEL:
                sums.add(panel)
            if sampled:
                sample.add(panel)

    def _buffer(self, index: int, n_bytes: int) -> memoryview:
        while len(self._raw) <= index:
            self._raw.append(memoryview(b""))
        if self._raw[index].nbytes < n_bytes:
            self._raw[index] = np.empty(n_bytes, np.uint8).data.cast("B")
        return self._raw[index][:n_bytes]
