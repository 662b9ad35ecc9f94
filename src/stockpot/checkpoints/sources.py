"""Where tensors come from: one contract for files, memory and generated models."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self, final

from stockpot.checkpoints.dtypes import DType
from stockpot.errors import CheckpointError, UnknownNameError

__all__ = ["GeneratedSource", "MemorySource", "Source", "TensorInfo"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of one tensor.

    Attributes:
        key: Its name in the checkpoint.
        dtype: Element type.
        shape: Lengths of the axes; empty for a 0-d tensor, which has one element.
    """

    key: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def n_elements(self) -> int:
        """Number of elements.

        Example:
            >>> from stockpot.checkpoints import DTYPES
            >>> TensorInfo("a", DTYPES["F16"], (2, 3)).n_elements
            6
        """
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of all elements.

        Example:
            >>> from stockpot.checkpoints import DTYPES
            >>> TensorInfo("a", DTYPES["F16"], (2, 3)).n_bytes
            12
        """
        return self.n_elements * self.dtype.itemsize


class Source(ABC):
    """A checkpoint that can be read by element range, from many threads at once.

    Attributes:
        name: What to call it in messages: usually the file's path.
        tensors: Every tensor by key, in the order of the file.
        metadata: The checkpoint's own metadata: strings only, untrusted.
        files: The files that it reads, which nobody may write to meanwhile; none by default.
        opened: What `stockpot.checkpoints.storage.stamp` said of files when they were opened; of
            none by default.
        notes: Sentences on how the tensors were found in the file, where that is worth knowing.
        known: What identifies all that it holds better than its files do, such as a content hash
            that was checked; empty by default.
    """

    name: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    files: tuple[Path, ...] = ()
    opened: Mapping[Path, tuple[int, ...]] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    known: str = ""

    @abstractmethod
    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Fill a caller's buffer with elements of one tensor.

        Args:
            key: The tensor.
            start: First element, counted in the flattened tensor.
            stop: One past the last element.
            out: Writable bytes, exactly ``(stop - start) * itemsize`` of them.

        Raises:
            UnknownNameError: No such tensor.
            CheckpointError: The range is not inside the tensor, or it cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what is held; reading afterwards is an error."""

    @final
    def read_bytes(self, key: str) -> bytes:
        """Read one whole tensor; for small ones.

        Args:
            key: The tensor.

        Returns:
            Its bytes, little-endian, in row-major order.
        """
        info = self.info(key)
        out = bytearray(info.n_bytes)
        self.read_into(key, 0, info.n_elements, memoryview(out))
        return bytes(out)

    @final
    def info(self, key: str) -> TensorInfo:
        """Look one tensor up.

        Args:
            key: The tensor.

        Returns:
            What the header says of it.

        Raises:
            UnknownNameError: No such tensor.
        """
        try:
            return self.tensors[key]
        except KeyError:
            raise UnknownNameError(f"tensor of {self.name}", key, self.tensors) from None

    @final
    def checked_range(self, key: str, start: int, stop: int, out: memoryview) -> TensorInfo:
        """Check the arguments of `read_into`; implementations call it first.

        Args:
            key: The tensor.
            start: First element.
            stop: One past the last.
            out: The caller's buffer.

        Returns:
            What the header says of the tensor.

        Raises:
            CheckpointError: The range leaves the tensor, or the buffer has another size.
        """
        info = self.info(key)
        n_elements = info.n_elements
        if not 0 <= start <= stop <= n_elements:
            raise CheckpointError(
                f"{self.name}: {key}: a range must lie in 0..{n_elements}, but got {start}..{stop}"
            )
        if out.nbytes != (stop - start) * info.dtype.itemsize:
            raise CheckpointError(
                f"{self.name}: {key}: the buffer must hold "
                f"{(stop - start) * info.dtype.itemsize} bytes, but holds {out.nbytes}"
            )
        return info

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@final
class MemorySource(Source):
    """Tensors that are in memory already.

    Args:
        tensors: Each tensor's facts and its bytes.
        metadata: Strings to hand on.
        name: What to call it in messages.

    Raises:
        CheckpointError: A buffer has not the size that its facts say.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> info = TensorInfo("a", DTYPES["U8"], (3,))
        >>> MemorySource({"a": (info, b"xyz")}).read_bytes("a")
        b'xyz'
    """

    def __init__(
        self,
        tensors: Mapping[str, tuple[TensorInfo, bytes | bytearray | memoryview]],
        metadata: Mapping[str, str] = MappingProxyType({}),
        name: str = "memory",
    ) -> None:
        self.name = name
        self.metadata = metadata
        self.tensors = {key: info for key, (info, _) in tensors.items()}
        self._buffers = {key: memoryview(data).cast("B") for key, (_, data) in tensors.items()}
        for key, info in self.tensors.items():
            if self._buffers[key].nbytes != info.n_bytes:
                raise CheckpointError(
                    f"{name}: {key}: {info.dtype} {list(info.shape)} needs {info.n_bytes} bytes, "
                    f"but got {self._buffers[key].nbytes}"
                )

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Copy elements out of memory; see `Source.read_into`."""
        size = self.checked_range(key, start, stop, out).dtype.itemsize
        out.cast("B")[:] = self._buffers[key][start * size : stop * size]

    def close(self) -> None:
        """Let go of the buffers."""
        self._buffers = {}


@final
class GeneratedSource(Source):
    """A model whose elements are computed when they are asked for.

    Such a model has any size and needs no disk: tests and benchmarks of hundreds of models use it.

    Args:
        tensors: The facts of every tensor.
        generate: Called with a tensor's facts, the first element, one past the last, and the
            bytes to fill. It must give the same bytes for an element in whatever range it is
            asked, and may be called from many threads.
        metadata: Strings to hand on.
        name: What to call it in messages.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> def count(info, start, stop, out):
        ...     out[:] = bytes(range(start, stop))
        >>> facts = TensorInfo("a", DTYPES["U8"], (4,))
        >>> GeneratedSource([facts], count).read_bytes("a")
        b'\\x00\\x01\\x02\\x03'
    """

    def __init__(
        self,
        tensors: list[TensorInfo] | tuple[TensorInfo, ...],
        generate: Callable[[TensorInfo, int, int, memoryview], None],
        metadata: Mapping[str, str] = MappingProxyType({}),
        name: str = "generated",
    ) -> None:
        self.name = name
        self.metadata = metadata
        self.tensors = {info.key: info for info in tensors}
        self._generate = generate

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Compute elements; see `Source.read_into`."""
        info = self.checked_range(key, start, stop, out)
        if stop > start:
            self._generate(info, start, stop, out.cast("B"))

    def close(self) -> None:
        """Nothing is held, so nothing happens."""
