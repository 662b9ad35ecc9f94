"""What a pickle is written down as, and the bytes it is read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, final

from stockpot.checkpoints.dtypes import DType
from stockpot.checkpoints.pickle_names import Meaning
from stockpot.errors import HeaderError, TruncatedFileError, UnsafeFileError

__all__ = ["MAX_PICKLE_BYTES", "Opaque", "Pairs", "PickleStream", "StorageRef", "TensorRef"]

MAX_PICKLE_BYTES = 16 << 20
_PIECE_BYTES = 1 << 16
_LONGEST_NAME = 256


@final
@dataclass(slots=True, eq=False)
class Pairs:
    """A dictionary, as the pairs that were put into it.

    Attributes:
        items: Key and value, in order; a key may come twice.
    """

    items: list[tuple[Any, Any]] = field(default_factory=list)


@final
@dataclass(slots=True, eq=False)
class Opaque:
    """Something that was not made: a training leftover.

    Attributes:
        name: The class or function that would have made it.
        state: What would have been its attributes; None where nothing was said.
    """

    name: str
    state: Any = None


@final
@dataclass(frozen=True, slots=True, eq=False)
class StorageRef:
    """A storage that the file says to hold.

    Attributes:
        meaning: Its type.
        key: Its name in the file.
        n_elements: Its length in elements of its type; in bytes if it is untyped.
        begin: First element of the view on the file's storage that this is; 0 for all of it.
        root_elements: Length of the file's storage.
    """

    meaning: Meaning
    key: str
    n_elements: int
    begin: int
    root_elements: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.meaning.itemsize


@final
@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """A tensor: a view on a storage.

    Attributes:
        storage: Where its elements are.
        dtype: Their type; None for one that no checkpoint here can hold.
        offset: First element in the storage, counted in elements.
        shape: Lengths of the axes.
        strides: Step along each axis, counted in elements.
        where: The place in the pickle that made it, for messages.
    """

    storage: StorageRef
    dtype: DType | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    where: str


@final
class PickleStream:
    """Bytes of a file, a little at a time, from a place on; no more than a pickle may have.

    Args:
        read: Gives bytes: called with the first one's place and their number.
        begin: First byte.
        end: One past the last.
        name: What to call the stream in messages.
        origin: Place that messages count from.

    Attributes:
        position: The next byte.
        at: The instruction that is being followed; messages name it.
    """

    def __init__(
        self, read: Callable[[int, int], bytes], begin: int, end: int, name: str, origin: int
    ) -> None:
        self.name = name
        self.position = self.at = begin
        self._read, self._end, self._origin = read, end, origin
        self._most = begin + MAX_PICKLE_BYTES
        self._piece, self._piece_begin = b"", begin

    def where(self, position: int) -> str:
        """Name a place, for messages.

        Args:
            position: As `position`.

        Returns:
            The stream's name and the byte.
        """
        return f"{self.name}, byte {position - self._origin}"

    def take(self, n_bytes: int) -> bytes:
        """Read on.

        Args:
            n_bytes: How many.

        Returns:
            Exactly as many.

        Raises:
            TruncatedFileError: The file ends first.
            HeaderError: The pickle would be longer than any real one.
        """
        begin = self.position - self._piece_begin
        piece = self._piece[begin : begin + n_bytes]
        if len(piece) < n_bytes:
            self._fetch(n_bytes)
            piece = self._piece[:n_bytes]
        self.position += n_bytes
        return piece

    def line(self) -> bytes:
        """Read up to a line's end, which is taken and not returned.

        Returns:
            The line.

        Raises:
            TruncatedFileError: The file ends first.
            HeaderError: The line is longer than any name.
        """
        begin = self.position - self._piece_begin
        end = self._piece.find(b"\n", begin, begin + _LONGEST_NAME + 1)
        if end < 0:
            self._fetch(max(1, min(_LONGEST_NAME + 1, self._end - self.position)))
            begin = 0
            end = self._piece.find(b"\n", 0, _LONGEST_NAME + 1)
        if end < 0:
            raise HeaderError(
                f"{self.where(self.position)}: a name may have {_LONGEST_NAME} bytes, but this one "
                "is longer or has no end; the file is damaged: get it again"
            )
        self.position = self._piece_begin + end + 1
        return self._piece[begin:end]

    def _fetch(self, n_bytes: int) -> None:
        stop = self.position + n_bytes
        if stop > self._end:
            raise TruncatedFileError(
                f"{self.where(self.position)}: the pickle ends before it is complete; "
                "the file was cut off or is damaged: get it again"
            )
        if stop > self._most:
            raise HeaderError(
                f"{self.where(self.position)}: a pickle of tensors may have {MAX_PICKLE_BYTES} "
                "bytes, but this one is longer; save the state_dict alone, as .safetensors"
            )
        length = min(max(n_bytes, _PIECE_BYTES), self._end - self.position)
        self._piece = self._read(self.position, length)
        self._piece_begin = self.position

    def damaged(self, what: str) -> NoReturn:
        """Refuse the pickle because it makes no sense.

        Args:
            what: What is wrong, for the message.

        Raises:
            HeaderError: Always.
        """
        raise HeaderError(
            f"{self.where(self.at)}: the pickle is damaged: {what}; "
            "get it again, or ask its author for a .safetensors file"
        )

    def unsafe(self, what: str) -> NoReturn:
        """Refuse the pickle because it asks for what only an attack needs.

        Args:
            what: What it asks for, for the message.

        Raises:
            UnsafeFileError: Always.
        """
        raise UnsafeFileError(
            f"{self.where(self.at)}: {what}; nothing was run, but other programs may: "
            "do not load this file with them, get the model as .safetensors"
        )
