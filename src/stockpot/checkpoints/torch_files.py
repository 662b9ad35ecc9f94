"""Files that ``torch.save`` wrote, opened without torch and without running what they say.

There are two formats. Today's is a zip file: ``NAME/data.pkl`` says what there is, ``NAME/data/0``
and so on are the storages, stored as they are. The one before 1.6 is a stream: five pickles (a
magic number, a version, facts of the machine, what there is, the storages' names), then each
storage behind its length. Either way a tensor is a view on a range of the file, and is read there.
Source: ``torch/serialization.py``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, final

from stockpot.checkpoints import storage
from stockpot.checkpoints.dtypes import DType
from stockpot.checkpoints.pickle_records import PickleStream, StorageRef, TensorRef
from stockpot.checkpoints.pickles import Pickled, read_pickle
from stockpot.checkpoints.sources import Source, TensorInfo
from stockpot.checkpoints.state_dicts import Unwrapped, unwrap
from stockpot.checkpoints.strides import is_dense, read_strided, span_of
from stockpot.checkpoints.zips import ZIP_MAGIC, ZipEntry, read_directory
from stockpot.errors import CheckpointError, HeaderError, TruncatedFileError

__all__ = ["TorchFile", "looks_like_torch"]

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001
# One storage may stand for several tensors (tied weights), but not for any number of them.
_MOST_SHARING = 16


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor's elements are: its first byte in the file, and the steps from there."""

    begin: int
    strides: tuple[int, ...]
    is_dense: bool


def looks_like_torch(head: bytes) -> bool:
    """Say from its first bytes whether a file is a zip file or a pickle.

    Args:
        head: At least the first 9 bytes.

    Returns:
        False for safetensors, whose JSON begins at the ninth byte.

    Example:
        >>> looks_like_torch(b"PK\\x03\\x04" + bytes(9)), looks_like_torch(bytes(8) + b"{")
        (True, False)
    """
    if head[8:9] == b"{":
        return False
    return head.startswith(ZIP_MAGIC) or (head[:1] == b"\x80" and head[1:2] <= b"\x05")


@final
class TorchFile(Source):
    """One file of ``torch.save``, open for positional reads; nothing in it is ever run.

    Args:
        path: The file, usually ``.ckpt``, ``.pt``, ``.pth`` or ``.bin``.

    Raises:
        CheckpointError: The file is not there, is damaged, or holds something other than tensors;
            an `UnsafeFileError` where it names what only an attack would.

    Attributes:
        path: The file.
        format: ``torch zip`` or ``torch stream``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.files = (self.path,)
        self.name = str(self.path)
        try:
            self._descriptor = storage.open_for_reading(self.path)
        except OSError as error:
            raise CheckpointError(
                f"{self.name}: the file cannot be opened: {error.strerror}"
            ) from error
        self._open = True
        try:
            self._read_contents()
        except OSError as error:
            self.close()
            raise CheckpointError(f"{self.name}: cannot be read: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _read_contents(self) -> None:
        self.opened = {self.path: storage.stamp(self._descriptor)}
        self._file_bytes = os.fstat(self._descriptor).st_size
        self._swapped = False
        if self._piece(0, min(4, self._file_bytes)) == ZIP_MAGIC:
            self.format = "torch zip"
            found, ranges = self._read_zip()
        else:
            self.format = "torch stream"
            found, ranges = self._read_stream()
        self.metadata: Mapping[str, str] = found.metadata
        self.notes = found.notes
        tensors: dict[str, TensorInfo] = {}
        self._places: dict[str, _Place] = {}
        for key, tensor in found.tensors.items():
            tensors[key], self._places[key] = self._placed(key, tensor, ranges)
        self.tensors = tensors
        total = sum(info.n_bytes for info in tensors.values())
        if total > _MOST_SHARING * self._file_bytes:
            raise HeaderError(
                f"{self.name}: the tensors claim {total} bytes, but the whole file has "
                f"{self._file_bytes}; it is made to fill disks"
            )

    def _piece(self, offset: int, n_bytes: int) -> bytes:
        out = bytearray(n_bytes)
        storage.read_at(self._descriptor, offset, memoryview(out), self.name)
        return bytes(out)

    # Today's format.

    def _read_zip(self) -> tuple[Unwrapped, Mapping[str, ZipEntry]]:
        entries = read_directory(self._piece, self._file_bytes, self.name)
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            self._refuse_zip(entries)
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in entries:
            raise CheckpointError(
                f"{self.name}: the file is a TorchScript program, not a checkpoint; it holds code, "
                "so nothing of it was read: get the weights as .safetensors"
            )
        order = entries.get(f"{root}byteorder")
        if order is not None:
            text = self._piece(order.begin, min(order.n_bytes, 16))
            if text not in (b"little", b"big"):
                raise HeaderError(
                    f"{self.name}: {order.name}: the order of bytes must be 'little' or 'big', "
                    f"but is {text!r}; it is damaged: get it again"
                )
            self._swapped = text == b"big"
        what = entries[pickles[0]]
        end = what.begin + what.n_bytes
        where = f"{self.name}: {what.name}"
        stream = PickleStream(self._piece, what.begin, end, where, what.begin)
        root_object = read_pickle(stream).value
        if stream.position != end:
            raise HeaderError(
                f"{stream.where(stream.position)}: something follows the pickle; "
                "it is damaged or made to deceive: get the model again"
            )
        prefix = f"{root}data/"
        ranges = {
            name.removeprefix(prefix): entry
            for name, entry in entries.items()
            if name.startswith(prefix)
        }
        return unwrap(root_object, self.name), ranges

    def _refuse_zip(self, entries: Mapping[str, ZipEntry]) -> NoReturn:
        endings = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".zip")
        inside = [name for name in entries if name.lower().endswith(endings)]
        what = f"; it holds {inside[0]!a}: unpack it and name that" if inside else ""
        raise HeaderError(
            f"{self.name}: a torch file must have one data.pkl, in one folder, but this zip file "
            f"has not{what or '; it is no checkpoint'}"
        )

    # The one before.

    def _read_stream(self) -> tuple[Unwrapped, Mapping[str, ZipEntry]]:
        magic, position = self._next_pickle(0)
        if type(magic.value) is not int or magic.value != _STREAM_MAGIC:
            raise HeaderError(
                f"{self.name}: the file is a pickle, but not one of torch.save, nor a "
                "safetensors file: get the model as .safetensors"
            )
        version, position = self._next_pickle(position)
        if type(version.value) is not int or version.value != _STREAM_VERSION:
            raise HeaderError(f"{self.name}: the version must be {_STREAM_VERSION}; it is damaged")
        # Facts of the machine that wrote it; storages are little-endian whatever they say.
        _, position = self._next_pickle(position)
        contents, position = self._next_pickle(position)
        listed, position = self._next_pickle(position)
        keys = listed.value
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise HeaderError(f"{self.name}: the storages must have a list of names; it is damaged")
        ranges: dict[str, ZipEntry] = {}
        for key in keys:
            ref = contents.storages.get(key)
            if ref is None or key in ranges:
                raise HeaderError(f"{self.name}: storage {key[:40]!a} is listed for no tensor")
            (n_elements,) = struct.unpack("<q", self._checked_piece(position, 8))
            if n_elements != ref.root_elements:
                raise HeaderError(
                    f"{self.name}: storage {key[:40]!a} must have {ref.root_elements} elements, "
                    f"but has {n_elements}; it is damaged: get it again"
                )
            n_bytes = n_elements * ref.itemsize
            ranges[key] = ZipEntry(key, position + 8, n_bytes)
            position += 8 + n_bytes
            if position > self._file_bytes:
                raise TruncatedFileError(
                    f"{self.name}: the storages need {position} bytes, but the file has only "
                    f"{self._file_bytes}; it was cut off: get it again"
                )
        if position != self._file_bytes:
            raise HeaderError(
                f"{self.name}: {self._file_bytes - position} bytes follow the last storage, "
                "where the file must end"
            )
        return unwrap(contents.value, self.name), ranges

    def _next_pickle(self, position: int) -> tuple[Pickled, int]:
        stream = PickleStream(self._piece, position, self._file_bytes, self.name, 0)
        return read_pickle(stream), stream.position

    def _checked_piece(self, offset: int, n_bytes: int) -> bytes:
        if offset + n_bytes > self._file_bytes:
            raise TruncatedFileError(f"{self.name}: the file was cut off: get it again")
        return self._piece(offset, n_bytes)

    # Tensors.

    def _placed(
        self, key: str, tensor: TensorRef, ranges: Mapping[str, ZipEntry]
    ) -> tuple[TensorInfo, _Place]:
        where = f"{self.name}: {key}"
        if tensor.dtype is None:
            raise HeaderError(
                f"{where}: the element type is none that a checkpoint here can hold "
                "(complex numbers and rare types of fp8 are not); leave the tensor out"
            )
        dtype: DType = tensor.dtype
        ref: StorageRef = tensor.storage
        held = ranges.get(ref.key)
        if held is None:
            raise HeaderError(f"{where}: its storage {ref.key[:40]!a} is not in the file")
        if ref.root_elements * ref.itemsize != held.n_bytes:
            raise HeaderError(
                f"{where}: its storage must have {ref.root_elements * ref.itemsize} bytes, "
                f"but has {held.n_bytes}; the file is damaged: get it again"
            )
        info = TensorInfo(key, dtype, tensor.shape)
        end = (tensor.offset + span_of(tensor.shape, tensor.strides)) * dtype.itemsize
        if end > ref.n_elements * ref.itemsize and info.n_elements:
            raise HeaderError(
                f"{where}: the tensor reaches to byte {end} of its storage, which has "
                f"{ref.n_elements * ref.itemsize}; the file is damaged or made to deceive"
            )
        if info.n_bytes > held.n_bytes:
            raise HeaderError(
                f"{where}: the tensor repeats elements: {info.n_bytes} bytes from a storage of "
                f"{held.n_bytes}; save it with .contiguous()"
            )
        begin = held.begin + ref.begin * ref.itemsize + tensor.offset * dtype.itemsize
        return info, _Place(begin, tensor.strides, is_dense(tensor.shape, tensor.strides))

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Read elements at their place in the file; see `Source.read_into`."""
        info = self.checked_range(key, start, stop, out)
        place, size, raw = self._places[key], info.dtype.itemsize, out.cast("B")

        def read(offset: int, piece: memoryview) -> None:
            storage.read_at(self._descriptor, place.begin + offset, piece, self.name)

        try:
            if place.is_dense:
                read(start * size, raw)
            else:
                read_strided(read, info.shape, place.strides, size, start, stop, raw)
        except OSError as error:
            raise CheckpointError(
                f"{self.name}: {key}: reading failed: {error.strerror}; the disk or the "
                "connection to it may be failing"
            ) from error
        if self._swapped and size > 1:
            import numpy as np

            np.frombuffer(raw, f"u{size}").byteswap(inplace=True)

    def close(self) -> None:
        """Close the file; twice is fine."""
        if self._open:
            self._open = False
            os.close(self._descriptor)
