"""Power failures: what was not synced may be there, in part, or not; what goes on must notice.

A file's writes are recorded with the syncs between them. At the failure every byte that was synced
is there; of the rest, each write is there, is zeros, or never came, by lot.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from stockpot.checkpoints import DTYPES, FileSink, TensorInfo, storage

INFOS = {f"k{i}": TensorInfo(f"k{i}", DTYPES["U8"], (300 + i,)) for i in range(12)}
DATA = {key: bytes((i * 37 + j) % 251 for j in range(info.n_elements))
        for i, (key, info) in enumerate(INFOS.items())}  # fmt: skip
META = {"format": "pt"}


class PowerFailure(BaseException):
    """The machine stops here."""


class Disk:
    """Records writes by file, and stops the machine after so many calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.unsynced: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        self.ended = False

    def step(self) -> None:
        self.left -= 1
        if self.left <= 0 or self.ended:
            self.ended = True
            raise PowerFailure

    def key(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_ino


@contextmanager
def failing(disk: Disk) -> Iterator[None]:
    write, sync, sync_data = storage.write_at, storage.sync, storage.sync_data

    def write_at(descriptor: int, offset: int, data: memoryview) -> None:
        disk.step()
        old = os.pread(descriptor, data.nbytes, offset)
        disk.unsynced[disk.key(descriptor)].append((offset, old))
        write(descriptor, offset, data)

    def synced(real: object) -> object:
        def do(descriptor: int) -> None:
            disk.step()
            real(descriptor)  # type: ignore[operator]
            disk.unsynced.pop(disk.key(descriptor), None)

        return do

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "write_at", write_at)
        patch.setattr(storage, "sync", synced(sync))
        patch.setattr(storage, "sync_data", synced(sync_data))
        yield


def lose(folder: Path, disk: Disk, rng: random.Random) -> None:
    """Undo, in part, what no sync had confirmed; the latest first."""
    for path in folder.iterdir():
        for offset, old in reversed(disk.unsynced.get(path.stat().st_ino, [])):
            fate = rng.choice(["there", "old", "zeros", "half"])
            if fate == "there":
                continue
            with path.open("r+b") as file:
                size = path.stat().st_size
                file.seek(offset)
                whole = file.read(len(old)) if old else b""
                lost = {"old": old, "zeros": bytes(len(old)),
                        "half": whole[: len(old) // 2] + old[len(old) // 2 :]}[fate]  # fmt: skip
                file.seek(offset)
                file.write(lost)
                if not old:  # it was at the file's end
                    file.truncate(rng.randint(offset, max(offset, size)))


def write_all(path: Path, rng: random.Random) -> int:
    """Go on from whatever is there; returns how many tensors were taken over."""
    sink = FileSink(path, INFOS, META, facts={"the plan": "x"})
    assert all(note == f"note {key}" for key, note in sink.done.items())
    keys = [key for key in INFOS if key not in sink.done]
    rng.shuffle(keys)
    for key in keys:
        data = memoryview(DATA[key])
        for start in range(0, len(data), 100):
            sink.write(key, start, data[start : start + 100])
        sink.remember(key, f"note {key}")
        sink.tensor_done(key, blake3(data).hexdigest())
    sink.commit(META)
    return len(sink.done)


def test_power_failures_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stockpot.checkpoints.file_sink._SYNC_BYTES", 700)
    write_all(tmp_path / "whole", random.Random(0))
    whole = (tmp_path / "whole").read_bytes()
    taken = 0
    for seed in range(60):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        for _ in range(rng.randint(1, 3)):
            disk = Disk(rng.randint(3, 110))
            with failing(disk), pytest.raises(BaseException):  # noqa: B017, PT011
                write_all(folder / "out", rng)
                raise PowerFailure
            if (folder / "out").exists():
                break
            lose(folder, disk, rng)
        if not (folder / "out").exists():
            taken += write_all(folder / "out", rng)
        assert (folder / "out").read_bytes() == whole, seed
    assert taken > 60  # it is no proof if every run began anew
