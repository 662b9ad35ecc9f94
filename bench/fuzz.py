"""Files made to break the readers: is there one that does anything but be read or be refused?

python bench/fuzz.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forging import KINDS, forged_by_hypothesis, in_file, seed_pickle

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import StockpotError

MOST_MB = 300
MOST_S = 3.0
READ_BYTES = 1 << 20


class Watch:
    """Opens one file after the other and sees what happens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "case"
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT)
        self.armed = False
        self.forbidden: list[str] = []
        self.counts: dict[str, dict[str, int]] = {}
        self.slowest = 0.0
        self.bad: list[str] = []
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note whatever the interpreter is asked to do besides opening the case for reading."""
        if not self.armed:
            return
        if event == "open":
            place, mode, flags = arguments
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            if (
                os.fspath(place) == str(self.path)
                and not flags & writes
                and mode in ("r", "rb", None)
            ):
                return
        # The reader asks whether it met a dictionary before.
        if event != "builtins.id":
            self.forbidden.append(f"{event} {arguments!r:.100}")

    def attempt(self, kind: str, data: bytes) -> None:
        """Open a file, read some of it, and write down what came of it."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, data, 0)
        n_forbidden = len(self.forbidden)
        begin = time.process_time()
        self.armed = True
        try:
            with open_checkpoint(self.path) as source:
                left = READ_BYTES
                for key, info in source.tensors.items():
                    n = min(info.n_elements, left // info.dtype.itemsize)
                    source.read_into(key, 0, n, memoryview(bytearray(n * info.dtype.itemsize)))
                    left -= n * info.dtype.itemsize
            outcome = "read"
        except StockpotError:
            outcome = "refused"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcome = "crashed"
            self.bad.append(f"{kind}: {error!r:.200}")
        finally:
            self.armed = False
        took = time.process_time() - begin
        self.slowest = max(self.slowest, took)
        counts = self.counts.setdefault(kind, {"read": 0, "refused": 0, "crashed": 0})
        counts[outcome] += 1
        if outcome == "crashed" or took > MOST_S or len(self.forbidden) > n_forbidden:
            (self.folder / f"bad-{len(list(self.folder.iterdir()))}").write_bytes(data)

    def check_itself(self) -> None:
        """Whether the watch hears what it must hear."""
        self.armed = True
        compile("1", "x", "eval")
        with open(os.devnull, "w"):
            pass
        self.armed = False
        assert len(self.forbidden) == 2, self.forbidden
        self.forbidden.clear()


def peak_mb() -> float:
    """Highest resident memory of this process alone, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def cases(kind: str, count: int, large: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Files of all kinds but hypothesis' own."""
    rng = random.Random(f"{kind} {seed}")
    forges = KINDS[kind]
    for i in range(count):
        is_large = large and i % max(1, count // large) == 0
        name = "large" if is_large else "mutated" if rng.random() < 0.6 else "grammar"
        yield name, forges[name](rng)


def work(options: argparse.Namespace) -> None:
    """Run in a process of its own, and print what was seen as JSON."""
    import hypothesis  # noqa: F401  before the watch listens
    import numpy  # noqa: F401  the reader loads it for the first transposed tensor

    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.keep or name)
        folder.mkdir(parents=True, exist_ok=True)
        watch = Watch(folder)
        watch.attempt("warm", in_file(random.Random(0), seed_pickle(random.Random(0))))
        watch.counts.clear()
        watch.forbidden.clear()
        watch.bad.clear()
        watch.slowest = 0.0
        watch.check_itself()
        begin = time.perf_counter()
        n_searched = options.count // 10
        plain = options.count - n_searched
        for kind, data in cases(options.worker, plain, options.large, options.seed):
            watch.attempt(kind, data)
        forged_by_hypothesis(options.worker, n_searched, watch.attempt)
        seen = {
            "counts": watch.counts,
            "slowest": watch.slowest,
            "peak": peak_mb(),
            "bad": watch.bad[:5],
            "forbidden": watch.forbidden[:5],
            "seconds": time.perf_counter() - begin,
        }
        print(json.dumps(seen))


def main() -> None:
    """Fuzz headers and pickles, each in a process of its own, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--headers", type=int, default=200_000)
    parser.add_argument("--pickles", type=int, default=50_000)
    parser.add_argument("--large", type=int, default=60, help="how many of each are megabytes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that break something")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    ok = True
    print("| files | how made | number | read | refused | crashed |\n|---|---|---|---|---|---|")
    notes = []
    for kind in KINDS:
        command = [sys.executable, __file__, "--worker", kind, "--seed", str(options.seed)]
        command += ["--count", str(getattr(options, kind)), "--large", str(options.large)]
        command += ["--keep", str(options.keep)] if options.keep else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        for how, counts in result["counts"].items():
            row = [kind, how, sum(counts.values()), *counts.values()]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
        notes.append(
            f"{kind}: peak {result['peak']:.0f} MB (at most {MOST_MB}), slowest "
            f"{result['slowest']:.2f} s of CPU (at most {MOST_S:.0f}), forbidden events "
            f"{len(result['forbidden'])}, {result['seconds']:.0f} s in all"
        )
        notes += [f"  {line}" for line in (*result["bad"], *result["forbidden"])]
        ok &= result["peak"] <= MOST_MB and result["slowest"] <= MOST_S
        ok &= not result["bad"] and not result["forbidden"]
    print("\n".join(["", *notes, "ok" if ok else "FAILED"]))
    raise SystemExit(0 if ok else 1)


if __name__ == "__main__":
    main()
