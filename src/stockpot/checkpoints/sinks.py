"""Where a new checkpoint goes: the contract, and the sink that keeps it in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import final

from stockpot.checkpoints.header import encode_header
from stockpot.checkpoints.sources import MemorySource, TensorInfo

__all__ = ["MemorySink", "Sink", "file_bytes", "in_file_order"]


def in_file_order(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Order tensors as they will stand in a file: wide elements first, then by key.

    So every tensor is aligned to its element without gaps, as the format wants, and the order says
    nothing of how the file was made.

    Args:
        tensors: Facts by key, in any order.

    Returns:
        The same, ordered.
    """
    return dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))


def file_bytes(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> int:
    """Size of the file that would hold these tensors.

    Args:
        tensors: Facts by key.
        metadata: Metadata, or a stand-in of the same length.

    Returns:
        Bytes of header and data.
    """
    ordered = in_file_order(tensors)
    header = len(encode_header(ordered, metadata))
    return header + sum(info.n_bytes for info in ordered.values())


class Sink(ABC):
    """Takes the rows of a new checkpoint, from many threads, in any order.

    Attributes:
        tensors: Facts of every tensor that is to be written.
        done: Tensors that a stopped run wrote already, which need not come again, each with the
            text that was kept with it (`remember`); empty by default.
    """

    tensors: Mapping[str, TensorInfo]
    done: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def write(self, key: str, start: int, data: memoryview) -> None:
        """Write elements of one tensor at their place.

        Args:
            key: The tensor.
            start: First element, counted in the flattened tensor.
            data: Bytes of whole elements.
        """

    def remember(self, key: str, note: str) -> None:  # noqa: B027 - most sinks have no journal
        """Keep a text with a tensor, for a run that goes on later; comes before `tensor_done`.

        Args:
            key: The tensor.
            note: What to find again in `done`. A sink that cannot be gone on from forgets it.
        """

    @abstractmethod
    def tensor_done(self, key: str, digest: str | None) -> None:
        """Note that all rows of a tensor were written.

        Args:
            key: The tensor.
            digest: BLAKE3 of its bytes as hex digits; None where nobody computed it.
        """

    @abstractmethod
    def commit(
        self, metadata: Mapping[str, str], progress: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Finish: from here on the checkpoint is complete and has its name.

        Args:
            metadata: What to store; not longer than what was announced.
            progress: Called with the bytes of the re-read check as they are read.
        """

    @abstractmethod
    def abort(self) -> None:
        """Give up: leave nothing behind."""

    def pause(self) -> int:
        """Stop, and keep what is done where that can be gone on from.

        Returns:
            How many tensors are kept; where it is none, nothing is left behind.
        """
        self.abort()
        return 0


@final
class MemorySink(Sink):
    """Keeps a new checkpoint in memory.

    Args:
        tensors: Facts of every tensor that will be written.
        allocate: Makes the buffer of a tensor; by default plain bytes.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        allocate: Callable[[TensorInfo], memoryview] | None = None,
    ) -> None:
        make = allocate or (lambda info: memoryview(bytearray(info.n_bytes)))
        self.tensors = dict(tensors)
        self.buffers = {key: make(info) for key, info in tensors.items()}
        self.metadata: Mapping[str, str] = {}

    def write(self, key: str, start: int, data: memoryview) -> None:
        """Copy elements into the tensor's buffer; see `Sink.write`."""
        begin = start * self.tensors[key].dtype.itemsize
        self.buffers[key][begin : begin + data.nbytes] = data.cast("B")

    def tensor_done(self, key: str, digest: str | None) -> None:
        """Nothing to note in memory."""

    def commit(
        self, metadata: Mapping[str, str], progress: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Keep the metadata; see `Sink.commit`."""
        self.metadata = dict(metadata)

    def abort(self) -> None:
        """Let go of the buffers."""
        self.buffers = {}

    def source(self, name: str = "memory") -> MemorySource:
        """View what was written as a source; nothing is copied.

        Args:
            name: What to call it in messages.

        Returns:
            The checkpoint.
        """
        pairs = {key: (info, self.buffers[key]) for key, info in self.tensors.items()}
        return MemorySource(pairs, self.metadata, name)
