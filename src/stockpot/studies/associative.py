"""Study b: is merging associative in practice: chain, tree, one pass, rounded in between or not?

The author of AstolfoMix: "merge order is arbitrary, you will get the same mixture eventually".
In exact arithmetic that is a theorem; files are rounded after every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import Source
from stockpot.engine import Settings, merge_in_memory
from stockpot.recipes import Recipe, model
from stockpot.report import Cell, Chart, Curve, Section, Table, TableRow
from stockpot.scores import Picture
from stockpot.studies._base import Answer, Setting, Study, groups_of
from stockpot.studies.assembling import (
    MADE,
    Order,
    assemble,
    chain,
    elements_apart,
    expression,
    file_type,
    made_by,
    tree,
    weights_apart,
)
from stockpot.studies.gallery import Made
from stockpot.studies.measures import mse
from stockpot.studies.statistics import Interval, bootstrap_means, random_orders

__all__ = ["ASSOCIATIVE"]

_FEWEST = 3


@dataclass(frozen=True)
class _Way:
    """One way to the same mix; `between` is empty where nothing is rounded in between."""

    label: str
    order: Order
    between: str


@dataclass(frozen=True)
class _Found:
    way: _Way
    elements: float
    distance: float
    mse: float
    same: float
    largest: int
    ratio: Interval


def _ways(setting: Setting) -> list[_Way]:
    names = setting.models
    (other,) = random_orders(len(names), 1, setting.seed)
    shuffled = [names[i] for i in other]
    own = file_type(setting)
    ways = [_Way("chain", chain(names), ""), _Way("tree", tree(names), "")]
    for between in dict.fromkeys(("fp32", own, "bf16")):
        ways.append(_Way("chain", chain(names), between))
    ways += [_Way("tree", tree(names), own), _Way("chain in another order", chain(shuffled), own)]
    return ways


def _missing(setting: Setting) -> str:
    n = len(setting.models)
    return "" if n >= _FEWEST else f"at least {_FEWEST} models to mix are needed, not {n}"


def _run(setting: Setting) -> Answer:
    tasks = setting.tasks()
    names = setting.models
    one_pass, fewer = setting.mix(), setting.mix(names[:-1])
    reference = _in_memory(setting, one_pass)
    step = weights_apart(setting, reference, _in_memory(setting, fewer))
    shown = list(setting.gallery.pictures(one_pass, tasks))
    pairs = zip(shown, setting.gallery.pictures(fewer, tasks), strict=True)
    dropped = np.array([mse(a, b) for a, b in pairs])
    found = []
    for way in _ways(setting):
        setting.progress(f"{way.label}, rounded in between to {way.between or 'nothing'}")
        recipe, made = _candidate(setting, way)
        mix = (assemble(setting, way.order, way.between) if way.between
               else _in_memory(setting, recipe))  # fmt: skip
        apart = (elements_apart(reference, mix), weights_apart(setting, reference, mix))
        mix.close()
        pictures = setting.gallery.pictures(recipe, tasks, made=made)
        found.append(_found(way, apart, list(_differences(shown, pictures)), dropped,
                            groups_of(tasks), setting.seed))  # fmt: skip
    data = {
        "models": names,
        "drop_one": {"model": names[-1], "distance": step, "mse": float(dropped.mean())},
        "ways": [
            {"order": one.way.label, "between": one.way.between or None,
             "elements_that_differ": one.elements, "distance": one.distance, "mse": one.mse,
             "same_pictures": one.same, "largest_difference": one.largest,
             "of_dropping_one": one.ratio.to_json()}
            for one in found
        ],
    }  # fmt: skip
    return Answer(_words(setting, found, step), _sections(found, step, setting),
                  _charts(found), data)  # fmt: skip


def _candidate(setting: Setting, way: _Way) -> tuple[Recipe, Made | None]:
    if way.between:
        recipe = setting.recipe(model(MADE), model(MADE), made=(MADE,))
        return recipe, made_by(setting, way.order, way.between)
    return setting.recipe(expression(way.order), expression(way.order)), None


def _in_memory(setting: Setting, recipe: Recipe) -> Source:
    settings = Settings(memory=setting.memory, hashes=False)
    return merge_in_memory(recipe, setting.sources, settings=settings)


def _differences(shown: Sequence[Picture], pictures: Iterable[Picture]) -> list[tuple[float, int]]:
    found = []
    for a, b in zip(shown, pictures, strict=True):
        largest = int(np.abs(a.astype(np.int16) - b.astype(np.int16)).max())
        found.append((mse(a, b), largest))
    return found


def _found(
    way: _Way, apart: tuple[float, float], differences: Sequence[tuple[float, int]],
    dropped: npt.NDArray[np.float64], groups: Sequence[str], seed: int,
) -> _Found:  # fmt: skip
    errors = np.array([error for error, _ in differences])
    ratio = bootstrap_means(np.stack([errors, dropped], axis=1), _share, groups, seed=seed)
    largest = [each for _, each in differences]
    return _Found(way, *apart, float(errors.mean()), largest.count(0) / len(largest),
                  max(largest), ratio)  # fmt: skip


def _share(means: npt.NDArray[np.float64]) -> float:
    return float(means[0] / means[1]) if means[1] > 0 else float("nan")


def _words(setting: Setting, found: Sequence[_Found], step: float) -> list[str]:
    exact = [one for one in found if not one.way.between]
    rounded = [one for one in found if one.way.between == file_type(setting)]
    worst = max(rounded, key=lambda one: one.ratio.value)
    n = len(setting.models)
    if all(one.elements == 0 for one in exact):
        said = ["Yes where nothing is rounded in between: chain, tree and one pass give the same "
                "weights bit by bit, and so the same pictures."]  # fmt: skip
    else:
        most = max(one.elements for one in exact)
        said = [f"Not bit by bit: without rounding in between, up to {100 * most:.3g} % of the "
                "elements differ."]  # fmt: skip
    percent = Interval(*(100 * end for end in (worst.ratio.value, worst.ratio.low,
                                               worst.ratio.high)))  # fmt: skip
    small = worst.ratio.high < 0.1
    said.append(
        f"Rounded to {file_type(setting)} after every step, up to "
        f"{100 * max(one.elements for one in rounded):.3g} % of the elements differ, and pictures "
        f"by {percent} % of the mean squared error that leaving one of {n} models out makes: "
        + ("the order does not matter for pictures." if small else
           "that is not nothing, so merge in one pass.")
    )  # fmt: skip
    said += [
        f"{one.way.label[:1].upper() + one.way.label[1:]}, {one.way.between} in between: "
        f"{100 * one.same:.0f} % of {len(setting.exam.tasks)} pictures are the same to the last "
        f"bit; the largest difference of a pixel is {one.largest} of 255; the weights are "
        f"{one.distance / step if step else 0:.2g} of the way that leaving a model out moves them."
        for one in found if one.way.between
    ]  # fmt: skip
    return said


def _sections(found: Sequence[_Found], step: float, setting: Setting) -> list[Section]:
    rows = [
        TableRow([
            one.way.label,
            one.way.between or "not rounded",
            Cell(f"{100 * one.elements:.3g} %", value=one.elements),
            Cell(f"{one.distance:.3g}", value=one.distance),
            Cell(f"{one.mse:.3g}", value=one.mse),
            Cell(f"{100 * one.same:.0f} %", value=one.same),
            Cell(str(one.largest), value=one.largest),
            f"{100 * one.ratio.value:.3g} % ({100 * one.ratio.low:.3g} … "
            f"{100 * one.ratio.high:.3g})",
        ])
        for one in found
    ]  # fmt: skip
    return [
        Table(
            "Ways to the same mix, against one pass",
            ["order", "in between", "elements that differ", "distance", "mean squared error",
             "same pictures", "largest pixel", "of leaving one out"],
            rows,
            f"Leaving out {setting.models[-1]} moves the weights by {step:.3g}; the last column "
            "is the mean squared error of pictures as a share of what that changes.",
            numeric=frozenset({2, 3, 4, 5, 6}),
        )
    ]  # fmt: skip


def _charts(found: Sequence[_Found]) -> dict[str, Chart]:
    places = [f"{one.way.label}, {one.way.between or 'not rounded'}" for one in found]
    return {
        "pictures": Curve(
            "Picture difference to one pass", places,
            [("share of leaving one model out", [one.ratio.value for one in found])],
            axis="way", unit="share of the mean squared error",
        )
    }  # fmt: skip


ASSOCIATIVE = Study(
    "associative",
    "b",
    "Is merging associative in practice: chain, tree, one pass, with and without rounding between?",
    "three models or more",
    _missing,
    lambda setting: (2 + len(_ways(setting))) * len(setting.exam.tasks),
    _run,
)
