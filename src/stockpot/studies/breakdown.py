"""Study d: how many models until an outlier no longer breaks the mix, and how many outliers do?

"Model doesn't break even I've merged some radical models" (the author of AstolfoMix). A mean gives
an outlier 1/n; a median ignores it while it is outnumbered: its breakdown point is one half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from stockpot.recipes import Call, Expr, Recipe, call, lerp, model
from stockpot.report import Cell, Chart, Curve, Section, Table, TableRow
from stockpot.studies._base import Answer, Setting, Study, average, groups_of
from stockpot.studies.statistics import Interval, bootstrap_means

__all__ = ["BREAKDOWN"]

Doubles = npt.NDArray[np.float64]
Mixer = Callable[[Sequence[str], str | None], Expr]

_TASKS = 64
_FEWEST = 3
_LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_FAR = 16  # where no outlier is named: how many times as far from the mean a model is pushed
_HALF = 0.5


def _plain(function: str, **options: float) -> Mixer:
    return lambda names, base: call(function, *names, **options)


def _on_base(function: str) -> Mixer:
    def mixer(names: Sequence[str], base: str | None) -> Call:
        assert base is not None
        return call(function, base, *names)

    return mixer


_METHODS: Mapping[str, Mixer] = MappingProxyType(
    {
        "mean": _plain("mean"),
        "trimmed_mean": _plain("trimmed_mean", cut=0.25),
        "median": _plain("median"),
        "geometric_median": _plain("geometric_median"),
        "ties": _on_base("ties"),
        "model_stock": _on_base("model_stock"),
    }
)
_NEED_BASE = ("ties", "model_stock")


@dataclass(frozen=True)
class _Cell:
    """One mix: how much of what a mix without outliers is worth is left."""

    method: str
    n_good: int
    n_outliers: int
    score: float
    clean: float
    left: Interval


def _methods(setting: Setting) -> tuple[str, ...]:
    return tuple(name for name in _METHODS if setting.base or name not in _NEED_BASE)


def _steps(n: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys([*(k for k in _LADDER if k < n), n]))


def _cells(setting: Setting) -> list[tuple[int, int]]:
    """Numbers of good models and of outliers: one outlier among ever more, ever more among all."""
    n = len(setting.models)
    return [(k, 1) for k in _steps(n)] + [(n, o) for o in _steps(n) if o > 1]


def _missing(setting: Setting) -> str:
    if not setting.score:
        return "a scorer must say what is broken: --score NAME"
    n = len(setting.models)
    return "" if n >= _FEWEST else f"at least {_FEWEST} models besides outliers, not {n}"


def _outliers(setting: Setting, n: int) -> tuple[list[str], dict[str, Expr]]:
    """Names of n outliers: those that were named; then the first of them, ever farther away.

    All in one direction, which is the worst case: outliers that point elsewhere cancel out.
    """
    names = list(setting.outliers[:n])
    let: dict[str, Expr] = {}
    first = names[0] if names else setting.models[0]
    start = 1 if names else _FAR
    for number in range(len(names), n):
        name = f"pushed {number + 1}"
        let[name] = lerp(average(setting.models), model(first), start * (1 + number))
        names.append(name)
    return names, let


def _recipe(setting: Setting, method: str, n_good: int, n_outliers: int) -> Recipe:
    names, let = _outliers(setting, n_outliers)
    good = list(setting.models[:n_good])
    inputs = [*good, *names]
    expr = average(inputs) if len(inputs) == 1 else _METHODS[method](inputs, setting.base)
    return setting.recipe(expr, expr, let=let)


def _run(setting: Setting) -> Answer:
    tasks, score = setting.tasks(_TASKS), setting.score
    groups = groups_of(tasks)

    def scores(recipe: Recipe) -> Doubles:
        found = setting.gallery.scores(recipe, tasks, score)
        return np.array([found[task.name] for task in tasks])

    spoilt = scores(_recipe(setting, "mean", 0, 1))
    n = len(setting.models)
    apart = (scores(setting.mix()) - spoilt)[:, None]
    gap = bootstrap_means(apart, lambda mean: float(mean[0]), groups, seed=setting.seed)
    cells = []
    for method in _methods(setting):
        setting.progress(method)
        clean = {k: scores(_recipe(setting, method, k, 0)) for k in _steps(n)}
        for n_good, n_outliers in _cells(setting):
            own = scores(_recipe(setting, method, n_good, n_outliers))
            rows = np.stack([own, clean[n_good], spoilt], axis=1)
            left = bootstrap_means(rows, _left, groups, seed=setting.seed)
            cells.append(
                _Cell(
                    method, n_good, n_outliers, float(own.mean()), float(clean[n_good].mean()), left
                )
            )
    first = _outliers(setting, 1)[0][0]
    data = {
        "models": setting.models,
        "outlier": first,
        "outliers": _outliers(setting, n)[0],
        "score": score,
        "outlier_alone": spoilt.mean(),
        "gap": gap.to_json(),
        "cells": [
            {"method": one.method, "good": one.n_good, "outliers": one.n_outliers,
             "score": one.score, "clean": one.clean, "left": one.left.to_json()}
            for one in cells
        ],
        "n_pictures": len(tasks),
    }  # fmt: skip
    return Answer(_words(setting, cells, gap, first, len(tasks)), _sections(cells),
                  _charts(setting, cells), data)  # fmt: skip


def _left(means: Doubles) -> float:
    mix, clean, spoilt = means
    return float((mix - spoilt) / (clean - spoilt)) if clean > spoilt else float("nan")


def _state(left: Interval) -> str:
    if left.low > _HALF:
        return "holds"
    return "broken" if left.high < _HALF else "cannot tell"


def _words(
    setting: Setting, cells: Sequence[_Cell], gap: Interval, outlier: str, n_tasks: int
) -> list[str]:
    if not gap.low > 0:
        return [f"Cannot tell: {outlier} alone does not surely draw worse than the mix of the "
                f"others (difference of {setting.score} {gap}), so it breaks nothing."]  # fmt: skip
    n = len(setting.models)
    one, many, unsure = [], [], []
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [cell for cell in cells if cell.method == method]
        among = sorted((c for c in own if c.n_outliers == 1), key=lambda c: c.n_good)
        worst = sorted((c for c in own if c.n_good == n), key=lambda c: c.n_outliers)
        if not any(np.isfinite(cell.left.value) for cell in own):
            unsure.append(method)
            continue
        from_ = _held(list(reversed(among)), lambda cell: cell.n_good)
        one.append(f"{method} from {from_} on" if from_ else f"{method} never")
        many.append(f"{method} {_held(worst, lambda cell: cell.n_outliers) or 'none'}")
    named = len(setting.outliers[:n])
    return [
        f"One outlier ({outlier}) no longer breaks the mix with so many good models: "
        + "; ".join(one) + ".",
        f"Of outliers among {n} good models, so many are surely survived: " + "; ".join(many)
        + f" ({named} named, the others pushed ever farther from the mean in the first one's "
        "direction, the worst case).",
        "A mix holds when it surely keeps more than half of the way from the outlier alone to the "
        f"same mix without outliers (for the mean {setting.score} {gap}, {n_tasks} pictures of "
        "each mix); intervals are at 95 % for each mix by itself.",
        *(f"Of {method} nothing can be said: without outliers it is no better than the outlier."
          for method in unsure),
    ]  # fmt: skip


def _held(cells: Sequence[_Cell], number: Callable[[_Cell], int]) -> int:
    """How far, from the easiest mix on, every mix surely holds; 0 where the first does not."""
    last = 0
    for cell in cells:
        if _state(cell.left) != "holds":
            break
        last = number(cell)
    return last


def _sections(cells: Sequence[_Cell]) -> list[Section]:
    rows = [
        TableRow(
            [one.method, str(one.n_good), str(one.n_outliers), f"{one.score:.4f}",
             f"{one.clean:.4f}",
             Cell(f"{one.left.value:.2f}", value=one.left.value),
             f"{one.left.low:.2f} … {one.left.high:.2f}", _state(one.left)],
            "faint" if _state(one.left) == "broken" else "plain",
        )
        for one in cells
    ]  # fmt: skip
    return [
        Table(
            "What is left with outliers",
            ["method", "good models", "outliers", "score", "without", "left", "interval", ""],
            rows,
            "Left: 0 is the outlier alone, 1 the same mix without outliers.",
            numeric=frozenset({1, 2, 3, 4, 5}),
            sortable=True,
        )
    ]


def _charts(setting: Setting, cells: Sequence[_Cell]) -> dict[str, Chart]:
    n = len(setting.models)
    methods = tuple(dict.fromkeys(cell.method for cell in cells))

    def lines(of: Callable[[_Cell], bool]) -> list[tuple[str, list[float]]]:
        return [
            (method, [c.left.value for c in cells if c.method == method and of(c)])
            for method in methods
        ]

    return {
        "one-outlier": Curve(
            "One outlier among ever more models", [str(k) for k in _steps(n)],
            lines(lambda cell: cell.n_outliers == 1), axis="good models", unit="left",
        ),
        "more-outliers": Curve(
            f"Ever more outliers among {n} models",
            [str(o) for k, o in _cells(setting) if k == n],
            lines(lambda cell: cell.n_good == n), axis="outliers", unit="left",
        ),
    }  # fmt: skip


def _cost(setting: Setting) -> int:
    each = len(_cells(setting)) + len(_steps(len(setting.models)))
    mixes = len(_methods(setting)) * each + 2
    return mixes * len(setting.tasks(_TASKS))


BREAKDOWN = Study(
    "breakdown",
    "d",
    "How many models until an outlier no longer breaks the mix, by method?",
    "three models or more, --score; --outlier and --base if known",
    _missing,
    _cost,
    _run,
)
