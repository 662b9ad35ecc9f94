"""What the journal costs a merge, and what going on from a stopped one costs.

Side by side in one run and in alternating order: the same merge with and without a journal; and the
merge stopped at some share of its way and gone on from. What resuming costs is what both parts take
together, less a merge that nobody stopped, as a share of what was done before the stop.

    python bench/journal_cost.py --work /big/disk/bench
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from merge_speed import make_files, read_all

from stockpot.engine import MergeResult, Progress, Settings, Stop, merge
from stockpot.errors import StoppedError
from stockpot.recipes import make_recipe, name_files

MOST_JOURNAL = 0.03
MOST_RESUME = 0.05


def run(paths: list[Path], output: Path, expression: str, settings: Settings,
        stop_at: float = 2.0) -> tuple[float, float, MergeResult | None]:  # fmt: skip
    """Merge, or stop at a share of the bytes; returns seconds by the clock and of the processor,
    and what was made."""
    pool = name_files(paths)
    recipe = make_recipe(expression.format(*pool), pool)

    def watch(progress: Progress) -> None:
        if progress.stage == "merging" and settings.stop is not None:
            if progress.done_bytes >= stop_at * progress.total_bytes:
                settings.stop.ask(now=True)

    begin, cpu = time.perf_counter(), time.process_time()
    try:
        result = merge(recipe, output, settings=settings, progress=watch)
    except StoppedError:
        result = None
    return time.perf_counter() - begin, time.process_time() - cpu, result


def prepared(paths: list[Path], output: Path) -> None:
    """The same start for everybody: nothing dirty, all inputs in the page cache."""
    output.unlink(missing_ok=True)
    os.sync()
    read_all(paths)


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(tempfile.gettempdir()) / "stockpot-bench"
    parser.add_argument("--work", type=Path, default=default, help="folder for files, kept")
    parser.add_argument("--arch", choices=("zoo", "sd1", "sd2", "sdxl"), default="sd1")
    parser.add_argument("--files", type=int, default=3)
    parser.add_argument("--expression", default="mean(pool)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stops", default="0.3,0.6,0.9", help="shares at which to stop")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    paths = make_files(options.work, options.arch, False, options.files)
    output = options.work / "journal-cost.safetensors"
    stops = [float(share) for share in options.stops.split(",")]
    turns: list[str] = ["journal", "no journal", *(f"{share:.0%}" for share in stops)]
    wall: dict[str, list[float]] = {turn: [] for turn in turns}
    cpu: dict[str, list[float]] = {turn: [] for turn in turns}
    before: dict[str, list[float]] = {turn: [] for turn in turns[2:]}
    contents = set()
    for repeat in range(options.repeats):
        for turn in turns if repeat % 2 == 0 else reversed(turns):
            prepared(paths, output)
            settings = Settings(threads=options.threads, journal=turn != "no journal")
            seconds, used = 0.0, 0.0
            if turn in before:
                stopping = Settings(threads=options.threads, stop=Stop())
                share = stops[turns.index(turn) - 2]
                seconds, used, result = run(paths, output, options.expression, stopping, share)
                assert result is None, "it was not stopped"
                before[turn].append(seconds)
            more, more_used, result = run(paths, output, options.expression, settings)
            assert result is not None
            assert (turn in before) == bool(result.n_resumed), "something else was taken over"
            wall[turn].append(seconds + more)
            cpu[turn].append(used + more_used)
            contents.add(result.content_hash)
            print(f"  {repeat + 1}/{options.repeats} {turn}: {wall[turn][-1]:.2f} s",
                  file=sys.stderr)  # fmt: skip
    output.unlink()
    assert len(contents) == 1, "other bytes"
    middle = {turn: statistics.median(seconds) for turn, seconds in wall.items()}
    print(f"{len(paths)} files, {options.arch}, {options.expression}; medians of {options.repeats}")
    print(f"{'':14s}{'wall s':>8s}{'best':>8s}{'CPU s':>8s}{'before':>8s}{'of before':>11s}")
    costs = {}
    for turn in turns:
        line = (f"{'stopped at ' * (turn in before) + turn:14s}{middle[turn]:8.2f}"
                f"{min(wall[turn]):8.2f}{statistics.median(cpu[turn]):8.2f}")  # fmt: skip
        if turn in before:
            done = statistics.median(before[turn])
            costs[turn] = (middle[turn] - middle["journal"]) / done
            line += f"{done:8.2f}{costs[turn]:11.1%}"
        print(line)
    for text, value, most in (
        ("the journal costs", middle["journal"] / middle["no journal"] - 1, MOST_JOURNAL),
        ("resuming costs, of the work done,", max(costs.values()), MOST_RESUME),
    ):
        print(f"{'ok  ' if value <= most else 'MISS'} {text} {value:.1%} <= {most:.0%}")
    target = options.work / "journal_cost.json"
    saved = {"wall_s": wall, "cpu_s": cpu, "before_s": before}
    target.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
