"""Views: a source's tensors under other names, in other shapes, cut or joined; nothing is copied.

What the names mean is not this room's business: whoever makes a view says which tensor of it lies
where in the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

from stockpot.checkpoints.dtypes import DType
from stockpot.checkpoints.sources import Source, TensorInfo
from stockpot.errors import CheckpointError

__all__ = ["Run", "View", "Viewed"]

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Run:
    """Elements of one tensor that follow each other.

    Attributes:
        key: The tensor.
        start: First element, counted in the flattened tensor.
        stop: One past the last.

    Example:
        >>> Run("attn.in_proj_weight", 0, 16).stop
        16
    """

    key: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Viewed:
    """One tensor of a view: where its elements lie in the source.

    Attributes:
        key: Its name in the view.
        shape: Its shape in the view.
        runs: Its elements, in order; none for a tensor without elements.
        transposed: Whether the only run is a whole matrix whose rows become columns.
        dtype: Its element type where there are no runs to tell it.

    Example:
        >>> Viewed("q.weight", (4, 4), (Run("attn.in_proj_weight", 0, 16),)).shape
        (4, 4)
    """

    key: str
    shape: tuple[int, ...]
    runs: tuple[Run, ...]
    transposed: bool = False
    dtype: DType | None = None


@final
class View(Source):
    """A source whose tensors are those of another, named and shaped differently.

    Args:
        source: What to read; closing the view closes it.
        tensors: Every tensor of the view.

    Raises:
        CheckpointError: A tensor's elements do not lie in the source, differ in their type, or
            are not as many as its shape says.

    Example:
        >>> from stockpot.checkpoints import DTYPES, MemorySource
        >>> info = TensorInfo("both", DTYPES["U8"], (4,))
        >>> source = MemorySource({"both": (info, b"abcd")})
        >>> View(source, [Viewed("right", (2, 1), (Run("both", 2, 4),))]).read_bytes("right")
        b'cd'
    """

    def __init__(self, source: Source, tensors: Iterable[Viewed]) -> None:
        self.source = source
        self.name, self.files, self.metadata = source.name, source.files, source.metadata
        self.known = source.known
        self._viewed: dict[str, Viewed] = {}
        facts: dict[str, TensorInfo] = {}
        for viewed in tensors:
            facts[viewed.key] = TensorInfo(viewed.key, _dtype(source, viewed), viewed.shape)
            self._viewed[viewed.key] = viewed
            _check(source, viewed, facts[viewed.key])
        self.tensors: Mapping[str, TensorInfo] = facts

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Read from where the elements lie; see `Source.read_into`."""
        info = self.checked_range(key, start, stop, out)
        viewed, data, size = self._viewed[key], out.cast("B"), info.dtype.itemsize
        if viewed.transposed:
            _read_columns(self.source, viewed, info, start, stop, data)
            return
        before = filled = 0
        for run in viewed.runs:
            length = run.stop - run.start
            first, last = max(start - before, 0), min(stop - before, length)
            if first < last:
                end = filled + (last - first) * size
                self.source.read_into(
                    run.key, run.start + first, run.start + last, data[filled:end]
                )
                filled = end
            before += length

    def close(self) -> None:
        """Close the source."""
        self.source.close()


def _dtype(source: Source, viewed: Viewed) -> DType:
    kinds = {source.info(run.key).dtype for run in viewed.runs}
    if len(kinds) > 1:
        names = ", ".join(sorted(f"{run.key} {source.info(run.key).dtype}" for run in viewed.runs))
        raise CheckpointError(
            f"{source.name}: {viewed.key} is made of tensors that must have one type, but got "
            f"{names}; save the model anew with one type"
        )
    found = kinds.pop() if kinds else viewed.dtype
    assert found is not None, "a tensor without runs must say its type"
    return found


def _check(source: Source, viewed: Viewed, info: TensorInfo) -> None:
    n_elements = 0
    for run in viewed.runs:
        whole = source.info(run.key).n_elements
        if not 0 <= run.start <= run.stop <= whole:
            raise CheckpointError(
                f"{source.name}: {run.key}: a view of it must lie in 0..{whole}, but got "
                f"{run.start}..{run.stop}"
            )
        n_elements += run.stop - run.start
    if n_elements != info.n_elements:
        raise CheckpointError(
            f"{source.name}: {viewed.key}: {list(info.shape)} needs {info.n_elements} elements, "
            f"but got {n_elements}"
        )


def _read_columns(
    source: Source, viewed: Viewed, info: TensorInfo, start: int, stop: int, out: memoryview
) -> None:
    """Fill a range of a transposed matrix, reading the source a few of its rows at a time."""
    import numpy as np  # the only use; headers are read without it

    (run,) = viewed.runs
    n_rows, n_columns = info.shape  # of the view; the source has them the other way round
    size = info.dtype.itemsize
    target = np.frombuffer(out, dtype=f"V{size}")
    step = max(1, _BLOCK_BYTES // max(1, n_rows * size))
    for first in range(0, n_columns, step):
        last = min(first + step, n_columns)
        block = bytearray((last - first) * n_rows * size)
        begin = run.start + first * n_rows
        source.read_into(run.key, begin, begin + len(block) // size, memoryview(block))
        rows = np.frombuffer(block, dtype=f"V{size}").reshape(last - first, n_rows)
        for top, bottom, left, right in _rectangles(start, stop, n_columns):
            left, right = max(left, first), min(right, last)
            if left < right:
                place = top * n_columns - start
                width = n_columns
                if bottom - top == 1:
                    target[place + left : place + right] = rows[left - first : right - first, top]
                else:
                    part = target[place : place + (bottom - top) * width]
                    part.reshape(bottom - top, width)[:, left:right] = rows[
                        left - first : right - first, top:bottom
                    ].T


def _rectangles(start: int, stop: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut a range of a flattened matrix: the end of a row, whole rows, the beginning of a row."""
    top, left = divmod(start, width)
    bottom, right = divmod(stop, width)
    if top == bottom:
        if left < right:
            yield top, top + 1, left, right
        return
    if left:
        yield top, top + 1, left, width
        top += 1
    if top < bottom:
        yield top, bottom, 0, width
    if right:
        yield bottom, bottom + 1, 0, right
