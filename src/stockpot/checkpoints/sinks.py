"""Where a new checkpoint goes: a file written in place, all or nothing; or memory.

The layout of the file is fixed before the first row: every tensor has its place, so rows can come
in any order from many threads. The file grows under another name; only when all rows are there,
synced and read back does it get its own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

from stockpot.checkpoints import storage
from stockpot.checkpoints.header import encode_header
from stockpot.checkpoints.readback import Piece, ReadBack
from stockpot.checkpoints.sources import MemorySource, TensorInfo
from stockpot.errors import CheckpointError, OutputError, OutputExistsError, VerificationError

__all__ = ["FileSink", "MemorySink", "Sink", "file_bytes", "in_file_order"]

_SYNC_BYTES = 64 << 20


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
    """Takes the rows of a new checkpoint, from many threads, in any order."""

    tensors: Mapping[str, TensorInfo]

    @abstractmethod
    def write(self, key: str, start: int, data: memoryview) -> None:
        """Write elements of one tensor at their place.

        Args:
            key: The tensor.
            start: First element, counted in the flattened tensor.
            data: Bytes of whole elements.
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


@final
class FileSink(Sink):
    """Writes a safetensors file: rows in place, then sync, re-read check, rename.

    While it is written the file is called ``NAME.partial``, and ``NAME.partial.journal`` tells in
    JSON lines what is done: first the plan's fingerprint, then ``{"key", "blake3"}`` for each
    tensor that was written and ``{"key", "checked"}`` for each that was read back. A killed process
    leaves these two; the next run replaces them. The final name never shows anything but a complete
    file.

    Args:
        path: The final name.
        tensors: Facts of every tensor that will be written.
        metadata: The metadata, or a stand-in of at least the final length: its room is reserved.
        overwrite: Whether a file of that name may be replaced, at the very end.
        verify: Whether to read everything back before the rename. Tensors whose digest is not
            given to `tensor_done` cannot be checked.
        plan: Fingerprint of what is being written, for the journal.

    Raises:
        OutputExistsError: The file exists and `overwrite` is false.
        OutputError: There is no room, no permission, or another process writes it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tensors: Mapping[str, TensorInfo],
        metadata: Mapping[str, str],
        *,
        overwrite: bool = False,
        verify: bool = True,
        plan: str = "",
    ) -> None:
        self.path = Path(path)
        self.tensors = in_file_order(tensors)
        self._overwrite = overwrite
        self._header_bytes = len(encode_header(self.tensors, metadata))
        self._offsets: dict[str, int] = {}
        position = self._header_bytes
        for key, info in self.tensors.items():
            self._offsets[key] = position
            position += info.n_bytes
        self.n_bytes = position
        self._done: dict[str, Piece] = {}  # written, and not yet offered to the check
        self._n_written = self._n_synced = 0
        self._guard = threading.Lock()
        # Left to itself the system keeps gigabytes dirty, and the last sync pays for all of them.
        self._background = ThreadPoolExecutor(1, thread_name_prefix="stockpot-sync")
        self._syncing = threading.Event()
        self._sync_error: OSError | None = None
        self._refuse_existing()
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._journal_path = self._partial.with_name(self._partial.name + ".journal")
        self._check = ReadBack(self._partial, self._passed) if verify else None
        with self._explained():
            self._descriptor = storage.open_for_writing(self._partial)
        self._open, self._finished = True, False
        try:
            storage.lock(self._descriptor, self._partial, str(self.path))
        except BaseException:
            # It belongs to the other process: leave it alone.
            os.close(self._descriptor)
            raise
        try:
            with self._explained():
                storage.reserve(self._descriptor, self.n_bytes)
                # Line by line, so that a killed process leaves all that it knew.
                self._journal = self._journal_path.open("w", encoding="utf-8", buffering=1)
                self._note({"version": 1, "plan": plan, "n_bytes": self.n_bytes})
        except BaseException:
            self.abort()
            raise

    def write(self, key: str, start: int, data: memoryview) -> None:
        """Write elements at their place in the file; see `Sink.write`."""
        offset = self._offsets[key] + start * self.tensors[key].dtype.itemsize
        with self._explained():
            storage.write_at(self._descriptor, offset, data.cast("B"))
        with self._guard:
            self._n_written += data.nbytes
            if self._n_written - self._n_synced >= _SYNC_BYTES and not self._syncing.is_set():
                self._n_synced = self._n_written
                self._syncing.set()
                self._background.submit(self._sync_in_background)

    def tensor_done(self, key: str, digest: str | None) -> None:
        """Add the tensor to the journal; see `Sink.tensor_done`."""
        with self._guard, self._explained():
            if digest is not None:
                place, n_bytes = self._offsets[key], self.tensors[key].n_bytes
                self._done[key] = Piece(key, place, n_bytes, digest)
            self._note({"key": key, "blake3": digest})

    def commit(
        self, metadata: Mapping[str, str], progress: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Write the header, sync, read back, rename, sync the folder; see `Sink.commit`.

        Raises:
            VerificationError: What was read back is not what was written.
            OutputExistsError: A file of that name appeared meanwhile.
        """
        header = memoryview(encode_header(self.tensors, metadata, self._header_bytes))
        with self._explained():
            storage.write_at(self._descriptor, 0, header)
            self._background.shutdown(wait=True)
            if self._sync_error is not None:
                raise self._sync_error
            storage.sync(self._descriptor)
        if self._check is not None:
            with self._explained():
                damaged = self._check.finish(header, self._done.values(), progress)
            if damaged is not None:
                raise VerificationError(
                    f"{self.path}: {damaged}: the bytes on the disk are not those that were "
                    "written; the disk or the memory is failing; nothing was saved"
                )
        self._refuse_existing()
        # The claim on the partial name must outlast the name, or another process's new file
        # could be taken for ours.
        if not storage.can_rename_open():
            self._close()
        with self._explained():
            self._journal.close()
            self._journal_path.unlink(missing_ok=True)
            storage.replace(self._partial, self.path)
        self._finished = True
        self._close()

    def abort(self) -> None:
        """Remove what was written; the final name is untouched."""
        if self._finished:
            return
        self._finished = True
        if not storage.can_rename_open():
            self._close()
        if hasattr(self, "_journal"):
            self._journal.close()
        self._journal_path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
        self._close()

    def _note(self, entry: Mapping[str, object]) -> None:
        self._journal.write(json.dumps(entry) + "\n")

    def _passed(self, key: str) -> None:
        with self._guard:
            self._note({"key": key, "checked": True})

    def _sync_in_background(self) -> None:
        with self._guard:
            synced, self._done = self._done, {}
        try:
            storage.sync_data(self._descriptor)
            if self._check is not None:
                self._check.offer(synced.values())
        except OSError as error:
            # The system tells a descriptor of a failed write once only: keep it for the end.
            self._sync_error = error
        self._syncing.clear()

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._background.shutdown(wait=True)
            if self._check is not None:
                self._check.stop()
            os.close(self._descriptor)

    def _refuse_existing(self) -> None:
        if self.path.is_dir():
            raise OutputExistsError(f"{self.path}: the output must be a file, but is a folder")
        if self.path.exists() and not self._overwrite:
            raise OutputExistsError(
                f"{self.path}: the file exists, and an existing file is kept; "
                "choose another name or allow it with --overwrite"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (CheckpointError, OutputError):
            raise
        except OSError as error:
            remedy = {
                errno.ENOSPC: f"free some room: the file takes {self.n_bytes} bytes",
                errno.EDQUOT: f"free some room: the file takes {self.n_bytes} bytes",
                errno.EACCES: "choose a folder that you may write to",
                errno.EROFS: "choose a folder that you may write to",
                errno.ENOENT: "make the folder first",
                errno.ENOTDIR: "the folder's name is a file's",
            }.get(error.errno or 0, "nothing was saved under that name")
            raise OutputError(
                f"{self.path}: the output cannot be written: {error.strerror}; {remedy}"
            ) from error
