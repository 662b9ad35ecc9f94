"""Windows' and macOS' manners with files, imitated: neither system was at hand to run this on.

The imitation stands where the storage module calls the system (`storage.through`), and at the few
calls of `pathlib`. It refuses what those systems refuse.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stockpot.checkpoints import (
    DTYPES,
    Arrangement,
    FileSink,
    FolderSink,
    Place,
    TensorInfo,
    open_checkpoint,
    storage,
    write_whole,
)
from stockpot.engine import merge
from stockpot.errors import OutputError, PreflightError
from stockpot.recipes import make_recipe

# What text files do to bytes on Windows: both must come through whole.
BYTES = b"\r\n\x1a\n\r\r\x00" * 1000
INFO = TensorInfo("a", DTYPES["U8"], (len(BYTES),))
POSIX_ONLY = frozenset(
    "preadv pwrite pread posix_fallocate fdatasync posix_fadvise POSIX_FADV_DONTNEED O_DIRECT "
    "O_NOFOLLOW O_CLOEXEC fchmod".split()
)
LOCKS: dict[tuple[int, int], int] = {}


def holders(path: Any) -> list[str]:
    """Open files of this process at a path, or below it."""
    place = os.path.realpath(path)
    found = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
    return [name for name in found if name == place or name.startswith(place + os.sep)]


def refuse_open(path: Any) -> None:
    """What Windows says of a file that somebody holds: ERROR_SHARING_VIOLATION."""
    if holders(path):
        raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))


class Windows:
    """Has what `os` has on Windows, and nothing else."""

    name = "nt"
    O_BINARY = 1 << 30

    def __init__(self) -> None:
        self.text: set[int] = set()
        self.offsets_moved = 0

    def __getattr__(self, name: str) -> Any:
        if name in POSIX_ONLY:
            raise AttributeError(name)
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "a folder cannot be opened", str(path))
        descriptor = os.open(path, flags & ~self.O_BINARY, mode)
        (self.text.discard if flags & self.O_BINARY else self.text.add)(descriptor)
        return descriptor

    def read(self, descriptor: int, n: int) -> bytes:
        data = os.read(descriptor, min(n, 4096))
        if descriptor in self.text:
            data = data.partition(b"\x1a")[0].replace(b"\r\n", b"\n")
        return data

    def lseek(self, descriptor: int, offset: int, how: int) -> int:
        self.offsets_moved += 1
        return os.lseek(descriptor, min(offset, (1 << 62) - 1), how)

    def replace(self, source: Any, target: Any) -> None:
        refuse_open(source)
        if os.path.exists(target):
            refuse_open(target)
        os.replace(source, target)


class Kernel:
    """Of the system's library, the call that locks."""

    def __init__(self, name: str, use_last_error: bool) -> None:
        assert (name, use_last_error) == ("kernel32", True)

        def lock(handle: int, flags: int, _: int, low: int, high: int, place: Any) -> int:
            """A byte belongs to one handle, until that is closed; others cannot even read it."""
            assert (flags, low, high) == (3, 1, 0)
            at = place._obj.low | place._obj.high << 32
            assert at > 1 << 50, "data would be locked"
            key = (os.fstat(handle).st_ino, at)
            owner = LOCKS.get(key, handle)
            if owner != handle and f"{owner}" in os.listdir("/proc/self/fd"):
                if os.fstat(owner).st_ino == key[0]:
                    return 0
            LOCKS[key] = handle
            return 1

        self.LockFileEx = lock


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[Windows]:
    module: Any = types.ModuleType("msvcrt")
    module.get_osfhandle = lambda descriptor: descriptor
    monkeypatch.setattr(ctypes, "WinDLL", Kernel, raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: 33, raising=False)
    monkeypatch.setitem(sys.modules, "msvcrt", module)
    LOCKS.clear()
    system, unlink, rename = Windows(), os.unlink, os.rename

    def unlinked(path: Any, **named: Any) -> None:
        if not named.get("dir_fd"):
            refuse_open(path)
        unlink(path, **named)

    def renamed(source: Any, target: Any) -> None:
        refuse_open(source)
        rename(source, target)

    monkeypatch.setattr(os, "unlink", unlinked)
    monkeypatch.setattr(os, "rename", renamed)
    with storage.through(system):
        yield system


def written(path: Path, **options: Any) -> FileSink:
    sink = FileSink(path, {"a": INFO}, {"format": "pt"}, **options)
    sink.write("a", 0, memoryview(BYTES))
    from blake3 import blake3

    sink.tensor_done("a", blake3(BYTES).hexdigest())
    return sink


def content(path: Path) -> bytes:
    with open_checkpoint(path) as source:
        return source.read_bytes("a")


def test_windows_writes_the_same_bytes(windows: Windows, tmp_path: Path) -> None:
    written(tmp_path / "x.safetensors").commit({"format": "pt"})
    assert content(tmp_path / "x.safetensors") == BYTES
    assert not windows.text and windows.offsets_moved
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_windows_locks_by_byte_and_frees_with_the_handle(windows: Windows, tmp_path: Path) -> None:
    first = written(tmp_path / "x.safetensors", facts={"made of": "a"})
    with pytest.raises(OutputError, match="is writing this output"):
        written(tmp_path / "x.safetensors", facts={"made of": "a"})
    first.pause()
    second = written(tmp_path / "x.safetensors", facts={"made of": "a"})
    assert "a" in second.done  # gone on from
    second.commit({"format": "pt"})
    assert content(tmp_path / "x.safetensors") == BYTES


def test_windows_keeps_a_file_that_another_program_has_open(
    windows: Windows, tmp_path: Path
) -> None:
    for name, value in (("a", 1), ("b", 3)):
        save_file({"w": np.full(50, value, np.float16)}, tmp_path / f"{name}.safetensors")
    output = tmp_path / "mix.safetensors"
    output.write_bytes(b"old")
    from stockpot.engine import Settings

    recipe = make_recipe("mean(a, b)", {"a": "a.safetensors", "b": "b.safetensors"})
    settings = Settings(overwrite=True)
    with output.open("rb"):
        with pytest.raises(OutputError, match="close the program that has the file open"):
            merge(recipe, output, folder=tmp_path, settings=settings)
        assert output.read_bytes() == b"old"
    merge(recipe, output, folder=tmp_path, settings=settings)
    assert (load_file(output)["w"] == 2).all()
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}


def test_windows_writes_a_folder(windows: Windows, tmp_path: Path) -> None:
    places = {"a": (Place("vae/x.safetensors", "a", INFO.shape, 0, len(BYTES)),)}
    arrangement = Arrangement(places, {"model_index.json": b"{}"})
    sink = FolderSink(tmp_path / "folder", arrangement, {"a": INFO}, {"format": "pt"})
    sink.write("a", 0, memoryview(BYTES))
    sink.tensor_done("a", None)
    sink.commit({"format": "pt"})
    assert content(tmp_path / "folder" / "vae" / "x.safetensors") == BYTES
    found = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["model_index.json", "x.safetensors"]


def test_windows_reads_by_many_threads_at_once(windows: Windows, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(200_000)
    (tmp_path / "x").write_bytes(data)
    descriptor = storage.open_for_reading(tmp_path / "x")
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(200):
            begin = rng.randrange(190_000)
            out = bytearray(rng.randrange(1, 9000))
            storage.read_at(descriptor, begin, memoryview(out), "x")
            if out != data[begin : begin + len(out)]:
                wrong.append(begin)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(descriptor)
    assert not wrong


NAMES = {
    "CON.safetensors": "device", "aux": "device", "nul.tar.safetensors": "device",
    "com7.safetensors": "device", "LPT¹": "device", "a:b.safetensors": "Windows does not allow",
    "what?": "Windows does not allow", "a\tb": "Windows does not allow",
    "mix.": "Windows drops", "mix ": "Windows drops", "x" * 240: "more than 260",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_windows_names_that_are_none(windows: Windows, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=f"the name .*{NAMES[name]}.*; choose another"):
        written(tmp_path / name)
    with pytest.raises(OutputError, match="; choose another"):
        write_whole(tmp_path / name, b"page")
    assert not list(tmp_path.iterdir())


def test_such_names_are_names_elsewhere(tmp_path: Path) -> None:
    written(tmp_path / "CON.safetensors").commit({"format": "pt"})
    assert content(tmp_path / "CON.safetensors") == BYTES


def test_another_case_of_an_inputs_name_is_that_input(tmp_path: Path) -> None:
    """Where upper and lower case are one name, as on Windows and macOS; here by a second name."""
    for name in "ab":
        save_file({"w": np.ones(5, np.float16)}, tmp_path / f"{name}.safetensors")
    os.link(tmp_path / "a.safetensors", tmp_path / "A.safetensors")
    recipe = make_recipe("mean(a, b)", {"a": "a.safetensors", "b": "b.safetensors"})
    from stockpot.engine import Settings

    with pytest.raises(PreflightError, match="an input is never written to"):
        merge(recipe, tmp_path / "A.safetensors", folder=tmp_path,
              settings=Settings(overwrite=True))  # fmt: skip


class MacOS:
    """Has what `os` has on macOS; notes what is synced, and how."""

    name = "posix"
    lacking = frozenset("posix_fallocate fdatasync posix_fadvise O_DIRECT".split())

    def __init__(self) -> None:
        self.plain: list[int] = []

    def __getattr__(self, name: str) -> Any:
        if name in self.lacking:
            raise AttributeError(name)
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        self.plain.append(descriptor)


@contextmanager
def macos(
    monkeypatch: pytest.MonkeyPatch, has_full_sync: bool
) -> Iterator[tuple[MacOS, list[str]]]:
    import fcntl

    system, full = MacOS(), list[str]()
    imitation: Any = types.ModuleType("fcntl")
    imitation.flock, imitation.LOCK_EX, imitation.LOCK_NB = (
        fcntl.flock, fcntl.LOCK_EX, fcntl.LOCK_NB
    )  # fmt: skip
    imitation.F_FULLFSYNC = 51

    def control(descriptor: int, command: int) -> int:
        if not has_full_sync:
            raise OSError(errno.ENOTSUP, "no such command")
        full.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        return 0

    imitation.fcntl = control
    monkeypatch.setitem(sys.modules, "fcntl", imitation)
    monkeypatch.setattr(storage.sys, "platform", "darwin")
    with storage.through(system):
        yield system, full


def test_macos_syncs_through_the_drives_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with macos(monkeypatch, True) as (system, full):
        written(tmp_path / "x.safetensors").commit({"format": "pt"})
    # The file before its name, the folder after.
    assert full[-2:] == [str(tmp_path / "x.safetensors.partial"), str(tmp_path)]
    assert content(tmp_path / "x.safetensors") == BYTES
    assert system.lacking


def test_disks_without_that_command_are_synced_as_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with macos(monkeypatch, False) as (system, full):
        written(tmp_path / "x.safetensors").commit({"format": "pt"})
    assert system.plain and not full
    assert content(tmp_path / "x.safetensors") == BYTES
