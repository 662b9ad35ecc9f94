"""Sinks that write a checkpoint in another arrangement: under other names, in several files.

Rows come under the names of a checkpoint, as everywhere; an arrangement says where each goes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import final

from blake3 import blake3

from stockpot.checkpoints import storage
from stockpot.checkpoints.file_sink import FileSink
from stockpot.checkpoints.journal import this_process
from stockpot.checkpoints.sinks import Sink, file_bytes
from stockpot.checkpoints.sources import TensorInfo
from stockpot.errors import (
    OutputError,
    OutputExistsError,
    UnconfirmedError,
    VerificationError,
)

__all__ = ["Arrangement", "FolderSink", "Place", "RenamingSink", "is_unfinished"]

_CLAIM = ".stockpot-writes-here"
_KEPT = (".partial", ".partial.journal")
_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Place:
    """Where elements of a tensor go.

    Attributes:
        file: The file, relative to the output; empty where the output is one file.
        key: Their tensor's name there.
        shape: Its shape there.
        start: First of the elements, counted in the flattened tensor that comes in.
        stop: One past the last.
        transposed: Whether the rows of the matrix that comes in become columns.

    Example:
        >>> Place("vae/model.safetensors", "encoder.conv_in.bias", (128,), 0, 128).stop
        128
    """

    file: str
    key: str
    shape: tuple[int, ...]
    start: int
    stop: int
    transposed: bool = False


@dataclass(frozen=True)
class Arrangement:
    """Where every tensor of a checkpoint goes.

    Attributes:
        places: By the key under which rows come: where its elements go, in their order; none for
            a tensor that is said otherwise, such as a marker that a text of the folder replaces.
        texts: Small files beside the weights: bytes by relative path.

    Example:
        >>> Arrangement({"v_pred": ()}).texts
        {}
    """

    places: Mapping[str, tuple[Place, ...]]
    texts: Mapping[str, bytes] = field(default_factory=dict)

    def infos(self, tensors: Mapping[str, TensorInfo]) -> dict[str, dict[str, TensorInfo]]:
        """Facts of the tensors as they will stand in the files.

        Args:
            tensors: Facts of the tensors that come in.

        Returns:
            Facts by key, by file.
        """
        found: dict[str, dict[str, TensorInfo]] = {}
        for key, places in self.places.items():
            for place in places:
                info = TensorInfo(place.key, tensors[key].dtype, place.shape)
                found.setdefault(place.file, {})[place.key] = info
        return found

    def n_bytes(self, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> int:
        """Size of all files together.

        Args:
            tensors: Facts of the tensors that come in.
            metadata: Of each file with weights.
        """
        weights = (file_bytes(infos, metadata) for infos in self.infos(tensors).values())
        return sum(weights) + sum(map(len, self.texts.values()))

    def buffer_bytes(self, tensors: Mapping[str, TensorInfo]) -> int:
        """Memory that a thread needs at most for a tensor that is cut or transposed.

        Args:
            tensors: Facts of the tensors that come in.
        """
        sizes = [tensors[key].n_bytes for key, places in self.places.items() if _is_cut(places)]
        return 2 * max(sizes, default=0)


def _is_cut(places: tuple[Place, ...]) -> bool:
    return len(places) > 1 or any(place.transposed for place in places)


@final
class RenamingSink(Sink):
    """Hands rows on to files under other names.

    A tensor that is cut into several, or transposed, is kept in memory until it is complete.

    Args:
        sinks: The files, by the name that places have for them.
        arrangement: Where tensors go.
        tensors: Facts of the tensors that come in.
    """

    def __init__(
        self,
        sinks: Mapping[str, FileSink],
        arrangement: Arrangement,
        tensors: Mapping[str, TensorInfo],
    ) -> None:
        self.tensors = dict(tensors)
        self._sinks, self._places = dict(sinks), arrangement.places
        self._waiting: dict[str, bytearray] = {}
        self._guard = Lock()
        # The text of a tensor is kept with its first part, and counts when all parts are there.
        self.done = {
            key: self._sinks[places[0].file].done[places[0].key]
            for key, places in arrangement.places.items()
            if places and all(place.key in self._sinks[place.file].done for place in places)
        }

    def write(self, key: str, start: int, data: memoryview) -> None:
        """Write elements at their place; see `Sink.write`."""
        places = self._places[key]
        if not places:
            return
        if not _is_cut(places):
            self._sinks[places[0].file].write(places[0].key, start, data)
            return
        info = self.tensors[key]
        with self._guard:
            waiting = self._waiting.setdefault(key, bytearray(info.n_bytes))
        begin = start * info.dtype.itemsize
        waiting[begin : begin + data.nbytes] = data.cast("B")

    def remember(self, key: str, note: str) -> None:
        """Keep a text with the first part of the tensor; see `Sink.remember`."""
        for place in self._places[key][:1]:
            self._sinks[place.file].remember(place.key, note)

    def tensor_done(self, key: str, digest: str | None) -> None:
        """Write what was kept, and note the tensor; see `Sink.tensor_done`."""
        places = self._places[key]
        if not places:
            return
        if not _is_cut(places):
            self._sinks[places[0].file].tensor_done(places[0].key, digest)
            return
        size = self.tensors[key].dtype.itemsize
        with self._guard:
            whole = memoryview(self._waiting.pop(key, bytearray()))
        for place in places:
            part = whole[place.start * size : place.stop * size]
            if place.transposed:
                part = _transposed(part, place.shape, size)
            sink = self._sinks[place.file]
            sink.write(place.key, 0, part)
            sink.tensor_done(place.key, blake3(part).hexdigest() if digest else None)

    def commit(
        self, metadata: Mapping[str, str], progress: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Finish every file, and give names only when all are complete; see `Sink.commit`."""
        for sink in self._sinks.values():
            sink.complete(metadata, progress)
        for sink in self._sinks.values():
            sink.give_name()

    def abort(self) -> None:
        """Remove what was written; see `Sink.abort`."""
        self._waiting = {}
        for sink in self._sinks.values():
            sink.abort()

    def pause(self) -> int:
        """Keep the files that have something; see `Sink.pause`."""
        self._waiting = {}
        return sum([sink.pause() for sink in self._sinks.values()])


def _transposed(data: memoryview, shape: tuple[int, ...], size: int) -> memoryview:
    import numpy as np

    n_rows, n_columns = shape
    matrix = np.frombuffer(data, dtype=f"V{size}").reshape(n_columns, n_rows)
    return memoryview(matrix.T.tobytes())


@final
class FolderSink(Sink):
    """Writes a folder of several files, which has its name only when all of it is complete.

    While it is written the folder is called ``NAME.partial``, and each file in it is what a
    `FileSink` writes, with a journal of its own. A process that ends early leaves that, and a sink
    with the same facts goes on from it.

    Args:
        path: The final name. Nothing may stand there: a folder is never replaced.
        arrangement: Where tensors go, and the texts beside them.
        tensors: Facts of the tensors that come in.
        metadata: Of each file with weights, or a stand-in of at least the final length.
        verify: Whether to read every file back before the folder gets its name.
        facts: All that decides on the bytes; see `FileSink`.
        restart: Throw away what a stopped run left.
        recheck: Read again all that it left, and keep what is as it was written.

    Raises:
        OutputExistsError: Something stands under the name.
        UnfinishedError: A stopped run left something else under this name.
        OutputError: There is no room, no permission, or another process writes it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        arrangement: Arrangement,
        tensors: Mapping[str, TensorInfo],
        metadata: Mapping[str, str],
        *,
        verify: bool = True,
        facts: Mapping[str, str] | None = None,
        restart: bool = False,
        recheck: bool = False,
    ) -> None:
        self.path, self.tensors = Path(path), dict(tensors)
        self._texts = arrangement.texts
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._finished, self._sinks = False, dict[str, FileSink]()
        self._refuse_existing()
        self._claim = self._claimed(keep=not restart)
        try:
            for file, infos in arrangement.infos(tensors).items():
                place = self._partial / file
                place.parent.mkdir(parents=True, exist_ok=True)
                self._sinks[file] = FileSink(
                    place, infos, metadata, verify=verify, facts=facts, recheck=recheck
                )
        except OSError as error:
            self.pause()
            raise self._explained(error) from error
        except BaseException:
            self.pause()
            raise
        self._rows = RenamingSink(self._sinks, arrangement, tensors)
        self.done = self._rows.done

    def write(self, key: str, start: int, data: memoryview) -> None:
        """Write elements at their place in their file; see `Sink.write`."""
        self._rows.write(key, start, data)

    def remember(self, key: str, note: str) -> None:
        """Keep a text in the file's journal; see `Sink.remember`."""
        self._rows.remember(key, note)

    def tensor_done(self, key: str, digest: str | None) -> None:
        """Note the tensor in its file's journal; see `Sink.tensor_done`."""
        self._rows.tensor_done(key, digest)

    def commit(
        self, metadata: Mapping[str, str], progress: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Finish every file, write the texts, rename the folder; see `Sink.commit`."""
        for sink in self._sinks.values():
            sink.complete(metadata, progress)
        try:
            for name, data in self._texts.items():
                place = self._partial / name
                place.parent.mkdir(parents=True, exist_ok=True)
                descriptor = storage.open_for_writing(place)
                try:
                    storage.write_at(descriptor, 0, memoryview(data))
                    storage.sync(descriptor)
                    found = memoryview(bytearray(len(data)))
                    storage.read_at(descriptor, 0, found, str(place))
                    if found != data:
                        raise VerificationError(
                            f"{self.path}: {name} holds something else than what was written; "
                            "the disk or the memory is failing; nothing was saved"
                        )
                finally:
                    os.close(descriptor)
            self._refuse_existing()
            for sink in self._sinks.values():
                sink.give_name(keep_journal=True)
            for folder in (self._partial, *(p for p in self._partial.rglob("*") if p.is_dir())):
                storage.sync_folder(folder)
            # Until here a run that is killed can be gone on from.
            for sink in self._sinks.values():
                sink.forget()
            if not storage.can_rename_open():
                self._let_go()
            try:
                storage.replace(self._partial, self.path)
            except UnconfirmedError:
                self._leave()
                raise
            self._leave()
        except OSError as error:
            raise self._explained(error) from error

    def _leave(self) -> None:
        self._finished = True
        (self.path / _CLAIM).unlink(missing_ok=True)
        self._let_go()

    def abort(self) -> None:
        """Remove the unfinished folder; see `Sink.abort`."""
        if self._finished:
            return
        self._finished = True
        for sink in self._sinks.values():
            sink.abort()
        self._let_go()
        shutil.rmtree(self._partial, ignore_errors=True)

    def pause(self) -> int:
        """Keep what is done of every file; see `Sink.pause`."""
        if self._finished:
            return 0
        kept = sum([sink.pause() for sink in self._sinks.values()])
        # A file that could not be opened may be what an earlier run left.
        if not kept and not any(self._partial.rglob("*.journal")):
            self.abort()
            return 0
        self._finished = True
        self._let_go(keep=True)
        return kept

    def _claimed(self, keep: bool) -> int:
        """Make the unfinished folder ours, and clear away what cannot be gone on from."""
        claim = self._partial / _CLAIM
        try:
            if self._partial.is_symlink() or (
                self._partial.exists() and not claim.is_file() and any(self._partial.iterdir())
            ):
                raise OutputExistsError(
                    f"{self._partial}: the output grows under this name, but something that is "
                    "no unfinished output stands there; move it away, or choose another name"
                )
            self._partial.mkdir(exist_ok=True)
            descriptor = storage.open_for_writing(claim)
        except OutputExistsError:
            raise
        except OSError as error:
            raise self._explained(error) from error
        try:
            storage.lock(descriptor, claim, str(self.path), lambda: _said_by(claim))
            me = this_process().encode()
            storage.write_at(descriptor, 0, memoryview(me))
            os.ftruncate(descriptor, len(me))
            self._take_back()
            for child in sorted(self._partial.rglob("*"), reverse=True):
                if child.is_dir() and not child.is_symlink():
                    with contextlib.suppress(OSError):
                        child.rmdir()  # where nothing is left in it
                elif child != claim and not (keep and child.name.endswith(_KEPT)):
                    child.unlink()
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _take_back(self) -> None:
        """Files that were complete when a run was killed, before the folder had its name."""
        for journal in self._partial.rglob("*.partial.journal"):
            partial = journal.with_suffix("")
            named = partial.with_suffix("")
            if named.is_file() and not named.is_symlink() and not partial.exists():
                os.rename(named, partial)

    def _let_go(self, keep: bool = False) -> None:
        if self._claim >= 0:
            os.close(self._claim)
            self._claim = -1
        if not storage.can_rename_open() and not keep:
            (self._partial / _CLAIM).unlink(missing_ok=True)

    def _refuse_existing(self) -> None:
        storage.check_name(self.path)
        if self.path.exists() or self.path.is_symlink():
            raise OutputExistsError(
                f"{self.path}: the name is taken, and a folder is never replaced; "
                "choose another name, or move it away"
            )

    def _explained(self, error: OSError) -> OSError:
        if isinstance(error, OutputError | OutputExistsError):
            return error
        return OutputError(
            f"{self.path}: the output cannot be written: {error.strerror}; nothing was saved "
            "under that name"
        )


def is_unfinished(folder: Path) -> bool:
    """Whether a folder is an output that is not complete, which nobody should take for a model.

    Args:
        folder: Any folder.

    Returns:
        True where a `FolderSink` writes, or wrote until it was killed.
    """
    return folder.name.endswith(".partial") and (folder / _CLAIM).is_file()


def _said_by(claim: Path) -> str:
    """Who claims a folder, in the words of the claim."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return claim.read_text("utf-8")[:_MOST_CHARACTERS]
    return ""
