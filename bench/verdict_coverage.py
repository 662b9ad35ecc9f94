"""How often a verdict's interval holds the truth, and how often it errs, on made-up differences.

    python bench/verdict_coverage.py [--studies 1000]

Two candidates that are equally good on average: each payload has a difference of its own, each
seed another. Of intervals that say 95 %, 95 % should hold 0. Compared are the interval of
`stockpot.tune.compare_marks` (whole payloads, expanded percentiles), plain percentiles, seeds
drawn again within payloads, and a bootstrap over tasks that knows no payloads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from stockpot.tune import bootstrap_mean

Groups = list[npt.NDArray[np.float64]]
CASES = ((6, 1, 1.0), (6, 4, 1.0), (6, 4, 0.3), (12, 1, 1.0), (12, 4, 1.0), (12, 4, 0.3),
         (24, 1, 1.0), (24, 4, 0.3))  # fmt: skip
N_BOOT = 1000


def whole(groups: Groups, seed: int) -> tuple[float, float]:
    return bootstrap_mean(groups, level=0.95, n_boot=N_BOOT, seed=seed)


def tasks(groups: Groups, seed: int) -> tuple[float, float]:
    values = np.concatenate(groups)
    return whole([values[i : i + 1] for i in range(len(values))], seed)


def plain(groups: Groups, seed: int) -> tuple[float, float]:
    means = np.array([group.mean() for group in groups])
    chosen = np.random.default_rng(seed).integers(len(means), size=(N_BOOT, len(means)))
    low, high = np.quantile(means[chosen].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def twice(groups: Groups, seed: int) -> tuple[float, float]:
    """Plain percentiles; payloads, then seeds within."""
    rng, rows = np.random.default_rng(seed), np.stack(groups)
    n, m = rows.shape
    chosen = rng.integers(n, size=(N_BOOT, n, 1))
    means = rows[chosen, rng.integers(m, size=(N_BOOT, n, m))].mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    options = parser.parse_args()
    ways: dict[str, Callable[[Groups, int], tuple[float, float]]] = {
        "verdict": whole, "plain": plain, "twice": twice, "tasks": tasks}  # fmt: skip
    print("share of intervals that hold 0 (and their mean width); 0.95 is right")
    print(f"{'payloads × seeds':18}{'SD of payloads':16}" + "".join(f"{w:16}" for w in ways))
    for n, m, between in CASES:
        rng = np.random.default_rng([n, m, int(10 * between)])
        held, width = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)
        for study in range(options.studies):
            groups = [rng.normal(0, between) + rng.normal(0, 1, m) for _ in range(n)]
            for name, way in ways.items():
                low, high = way(groups, study)
                held[name] += low <= 0 <= high
                width[name] += high - low
        cells = "".join(
            f"{held[w] / options.studies:.3f} ({width[w] / options.studies:.2f})".ljust(16)
            for w in ways
        )
        print(f"{f'{n} × {m}':18}{f'{between:g} (seeds: 1)':16}{cells}")


if __name__ == "__main__":
    main()
