"""Study h: in which range of CFG, steps and sizes is a mix usable, against its parents?

The author of AstolfoMix found what mixing changes most in "the lowerbound CFG and the upper bound
of resolution".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from stockpot.draw import Request
from stockpot.recipes import Recipe
from stockpot.report import Chart, Curve, Section, Table, TableRow
from stockpot.studies._base import Answer, Setting, Study, groups_of
from stockpot.studies.contrasts import ALIKE
from stockpot.studies.statistics import Interval, bootstrap_means
from stockpot.tune import Task

__all__ = ["RANGE", "usable"]

Doubles = npt.NDArray[np.float64]

_TASKS = 32
_MOST = 6
_BAR = 0.75
_OTHER_BARS = (0.5, 0.9)
_LEVEL = 0.95
_N_BOOT = 4000
_MULTIPLE = 8
_MIX, _TUNED, _PARENTS = "the mix", "the tuned mix", "the parents"


@dataclass(frozen=True)
class _Axis:
    """What is varied."""

    name: str
    values: tuple[float, ...]
    change: Callable[[Request, float], Request]
    usual: Callable[[Request], float]
    ends: tuple[str, ...]


def _with_cfg(request: Request, value: float) -> Request:
    return replace(request, settings=replace(request.settings, cfg=value))


def _with_steps(request: Request, value: float) -> Request:
    return replace(request, settings=replace(request.settings, steps=int(value)))


_AXES = (
    _Axis("CFG", (1, 1.5, 2.5, 4, 7, 12, 20), _with_cfg,
          lambda request: request.settings.cfg, ("low", "high")),
    _Axis("steps", (1, 2, 4, 8, 16, 32), _with_steps,
          lambda request: request.settings.steps, ("low",)),
    _Axis("size", (0.5, 0.75, 1, 1.5, 2),
          lambda request, value: request.scaled(value, _MULTIPLE), lambda request: 1.0,
          ("low", "high")),
)  # fmt: skip


def usable(values: Sequence[float], levels: Sequence[float], bar: float, usual: float) -> tuple[
    float, float
]:  # fmt: skip
    """Find the range around the usual value in which a curve is above a bar.

    Args:
        values: Ascending, above 0; in between, the curve is a line over logarithms.
        levels: Of the curve, one a value.
        bar: What is good enough.
        usual: A value inside of the range, if there is one.

    Returns:
        Lower and upper end: the ladder's own where the curve does not fall below the bar there;
        NaN twice where the curve is below the bar at the value nearest to the usual one.

    Example:
        >>> usable([1, 2, 4, 8], [0.0, 1.0, 1.0, 1.0], 0.5, 4.0)
        (1.414213562, 8.0)
    """
    x, y = np.log(np.asarray(values, np.float64)), np.asarray(levels, np.float64)
    start = int(np.abs(x - np.log(usual)).argmin())
    if not y[start] >= bar:
        return float("nan"), float("nan")
    ends = []
    for step, last in ((-1, 0), (1, len(x) - 1)):
        i = start
        while i != last and y[i + step] >= bar:
            i += step
        if i == last:
            ends.append(float(values[last]))
            continue
        share = (y[i] - bar) / (y[i] - y[i + step])
        ends.append(round(float(np.exp(x[i] + share * (x[i + step] - x[i]))), 9))
    return ends[0], ends[1]


def _missing(setting: Setting) -> str:
    if not setting.score:
        return "a scorer must say what is usable: --score NAME"
    n = len(setting.models)
    return "" if n >= 2 else f"at least two models to mix are needed, but there are {n}"


def _candidates(setting: Setting) -> dict[str, Recipe]:
    parents = {name: setting.alone(name) for name in setting.models[:_MOST]}
    return {**parents, **setting.mixes()}


def _varied(axis: _Axis, task: Task, value: float) -> Task:
    return replace(task, name=f"{task.name} {axis.name} {value:g}",
                   request=axis.change(task.request, value))  # fmt: skip


@dataclass(frozen=True)
class _Curves:
    """Scores of all candidates along one axis: one row a task, candidates times values columns."""

    axis: _Axis
    usual: float
    names: tuple[str, ...]
    rows: Doubles

    def levels(self, means: Doubles) -> Doubles:
        """By candidate and value: 0 is the worst of all there is, 1 the parents as asked."""
        return means.reshape(len(self.names), len(self.axis.values))


def _run(setting: Setting) -> Answer:
    tasks = setting.tasks(_TASKS)
    candidates = _candidates(setting)
    parents = tuple(setting.models[:_MOST])
    usual_scores = {name: _scores(setting, one, tasks) for name, one in candidates.items()}
    curves = []
    for axis in _AXES:
        setting.progress(axis.name)
        columns = [
            _scores(setting, one, [_varied(axis, task, value) for task in tasks])
            for one in candidates.values()
            for value in axis.values
        ]
        usual = float(np.exp(np.mean([np.log(axis.usual(task.request)) for task in tasks])))
        curves.append(_Curves(axis, usual, tuple(candidates), np.stack(columns, axis=1)))
    # One scale for all: from the worst that any setting makes of any candidate to what parents
    # draw as asked.
    floor = min(float(each.rows.mean(axis=0).min()) for each in curves)
    top = float(np.mean([usual_scores[name] for name in parents]))
    scale = (floor, top)
    ends = {(each.axis.name, end): _ends(setting, each, parents, end, scale, tasks)
            for each in curves for end in each.axis.ends} if top > floor else {}  # fmt: skip
    data = {
        "models": parents,
        "score": setting.score,
        "scale": {"worst": floor, "parents_as_asked": top},
        "bar": _BAR,
        "axes": {
            each.axis.name: {
                "values": each.axis.values,
                "usual": each.usual,
                "levels": {name: row for name, row in zip(
                    each.names, _scaled(each.levels(each.rows.mean(axis=0)), scale).tolist(),
                    strict=True)},
                "ranges": {name: {f"{bar:g}": list(_range(each, name, bar, scale))
                                  for bar in (*_OTHER_BARS, _BAR)} for name in each.names},
            }
            for each in curves
        },
        "ends": [{"axis": axis, "end": end, "mix": label, "ratio_to_parents": one.to_json()}
                 for (axis, end), each in ends.items() for label, one in each.items()],
        "n_pictures": len(tasks),
    }  # fmt: skip
    return Answer(_words(setting, curves, ends, scale, len(tasks)),
                  _sections(curves, scale), _charts(curves, parents, scale), data)  # fmt: skip


def _scores(setting: Setting, recipe: Recipe, tasks: Sequence[Task]) -> Doubles:
    found = setting.gallery.scores(recipe, tasks, setting.score)
    return np.array([found[task.name] for task in tasks])


def _scaled(levels: Doubles, scale: tuple[float, float]) -> Doubles:
    floor, top = scale
    return (levels - floor) / (top - floor) if top > floor else np.zeros_like(levels)


def _range(each: _Curves, name: str, bar: float, scale: tuple[float, float]) -> tuple[float, float]:
    levels = _scaled(each.levels(each.rows.mean(axis=0)), scale)[each.names.index(name)]
    return usable(each.axis.values, levels.tolist(), bar, each.usual)


def _ends(
    setting: Setting, each: _Curves, parents: Sequence[str], end: str,
    scale: tuple[float, float], tasks: Sequence[Task],
) -> dict[str, Interval]:  # fmt: skip
    """A mix's end of the usable range over the parents' (their geometric mean)."""
    level = _level(len(each.names) - len(parents))

    def ratio(label: str, means: Doubles) -> float:
        levels = _scaled(each.levels(means), scale)
        logs = {
            name: np.log(usable(each.axis.values, levels[i].tolist(), _BAR, each.usual))[
                0 if end == "low" else 1
            ]
            for i, name in enumerate(each.names)
            if name == label or name in parents
        }
        theirs = [logs[name] for name in parents if np.isfinite(logs[name])]
        return float(np.exp(logs[label] - np.mean(theirs))) if theirs else float("nan")

    return {
        label: bootstrap_means(each.rows, partial(ratio, label), groups_of(tasks), level=level,
                               n_boot=_N_BOOT, seed=setting.seed)
        for label in each.names
        if label not in parents
    }  # fmt: skip


def _level(n_mixes: int) -> float:
    """Of each interval, so that all of them hold together (Bonferroni)."""
    return 1 - (1 - _LEVEL) / (n_mixes * sum(len(axis.ends) for axis in _AXES))


def _state(one: Interval) -> str:
    """Of a ratio of ends: is it sure?"""
    if not np.isfinite(one.value):
        return "no range"
    if one.low >= 1 - ALIKE and one.high <= 1 + ALIKE:
        return "alike"
    if one.low > 1:
        return "higher"
    return "lower" if one.high < 1 else "cannot tell"


def _words(
    setting: Setting, curves: Sequence[_Curves],
    ends: Mapping[tuple[str, str], Mapping[str, Interval]], scale: tuple[float, float],
    n_tasks: int,
) -> list[str]:  # fmt: skip
    if not ends:
        return [f"Cannot tell: no setting makes {setting.score} worse than the parents' pictures "
                "as asked, so every setting is usable."]  # fmt: skip
    said = []
    labels = list(next(iter(ends.values())))
    for label in labels:
        wider: list[str] = []
        narrower: list[str] = []
        for (axis, end), found in ends.items():
            state = _state(found[label])
            where = (f"the {'lower' if end == 'low' else 'upper'} end of {axis} at "
                     f"{100 * found[label].value:.0f} % of theirs")  # fmt: skip
            if state in ("higher", "lower"):
                (wider if (end == "high") == (state == "higher") else narrower).append(where)
        if wider and not narrower:
            start = f"Yes: {label} is usable in a wider range than its parents ({_all(wider)})"
        elif narrower and not wider:
            start = f"No: {label} is usable in a narrower range ({_all(narrower)})"
        elif wider:
            start = (f"In part: the range of {label} is wider ({_all(wider)}) and narrower "
                     f"({_all(narrower)})")  # fmt: skip
        elif all(_state(found[label]) == "alike" for found in ends.values()):
            start = f"No: {label} has the range of its parents, within a tenth at every end"
        else:
            start = f"Cannot tell whether {label} is usable in a wider range than its parents"
        said.append(f"{start}; {n_tasks} pictures of each candidate and setting.")
        for each in curves:
            low, high = _range(each, label, _BAR, scale)
            parents = [_range(each, name, _BAR, scale) for name in each.names
                       if name not in labels]  # fmt: skip
            said.append(f"{each.axis.name}, {label}: {_span(each, low, high)}; parents: "
                        f"{_spans(each, parents)}; " + "; ".join(
                            f"{'lower' if end == 'low' else 'upper'} end, of the parents' mean: "
                            f"{_ratio(ends[each.axis.name, end][label])}"
                            for end in each.axis.ends) + ".")  # fmt: skip
    if _TUNED not in labels:
        said.append("No tuned mix was given (--tuned), so nothing is said of one.")
    said.append(
        f"Usable means: at least {100 * _BAR:.0f} % of the way from the worst setting of all "
        f"({setting.score} {scale[0]:.3g}) to what the parents draw as asked ({scale[1]:.3g}), on "
        "the average picture; so a mix that is better everywhere has a wider range too. Intervals "
        f"hold together at 95 % (each at "
        f"{100 * _level(len(labels)):g} %)."
    )
    return said


def _all(parts: Sequence[str]) -> str:
    return ", ".join(parts)


def _ratio(one: Interval) -> str:
    if not np.isfinite(one.value):
        return "no usable range"
    return f"{100 * one.value:.0f} % ({100 * one.low:.0f} to {100 * one.high:.0f}; {_state(one)})"


def _span(each: _Curves, low: float, high: float) -> str:
    if not np.isfinite(low):
        return "not usable as asked"
    first, last = each.axis.values[0], each.axis.values[-1]
    left = f"{low:.3g}" if low > first else f"{first:g} or less"
    right = f"{high:.3g}" if high < last else f"{last:g} or more"
    return f"{left} to {right}"


def _spans(each: _Curves, ranges: Sequence[tuple[float, float]]) -> str:
    kept = np.array([one for one in ranges if np.isfinite(one[0])])
    lost = len(ranges) - len(kept)
    text = "none is usable as asked"
    if len(kept):
        low, high = np.median(kept, axis=0)
        text = f"{_span(each, float(low), float(high))} (medians)"
        if lost:
            text += f", {lost} of {len(ranges)} not usable as asked"
    return text


def _sections(curves: Sequence[_Curves], scale: tuple[float, float]) -> list[Section]:
    bars = sorted((*_OTHER_BARS, _BAR))
    sections: list[Section] = []
    for each in curves:
        rows = [
            TableRow([name, *(_span(each, *_range(each, name, bar, scale)) for bar in bars)],
                     "strong" if name in (_MIX, _TUNED) else "plain")
            for name in each.names
        ]  # fmt: skip
        sections.append(
            Table(
                f"Usable range of {each.axis.name}",
                ["model", *(f"at {100 * bar:.0f} %" for bar in bars)],
                rows,
                f"The answer is for {100 * _BAR:.0f} %; the other bars show how much hangs on "
                "that. Sizes are in parts of those asked for." if each.axis.name == "size" else
                f"The answer is for {100 * _BAR:.0f} %; the other bars show how much hangs on "
                "that.",
            )
        )  # fmt: skip
    return sections


def _charts(
    curves: Sequence[_Curves], parents: Sequence[str], scale: tuple[float, float]
) -> dict[str, Chart]:
    charts: dict[str, Chart] = {}
    for each in curves:
        levels = _scaled(each.levels(each.rows.mean(axis=0)), scale)
        # The first line is the one that is drawn thick.
        names = sorted(each.names, key=lambda name: name in parents)
        charts[each.axis.name.lower()] = Curve(
            f"What is left at other values of {each.axis.name}",
            [f"{value:g}" for value in each.axis.values],
            [(name, levels[each.names.index(name)].tolist()) for name in names],
            axis=each.axis.name, unit="0: worst of all, 1: parents as asked",
        )  # fmt: skip
    return charts


def _cost(setting: Setting) -> int:
    settings = 1 + sum(len(axis.values) for axis in _AXES)
    return len(_candidates(setting)) * settings * len(setting.tasks(_TASKS))


RANGE = Study(
    "range",
    "h",
    "In which range of CFG, steps and sizes is a mix usable, against its parents?",
    "two models or more, --score",
    _missing,
    _cost,
    _run,
)
