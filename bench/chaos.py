"""All of the evidence for "nothing is lost", on generated files, in one table.

    python bench/chaos.py                     # everything at full size: hours
    python bench/chaos.py --short             # a sample of each, about a minute
    python bench/chaos.py --only faults,kill --faults 500

Each line is a program of its own in this folder, which can be run alone for its own table. The disk
that is full needs root, for a small disk of its own; without it the line says so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from disk_full import NO_DISK

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Trial:
    """One program of evidence.

    Attributes:
        name: For `--only`.
        shows: What it shows.
        full: Its size at full length; 0 where it has none.
        short: Its size in the short form.
        arguments: From a size to the words behind the program's name.
        program: Its file.
    """

    name: str
    shows: str
    full: int
    short: int
    arguments: Callable[[int], list[str]]
    program: str


TRIALS = (
    Trial("faults", "random faults: right or a clear error", 2000, 60,
          lambda n: ["--runs", str(n), *(["--no-zoo"] if n < 500 else [])], "faults.py"),
    Trial("bad-inputs", "bad input: one clear message", 1, 9,
          lambda every: ["--every", str(every), "--processes", "2" if every > 1 else "20"],
          "bad_inputs.py"),
    Trial("files", "files made to break the readers", 30_000, 1000,
          lambda n: ["--headers", str(n), "--pickles", str(n // 2), "--large", "2"], "fuzz.py"),
    Trial("kill", "killed at random bytes, gone on from: the same bytes", 200, 3,
          lambda n: ["--runs", str(n)], "kill.py"),
    Trial("disk-full", "a disk that is full", 1, 1, lambda n: [], "disk_full.py"),
    Trial("soak", "minutes of mixed commands in one process", 45, 0,
          lambda n: ["--minutes", str(n), "--warm-up", str(min(10, n / 4))], "soak.py"),
)  # fmt: skip


def run(trial: Trial, size: int) -> tuple[str, str, float]:
    """Run a program.

    Returns:
        How it ended, its last line, and how long it took.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            [sys.executable, HERE / trial.program, *trial.arguments(size)],
            stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said.seek(0)
        text = said.read()
    if done.returncode not in (0, NO_DISK):
        print(text[-6000:], file=sys.stderr)
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    seconds = time.monotonic() - start
    last = " / ".join(lines[-2:]) if trial.name == "soak" else lines[-1]
    return {0: "ok", NO_DISK: "not run"}.get(done.returncode, "FAILED"), last, seconds


def main() -> None:
    """Run all that is asked for; exit code 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="a sample of each")
    parser.add_argument("--only", default="", help="names, with commas between them")
    for trial in TRIALS:
        text = f"size, {trial.full} or {trial.short} by default; 0 leaves it out"
        parser.add_argument(f"--{trial.name}", type=int, metavar="N", help=text)
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    unknown = set(only) - {trial.name for trial in TRIALS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    print("| what | size | ended | last line | seconds |\n|---|---|---|---|---|", flush=True)
    failed = 0
    for trial in TRIALS:
        size = getattr(options, trial.name.replace("-", "_"))
        if size is None:
            size = trial.short if options.short else trial.full
        if not size or (only and trial.name not in only):
            continue
        ended, last, seconds = run(trial, size)
        failed += ended == "FAILED"
        print(f"| {trial.shows} | {size} | {ended} | {last.replace('|', '/')} | {seconds:.0f} |",
              flush=True)  # fmt: skip
    print("ok" if not failed else f"{failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
