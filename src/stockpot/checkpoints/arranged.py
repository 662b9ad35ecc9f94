"""Sinks that write a checkpoint in another arrangement: under other names, in several files.

Rows come under the names of a checkpoint, as everywhere; an arrangement says where each goes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import final

from blake3 import blake3

from stockpot.checkpoints import storage
from stockpot.checkpoints.sinks import FileSink, Sink, file_bytes
from stockpot.checkpoints.sources import TensorInfo
from stockpot.errors import OutputError, OutputExistsError

__all__ = ["Arrangement", "FolderSink", "Place", "RenamingSink"]

_CLAIM = ".stockpot-writes-here"


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
        """Finish every file; see `Sink.commit`."""
        for sink in self._sinks.values():
            sink.commit(metadata, progress)

    def abort(self) -> None:
        """Remove what was written; see `Sink.abort`."""
        self._waiting = {}
        for sink in self._sinks.values():
            sink.abort()


def _transposed(data: memoryview, shape: tuple[int, ...], size: int) -> memoryview:
    import numpy as np

    n_rows, n_columns = shape
    matrix = np.frombuffer(data, dtype=f"V{size}").reshape(n_columns, n_rows)
    return memoryview(matrix.T.tobytes())


@final
class FolderSink(Sink):
    """Writes a folder of several files, which has its name only when all of it is complete.

    While it is written the folder is called ``NAME.partial``. A killed process leaves that; the
    next run under the same name replaces it.

    Args:
        path: The final name. Nothing may stand there: a folder is never replaced.
        arrangement: Where tensors go, and the texts beside them.
        tensors: Facts of the tensors that come in.
        metadata: Of each file with weights, or a stand-in of at least the final length.
        verify: Whether to read every file back before the folder gets its name.
        plan: Fingerprint of what is being written.

    Raises:
        OutputExistsError: Something stands under the name.
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
        plan: str = "",
    ) -> None:
        self.path, self.tensors = Path(path), dict(tensors)
        self._texts = arrangement.texts
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._finished, self._sinks = False, dict[str, FileSink]()
        self._refuse_existing()
        self._claim = self._claimed()
        try:
            for file, infos in arrangement.infos(tensors).items():
                place = self._partial / file
                place.parent.mkdir(parents=True, exist_ok=True)
                self._sinks[file] = FileSink(place, infos, metadata, verify=verify, plan=plan)
        except OSError as error:
            self.abort()
            raise self._explained(error) from error
        except BaseException:
            self.abort()
            raise
        self._rows = RenamingSink(self._sinks, arrangement, tensors)

    def write(self, key: str, start: int, data: memoryview) -> None:
        """Write elements at their place in their file; see `Sink.write`."""
        self._rows.write(key, start, data)

    def tensor_done(self, key: str, digest: str | None) -> None:
        """Note the tensor in its file's journal; see `Sink.tensor_done`."""
        self._rows.tensor_done(key, digest)

    def commit(
        self, metadata: Mapping[str, str], progress: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Finish every file, write the texts, rename the folder; see `Sink.commit`."""
        self._rows.commit(metadata, progress)
        try:
            for name, data in self._texts.items():
                place = self._partial / name
                place.parent.mkdir(parents=True, exist_ok=True)
                descriptor = storage.open_for_writing(place)
                try:
                    storage.write_at(descriptor, 0, memoryview(data))
                    storage.sync(descriptor)
                finally:
                    os.close(descriptor)
            for folder in (self._partial, *(p for p in self._partial.rglob("*") if p.is_dir())):
                storage.sync_folder(folder)
            self._refuse_existing()
            (self._partial / _CLAIM).unlink() if storage.can_rename_open() else self._let_go()
            storage.replace(self._partial, self.path)
        except OSError as error:
            raise self._explained(error) from error
        self._finished = True
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

    def _claimed(self) -> int:
        """Make the unfinished folder ours, whatever a killed run left in it."""
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
            storage.lock(descriptor, claim, str(self.path))
            for child in self._partial.iterdir():
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child)
                elif child.name != _CLAIM:
                    child.unlink()
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _let_go(self) -> None:
        if self._claim >= 0:
            os.close(self._claim)
            self._claim = -1
        if not storage.can_rename_open():
            (self._partial / _CLAIM).unlink(missing_ok=True)

    def _refuse_existing(self) -> None:
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
