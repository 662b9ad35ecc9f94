"""Hashes: of what a checkpoint holds, and of the file as other tools count it.

The content hash answers "is this the same model?". It is built in steps, so that it can be
computed while a merge reads and so that a component has one of its own:

- a tensor's hash is BLAKE3 of its bytes;
- the hash of a set of tensors is BLAKE3 of one record a tensor, in the order of their keys:
  ``key NUL dtype NUL shape NUL hash NEWLINE``, shape as decimal numbers joined by commas.

Metadata, order in the file and padding do not matter; a key's name, dtype, shape and bytes do. For
a component the keys are taken without the component's prefix, so that a VAE has the same hash
inside a checkpoint and in a file of its own.

The hashes of files are those that A1111, Civitai and kohya's scripts print.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from stockpot.checkpoints.sources import Source, TensorInfo
from stockpot.checkpoints.stamps import Stamps
from stockpot.errors import CheckpointError

__all__ = ["FileHashes", "content_hash", "file_hashes", "hash_tensors"]

_CHUNK_BYTES = 1 << 22
_WORTH_A_THREAD = 1 << 18
_LEGACY_OFFSET = 0x100000
_LEGACY_BYTES = 0x10000


@dataclass(frozen=True, slots=True)
class FileHashes:
    """The hashes that people use for whole files.

    Attributes:
        sha256: Of the whole file, 64 hex digits.
        autov2: First 10 digits of it; A1111's ``Model hash``.
        legacy: First 8 digits of the sha256 of 64 KiB at 1 MiB; old A1111. ``e3b0c442`` means
            that the file is shorter than 1 MiB.
        autov3: sha256 of all that follows a safetensors header, so that it survives edits of the
            metadata; empty for other files.
    """

    sha256: str
    autov2: str
    legacy: str
    autov3: str

    @property
    def embedding(self) -> str:
        """First 12 digits of the sha256, by which A1111 knows embeddings and LoRAs.

        Example:
            >>> FileHashes("0123456789abcdef" * 4, "0123456789", "01234567", "").embedding
            '0123456789ab'
        """
        return self.sha256[:12]


def content_hash(
    tensors: Mapping[str, TensorInfo],
    hashes: Mapping[str, str],
    relative_key: Callable[[str], str] = str,
) -> str:
    """Hash a set of tensors from the hashes of its members.

    Args:
        tensors: Facts of the tensors to count.
        hashes: BLAKE3 of each tensor's bytes, as hex digits.
        relative_key: Takes a component's prefix off a key; by default keys stay whole.

    Returns:
        64 hex digits.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> a = TensorInfo("a", DTYPES["U8"], (3,))
        >>> content_hash({"a": a}, {"a": "00"})[:16]
        '5d3b5700d3bdfe94'
    """
    records = []
    for key, info in tensors.items():
        shape = ",".join(map(str, info.shape))
        records.append(f"{relative_key(key)}\0{info.dtype}\0{shape}\0{hashes[key]}\n".encode())
    hasher = blake3()
    for record in sorted(records):
        hasher.update(record)
    return hasher.hexdigest()


def hash_tensors(
    source: Source,
    keys: list[str] | None = None,
    progress: Callable[[int], None] = lambda n_bytes: None,
    watch: Callable[[TensorInfo, memoryview], None] | None = None,
) -> dict[str, str]:
    """Hash tensors of a checkpoint, reading each once, a few MB at a time.

    Args:
        source: The checkpoint.
        keys: Which tensors; by default all.
        progress: Called with the bytes that were just read.
        watch: Called with each piece of each tensor, in order and one at a time, so that whoever
            looks at values needs no second reading; from a second thread where that pays. The
            piece changes afterwards.

    Returns:
        BLAKE3 of each tensor's bytes, as hex digits, by key.

    Raises:
        CheckpointError: The checkpoint cannot be read, or was written to meanwhile.
    """
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    found = {}
    stamps = Stamps([source])
    with ThreadPoolExecutor(1, thread_name_prefix="stockpot-watch") as pool:
        for key in source.tensors if keys is None else keys:
            info = source.info(key)
            step = max(1, _CHUNK_BYTES // info.dtype.itemsize)
            hasher = blake3()
            for start in range(0, info.n_elements, step):
                stop = min(start + step, info.n_elements)
                piece = buffer[: (stop - start) * info.dtype.itemsize]
                source.read_into(key, start, stop, piece)
                looking = None
                if watch is not None and piece.nbytes >= _WORTH_A_THREAD:
                    looking = pool.submit(watch, info, piece)
                elif watch is not None:
                    watch(info, piece)
                hasher.update(piece)
                if looking is not None:
                    looking.result()
                progress(piece.nbytes)
            found[key] = hasher.hexdigest()
    stamps.check()
    return found


def file_hashes(
    path: str | os.PathLike[str], progress: Callable[[int], None] = lambda n_bytes: None
) -> FileHashes:
    """Compute the hashes of a whole file that other tools print; reads the file once.

    Args:
        path: The file.
        progress: Called with the bytes that were just read.

    Returns:
        All of them.

    Raises:
        CheckpointError: The file cannot be read.
    """
    whole, data = hashlib.sha256(), hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(_LEGACY_OFFSET)
            legacy = hashlib.sha256(file.read(_LEGACY_BYTES)).hexdigest()[:8]
            file.seek(0)
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            data_start = 8 + length
            looks_right = data_start <= size and file.read(1) == b"{"
            file.seek(0)
            position = 0
            while piece := file.read(_CHUNK_BYTES):
                whole.update(piece)
                if looks_right and position + len(piece) > data_start:
                    data.update(memoryview(piece)[max(0, data_start - position) :])
                position += len(piece)
                progress(len(piece))
            if position != size:
                raise CheckpointError(f"{path}: the file was changed while it was read; try again")
    except OSError as error:
        raise CheckpointError(f"{path}: the file cannot be read: {error.strerror}") from error
    sha256 = whole.hexdigest()
    return FileHashes(sha256, sha256[:10], legacy, data.hexdigest() if looks_right else "")
