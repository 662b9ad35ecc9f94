"""How fast are order statistics, against sorting panels?

Medians and trimmed means of made-up rows in half precision, and of their differences to one more,
in panels as a merge cuts them: by a sort of the whole panel with numpy; by the compiled network of
exchanges; and by its twin in numpy. All in one process and in turns. See bench/README.md.

    python bench/ranking.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from stockpot.checkpoints import DTYPES
from stockpot.methods import METHODS, Doubles, Feed, Row, Task, Work

PANEL_BYTES = 16 << 20


def feed_of(n: int, m: int, deltas: bool) -> Feed:
    """Rows near each other, as read, or as differences to one more."""
    rng = np.random.default_rng(n)
    base = 0.03 * rng.standard_normal(m)
    rows = (base + 0.002 * rng.standard_normal((n + 1, m))).astype(np.float16)
    terms = tuple(Row(memoryview(row).cast("B"), DTYPES["F16"]) for row in rows)
    if deltas:
        return Feed(terms, tuple((i, n) for i in range(n)), 0, m)
    return Feed(terms[:n], tuple((i, -1) for i in range(n)), 0, m)


def sort_all(feed: Feed, name: str, cut: Fraction) -> Doubles:
    """As it was: make the panel, sort it along its first axis, take what is wanted."""
    n = len(feed.pairs)
    values = np.sort(feed.panel(), axis=0)
    if name == "median":
        low, high = values[(n - 1) // 2], values[n // 2]
        middle: Doubles = low + (high - low) / 2
        return middle
    k = min(int(n * cut), (n - 1) // 2)
    kept = values[k : n - k]
    total = np.zeros(feed.n_elements)
    for row in kept:
        total += row
    total /= len(kept)
    return np.clip(total, kept[0], kept[-1])


def main() -> None:
    """Print a line for each method, kind of rows and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="3,8,20,64,216")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    cut = Fraction(1, 5)
    print("ns for each element of each row, the best of", given.repeats)
    print(f"{'':24}{'rows':>6}{'sort':>9}{'network':>9}{'numpy':>9}{'sort/network':>14}")
    for name in ("median", "trimmed_mean"):
        for deltas in (False, True):
            for n in map(int, given.counts.split(",")):
                m = max(1 << 12, min(1 << 17, PANEL_BYTES // (8 * n)))
                feed = feed_of(n, m, deltas)
                works: list[Work] = [
                    METHODS[name].start(Task("key", (m,), n, {"cut": cut}, compiled=compiled))
                    for compiled in (True, False)
                ]
                ways: list[Callable[[], Doubles]] = [
                    lambda feed=feed, name=name: sort_all(feed, name, cut),
                    lambda feed=feed, work=works[0]: work.rows_of_feed(feed)[0],
                    lambda feed=feed, work=works[1]: work.rows(0, feed.panel(compiled=False))[0],
                ]
                best = [float("inf")] * len(ways)
                results = [np.empty(0)] * len(ways)
                for _ in range(given.repeats):
                    for i, way in enumerate(ways):
                        started = time.perf_counter()
                        results[i] = way()
                        best[i] = min(best[i], time.perf_counter() - started)
                assert results[1].tobytes() == results[2].tobytes()
                assert (results[0] == results[1]).all()
                times = [1e9 * t / (n * m) for t in best]
                kind = f"{name} of {'deltas' if deltas else 'models'}"
                columns = "".join(f"{t:9.2f}" for t in times)
                print(f"{kind:24}{n:6}{columns}{times[0] / times[1]:14.1f}", flush=True)


if __name__ == "__main__":
    main()
