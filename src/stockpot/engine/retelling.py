"""Sources that stand for others while a file is made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from stockpot.checkpoints import Sink, Source, TensorInfo
from stockpot.engine.plan import Plan

__all__ = ["Discarded", "PlannedSource", "Retold", "original"]


@final
class Retold(Source):
    """A checkpoint that tells of itself what a record says that it told.

    Args:
        source: Where the tensors come from; closing this does not close it.
        metadata: What to tell instead of its own.
        known: What identifies what it holds, such as a content hash that was checked.

    Attributes:
        told_by: The checkpoint itself.
    """

    def __init__(self, source: Source, metadata: Mapping[str, str], known: str = "") -> None:
        self.told_by, self.known = source, known or source.known
        self.name, self.tensors, self.files = source.name, source.tensors, source.files
        self.metadata = metadata

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Read from the other; see `Source.read_into`."""
        self.told_by.read_into(key, start, stop, out)

    def close(self) -> None:
        """Nothing of its own is held."""


def original(source: Source) -> Source:
    """The checkpoint itself, whatever is told of it.

    Args:
        source: Any source.
    """
    while isinstance(source, Retold):
        source = source.told_by
    return source


@final
class PlannedSource(Source):
    """What a plan that only chooses tensors would write, read from its inputs: no copy is made.

    Args:
        plan: Of copies and known values alone (`fits`).
        name: What to call it in messages.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        self.name = name
        self.tensors = plan.infos
        self.metadata: Mapping[str, str] = {}
        self.files = tuple(file for source in plan.sources.values() for file in source.files)
        self._made: dict[str, bytes] = {}
        self._where: dict[str, tuple[Source, str]] = {}
        for key, tensor in plan.tensors.items():
            if tensor.action == "make":
                self._made[key] = tensor.value
            else:
                (term,) = tensor.terms
                self._point(key, plan.sources[term.model], term.key)

    @staticmethod
    def fits(plan: Plan) -> bool:
        """Whether a plan moves tensors and computes none.

        Args:
            plan: Any plan.
        """
        return all(tensor.action in ("copy", "make") for tensor in plan.tensors.values())

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Read from the input that the plan would copy; see `Source.read_into`."""
        info = self.checked_range(key, start, stop, out)
        if key in self._made:
            size = info.dtype.itemsize
            out.cast("B")[:] = self._made[key][start * size : stop * size]
        else:
            source, name = self._where[key]
            source.read_into(name, start, stop, out)

    def close(self) -> None:
        """The inputs belong to somebody else."""

    def _point(self, key: str, source: Source, name: str) -> None:
        """Point to where the bytes really are, so that a long chain is read in one hop."""
        source = original(source)
        if not isinstance(source, PlannedSource):
            self._where[key] = source, name
        elif name in source._made:
            self._made[key] = source._made[name]
        else:
            self._where[key] = source._where[name]


@final
class Discarded(Sink):
    """Takes rows and keeps none: for plans that are run for their hashes.

    Args:
        tensors: Facts of every tensor that will be written.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self.tensors = tensors

    def write(self, key: str, start: int, data: memoryview) -> None:
        """Forget the row; see `Sink.write`."""

    def tensor_done(self, key: str, digest: str | None) -> None:
        """Nothing to note."""

    def commit(self, metadata: Mapping[str, str], progress: object = None) -> None:
        """Nothing to finish."""

    def abort(self) -> None:
        """Nothing to give up."""
