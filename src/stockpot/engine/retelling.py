"""Sources that stand for others while a file is made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from stockpot.checkpoints import Sink, Source, TensorInfo
from stockpot.engine.plan import Plan

__all__ = ["Discarded", "PlannedSource", "Retold"]


@final
class Retold(Source):
    """A checkpoint that tells of itself what a record says that it told.

    Args:
        source: Where the tensors come from; closing this does not close it.
        metadata: What to tell instead of its own.
    """

    def __init__(self, source: Source, metadata: Mapping[str, str]) -> None:
        self._source = source
        self.name, self.tensors, self.files = source.name, source.tensors, source.files
        self.metadata = metadata

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Read from the other; see `Source.read_into`."""
        self._source.read_into(key, start, stop, out)

    def close(self) -> None:
        """Nothing of its own is held."""


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
        self._plan = plan

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
        tensor = self._plan.tensors[key]
        if tensor.action == "make":
            size = info.dtype.itemsize
            out.cast("B")[:] = tensor.value[start * size : stop * size]
        else:
            (term,) = tensor.terms
            self._plan.sources[term.model].read_into(term.key, start, stop, out)

    def close(self) -> None:
        """The inputs belong to somebody else."""


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
