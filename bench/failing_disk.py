"""A disk that fails as told: it stands between Stockpot and the system, in one process.

Reads and writes of weights go through `stockpot.checkpoints.storage.through`; small files that are
opened by Python's own `open` go through a raw file of the same manners. Only what lies in a watched
folder is touched.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.checkpoints import storage


@dataclass(frozen=True)
class Call:
    """One call to the system that can be made to fail.

    Attributes:
        operation: `open`, `read`, `write`, `reserve`, `sync`, or `rename`.
        side: `in` for a file below the folder of inputs, else `out`.
        n_bytes: How much it moves.
    """

    operation: str
    side: str
    n_bytes: int


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and when.

    Attributes:
        name: Of the fault, as in the table.
        kind: `error`, `flip`, `flip-after`, `short`, `slow`, `memory`, `replace`, `truncate` or
            `rewrite`.
        operations: Which calls it can strike.
        code: Of the error.
        lasting: Whether every later call on that side fails too, as where a disk has vanished.
        side: Where it can strike: `in`, `out`, or both where empty.
    """

    name: str
    kind: str
    operations: tuple[str, ...]
    code: int = 0
    lasting: bool = False
    side: str = ""

    def strikes(self, call: Call) -> bool:
        """Whether a call can be struck."""
        fits = call.operation in self.operations and self.side in ("", call.side)
        return fits and (call.n_bytes > 0 or self.kind != "flip")


_ALL = ("open", "read", "write", "reserve", "sync", "rename")
FAULTS = (
    Fault("short reads", "short", ("read",)),
    Fault("short writes", "short", ("write",)),
    Fault("slow", "slow", _ALL),
    Fault("EINTR", "error", ("open", "read", "write", "sync"), errno.EINTR),
    Fault("EIO, reading", "error", ("read",), errno.EIO),
    Fault("EIO, writing", "error", ("write",), errno.EIO),
    Fault("EIO, syncing", "error", ("sync",), errno.EIO),
    Fault("ENOSPC", "error", ("write", "reserve"), errno.ENOSPC, True, "out"),
    Fault("EDQUOT", "error", ("write", "reserve"), errno.EDQUOT, True, "out"),
    Fault("EACCES", "error", ("open", "rename"), errno.EACCES),
    Fault("EMFILE", "error", ("open",), errno.EMFILE),
    Fault("ESTALE", "error", _ALL, errno.ESTALE, True),
    Fault("ENOTCONN", "error", _ALL, errno.ENOTCONN, True),
    Fault("bit flip, reading", "flip", ("read",)),
    Fault("bit flip, writing", "flip", ("write",), side="out"),
    Fault("bit flip, on the disk", "flip-after", ("sync",), side="out"),
    Fault("input replaced", "replace", ("read",), side="in"),
    Fault("input truncated", "truncate", ("read",), side="in"),
    Fault("input rewritten", "rewrite", ("read",), side="in"),
    Fault("no memory", "memory", _ALL),
)


class FailingDisk:
    """Passes calls on to the system, and lets one of them fail.

    Args:
        folder: What lies below is watched; inputs are below its folder `in`.
        rng: Decides where a bit flips.
        fault: What goes wrong; nothing where None, calls are only noted.
        at: Number of the call that is struck, among those that the fault can strike.
    """

    def __init__(
        self, folder: Path, rng: random.Random, fault: Fault | None = None, at: int = 0
    ) -> None:
        self.calls: list[Call] = []
        self.struck: Path | None = None
        self._folder, self._in = os.path.realpath(folder), os.path.realpath(folder / "in")
        self._rng, self._fault, self._at = rng, fault, at
        self._paths: dict[int, str] = {}
        self._count = 0
        self._gone: str | None = None
        self._guard = threading.RLock()
        self.preadv = self._preadv
        self.pwrite = self._pwrite

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Let all files of the folder be on this disk."""
        real_open, real_replace = builtins.open, os.replace
        real_io = io.open

        def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if isinstance(file, int) or not self._watched(os.fspath(file)):
                return real_open(file, mode, *rest, **named)
            return self._python_file(os.fspath(file), mode, *rest, **named)

        def replace(source: Any, target: Any) -> None:
            if self._watched(os.fspath(target)):
                self._strike("rename", os.fspath(target))
            real_replace(source, target)

        try:
            builtins.open = opened
            io.open = opened
            os.replace = replace  # type: ignore[assignment]
            with storage.through(self):
                yield
        finally:
            builtins.open, io.open, os.replace = real_open, real_io, real_replace

    # What the storage module calls.

    def open(self, path: Any, flags: int, *mode: int) -> int:
        """As `os.open`."""
        where = os.path.realpath(path)
        if not self._watched(where):
            return os.open(path, flags, *mode)
        self._strike("open", where)
        descriptor = os.open(path, flags, *mode)
        with self._guard:
            self._paths[descriptor] = where
        return descriptor

    def close(self, descriptor: int) -> None:
        """As `os.close`."""
        with self._guard:
            self._paths.pop(descriptor, None)
        os.close(descriptor)

    def _preadv(self, descriptor: int, pieces: list[memoryview], offset: int) -> int:
        path = self._path(descriptor)
        if path is None:
            return os.preadv(descriptor, pieces, offset)
        first = memoryview(pieces[0]).cast("B")
        kind = self._strike("read", path, first.nbytes)
        if kind == "short":
            first = first[: self._rng.randint(1, first.nbytes)]
        got = os.preadv(descriptor, [first], offset)
        if kind == "flip" and got:
            first[self._rng.randrange(got)] ^= 1 << self._rng.randrange(8)
        return got

    def _pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        path = self._path(descriptor)
        if path is None:
            return os.pwrite(descriptor, data, offset)
        kind = self._strike("write", path, memoryview(data).nbytes)
        return os.pwrite(descriptor, self._spoilt(kind, data), offset)

    def posix_fallocate(self, descriptor: int, offset: int, length: int) -> None:
        """As `os.posix_fallocate`."""
        self._strike("reserve", self._path(descriptor))
        os.posix_fallocate(descriptor, offset, length)

    def ftruncate(self, descriptor: int, length: int) -> None:
        """As `os.ftruncate`."""
        self._strike("reserve", self._path(descriptor))
        os.ftruncate(descriptor, length)

    def fsync(self, descriptor: int) -> None:
        """As `os.fsync`."""
        kind = self._strike("sync", self._path(descriptor))
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
        if kind == "flip-after" and size and self._path(descriptor) is not None:
            at = self._rng.randrange(size)
            try:
                (byte,) = os.pread(descriptor, 1, at)
                os.pwrite(descriptor, bytes([byte ^ 1 << self._rng.randrange(8)]), at)
                os.fsync(descriptor)
            except OSError:
                self.struck = None  # a folder, or open for reading only

    def fdatasync(self, descriptor: int) -> None:
        """As `os.fdatasync`."""
        self.fsync(descriptor)

    # What everything comes to.

    def _watched(self, path: str | bytes) -> bool:
        where = os.fsdecode(os.path.realpath(path))
        return where == self._folder or where.startswith(self._folder + os.sep)

    def _path(self, descriptor: int) -> str | None:
        with self._guard:
            return self._paths.get(descriptor)

    def _strike(self, operation: str, path: str | None, n_bytes: int = 0) -> str:
        """Note a call; raise, or say what is to be done to it."""
        if path is None:
            return ""
        with self._guard:
            side = "in" if os.path.realpath(path).startswith(self._in + os.sep) else "out"
            call = Call(operation, side, n_bytes)
            self.calls.append(call)
            fault = self._fault
            if fault is None:
                return ""
            if fault.kind in ("short", "slow"):
                if fault.strikes(call):
                    self.struck = Path(path)
                    if fault.kind == "slow" and self._rng.random() < 0.2:
                        time.sleep(self._rng.uniform(0, 0.002))
                    return fault.kind
                return ""
            if self._gone == side:
                raise OSError(fault.code, os.strerror(fault.code))
            if not fault.strikes(call):
                return ""
            self._count += 1
            if self._count - 1 != self._at:
                return ""
            self.struck = Path(path)
            if fault.kind == "error":
                if fault.lasting:
                    self._gone = side
                raise OSError(fault.code, os.strerror(fault.code))
            if fault.kind == "memory":
                raise MemoryError
            _CHANGES.get(fault.kind, lambda path: None)(Path(path))
            return fault.kind

    def _spoilt(self, kind: str, data: Any) -> Any:
        if kind == "short":
            return memoryview(data)[: self._rng.randint(1, max(1, memoryview(data).nbytes))]
        if kind == "flip":
            spoilt = bytearray(data)
            spoilt[self._rng.randrange(len(spoilt))] ^= 1 << self._rng.randrange(8)
            return spoilt
        return data

    def _python_file(
        self, path: str, mode: str, buffering: int = -1, encoding: str | None = None,
        errors: str | None = None, newline: str | None = None, *_: Any
    ) -> Any:  # fmt: skip
        self._strike("open", path)
        raw = _RawFile(self, path, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        kinds: dict[tuple[bool, bool], Any] = {
            (True, True): io.BufferedRandom,
            (True, False): io.BufferedReader,
            (False, True): io.BufferedWriter,
        }
        buffered = kinds[raw.readable(), raw.writable()](raw)
        if "b" in mode:
            return buffered
        encoding = io.text_encoding(encoding) if encoding is None else encoding
        return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)


class _RawFile(io.FileIO):
    """A file of Python's own, on the same disk."""

    def __init__(self, disk: FailingDisk, path: str, mode: str) -> None:
        super().__init__(path, mode)  # type: ignore[arg-type]
        self._disk, self._place = disk, path

    def readinto(self, buffer: Any) -> int:
        """As a raw file's."""
        view = memoryview(buffer).cast("B")
        kind = self._disk._strike("read", self._place, view.nbytes)
        if kind == "short":
            view = view[: self._disk._rng.randint(1, view.nbytes)]
        got = super().readinto(view)
        if kind == "flip" and got:
            view[self._disk._rng.randrange(got)] ^= 1 << self._disk._rng.randrange(8)
        return got

    def readall(self) -> bytes:
        """As a raw file's, by way of `readinto`."""
        found, piece = bytearray(), bytearray(1 << 16)
        while got := self.readinto(piece):
            found += piece[:got]
        return bytes(found)

    def write(self, data: Any) -> int:
        """As a raw file's."""
        kind = self._disk._strike("write", self._place, memoryview(data).nbytes)
        return super().write(self._disk._spoilt(kind, data))


def _replace(path: Path) -> None:
    """Another file takes the name, as when a download ends."""
    other = path.with_name(path.name + ".new")
    other.write_bytes(bytes(byte ^ 0x55 for byte in path.read_bytes()[:4096]))
    os.rename(other, path)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _rewrite(path: Path) -> None:
    """Another program writes into the file itself."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        size = os.fstat(descriptor).st_size
        begin = size * 3 // 5
        data = os.pread(descriptor, size - begin, begin)
        os.pwrite(descriptor, bytes(byte ^ 1 for byte in data), begin)
    finally:
        os.close(descriptor)


_CHANGES: dict[str, Callable[[Path], None]] = {
    "replace": _replace,
    "truncate": _truncate,
    "rewrite": _rewrite,
}
