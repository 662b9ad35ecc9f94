"""Study c: does the picture set of a mix converge with the number of models?

The author of AstolfoMix saw the grids of a growing mix settle. A mean settles in any order,
since each new model weighs 1/k; so its pictures are compared with those of random orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import numpy.typing as npt

from stockpot.compare import Convergence, Place, compare, trace_convergence
from stockpot.report import Band, Chart, Curve, Section, Table, TableRow
from stockpot.studies._base import Answer, Setting, Study, groups_of
from stockpot.studies.measures import mse
from stockpot.studies.statistics import Interval, bootstrap_means, random_orders

__all__ = ["CONVERGENCE"]

Doubles = npt.NDArray[np.float64]
Order = tuple[int, ...]

_TASKS = 32
_FEWEST = 4
_FEWEST_MIXES = 8
_PARTS = ("unet", "te", "te0", "te1")
_SURE = 0.025


@dataclass(frozen=True)
class _Plan:
    """Which orders are followed, and which sets of models are drawn for that."""

    orders: tuple[Order, ...]
    sets: tuple[frozenset[int], ...]
    n_followed: int  # of the orders, how many are random


def _plan(setting: Setting) -> _Plan:
    n = len(setting.models)
    given = tuple(range(n))
    if 2**n - 1 <= setting.n_mixes:  # then any order is a path through what is drawn
        sets = [frozenset(s) for size in range(1, n + 1) for s in combinations(range(n), size)]
        orders = random_orders(n, setting.n_permutations, setting.seed)
        return _Plan((given, *orders), tuple(sets), len(orders))
    kept: dict[frozenset[int], None] = dict.fromkeys(_path(given))
    orders_kept: list[Order] = []
    for order in random_orders(n, setting.n_permutations, setting.seed):
        more = [each for each in _path(order) if each not in kept]
        if orders_kept and len(kept) + len(more) > setting.n_mixes:
            break
        kept |= dict.fromkeys(more)
        orders_kept.append(order)
    return _Plan((given, *orders_kept), tuple(kept), len(orders_kept))


def _path(order: Order) -> list[frozenset[int]]:
    return [frozenset(order[:k]) for k in range(1, len(order) + 1)]


def _missing(setting: Setting) -> str:
    n = len(setting.models)
    if n < _FEWEST:
        return f"at least {_FEWEST} models to mix are needed, not {n}"
    if setting.n_mixes < _FEWEST_MIXES:
        return f"--mixes must be at least {_FEWEST_MIXES}"
    return ""


def _run(setting: Setting) -> Answer:
    plan, names = _plan(setting), setting.models
    tasks = setting.tasks(_TASKS)
    n = len(names)
    shown = list(setting.gallery.pictures(setting.mix(), tasks))
    to_end: dict[frozenset[int], Doubles] = {}
    for chosen in plan.sets:
        recipe = setting.mix([names[i] for i in sorted(chosen)])
        pictures = setting.gallery.pictures(recipe, tasks)
        to_end[chosen] = np.array([mse(a, b) for a, b in zip(shown, pictures, strict=True)])
    curves = np.array([[to_end[each].mean() for each in _path(order)] for order in plan.orders])
    roots = np.sqrt(curves)
    random = roots[1:]
    slower = float((random.sum(axis=1) < roots[0].sum()).mean())
    slope = bootstrap_means(
        np.stack([_by_size(plan, to_end, i, n) for i in range(len(tasks))]),
        partial(_exponent, n=n), groups_of(tasks), seed=setting.seed,
    )  # fmt: skip
    weights = _weights(setting, names)
    band = np.quantile(random, [0.05, 0.5, 0.95], axis=0)
    data = {
        "models": names,
        "n_orders": plan.n_followed,
        "n_mixes": len(plan.sets),
        "n_pictures": len(tasks),
        "to_end": roots[0],
        "band": band,
        "slower": slower,
        "exponent": slope.to_json(),
        "weights": weights.to_json(),
    }
    return Answer(
        _words(plan, names, slower, slope, weights, len(tasks)),
        _sections(names, roots[0], band, weights),
        _charts(names, roots[0], band, weights),
        data,
    )


def _by_size(plan: _Plan, to_end: dict[frozenset[int], Doubles], task: int, n: int) -> Doubles:
    """One task's mean squared difference to the end, by the number of models, 1 … n − 1."""
    rows = np.array([[to_end[s][task] for s in _path(order)[:-1]] for order in plan.orders])
    assert rows.shape[1] == n - 1
    found: Doubles = rows.mean(axis=0)
    return found


def _exponent(mean: Doubles, n: int) -> float:
    """The slope of log difference over log(1/k − 1/n): 1 where models are independent."""
    if not (mean > 0).all():
        return float("nan")
    k = np.arange(1, n)
    slope, _ = np.polyfit(np.log(1 / k - 1 / n), np.log(mean), 1)
    return float(slope)


def _weights(setting: Setting, names: Sequence[str]) -> Convergence:
    found = compare({name: setting.sources[name] for name in names}, by="component",
                    memory=setting.memory)  # fmt: skip
    squared = [found.pairs(Place(part)).squared for part in found.components if part in _PARTS]
    distances = np.sqrt(np.sum([np.nan_to_num(each) for each in squared], axis=0))
    return trace_convergence(distances, n_orders=setting.n_permutations, seed=setting.seed)


def _words(
    plan: _Plan, names: Sequence[str], slower: float, slope: Interval, weights: Convergence,
    n_tasks: int,
) -> list[str]:  # fmt: skip
    n, orders = len(names), plan.n_followed
    enough = orders * _SURE >= 1
    if not np.isfinite(slope.value):
        return ["Cannot tell: some mixes draw the very pictures of the whole one."]
    sooner = slower < _SURE or slower > 1 - _SURE
    if enough and sooner:
        how = "earlier" if slower < _SURE else "later"
        order = f"the order given settles {how} than random orders of the same models"
    elif enough:
        order = "the order given settles as any other order does"
    else:
        order = (
            f"cannot tell whether the order given is special: {orders} random orders are too few"
        )
    said = [
        f"The pictures approach those of the whole mix in every order, since each model more "
        f"weighs less; {order} ({100 * slower:.0f} % of {orders} random orders are nearer to "
        f"their end; {n} models, {n_tasks} pictures of each of {len(plan.sets)} mixes).",
        "The mean squared difference to the whole mix goes with (1/k − 1/n) to the power of "
        f"{slope}; 1 is what averaging independent models does, below it pictures settle more "
        "slowly than weights.",
        f"Of the weights: {weights.verdict} ({100 * weights.slower:.0f} % of {weights.n_orders} "
        "random orders are nearer to their end).",
    ]
    return said


def _sections(
    names: Sequence[str], to_end: Doubles, band: Doubles, weights: Convergence
) -> list[Section]:
    rows = [
        TableRow([str(k + 1), name, f"{to_end[k]:.4f}", f"{band[0, k]:.4f} … {band[2, k]:.4f}",
                  f"{weights.to_end[k]:.4g}", f"{weights.arithmetic[k]:.4g}"])
        for k, name in enumerate(names)
    ]  # fmt: skip
    return [
        Table(
            "Distance to the whole mix",
            ["models", "added", "pictures", "in random orders (5 % … 95 %)", "weights",
             "weights, 1/k arithmetic"],
            rows,
            "Pictures: root of the mean squared error. Weights: L2.",
            numeric=frozenset({0, 2, 4, 5}),
        )
    ]  # fmt: skip


def _charts(
    names: Sequence[str], to_end: Doubles, band: Doubles, weights: Convergence
) -> dict[str, Chart]:
    n = len(names)
    k = np.arange(1, n + 1)
    shape = np.sqrt(1 / k - 1 / n)
    arithmetic = shape * band[1, 0] / shape[0]
    places = [f"{i + 1}: {name}" for i, name in enumerate(names)]
    return {
        "pictures": Curve(
            "Pictures of a growing mix, distance to those of the whole",
            places,
            [("the order given", to_end.tolist()), ("median of random orders", band[1].tolist()),
             ("1/k arithmetic", arithmetic.tolist())],
            [Band("random orders, 5 % to 95 %", band[0].tolist(), band[2].tolist())],
            "models", "root of the mean squared error",
        ),
        "weights": Curve(
            "Weights of a growing mix, distance to the whole",
            places,
            [("the order given", weights.to_end.tolist()),
             ("1/k arithmetic", weights.arithmetic.tolist())],
            [Band("random orders, 5 % to 95 %", weights.end_band[0].tolist(),
                  weights.end_band[2].tolist())],
            "models", "L2",
        ),
    }  # fmt: skip


def _cost(setting: Setting) -> int:
    return len(_plan(setting).sets) * len(setting.tasks(_TASKS))


CONVERGENCE = Study(
    "convergence",
    "c",
    "Does the picture set of a mix converge with the number of models, against random orders?",
    "four models or more; --mixes sets how many orders can be followed",
    _missing,
    _cost,
    _run,
)
