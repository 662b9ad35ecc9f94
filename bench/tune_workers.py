"""Two workers on one study against one, where the evaluation is the limit: a scorer that sleeps.

    python bench/tune_workers.py [--trials 27] [--sleep 0.5]

Prints the seconds of each and their ratio; both finish the same number of evaluations.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "tests" / "tune" / "surrogate.py"


def main() -> None:
    from stockpot.tune import open_store

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=27)
    parser.add_argument("--sleep", type=float, default=0.5)
    parser.add_argument("--optimiser", default="random")
    options = parser.parse_args()
    told: dict[str, object] = {}
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for n in (1, 2):
            path = Path(folder) / f"{n}.db"
            command = [sys.executable, str(SCRIPT), str(path), "--trials", str(options.trials),
                       "--stop", "0", "--sleep", str(options.sleep), "--optimiser",
                       options.optimiser]  # fmt: skip
            start = time.monotonic()
            workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(n)]
            if any(worker.wait() for worker in workers):
                raise SystemExit("a worker failed")
            seconds.append(time.monotonic() - start)
            with open_store(path) as store:
                trials = store.all_trials()
                told[f"evaluations_{n}"] = sum(trial.state.is_finished() for trial in trials)
                told[f"pictures_{n}"] = len(store.book.marks())
            told[f"seconds_{n}"] = round(seconds[-1], 1)
    told["ratio"] = round(seconds[1] / seconds[0], 3)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
