"""Power failures: what was not synced may be there, in part, or not; what goes on must notice.

A file's writes are recorded with the syncs between them. At the failure every byte that was synced
is there; of the rest, each write is there, is zeros, or never came, by lot. Each run is a process
of its own, which the failure ends where it stands; this file is the program that forks them.
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from stockpot.checkpoints import DTYPES, FileSink, TensorInfo, file_sink, storage

INFOS = {f"k{i}": TensorInfo(f"k{i}", DTYPES["U8"], (300 + i,)) for i in range(12)}
DATA = {key: bytes((i * 37 + j) % 251 for j in range(info.n_elements))
        for i, (key, info) in enumerate(INFOS.items())}  # fmt: skip
META = {"format": "pt"}
N_RUNS = 60
FAILED = 9


class Disk:
    """Records writes by file, and stops the machine after so many calls."""

    def __init__(self, calls: int, report: Path) -> None:
        self.left, self.report = calls, report
        self.unsynced: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        self.guard = threading.Lock()

    def install(self) -> None:
        write, sync, sync_data = storage.write_at, storage.sync, storage.sync_data

        def write_at(descriptor: int, offset: int, data: memoryview) -> None:
            with self.guard:
                self.step()
                old = os.pread(descriptor, data.nbytes, offset)
                self.unsynced[os.fstat(descriptor).st_ino].append((offset, old))
                write(descriptor, offset, data)

        def synced(real: Callable[[int], None]) -> Callable[[int], None]:
            def do(descriptor: int) -> None:
                with self.guard:
                    self.step()
                    real(descriptor)
                    self.unsynced.pop(os.fstat(descriptor).st_ino, None)

            return do

        storage.write_at = write_at
        storage.sync, storage.sync_data = synced(sync), synced(sync_data)

    def step(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.report.write_bytes(pickle.dumps(dict(self.unsynced)))
            os._exit(FAILED)


def lose(folder: Path, unsynced: dict[int, list[tuple[int, bytes]]], rng: random.Random) -> None:
    """Undo, in part, what no sync had confirmed; the latest first."""
    for path in folder.iterdir():
        for offset, old in reversed(unsynced.get(path.stat().st_ino, [])):
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


def fail(path: Path, calls: int, rng: random.Random, report: Path) -> int:
    """Run in a process that may end early; returns how it ended."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        Disk(calls, report).install()
        write_all(path, rng)
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    """Fail, go on, compare; prints how many tensors were taken over."""
    file_sink._SYNC_BYTES = 700
    taken = 0
    with tempfile.TemporaryDirectory() as name:
        write_all(Path(name) / "whole", random.Random(0))
        whole = (Path(name) / "whole").read_bytes()
        for seed in range(N_RUNS):
            rng = random.Random(seed)
            output = Path(name) / str(seed) / "out"
            output.parent.mkdir()
            for _ in range(rng.randint(1, 3)):
                report = Path(name) / "unsynced"
                code = fail(output, rng.randint(3, 110), random.Random(rng.random()), report)
                assert code in (0, FAILED), f"run {seed}: exit code {code}"
                if output.exists():
                    break
                if code == FAILED:
                    lose(output.parent, pickle.loads(report.read_bytes()), rng)
            if not output.exists():
                taken += write_all(output, rng)
            assert output.read_bytes() == whole, f"run {seed}: other bytes"
    print(taken)


def test_power_failures_at_random_moments() -> None:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > N_RUNS  # it is no proof if every run began anew


if __name__ == "__main__":
    main()
