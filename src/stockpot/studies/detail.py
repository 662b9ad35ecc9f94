"""Study e: does a tuned mix lose the background's detail and contrast against its parents?

The author of AstolfoMix saw that his tuned mix scored best and blurred the background, and that
merging it with the uniform mix brought the background back. A scorer does not ask for backgrounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from stockpot.errors import StockpotError
from stockpot.layouts import get_layout
from stockpot.recipes import Recipe, fold
from stockpot.report import Chart, Curve, Section
from stockpot.scores import picture_statistics
from stockpot.studies._base import Answer, Setting, Study, groups_of
from stockpot.studies.contrasts import Contrast, contrast_all, percent_text
from stockpot.studies.measures import shrink
from stockpot.studies.tables import contrast_table
from stockpot.tune import Task

__all__ = ["DETAIL", "shares_of"]

Doubles = npt.NDArray[np.float64]

_COARSE = "coarse detail"
_FACTS = {
    "background detail": "background_detail",
    "background contrast": "background_contrast",
    "detail": "detail",
    "contrast": "contrast",
    "subject detail": "subject_detail",
    "share of the subject": "subject",
}
_MEASURES = (*_FACTS, _COARSE)
_MAIN = ("background detail", "background contrast")
_SIDE = 128
_MIX, _TUNED = "the mix", "the tuned mix"
_PARENTS = "the parents"


def shares_of(setting: Setting, recipe: Recipe, component: str = "unet") -> dict[str, float] | None:
    """What each model is of a mix's component, the mean over blocks; None where methods hide it.

    Args:
        setting: The pool's layout.
        recipe: A mix.
        component: Such as ``unet`` or ``te``.

    Returns:
        By model; negative shares are possible, and the sum need not be 1.
    """
    try:
        folded = fold(recipe, get_layout(setting.pool.layout))
    except StockpotError:
        return None
    rows = [row for cell, row in folded.rows.items() if cell.component == component]
    found: dict[str, Fraction] = {}
    for row in rows:
        for atom, share in row.items():
            if not isinstance(atom, str):
                return None
            found[atom] = found.get(atom, Fraction(0)) + share
    return {name: float(share / len(rows)) for name, share in found.items()}


def _missing(setting: Setting) -> str:
    n = len(setting.models)
    return "" if n >= 2 else f"at least two models to mix are needed, but there are {n}"


def _run(setting: Setting) -> Answer:
    tasks = setting.tasks()
    parents = {name: _measured(setting, setting.alone(name), tasks) for name in setting.models}
    mixes = {label: _measured(setting, one, tasks) for label, one in setting.mixes().items()}
    even = {name: 1.0 for name in parents}
    shares = shares_of(setting, setting.mixes()[_TUNED]) if _TUNED in mixes else None
    references = {_PARENTS: _weighed(parents, even)}
    if shares and min(shares.values()) >= 0 and shares.keys() <= parents.keys():
        references["the parents, as they weigh"] = _weighed(parents, shares)
    found = _contrasts(setting, mixes, references, tasks)
    alone = _alone(setting, mixes, parents, tasks)
    data = {
        "models": setting.models,
        "means": {label: {m: one[m].mean() for m in _MEASURES}
                  for label, one in {**parents, **mixes}.items()},
        "contrasts": [one.to_json() for one in found.values()],
        "against_each_parent": [one.to_json() for one in alone.values()],
        "shares_of_the_tuned_mix": shares,
        "n_pictures": len(tasks),
    }  # fmt: skip
    return Answer(_words(setting, found, alone, mixes), _sections(found, alone),
                  _charts(parents, mixes), data)  # fmt: skip


def _measured(setting: Setting, recipe: Recipe, tasks: Sequence[Task]) -> dict[str, Doubles]:
    marks = setting.gallery.marks(recipe, tasks)
    found = {
        name: np.array([marks[task.name].facts[key] for task in tasks])
        for name, key in _FACTS.items()
    }
    # What is left at half the size, or at that of a thumbnail: noise of single pixels is gone.
    coarse = []
    for picture in setting.gallery.pictures(recipe, tasks):
        side = min(_SIDE, min(picture.shape[:2]) // 2)
        coarse.append(picture_statistics(shrink(picture, side)).detail)
    return {**found, _COARSE: np.array(coarse)}


def _weighed(
    parents: Mapping[str, Mapping[str, Doubles]], shares: Mapping[str, float]
) -> dict[str, Doubles]:
    total = sum(shares.values())
    return {
        measure: np.sum([shares.get(name, 0.0) / total * one[measure]
                         for name, one in parents.items()], axis=0)
        for measure in _MEASURES
    }  # fmt: skip


def _contrasts(
    setting: Setting, mixes: Mapping[str, Mapping[str, Doubles]],
    references: Mapping[str, Mapping[str, Doubles]], tasks: Sequence[Task],
) -> dict[str, Contrast]:  # fmt: skip
    against = {label: dict(references) for label in mixes}
    against[_MIX] = {_PARENTS: references[_PARENTS]}
    if _TUNED in mixes:
        against[_TUNED][_MIX] = mixes[_MIX]
    pairs = {
        f"{measure} of {label} against {what}": (mixes[label][measure], reference[measure])
        for label, others in against.items()
        for what, reference in others.items()
        for measure in _MEASURES
    }
    families = {
        f"{measure} of {label} against {what}": "main" if measure in _MAIN else "rest"
        for label, others in against.items() for what in others for measure in _MEASURES
    }  # fmt: skip
    return contrast_all(pairs, groups_of(tasks), families=families,
                        n_permutations=setting.n_permutations, seed=setting.seed)  # fmt: skip


def _alone(
    setting: Setting, mixes: Mapping[str, Mapping[str, Doubles]],
    parents: Mapping[str, Mapping[str, Doubles]], tasks: Sequence[Task],
) -> dict[str, Contrast]:  # fmt: skip
    """The tuned mix (or the mix) against each parent by itself."""
    label = _TUNED if _TUNED in mixes else _MIX
    pairs = {
        f"{measure} of {label} against {name}": (mixes[label][measure], one[measure])
        for name, one in parents.items()
        for measure in _MAIN
    }
    return contrast_all(pairs, groups_of(tasks), n_permutations=setting.n_permutations,
                        seed=setting.seed)  # fmt: skip


def _words(
    setting: Setting, found: Mapping[str, Contrast], alone: Mapping[str, Contrast],
    mixes: Mapping[str, object],
) -> list[str]:  # fmt: skip
    tuned = _TUNED in mixes
    label = _TUNED if tuned else _MIX
    said = [_verdict(label, [found[f"{m} of {label} against {_PARENTS}"] for m in _MAIN],
                     len(setting.exam.tasks))]  # fmt: skip
    if tuned:
        for what in (_MIX, "the parents, as they weigh"):
            ones = [found.get(f"{m} of {label} against {what}") for m in _MAIN]
            if all(ones):
                said.append(f"Against {what} in it: " if what != _MIX else "Against the uniform "
                            "mix: ")  # fmt: skip
                said[-1] += "; ".join(_short(m, one) for m, one in zip(_MAIN, ones, strict=True)
                                      if one) + "."  # fmt: skip
        plain = [_short(m, found[f"{m} of {_MIX} against {_PARENTS}"]) for m in _MAIN]
        said.append(f"The uniform mix against the parents: {'; '.join(plain)}.")
    else:
        said.append("No tuned mix was given (--tuned), so this is about the uniform mix.")
    below = [m for m in setting.models
             if alone[f"{_MAIN[0]} of {label} against {m}"].state == "less"]  # fmt: skip
    above = [m for m in setting.models
             if alone[f"{_MAIN[0]} of {label} against {m}"].state == "more"]  # fmt: skip
    said.append(
        f"Parents differ themselves. Parents that surely have more background detail than {label}: "
        f"{_listed(below)}; that surely have less: {_listed(above)}."
    )
    rest = [f"{m} of {label} against {_PARENTS}" for m in _MEASURES if m not in _MAIN]
    said.append("The whole picture: " + "; ".join(
        _short(m, found[name]) for m, name in zip((m for m in _MEASURES if m not in _MAIN), rest,
                                                  strict=True)) + ".")  # fmt: skip
    said.append(
        "More detail is not better: noise is detail too. Coarse detail is what is left of a "
        "smaller picture, where noise of single pixels is gone. What is background is guessed from "
        "the border's colour, which is right for plain backgrounds only."
    )
    return said


def _verdict(label: str, ones: Sequence[Contrast], n: int) -> str:
    facts = "; ".join(f"{m} is {percent_text(one)}" for m, one in zip(_MAIN, ones, strict=True))
    tail = f" of the parents' mean: {facts}; {n} pictures of each."
    states = [one.state for one in ones]
    if "less" in states:
        lost = " and ".join(m for m, s in zip(_MAIN, states, strict=True) if s == "less")
        return f"Yes: {label} has less {lost} than its parents. In shares{tail}"
    if "cannot tell" in states:
        return f"Cannot tell whether {label} loses background detail or contrast. In shares{tail}"
    if "more" in states:
        return f"No: {label} has more, or as much as its parents. In shares{tail}"
    return f"No: {label} keeps its parents' background within a tenth. In shares{tail}"


def _short(measure: str, one: Contrast) -> str:
    low, high = 100 * one.found.low, 100 * one.found.high
    return f"{measure} {100 * one.found.value:.0f} % ({low:.0f} to {high:.0f}; {one.state})"


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _sections(found: Mapping[str, Contrast], alone: Mapping[str, Contrast]) -> list[Section]:
    return [
        contrast_table(
            "Detail and contrast", found, "Corrected apart: the background, and the rest."
        ),
        contrast_table(
            "Against each parent by itself", alone, "Corrected for this table by itself."
        ),
    ]


def _charts(
    parents: Mapping[str, Mapping[str, Doubles]], mixes: Mapping[str, Mapping[str, Doubles]]
) -> dict[str, Chart]:
    everyone = {**parents, **mixes}
    lines = []
    for measure in (*_MAIN, _COARSE):
        level = float(np.mean([one[measure].mean() for one in parents.values()])) or 1.0
        lines.append((measure, [float(one[measure].mean()) / level for one in everyone.values()]))
    return {
        "detail": Curve("Detail of parents and mixes", list(everyone), lines, axis="model",
                        unit="of the parents' mean"),
    }  # fmt: skip


DETAIL = Study(
    "detail",
    "e",
    "Does a tuned mix lose the background's detail and contrast against its parents?",
    "two models or more; --tuned for a tuned mix",
    _missing,
    lambda setting: (len(setting.models) + len(setting.mixes())) * len(setting.exam.tasks),
    _run,
)
