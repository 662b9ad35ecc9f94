"""Reads an unfinished file back from the disk while the rest of it is still being written.

What a disk holds can only be told by asking it. Doing so at the end would leave the processor idle
for as long as the disk needs to give everything back; so a tensor is read as soon as it was synced.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

from blake3 import blake3

from stockpot.checkpoints import storage
from stockpot.errors import CheckpointError

__all__ = ["Piece", "ReadBack", "intact"]

_CHUNK_BYTES = 1 << 22
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """One run of bytes with a known hash.

    Attributes:
        key: What to call it.
        offset: Its first byte in the file.
        n_bytes: Its length.
        digest: BLAKE3 of what was written, as hex digits.
    """

    key: str
    offset: int
    n_bytes: int
    digest: str


def intact(path: Path, pieces: Iterable[Piece], *, from_disk: bool = False) -> set[str]:
    """Find out which pieces of a file are as they were written.

    Args:
        path: The file; synced, where it is to be read from the disk.
        pieces: Each once.
        from_disk: Read past the system's cache.

    Returns:
        The keys of those; what cannot be read is not among them.
    """
    queue = deque(pieces)
    good: set[str] = set()

    def work() -> None:
        reader = storage.DiskReader(path, _CHUNK_BYTES, direct=from_disk)
        try:
            while True:
                try:
                    piece = queue.popleft()
                except IndexError:
                    return
                with contextlib.suppress(OSError, CheckpointError):
                    if _digest(reader, path, piece) == piece.digest:
                        good.add(piece.key)
        finally:
            reader.close()

    if queue:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="stockpot-check") as pool:
            for done in [pool.submit(work) for _ in range(_THREADS)]:
                done.result()
    return good


def _digest(
    reader: storage.DiskReader,
    path: Path,
    piece: Piece,
    count: Callable[[int], None] = lambda n_bytes: None,
) -> str:
    hasher = blake3()
    for begin in range(0, piece.n_bytes, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, piece.n_bytes - begin)
        hasher.update(reader.read(piece.offset + begin, length, str(path)))
        count(length)
    return hasher.hexdigest()


@final
class ReadBack:
    """Compares pieces of a file with their hashes, in threads of its own.

    Args:
        path: The file.
        passed: Called with a piece's key when the disk holds it as it was written; from any thread.
    """

    def __init__(self, path: Path, passed: Callable[[str], None]) -> None:
        self._path, self._passed = path, passed
        self._queue: deque[Piece] = deque()
        self._guard = threading.Lock()
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="stockpot-check")
        self._busy = False
        self._error: BaseException | None = None
        self._damaged: str | None = None
        self._early_bytes = 0
        self._progress: Callable[[int], None] | None = None

    def offer(self, pieces: Iterable[Piece]) -> None:
        """Hand over pieces that were synced; they are read in the background.

        Args:
            pieces: Each once.
        """
        with self._guard:
            self._queue.extend(pieces)
            if self._busy or not self._queue:
                return
            self._busy = True
        self._ahead.submit(self._work_ahead)

    def finish(
        self, header: memoryview, pieces: Iterable[Piece], progress: Callable[[int], None]
    ) -> str | None:
        """Read what is left, with more threads, now that nothing else is to do.

        Args:
            header: What the file begins with.
            pieces: Those that were never offered; all is synced by now.
            progress: Is told of bytes that were read, also of those before this call.

        Returns:
            What is not on the disk as it was written; None if all is.

        Raises:
            OSError: The file cannot be read.
            CheckpointError: It ends early.
        """
        with self._guard:
            self._queue.extend(pieces)
            self._progress = progress
            early = self._early_bytes
        progress(early)
        reader = storage.DiskReader(self._path, header.nbytes)
        try:
            if reader.read(0, header.nbytes, str(self._path)) != header:
                return "the header"
        finally:
            reader.close()
        # One thread waits for the disk while another hashes.
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="stockpot-check") as pool:
            for done in [pool.submit(self._work) for _ in range(_THREADS)]:
                done.result()
        self._ahead.shutdown(wait=True)
        if self._error is not None:
            raise self._error
        return self._damaged

    def stop(self) -> None:
        """Leave what is not read yet unread, and wait for the threads."""
        with self._guard:
            self._queue.clear()
        self._ahead.shutdown(wait=True, cancel_futures=True)

    def _work_ahead(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error  # told by `finish`
        finally:
            with self._guard:
                self._busy = False

    def _work(self) -> None:
        reader = storage.DiskReader(self._path, _CHUNK_BYTES)
        try:
            while True:
                with self._guard:
                    piece = self._queue.popleft() if self._queue else None
                if piece is None:
                    return
                self._compare(reader, piece)
        except BaseException:
            with self._guard:
                self._queue.clear()  # nobody needs to look further
            raise
        finally:
            reader.close()

    def _compare(self, reader: storage.DiskReader, piece: Piece) -> None:
        if _digest(reader, self._path, piece, self._count) == piece.digest:
            self._passed(piece.key)
            return
        with self._guard:
            self._damaged = self._damaged or piece.key
            self._queue.clear()

    def _count(self, n_bytes: int) -> None:
        with self._guard:
            progress = self._progress
            if progress is None:
                self._early_bytes += n_bytes
        if progress is not None:
            progress(n_bytes)
