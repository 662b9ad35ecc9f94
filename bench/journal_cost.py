"""What the journal costs a merge, and what going on from a stopped one costs.

Side by side in one run and in alternating order: a fast merge, which writes the most for its time,
with and without a journal; and a slow one stopped at some share of its way and gone on from. What
going on costs is what both parts take together, less the merge that nobody stopped, as a share of
what was done before the stop. It is a matter of planning again, some tenths of a second whatever
was done, so of a merge of five seconds it is a larger share.

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
    parser.add_argument("--fast", default="mean(pool)", help="the merge with and without a journal")
    parser.add_argument("--slow", default="median(pool)", help="the merge that is stopped")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stops", default="0.5,0.9", help="shares at which to stop")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    paths = make_files(options.work, options.arch, False, options.files)
    output = options.work / "journal-cost.safetensors"
    stops = {f"stopped at {float(share):.0%}": float(share) for share in options.stops.split(",")}
    fast, slow = ["journal", "no journal"], ["not stopped", *stops]
    wall: dict[str, list[float]] = {turn: [] for turn in (*fast, *slow)}
    cpu: dict[str, list[float]] = {turn: [] for turn in wall}
    before: dict[str, list[float]] = {turn: [] for turn in stops}
    contents: dict[str, set[str | None]] = {options.fast: set(), options.slow: set()}
    for repeat in range(options.repeats):
        # A fast merge is over in seconds, so more of them go into one repeat.
        turns = [*fast, *reversed(fast), *slow]
        for turn in turns if repeat % 2 == 0 else reversed(turns):
            expression = options.fast if turn in fast else options.slow
            prepared(paths, output)
            settings = Settings(threads=options.threads, journal=turn != "no journal")
            seconds, used = 0.0, 0.0
            if turn in stops:
                stopping = Settings(threads=options.threads, stop=Stop())
                seconds, used, result = run(paths, output, expression, stopping, stops[turn])
                assert result is None, "it was not stopped"
                before[turn].append(seconds)
            more, more_used, result = run(paths, output, expression, settings)
            assert result is not None
            assert (turn in stops) == bool(result.n_resumed), "something else was taken over"
            wall[turn].append(seconds + more)
            cpu[turn].append(used + more_used)
            contents[expression].add(result.content_hash)
            print(f"  {repeat + 1}/{options.repeats} {turn}: {wall[turn][-1]:.2f} s",
                  file=sys.stderr)  # fmt: skip
    output.unlink()
    assert all(len(hashes) == 1 for hashes in contents.values()), "other bytes"
    middle = {turn: statistics.median(seconds) for turn, seconds in wall.items()}
    print(f"{len(paths)} files, {options.arch}; medians of {options.repeats}")
    print(f"{'':32s}{'wall s':>8s}{'best':>8s}{'CPU s':>8s}{'before':>8s}{'more':>8s}{'share':>8s}")
    costs = []
    for turn in wall:
        expression = options.fast if turn in fast else options.slow
        line = (f"{f'{expression}, {turn}':32s}{middle[turn]:8.2f}"
                f"{min(wall[turn]):8.2f}{statistics.median(cpu[turn]):8.2f}")  # fmt: skip
        if turn in stops:
            done = statistics.median(before[turn])
            more = middle[turn] - middle["not stopped"]
            costs.append(more / done)
            line += f"{done:8.2f}{more:8.2f}{costs[-1]:8.1%}"
        print(line)
    journal = middle["journal"] / middle["no journal"] - 1
    for text, value, most in (
        (f"the journal costs, of {options.fast},", journal, MOST_JOURNAL),
        (f"going on with {options.slow} costs, of the work done,", max(costs), MOST_RESUME),
    ):
        print(f"{'ok  ' if value <= most else 'MISS'} {text} {value:.1%} <= {most:.0%}")
    target = options.work / "journal_cost.json"
    saved = {"wall_s": wall, "cpu_s": cpu, "before_s": before}
    target.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
