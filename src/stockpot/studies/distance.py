"""Study a: does the distance of weights predict the difference of pictures?

The author of AstolfoMix saw that his table of weight distances looked like his grids, and left the
proof to others: picture differences by MSE, SIFT and features of a network, against distances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import numpy.typing as npt

from stockpot.compare import Place, compare
from stockpot.report import Cell, Chart, Curve, Heat, Section, Table, TableRow
from stockpot.scores import Picture
from stockpot.studies._base import Answer, Setting, Study, groups_of
from stockpot.studies.measures import mse, sift_apart, structure_apart
from stockpot.studies.statistics import Interval, Mantel, bootstrap_means, correlate, holm, mantel

__all__ = ["DISTANCE"]

Doubles = npt.NDArray[np.float64]

_WHOLE = "whole"
_PARTS = ("unet", "te", "te0", "te1")
_SIFT_TASKS = 16
_FEWEST = 5
_LEVEL = 0.05
_N_BOOT = 1000


@dataclass(frozen=True)
class _Test:
    part: str
    measure: str
    ranks: Mantel
    numbers: Mantel
    interval: Interval
    corrected: float
    without: Mapping[str, float]


def _points(setting: Setting) -> tuple[str, ...]:
    """All that are not declared spoilt: one far point would make any correlation."""
    base = () if setting.base is None or setting.base not in setting.whole else (setting.base,)
    return (*base, *setting.models)


def _missing(setting: Setting) -> str:
    n = len(_points(setting))
    if n < _FEWEST:
        return f"at least {_FEWEST} different models are needed, but there are {n}"
    return ""


def _run(setting: Setting) -> Answer:
    names = _points(setting)
    weights = _weights(setting, names)
    rows = _pictures(setting, names)
    tests = _tests(setting, names, weights, rows)
    means = {name: _square(row.mean(axis=0), len(names)) for name, row in rows.items()}
    data = {
        "models": names,
        "weights": weights,
        "pictures": means,
        "n_pictures": {name: len(row) for name, row in rows.items()},
        "tests": [
            {"weights": one.part, "pictures": one.measure, "spearman": one.ranks.r,
             "p": one.ranks.p, "p_holm": one.corrected, "pearson": one.numbers.r,
             "p_pearson": one.numbers.p, "interval": one.interval.to_json(),
             "without": one.without}
            for one in tests
        ],
        "n_permutations": setting.n_permutations,
    }  # fmt: skip
    return Answer(_words(setting, names, tests), _sections(tests), _charts(names, weights, means),
                  data)  # fmt: skip


def _weights(setting: Setting, names: Sequence[str]) -> dict[str, Doubles]:
    found = compare({name: setting.sources[name] for name in names}, by="component",
                    memory=setting.memory)  # fmt: skip
    parts = {
        part: found.pairs(Place(part)).distances() for part in found.components if part in _PARTS
    }
    whole = np.sqrt(sum(np.nan_to_num(each) ** 2 for each in parts.values()))
    return {_WHOLE: np.asarray(whole, np.float64), **parts}


def _pictures(setting: Setting, names: Sequence[str]) -> dict[str, Doubles]:
    """By measure: a row a task, a column a pair. One task's pictures at a time are in memory."""
    tasks = setting.tasks()
    pairs = list(combinations(range(len(names)), 2))
    rows: dict[str, list[list[float]]] = {"MSE": [], "SSIM": [], "SIFT": []}
    if setting.embed is not None:
        rows["features"] = []
    for name in names:  # one candidate after the other: changing the mix is what costs
        for _ in setting.gallery.pictures(setting.alone(name), tasks):
            pass
    for number, task in enumerate(tasks):
        shown = [next(setting.gallery.pictures(setting.alone(name), [task])) for name in names]
        rows["MSE"].append([mse(shown[i], shown[j]) for i, j in pairs])
        rows["SSIM"].append([structure_apart(shown[i], shown[j]) for i, j in pairs])
        if number < _SIFT_TASKS:
            rows["SIFT"].append([sift_apart(shown[i], shown[j]) for i, j in pairs])
        if setting.embed is not None:
            rows["features"].append(_apart(shown, setting, pairs))
    return {name: np.array(each, np.float64) for name, each in rows.items()}


def _apart(
    shown: Sequence[Picture], setting: Setting, pairs: Sequence[tuple[int, int]]
) -> list[float]:
    assert setting.embed is not None
    vectors = setting.embed(shown).astype(np.float64)
    return [float(1 - vectors[i] @ vectors[j]) for i, j in pairs]


def _tests(
    setting: Setting, names: Sequence[str], weights: Mapping[str, Doubles],
    rows: Mapping[str, Doubles],
) -> list[_Test]:  # fmt: skip
    n = len(names)
    upper = np.triu_indices(n, 1)
    made = []
    for part, matrix in weights.items():
        for measure, row in rows.items():
            square = _square(row.mean(axis=0), n)
            ranks, numbers = (
                mantel(matrix, square, how=how, n_permutations=setting.n_permutations,
                       seed=setting.seed)
                for how in ("spearman", "pearson")
            )  # fmt: skip
            groups = groups_of(setting.tasks(len(row)))
            interval = bootstrap_means(
                row, partial(correlate, matrix[upper]), groups, n_boot=_N_BOOT, seed=setting.seed
            )
            without = {name: _left_out(matrix, square, i) for i, name in enumerate(names)}
            made.append((part, measure, ranks, numbers, interval, without))
    corrected = holm({f"{one[0]} {one[1]}": one[2].p for one in made})
    return [
        _Test(part, measure, ranks, numbers, interval, corrected[f"{part} {measure}"], without)
        for part, measure, ranks, numbers, interval, without in made
    ]


def _left_out(a: Doubles, b: Doubles, i: int) -> float:
    keep = np.delete(np.arange(len(a)), i)
    upper = np.triu_indices(len(keep), 1)
    return correlate(a[np.ix_(keep, keep)][upper], b[np.ix_(keep, keep)][upper])


def _square(values: Doubles, n: int) -> Doubles:
    """Numbers of pairs, in the order of `combinations`, as a symmetric matrix."""
    found = np.zeros((n, n))
    found[np.triu_indices(n, 1)] = values
    return found + found.T


def _words(setting: Setting, names: Sequence[str], tests: Sequence[_Test]) -> list[str]:
    by = {(one.part, one.measure): one for one in tests}
    first = by[_WHOLE, "MSE"]
    said = [_verdict(first, len(names), setting)]
    low = min(first.without, key=lambda name: (np.nan_to_num(first.without[name], nan=9), name))
    if np.isfinite(first.without[low]):
        high = max(one for one in first.without.values() if np.isfinite(one))
        said.append(
            f"With each model left out in turn, the correlation is {first.without[low]:.2f} "
            f"(without {low}) to {high:.2f}."
        )
    sure = [one for one in tests if one.corrected < _LEVEL]
    said.append(
        f"Of {len(tests)} pairs of part and measure, {len(sure)} go together after Holm's "
        "correction" + (": " + "; ".join(f"{one.part} and {one.measure} "
        f"{one.ranks.r:.2f}" for one in sure) if sure else "") + "."
    )  # fmt: skip
    flat = sorted(
        {one.part for one in tests
         if not np.isfinite(one.ranks.r) and np.isfinite(by[_WHOLE, one.measure].ranks.r)}
    )  # fmt: skip
    if flat:
        said.append(f"Nothing can be said of {', '.join(flat)}: all models have the same one.")
    if not np.isfinite(by[_WHOLE, "SIFT"].ranks.r):
        said.append("SIFT says nothing here: it found no points, as in small or plain pictures.")
    if setting.embed is None:
        said.append("No features were compared, since no network for them was given (--features).")
    return said


def _verdict(one: _Test, n: int, setting: Setting) -> str:
    facts = (f"rank correlation {one.interval} over tasks, Mantel p {one.ranks.p:.2g} with "
             f"{setting.n_permutations} permutations, {one.corrected:.2g} after Holm's "
             f"correction, {n} models, {len(setting.exam.tasks)} pictures of each")  # fmt: skip
    if not np.isfinite(one.ranks.r):
        return f"Cannot tell: weights or pictures are all equally far apart ({n} models)."
    if one.corrected < _LEVEL:
        share = f"{100 * one.ranks.r**2:.0f} %"
        return (
            "Yes: models whose weights are far apart draw pictures that are far apart "
            f"({facts}). The ranks of one explain {share} of the ranks of the other."
        )
    return f"Cannot tell whether weight distance predicts picture difference ({facts})."


def _sections(tests: Sequence[_Test]) -> list[Section]:
    rows = [
        TableRow(
            [
                one.part,
                one.measure,
                Cell(f"{one.ranks.r:.3f}", value=float(np.nan_to_num(one.ranks.r, nan=-2))),
                f"{one.interval.low:.3f} … {one.interval.high:.3f}",
                Cell(f"{one.ranks.p:.4f}", value=one.ranks.p),
                Cell(f"{one.corrected:.4f}", value=one.corrected),
                Cell(f"{one.numbers.r:.3f}", value=float(np.nan_to_num(one.numbers.r, nan=-2))),
                f"{min(one.without.values()):.3f} … {max(one.without.values()):.3f}",
            ],
            "strong" if one.corrected < _LEVEL else "plain",
        )
        for one in tests
    ]
    return [
        Table(
            "Mantel tests",
            ["weights", "pictures", "rank correlation", "over tasks", "p", "p, corrected",
             "correlation", "with one model left out"],
            rows,
            "One-sided: is more distance more difference? Intervals are over tasks; the last "
            "column is the range of the rank correlation when each model is left out in turn.",
            numeric=frozenset({2, 4, 5, 6}),
            sortable=True,
        )
    ]  # fmt: skip


def _charts(
    names: Sequence[str], weights: Mapping[str, Doubles], pictures: Mapping[str, Doubles]
) -> dict[str, Chart]:
    upper = np.triu_indices(len(names), 1)
    order = np.argsort(weights[_WHOLE][upper], kind="stable")
    pairs = [f"{a} – {b}" for a, b in combinations(names, 2)]
    charts: dict[str, Chart] = {
        "pairs": Curve(
            "Picture difference of pairs, the nearest weights first",
            [pairs[i] for i in order],
            [("mean squared error", [float(pictures["MSE"][upper][i]) for i in order])],
            axis="pair", unit="mean squared error",
        ),
        "weights": Heat("Distance of weights", names, names, weights[_WHOLE].tolist(), "L2"),
    }  # fmt: skip
    for measure, matrix in pictures.items():
        shown = matrix - matrix.min() if measure == "SIFT" else matrix
        unit = "points fewer than the best pair" if measure == "SIFT" else measure
        if measure == "SSIM":
            unit = "1 − SSIM"
        charts[f"pictures-{measure}"] = Heat(
            f"Difference of pictures: {measure}", names, names, shown.tolist(), unit
        )
    return charts


DISTANCE = Study(
    "distance",
    "a",
    "Does the distance of weights predict the difference of pictures?",
    "five models or more; --features for features",
    _missing,
    lambda setting: len(_points(setting)) * len(setting.exam.tasks),
    _run,
)
