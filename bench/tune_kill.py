"""Kill a search at random moments, take it up again, and compare with one that was not killed.

    python bench/tune_kill.py [--kills 10] [--trials 30] [--optimiser auto] [--seed 1]

Both studies search the formula of `tests/tune/surrogate.py`, whose pictures cost a few hundredths
of a second, so that kills fall between marks, inside proposals and while files are written. Prints
one line: whether every trial, its numbers, its values and every mark are the same.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "tune"))
SCRIPT = ROOT / "tests" / "tune" / "surrogate.py"


def main() -> None:
    from surrogate import told

    from stockpot.tune import open_store

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--optimiser", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--journal", action="store_true", help="keep the study in a journal")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    name = "study.journal" if options.journal else "study.db"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def command(path: Path) -> list[str]:
            return [sys.executable, str(SCRIPT), str(path), "--trials", str(options.trials),
                    "--optimiser", options.optimiser, "--sleep", "0.05"]  # fmt: skip

        start = time.monotonic()
        subprocess.run(command(folder / f"whole-{name}"), check=True, stdout=subprocess.DEVNULL)
        whole_s = time.monotonic() - start
        killed = 0
        while killed < options.kills:
            process = subprocess.Popen(command(folder / name), stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()  # the study is open; what comes before is Python's start
            time.sleep(dice.uniform(0, 1.2 * whole_s / options.kills))
            if process.poll() is not None:
                break  # it has ended, so that there is nothing left to kill
            process.kill()
            process.wait()
            killed += 1
        subprocess.run(command(folder / name), check=True, stdout=subprocess.DEVNULL)
        found = []
        for path in (folder / f"whole-{name}", folder / name):
            with open_store(path) as store:
                marks = sorted((m.candidate, m.task, m.scores["score"]) for m in store.book.marks())
                found.append((told(store), marks))
        whole, resumed = found
        best = [
            max((r for r in rows if r[3] == "COMPLETE"), key=lambda r: r[2]) for rows, _ in found
        ]
        print(json.dumps({
            "killed": killed, "trials": len(resumed[0]), "marks": len(resumed[1]),
            "stopped_early": sum(row[3] == "PRUNED" for row in resumed[0]),
            "same_trials": whole[0] == resumed[0], "same_marks": whole[1] == resumed[1],
            "best": [best[0][0], best[1][0]], "seconds_uninterrupted": round(whole_s, 1),
        }))  # fmt: skip
        if whole != resumed:
            raise SystemExit("a study that was killed ended otherwise than one that was not")


if __name__ == "__main__":
    main()
