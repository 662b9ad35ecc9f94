"""The file of a new checkpoint: written in place, all or nothing, and gone on from if stopped.

The layout of the file is fixed before the first row, so rows can come in any order from many
threads. Only when all of them are there, synced and read back does the file get its name. What a
stopped run leaves under the other name, a journal beside it explains to the next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

from stockpot.checkpoints import storage
from stockpot.checkpoints.header import encode_header
from stockpot.checkpoints.journal import Journal, Left, differences, owner_of, read_journal
from stockpot.checkpoints.readback import Piece, ReadBack, intact
from stockpot.checkpoints.sinks import Sink, in_file_order
from stockpot.checkpoints.sources import TensorInfo
from stockpot.errors import (
    CheckpointError,
    OutputError,
    OutputExistsError,
    UnconfirmedError,
    UnfinishedError,
    VerificationError,
)

__all__ = ["FileSink"]

_SYNC_BYTES = 64 << 20
_SYNC_S = 20.0
"""However slowly rows come: what a power failure can cost at most, in bytes and in seconds."""


@final
class FileSink(Sink):
    """Writes a safetensors file: rows in place, then sync, re-read check, rename.

    While it is written the file is called ``NAME.partial``, and ``NAME.partial.journal`` tells
    what is done (`stockpot.checkpoints.journal`). A process that ends early, however it ends,
    leaves these two, and a sink with the same facts goes on from them. The final name never shows
    anything but a complete file.

    Args:
        path: The final name.
        tensors: Facts of every tensor that will be written.
        metadata: The metadata, or a stand-in of at least the final length: its room is reserved.
        overwrite: Whether a file of that name may be replaced, at the very end.
        verify: Whether to read everything back before the rename. Tensors whose digest is not
            given to `tensor_done` cannot be checked.
        facts: All that decides on the bytes, by name. What a stopped run left is gone on from
            where its facts were the same. None: there is no journal, and nobody can go on.
        restart: Throw away what a stopped run left.
        recheck: Read again all that it left, and keep what is as it was written.
        header_bytes: Least length of the header.

    Raises:
        OutputExistsError: The file exists and `overwrite` is false.
        UnfinishedError: A stopped run left something else under this name.
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
        facts: Mapping[str, str] | None = None,
        restart: bool = False,
        recheck: bool = False,
        header_bytes: int = 0,
    ) -> None:
        self.path = Path(path)
        self.tensors = in_file_order(tensors)
        self._overwrite = overwrite
        self._header_bytes = max(header_bytes, len(encode_header(self.tensors, metadata)))
        self._offsets: dict[str, int] = {}
        position = self._header_bytes
        for key, info in self.tensors.items():
            self._offsets[key] = position
            position += info.n_bytes
        self.n_bytes = position
        self._notes: dict[str, str] = {}
        self._done: dict[str, Piece] = {}  # written, and not yet offered to the check
        self._fresh: list[str] = []  # written, and not known to be on the disk
        self._n_written = self._n_synced = 0
        self._last_sync = time.monotonic()
        self._guard = threading.Lock()
        # Left to itself the system keeps gigabytes dirty, and the last sync pays for all of them.
        self._background = ThreadPoolExecutor(1, thread_name_prefix="stockpot-sync")
        self._syncing = threading.Event()
        self._sync_error: OSError | None = None
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._journal_path = self._partial.with_name(self._partial.name + ".journal")
        self._journal: Journal | None = None
        self._n_done = 0
        self._refuse_existing()
        self._check = ReadBack(self._partial, self._passed) if verify else None
        with self._explained():
            self._descriptor = storage.open_for_writing(self._partial)
        self._open, self._finished = True, False
        left = None
        try:
            storage.lock(
                self._descriptor, self._partial, str(self.path),
                lambda: owner_of(self._journal_path),
            )  # fmt: skip
            facts = facts and {**facts, "size of the file": f"{self.n_bytes} bytes"}
            left = None if restart else self._left(facts or {})
        except BaseException:
            # It belongs to the other process, or to another run: leave it alone.
            os.close(self._descriptor)
            raise
        try:
            with self._explained():
                storage.reserve(self._descriptor, self.n_bytes)
                if facts:
                    self._journal = Journal(self._journal_path, facts, left.n_bytes if left else 0)
                    storage.sync(self._descriptor)  # its length and its place, before any claim
                    storage.sync_folder(self.path.parent)
                else:
                    self._journal_path.unlink(missing_ok=True)
                self.done = self._kept(left, recheck) if left is not None else {}
                self._n_done = len(self.done)
        except BaseException:
            if left is None:
                self.abort()
            else:
                self.pause()
            raise

    def write(self, key: str, start: int, data: memoryview) -> None:
        """Write elements at their place in the file; see `Sink.write`."""
        offset = self._offsets[key] + start * self.tensors[key].dtype.itemsize
        with self._explained():
            storage.write_at(self._descriptor, offset, data.cast("B"))
        with self._guard:
            self._n_written += data.nbytes
            fresh, now = self._n_written - self._n_synced, time.monotonic()
            due = fresh >= _SYNC_BYTES or (fresh and now - self._last_sync >= _SYNC_S)
            if due and not self._syncing.is_set():
                self._n_synced, self._last_sync = self._n_written, now
                self._syncing.set()
                self._background.submit(self._sync_in_background)

    def remember(self, key: str, note: str) -> None:
        """Keep a text for the journal; see `Sink.remember`."""
        with self._guard:
            self._notes[key] = note

    def tensor_done(self, key: str, digest: str | None) -> None:
        """Add the tensor to the journal; see `Sink.tensor_done`."""
        with self._guard, self._explained():
            if digest is not None:
                place, n_bytes = self._offsets[key], self.tensors[key].n_bytes
                self._done[key] = Piece(key, place, n_bytes, digest)
            self._fresh.append(key)
            self._note({"key": key, "blake3": digest, "note": self._notes.pop(key, "")})
            self._n_done += 1

    def commit(
        self, metadata: Mapping[str, str], progress: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Write the header, sync, read back, rename, sync the folder; see `Sink.commit`.

        Raises:
            VerificationError: What was read back is not what was written.
            OutputExistsError: A file of that name appeared meanwhile.
        """
        self.complete(metadata, progress)
        self.give_name()

    def complete(
        self, metadata: Mapping[str, str], progress: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Do all of `commit` but the rename, for an output of several files.

        Args:
            metadata: As in `commit`.
            progress: As in `commit`.

        Raises:
            VerificationError: What was read back is not what was written.
        """
        header = memoryview(encode_header(self.tensors, metadata, self._header_bytes))
        with self._explained():
            storage.write_at(self._descriptor, 0, header)
            self._background.shutdown(wait=True)
            if self._sync_error is not None:
                raise self._sync_error
            storage.sync(self._descriptor)
            self._note_synced(self._fresh)
        if self._check is not None:
            with self._explained():
                damaged = self._check.finish(header, self._done.values(), progress)
                if damaged is not None:
                    self._note({"key": damaged, "blake3": None})  # whoever goes on makes it again
            if damaged is not None:
                raise VerificationError(
                    f"{self.path}: {damaged}: the bytes on the disk are not those that were "
                    "written; the disk or the memory is failing; nothing was saved"
                )

    def give_name(self, keep_journal: bool = False) -> None:
        """Rename the complete file; the journal goes last, when the name is on the disk.

        Args:
            keep_journal: Leave it to `forget`, where the name is not the final one yet.

        Raises:
            OutputExistsError: A file of that name appeared meanwhile.
            UnconfirmedError: It has its name, but the disk did not confirm it.
        """
        self._refuse_existing()
        # The claim on the partial name must outlast the name, or another process's new file
        # could be taken for ours.
        if not storage.can_rename_open():
            self._close()
        try:
            with self._explained():
                storage.replace(self._partial, self.path)
        except UnconfirmedError:
            self._leave(keep_journal)
            raise
        self._leave(keep_journal)

    def _leave(self, keep_journal: bool) -> None:
        self._finished = True
        self._close()
        if not keep_journal:
            self.forget()

    def forget(self) -> None:
        """Remove the journal of a complete file."""
        with self._explained():
            if self._journal is not None:
                self._journal.remove()

    def abort(self) -> None:
        """Remove what was written; the final name is untouched."""
        if self._finished:
            return
        self._finished = True
        self._background.shutdown(wait=True)
        if not storage.can_rename_open():
            self._close()
        if self._journal is not None:
            self._journal.remove()  # first: what it says would no longer be there
        self._partial.unlink(missing_ok=True)
        self._close()

    def pause(self) -> int:
        """Put all that is done on the disk, and keep it; see `Sink.pause`."""
        if self._finished:
            return 0
        if self._journal is None or not self._n_done:
            self.abort()
            return 0
        self._finished = True
        self._background.shutdown(wait=True)
        # What cannot be said is not claimed, and is made again.
        with contextlib.suppress(OSError):
            if self._sync_error is None:
                storage.sync_data(self._descriptor)
                self._note_synced(self._fresh)
        self._close()
        self._journal.close()
        return self._n_done

    def _left(self, facts: Mapping[str, str]) -> Left | None:
        """What a stopped run left of this very output."""
        left = read_journal(self._journal_path)
        if left is None or not left.entries:
            return None
        size = f"{os.fstat(self._descriptor).st_size} bytes"
        if left.facts.get("size of the file") != size:
            return None  # the journal stayed alone: what it tells of is gone
        changed = differences(left.facts, facts)
        if changed:
            raise UnfinishedError(
                f"{self.path}: a run that was stopped left {len(left.entries)} finished tensors in "
                f"{self._partial.name}, but made something else: {'; '.join(changed)}; put that "
                "back to go on, or throw them away with --restart"
            )
        return left

    def _kept(self, left: Left, recheck: bool) -> dict[str, str]:
        """Which tensors need not be written again.

        What was synced is taken for written, and goes to the check with the rest if it was not
        there yet. What was not synced is compared with its hash now.
        """
        entries = {key: entry for key, entry in left.entries.items() if key in self.tensors}
        pieces = {
            key: Piece(key, self._offsets[key], self.tensors[key].n_bytes, entry.digest)
            for key, entry in entries.items()
            if entry.digest is not None
        }
        kept = set() if recheck else {key for key, entry in entries.items() if entry.synced}
        if recheck:
            storage.sync_data(self._descriptor)
        doubtful = [piece for key, piece in pieces.items() if key not in kept]
        good = intact(self._partial, doubtful, from_disk=recheck)
        for key in entries.keys() - kept - good:
            # It will be written over: nothing may vouch for it meanwhile.
            self._note({"key": key, "blake3": None})
        if self._journal is not None:
            self._journal.sync()
        for key in kept | good:
            if not entries[key].synced:
                self._fresh.append(key)
                self._n_written += self.tensors[key].n_bytes
            if key in pieces and not (entries[key].checked or (recheck and key in good)):
                self._done[key] = pieces[key]
        return {key: entries[key].note for key in entries if key in kept or key in good}

    def _note(self, entry: Mapping[str, object]) -> None:
        if self._journal is not None:
            self._journal.add(entry)

    def _note_synced(self, keys: list[str]) -> None:
        if self._journal is not None:
            with self._guard:
                self._journal.add({"synced": keys})
            self._journal.sync()  # not under the guard: nobody who writes rows waits for it

    def _passed(self, key: str) -> None:
        with self._guard:
            self._note({"key": key, "checked": True})

    def _sync_in_background(self) -> None:
        with self._guard:
            pieces, self._done = self._done, {}
            fresh, self._fresh = self._fresh, []
        try:
            storage.sync_data(self._descriptor)
            self._note_synced(fresh)
            if self._check is not None:
                self._check.offer(pieces.values())
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
        storage.check_name(self.path)
        if self.path.is_dir():
            raise OutputExistsError(f"{self.path}: the output must be a file, but is a folder")
        if self.path.exists() and not self.path.is_file():
            raise OutputExistsError(f"{self.path}: the output must be a file, but this is none")
        if self.path.exists() and not self._overwrite:
            # A run that was killed right after the rename; whoever makes a new one makes the
            # file first and the journal then.
            if self._journal_path.exists() and not self._partial.exists():
                self._journal_path.unlink(missing_ok=True)
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
                errno.EACCES: "choose a folder that you may write to, or close the program that "
                "has the file open",
                errno.EROFS: "choose a folder that you may write to",
                errno.ENOENT: "make the folder first",
                errno.ENOTDIR: "the folder's name is a file's",
            }.get(error.errno or 0, "nothing was saved under that name")
            raise OutputError(
                f"{self.path}: the output cannot be written: {error.strerror}; {remedy}"
            ) from error
