"""What the journal costs a merge, and what going on from a stopped one costs.

By the clock, side by side in one run: a fast merge, which writes the most for its time, with and
without a journal; and a slow one stopped at some share of its way and gone on from. Two merges of
some seconds differ by more than what is looked for, so the costs themselves are timed too: all that
happens in the journal's own calls; and of a merge that is gone on from, what nobody would have
waited for if it had not been stopped: from the last tensor until the first run has ended, and until
the second one works on its first. That is some tenths of a second however much was done, so of a
merge of a few seconds it is a larger share.

    python bench/journal_cost.py --work /big/disk/bench
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

from merge_speed import make_files, read_all
from scipy.stats import binom

from stockpot.checkpoints.journal import Journal
from stockpot.engine import MergeResult, Progress, Settings, Stop, merge
from stockpot.errors import StoppedError
from stockpot.recipes import make_recipe, name_files

MOST_JOURNAL = 0.03
MOST_RESUME = 0.05

journal_s = [0.0]


def count_journal() -> None:
    """Add up the seconds of every call of the journal, on whatever thread."""

    def timed(call):  # type: ignore[no-untyped-def]
        @wraps(call)
        def counted(*args, **options):  # type: ignore[no-untyped-def]
            begin = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                journal_s[0] += time.perf_counter() - begin

        return counted

    # Making one adds a line and syncs it: that much is counted twice.
    for name in ("__init__", "add", "sync", "remove"):
        setattr(Journal, name, timed(getattr(Journal, name)))


@dataclass
class Run:
    """Seconds of one merge, or of both parts of a stopped one."""

    wall: float
    cpu: float
    begun: float  # until the first panel was read
    ended: float  # from the last one on
    journal: float
    result: MergeResult | None


def run(paths: list[Path], output: Path, expression: str, settings: Settings,
        stop_at: float = 2.0) -> Run:  # fmt: skip
    """Merge, or stop at a share of the bytes."""
    pool = name_files(paths)
    recipe = make_recipe(expression.replace("FIRST", f'"{next(iter(pool))}"'), pool)
    seen: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.stage == "merging":
            seen[1:] = [time.perf_counter()]
            if settings.stop is not None and progress.done_bytes >= stop_at * progress.total_bytes:
                settings.stop.ask()

    journal_s[0] = 0.0
    begin, cpu = time.perf_counter(), time.process_time()
    try:
        result = merge(recipe, output, settings=settings, progress=watch)
    except StoppedError:
        result = None
    end = time.perf_counter()
    return Run(end - begin, time.process_time() - cpu, seen[0] - begin, end - seen[-1],
               journal_s[0], result)  # fmt: skip


def prepared(paths: list[Path], output: Path) -> None:
    """The same start for everybody: nothing dirty, all inputs in the page cache."""
    output.unlink(missing_ok=True)
    os.sync()
    read_all(paths)


def within(values: list[float]) -> tuple[float, float]:
    """Where the median lies with a chance of at least 90 %, whatever the distribution."""
    ranked, n = sorted(values), len(values)
    k = max((k for k in range(n // 2) if 2 * binom.cdf(k, n, 0.5) <= 0.1), default=0)
    return ranked[k], ranked[n - 1 - k]


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(tempfile.gettempdir()) / "stockpot-bench"
    parser.add_argument("--work", type=Path, default=default, help="folder for files, kept")
    parser.add_argument("--arch", choices=("zoo", "sd1", "sd2", "sdxl"), default="sd1")
    parser.add_argument("--files", type=int, default=3)
    parser.add_argument("--fast", default="mean(pool)", help="the merge with and without a journal")
    parser.add_argument("--slow", default="dgmla(FIRST, pool - FIRST)",
                        help="the merge that is stopped; FIRST is the first file")  # fmt: skip
    parser.add_argument("--pairs", type=int, default=8, help="of the fast merge")
    parser.add_argument("--repeats", type=int, default=3, help="of the slow one, at each stop")
    parser.add_argument("--stops", default="0.5,0.9", help="shares at which to stop")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    paths = make_files(options.work, options.arch, False, options.files)
    output = options.work / "journal-cost.safetensors"
    count_journal()

    pairs: list[dict[bool, Run]] = []
    for i in range(options.pairs):
        pair = {}
        for journal in (True, False) if i % 2 == 0 else (False, True):
            prepared(paths, output)
            settings = Settings(threads=options.threads, journal=journal)
            pair[journal] = run(paths, output, options.fast, settings)
        pairs.append(pair)
    print(f"{options.fast} of {len(paths)} files, {options.arch}, {len(pairs)} pairs")
    for journal in (True, False):
        wall = statistics.median(pair[journal].wall for pair in pairs)
        cpu = statistics.median(pair[journal].cpu for pair in pairs)
        print(f"  {'a' if journal else 'no'} journal: {wall:.2f} s, {cpu:.2f} CPU-s")
    shares = [pair[True].wall / pair[False].wall - 1 for pair in pairs]
    low, high = within(shares)
    print(f"  difference by the clock {statistics.median(shares):+.1%}, "
          f"with 90 % between {low:+.1%} and {high:+.1%}")  # fmt: skip
    journal = statistics.median(pair[True].journal / pair[True].wall for pair in pairs)

    whole, parts = [], {float(share): [] for share in options.stops.split(",")}
    for i in range(options.repeats):
        for share in (None, *parts) if i % 2 == 0 else (*reversed(parts), None):
            prepared(paths, output)
            settings = Settings(threads=options.threads)
            if share is None:
                whole.append(run(paths, output, options.slow, settings))
                continue
            stopping = Settings(threads=options.threads, stop=Stop())
            first = run(paths, output, options.slow, stopping, share)
            second = run(paths, output, options.slow, settings)
            assert first.result is None, "it was not stopped"
            assert second.result is not None and second.result.n_resumed, "nothing was taken over"
            parts[share].append((first, second))
    output.unlink()
    ended_runs = (*whole, *(second for runs in parts.values() for _, second in runs))
    for made in ([each for pair in pairs for each in pair.values()], ended_runs):
        assert len({each.result and each.result.content_hash for each in made}) == 1, "other bytes"
    undisturbed = statistics.median(each.wall for each in whole)
    print(f"{options.slow}, {options.repeats} of each: {undisturbed:.2f} s if nobody stops it")
    costs = []
    for share, runs in parts.items():
        done = statistics.median(first.wall for first, _ in runs)
        both = statistics.median(first.wall + second.wall for first, second in runs)
        ended = statistics.median(first.ended for first, _ in runs)
        begun = statistics.median(second.begun for _, second in runs)
        costs.append((ended + begun) / done)
        print(f"  stopped at {share:.0%}, after {done:.2f} s: both parts {both:.2f} s; to end "
              f"{ended:.2f} s, to begin again {begun:.2f} s: {costs[-1]:.1%}")  # fmt: skip
    for text, value, most in (
        (f"the journal's calls take, of {options.fast},", journal, MOST_JOURNAL),
        (f"going on with {options.slow} costs, of the work done,", max(costs), MOST_RESUME),
    ):
        print(f"{'ok  ' if value <= most else 'MISS'} {text} {value:.1%} <= {most:.0%}")

    def plain(each: Run) -> dict[str, object]:
        return {name: value for name, value in vars(each).items() if name != "result"}

    saved = {
        "pairs": [{str(journal): plain(each) for journal, each in p.items()} for p in pairs],
        "whole": [plain(each) for each in whole],
        "parts": {str(s): [[plain(a), plain(b)] for a, b in runs] for s, runs in parts.items()},
    }
    (options.work / "journal_cost.json").write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
