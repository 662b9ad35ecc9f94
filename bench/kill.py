"""``kill -9`` at random bytes of progress of merges of every kind: nothing is lost, nothing shows.

Each killed run is gone on from by the same command, which must give the bytes of a run that nobody
disturbed. A watcher looks at the outputs' names all the time: whatever is seen there must be the
complete file. Runs are forked from a process that has loaded the program, so that the kills meet
the merge and not Python's start. Linux only: progress is what the system counts for the process.

    python bench/kill.py --work /big/disk/bench
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a thread of a matrix library would not be forked

import argparse
import hashlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from merge_speed import make_files

POOL = ["--pool", "a={0}", "--pool", "b={1}", "--pool", "c={2}"]
KINDS: dict[str, list[str]] = {
    "linear": ["mean", "{0}", "{1}", "{2}"],
    "element by element": ["merge", "-e", "median(a, b, c)", *POOL],
    "masks": ["merge", "-e", "dare(a, b, c, p=0.5, seed=3)", *POOL],
    "trimmed and elected": ["merge", "-e", "ties(a, b, c)", *POOL],
    "Gram matrix": ["merge", "-e", "geometric_median(a, b, c)", *POOL],
    "spectral": ["merge", "-e", "iso_c(a, b)", *POOL],
    "swap": ["swap", "{0}", "--vae", "{1}"],
    "nested": [
        "merge", "-e", "lerp(dgmla(a, b, c), geometric_median(b, mean(a, c)), 0.25)", *POOL,
    ],
    "one component": ["extract", "{0}", "unet", "--dtype", "fp32"],
}  # fmt: skip
FORK_AGAIN = 0.3
"""How often a run that goes on from a killed one is killed too."""


@dataclass
class Tally:
    """What happened to one kind.

    Attributes:
        kills: Runs that were killed.
        early: Of those, killed before any tensor was finished.
        same: Runs that went on to the end and gave the same bytes.
        kept: Tensors that were taken over from killed runs.
        seen: How often the watcher saw the output under its name.
    """

    kills: int = 0
    early: int = 0
    same: int = 0
    kept: int = 0
    seen: int = 0


def digest(path: Path) -> str:
    """sha256 of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def start(arguments: list[str], log: Path) -> int:
    """Fork a run of the program; its messages go to a file, with the bytes that it moved."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.argv = ["stockpot", *arguments]
        from stockpot.cli.main import main

        main()
        code = 0
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    finally:
        os.write(2, f"moved {moved(os.getpid())}\n".encode())
        os._exit(code)


def moved(pid: int) -> int:
    """Bytes that a process read and wrote so far; -1 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return -1
    found = dict(line.split(": ") for line in text.splitlines())
    return int(found["rchar"]) + int(found["wchar"])


def kill_at(pid: int, n_bytes: int) -> int:
    """Kill a process when it has moved so many bytes; returns its exit code, or -9."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if moved(pid) >= n_bytes:
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.0002)


@contextmanager
def watching(output: Path, expected: str, found: Path) -> Iterator[None]:
    """Look at a name all the time, from another process: it may show the complete file or none."""
    # Asked to end before it listens, it would end without a report.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if not pid:
        seen, wrong, last = 0, 0, 0
        stopping = False

        def end(number: int, frame: object) -> None:
            nonlocal stopping
            stopping = True

        signal.signal(signal.SIGTERM, end)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        while not stopping:
            try:
                status = output.stat()
            except FileNotFoundError:
                time.sleep(0.0005)
                continue
            if status.st_ino != last:
                try:
                    right = digest(output) == expected
                except FileNotFoundError:  # it was removed while it was read
                    continue
                last = status.st_ino
                seen, wrong = seen + 1, wrong + (not right)
            time.sleep(0.0005)
        found.write_text(f"{seen} {wrong}")
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def torture(
    name: str, paths: list[Path], work: Path, n_same: int, rng: random.Random
) -> tuple[Tally, float]:
    """Kill and go on until so many runs came to their end; returns also a whole run's seconds."""
    output, log = work / "killed.safetensors", work / "killed.log"
    arguments = [part.format(*paths) for part in KINDS[name]] + ["-o", str(output)]
    begin = time.perf_counter()
    code = kill_at(start(arguments, log), sys.maxsize)
    seconds = time.perf_counter() - begin
    assert code == 0, log.read_text()
    reference = digest(output)
    whole = int(re.findall(r"moved (\d+)", log.read_text())[-1])
    output.unlink()
    tally = Tally()
    partial = output.with_name(output.name + ".partial")
    report = work / "killed.seen"
    # The files that were just removed may come again under their old numbers.
    with watching(output, reference, report):
        while tally.same < n_same:
            pending = False
            while True:
                if not pending or rng.random() < FORK_AGAIN:
                    code = kill_at(start(arguments, log), rng.randrange(whole))
                else:
                    code = kill_at(start(arguments, log), sys.maxsize)
                going_on = re.search(r"stopped: (\d+) of", log.read_text())
                tally.kept += int(going_on[1]) if going_on else 0
                if code == -signal.SIGKILL:
                    tally.kills += 1
                    if output.exists():  # killed between the rename and its end
                        assert digest(output) == reference, "a partial file under the final name"
                        tally.same += 1
                        output.unlink()
                        break
                    tally.early += not partial.with_name(partial.name + ".journal").exists()
                    pending = True
                    continue
                assert code == 0, log.read_text()
                assert digest(output) == reference, f"{name}: other bytes after a kill"
                tally.same += pending
                output.unlink()
                break
            left = sorted(path.name for path in work.glob("killed.safetensors*"))
            for path in left:  # of a run that was killed right after its rename
                assert path.endswith(".journal"), left
                (work / path).unlink()
    seen, wrong = map(int, report.read_text().split())
    assert not wrong, f"{name}: a partial file was seen under the final name"
    tally.seen = seen
    for path in (log, report):
        path.unlink()
    return tally, seconds


def main() -> None:
    """Kill, go on, compare, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(tempfile.gettempdir()) / "stockpot-bench"
    parser.add_argument("--work", type=Path, default=default, help="folder for files, kept")
    parser.add_argument("--arch", choices=("zoo", "sd1", "sd2", "sdxl"), default="zoo")
    parser.add_argument("--runs", type=int, default=200, help="runs that go on to the end")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    paths = make_files(options.work, options.arch, False, 3)
    before = [(digest(path), path.stat().st_mtime_ns) for path in paths]
    # Load what the runs will need, before they are forked.
    import stockpot.cli.main
    import stockpot.compare
    import stockpot.engine  # noqa: F401

    folder = Path(tempfile.mkdtemp(prefix="kill-", dir=options.work))
    rng = random.Random(options.seed)
    total = Tally()
    begin = time.perf_counter()
    print(f"{'kind':21s}{'whole s':>8s}{'kills':>7s}{'early':>7s}{'kept':>8s}{'same':>6s}")
    try:
        for number, name in enumerate(KINDS):
            share = options.runs * (number + 1) // len(KINDS) - options.runs * number // len(KINDS)
            tally, seconds = torture(name, paths, folder, share, rng)
            print(
                f"{name:21s}{seconds:8.2f}{tally.kills:7d}{tally.early:7d}{tally.kept:8d}"
                f"{tally.same:6d}",
                flush=True,
            )
            for field in ("kills", "early", "same", "kept", "seen"):
                setattr(total, field, getattr(total, field) + getattr(tally, field))
    finally:
        shutil.rmtree(folder)
    assert [(digest(path), path.stat().st_mtime_ns) for path in paths] == before, "an input changed"
    print(
        f"ok: {total.kills} kills ({total.early} before any tensor), {total.same} runs gone on to "
        f"the end with the same sha256, {total.kept} tensors taken over; the name was seen "
        f"{total.seen} times, always complete; inputs untouched; "
        f"{time.perf_counter() - begin:.0f} s"
    )


if __name__ == "__main__":
    main()
