"""All or nothing: what is on the disk before, during and after a write, and when it fails."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from stockpot.checkpoints import (
    DTYPES,
    FileSink,
    SafetensorsFile,
    TensorInfo,
    free_bytes,
    open_checkpoint,
    storage,
)
from stockpot.errors import OutputError, OutputExistsError, TruncatedFileError, VerificationError

INFOS = {
    "a": TensorInfo("a", DTYPES["F16"], (4,)),
    "b": TensorInfo("b", DTYPES["F32"], (1000,)),
}
DATA = {"a": b"abcdefgh", "b": bytes(range(250)) * 16}
META = {"format": "pt"}
FACTS = {"the plan": "abc"}


def fill(sink: FileSink) -> None:
    """Write all tensors, in pieces and backwards."""
    for key, data in DATA.items():
        size = INFOS[key].dtype.itemsize
        middle = len(data) // 2 // size
        sink.write(key, middle, memoryview(data)[middle * size :])
        sink.write(key, 0, memoryview(data)[: middle * size])
        sink.tensor_done(key, blake3(data).hexdigest())


def names(folder: Path) -> list[str]:
    """What stands in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_the_name_comes_last(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    sink = FileSink(path, INFOS, META, facts=FACTS)
    fill(sink)
    assert names(tmp_path) == ["out.safetensors.partial", "out.safetensors.partial.journal"]
    assert (tmp_path / "out.safetensors.partial").stat().st_size == sink.n_bytes
    checked: list[int] = []
    sink.commit(META, checked.append)
    assert names(tmp_path) == ["out.safetensors"]
    assert sum(checked) == 4008
    with open_checkpoint(path) as source:
        assert {key: source.read_bytes(key) for key in source.tensors} == DATA
    sink.abort()  # too late to undo anything
    assert names(tmp_path) == ["out.safetensors"]


def test_the_journal_tells_what_is_done(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out.safetensors", INFOS, META, facts=FACTS)
    journal = tmp_path / "out.safetensors.partial.journal"
    sink.write("a", 0, memoryview(DATA["a"]))
    sink.remember("a", "made of b")
    sink.tensor_done("a", "00")
    lines = [json.loads(line.split("\t")[0]) for line in journal.read_text().splitlines()]
    size = f"{sink.n_bytes} bytes"
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert lines == [
        {"version": 2, "facts": {"the plan": "abc", "size of the file": size}, "owner": owner},
        {"key": "a", "blake3": "00", "note": "made of b"},
    ]
    sink.abort()


def test_abort_leaves_nothing(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out.safetensors", INFOS, META)
    fill(sink)
    sink.abort()
    sink.abort()
    assert names(tmp_path) == []


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match="out.safetensors: the file exists, .* --overwrite"):
        FileSink(path, INFOS, META)
    assert names(tmp_path) == ["out.safetensors"]
    assert path.read_bytes() == b"old"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    sink = FileSink(path, INFOS, META)
    fill(sink)
    path.write_bytes(b"other")
    with pytest.raises(OutputExistsError, match="the file exists"):
        sink.commit(META)
    sink.abort()
    assert names(tmp_path) == ["out.safetensors"]
    assert path.read_bytes() == b"other"


def test_overwriting_happens_at_the_very_end(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    path.write_bytes(b"old")
    sink = FileSink(path, INFOS, META, overwrite=True)
    fill(sink)
    assert path.read_bytes() == b"old"
    sink.commit(META)
    with open_checkpoint(path) as source:
        assert source.read_bytes("a") == DATA["a"]


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError, match="out: the output must be a file, but is a folder"):
        FileSink(tmp_path / "out", INFOS, META, overwrite=True)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: No such .*; make the folder first"):
        FileSink(tmp_path / "no" / "out", INFOS, META)


def test_a_link_in_place_of_the_partial_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "out.partial").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match="the output cannot be written"):
        FileSink(tmp_path / "out", INFOS, META)
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("where", ["header", "a", "b"])
def test_a_flipped_byte_is_found(tmp_path: Path, where: str) -> None:
    path = tmp_path / "out.safetensors"
    sink = FileSink(path, INFOS, META)
    fill(sink)
    partial = tmp_path / "out.safetensors.partial"
    # The header is written by commit: spoil it there, through the progress of the sync before.
    at = {"a": sink.n_bytes - 3, "b": sink.n_bytes - 100, "header": 12}[where]

    def flip() -> None:
        with partial.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))

    with after_sync(flip) if where == "header" else no_change():
        if where != "header":
            flip()
        named = "the header" if where == "header" else where
        with pytest.raises(VerificationError, match=f"{named}: the bytes on the disk are not"):
            sink.commit(META)
    sink.abort()
    assert names(tmp_path) == []


@contextmanager
def no_change() -> Iterator[None]:
    """Nothing."""
    yield


@contextmanager
def after_sync(then: Callable[[], None]) -> Iterator[None]:
    """Do something right after the last sync."""
    with pytest.MonkeyPatch.context() as patch:
        real = storage.sync

        def sync(descriptor: int) -> None:
            real(descriptor)
            then()

        patch.setattr(storage, "sync", sync)
        yield


def test_without_verification_nothing_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FileSink(tmp_path / "out.safetensors", INFOS, META, verify=False)
    fill(sink)

    def refuse(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(storage, "DiskReader", refuse)
    sink.commit(META)
    assert names(tmp_path) == ["out.safetensors"]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    sink = FileSink(path, INFOS, META, facts=FACTS)
    program = (
        "import sys\n"
        "from stockpot.checkpoints import FileSink\n"
        "from stockpot.errors import OutputError\n"
        "try: FileSink(sys.argv[1], {}, {})\n"
        "except OutputError as error: print(error)\n"
    )
    other = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert other.stdout == (
        f"{path}: process {os.getpid()} on {socket.gethostname()} is writing this output; wait for "
        "it, or choose another name\n"
    )
    fill(sink)  # the first is not disturbed
    sink.commit(META)
    assert names(tmp_path) == ["out.safetensors"]


def test_a_dead_writers_claim_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    program = (
        "import os, sys, signal\n"
        "from stockpot.checkpoints import *\n"
        "infos = {'x': TensorInfo('x', DTYPES['U8'], (9000,))}\n"
        "sink = FileSink(sys.argv[1], infos, {}, facts={'x': 'y'})\n"
        "sink.write('x', 0, memoryview(b'?' * 9000))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    dead = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["out.safetensors.partial", "out.safetensors.partial.journal"]
    sink = FileSink(path, INFOS, META)
    fill(sink)
    sink.commit(META)
    assert names(tmp_path) == ["out.safetensors"]
    with open_checkpoint(path) as source:
        assert {key: source.read_bytes(key) for key in source.tensors} == DATA


def test_a_file_that_was_finished_while_we_opened_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.safetensors"
    real = storage.open_for_writing

    def slow(partial: Path) -> int:
        descriptor = real(partial)
        os.replace(partial, path)  # the other process finishes just now
        return descriptor

    (tmp_path / "out.safetensors.partial").write_bytes(b"complete")
    monkeypatch.setattr(storage, "open_for_writing", slow)
    with pytest.raises(OutputError, match="another process is writing this output"):
        FileSink(path, INFOS, META)
    assert path.read_bytes() == b"complete"


def full(*_: object) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_shows_before_the_first_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        OutputError,
        match=r"out: the output cannot be written: No space left on device; "
        r"free some room: the file takes \d+ bytes",
    ):
        FileSink(tmp_path / "out", INFOS, META)
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FileSink(tmp_path / "out", INFOS, META)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="No space left on device; free some room"):
        fill(sink)
    sink.abort()
    assert names(tmp_path) == []


def test_a_size_limit_of_the_system(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OutputError, match="out: the output cannot be written: File too large"):
            FileSink(tmp_path / "out", INFOS, META)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == []


def test_a_disk_without_allocation_ahead_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    sink = FileSink(tmp_path / "out", INFOS, META)
    fill(sink)
    sink.commit(META)
    assert names(tmp_path) == ["out"]


def test_a_failed_sync_in_the_background_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stockpot.checkpoints.file_sink._SYNC_BYTES", 100)
    called = threading.Event()

    def broken(descriptor: int) -> None:
        called.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(storage, "sync_data", broken)
    sink = FileSink(tmp_path / "out", INFOS, META)
    fill(sink)
    assert called.wait(10)
    with pytest.raises(OutputError, match="Input/output error; nothing was saved under that name"):
        sink.commit(META)
    sink.abort()
    assert names(tmp_path) == []


def test_calls_that_move_few_bytes_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: preadv(fd, [parts[0][:5]], at))
    write_and_read(tmp_path / "out")


@pytest.mark.parametrize("error", [errno.EINVAL, None])
def test_disks_that_cannot_be_read_past_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    real = os.open

    def no_direct(path: Path, flags: int, *mode: int) -> int:
        if error is not None and flags & os.O_DIRECT:
            raise OSError(error, os.strerror(error))
        return real(path, flags & ~os.O_DIRECT, *mode)

    monkeypatch.setattr(os, "open", no_direct)
    write_and_read(tmp_path / "out")


def test_systems_without_positional_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_HAS_POSITIONAL", False)
    monkeypatch.delattr(os, "pwrite")
    monkeypatch.delattr(os, "preadv")
    write_and_read(tmp_path / "out")


def test_systems_that_cannot_rename_an_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "can_rename_open", lambda: False)
    replace, closed = storage.replace, []
    monkeypatch.setattr(storage, "replace", lambda a, b: (closed.append(is_open(a)), replace(a, b)))
    write_and_read(tmp_path / "out")
    assert closed == [False]
    sink = FileSink(tmp_path / "out", INFOS, META, overwrite=True)
    sink.abort()
    assert names(tmp_path) == ["out"]


def is_open(path: Path) -> bool:
    """Whether this process holds a file open."""
    targets = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
    return str(path) in targets


def write_and_read(path: Path) -> None:
    """Write the tensors with a check, and read them by several threads."""
    sink = FileSink(path, INFOS, META)
    fill(sink)
    sink.commit(META)
    source = SafetensorsFile(path)
    found: list[bool] = []

    def read() -> None:
        found.append(all(source.read_bytes(key) == data for key, data in DATA.items()))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    source.close()
    assert found == [True] * 4


def test_a_short_file_is_told_by_place(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"123")
    descriptor = storage.open_for_reading(path)
    with pytest.raises(TruncatedFileError, match="x: the file ends at byte 3, but 2 more bytes"):
        storage.read_at(descriptor, 1, memoryview(bytearray(4)), "x")
    os.close(descriptor)


def test_free_room_is_a_number(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0


def test_what_is_read_back_while_the_rest_is_written_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stockpot.checkpoints.file_sink._SYNC_BYTES", 1)
    real, read = storage.DiskReader, threading.Event()

    def reader(path: Path, most_bytes: int) -> storage.DiskReader:
        read.set()
        return real(path, most_bytes)

    monkeypatch.setattr(storage, "DiskReader", reader)
    done: list[int] = []
    for damage in (False, True):
        sink = FileSink(tmp_path / f"out-{damage}", INFOS, META)
        sink.write("a", 0, memoryview(DATA["a"]))
        sink.tensor_done("a", blake3(b"other" if damage else DATA["a"]).hexdigest())
        for _ in range(10_000):  # the first sync after `a` was done hands it over
            sink.write("b", 0, memoryview(DATA["b"]))
            if read.wait(0.001):
                break
        assert read.is_set()
        read.clear()
        sink.tensor_done("b", blake3(DATA["b"]).hexdigest())
        if damage:
            with pytest.raises(VerificationError, match="a: the bytes on the disk"):
                sink.commit(META)
            sink.abort()
        else:
            sink.commit(META, done.append)
    assert sum(done) == sum(len(data) for data in DATA.values())
    assert names(tmp_path) == ["out-False"]
