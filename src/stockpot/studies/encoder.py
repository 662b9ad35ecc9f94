"""Study k: what a reset text encoder changes, and what swapping one back restores.

The author of AstolfoMix replaced all text encoders by the original one before and after merging,
and found that switching to a child's encoder brings back the entities that it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stockpot.recipes import Recipe, model
from stockpot.report import Band, Cell, Chart, Curve, Section, Table, TableRow
from stockpot.studies._base import Answer, Setting, Study, groups_of, own_encoders
from stockpot.studies.assembling import (
    MADE,
    assemble,
    chain,
    elements_apart,
    file_type,
    made_by,
)
from stockpot.studies.measures import mse
from stockpot.studies.statistics import Interval, bootstrap_means
from stockpot.tune import Task, Verdict, compare_marks

__all__ = ["ENCODER"]

Doubles = npt.NDArray[np.float64]

_MOST = 6
_NOISE = 1_000_003


@dataclass(frozen=True)
class _Reset:
    label: str
    mse: float
    ratio: Interval
    better: Verdict | None


@dataclass(frozen=True)
class _Restored:
    label: str
    nearer: Verdict
    gained: Verdict | None
    share: Interval | None


@dataclass(frozen=True)
class _Equal:
    elements: float
    same: float
    mse: float


def _own(setting: Setting) -> tuple[str, ...]:
    return own_encoders(setting, _MOST)


def _missing(setting: Setting) -> str:
    if setting.base is None or setting.base not in setting.whole:
        return "a base must say what a text encoder is reset to: --base NAME, with its file"
    if len(setting.models) < 2:
        return "at least two models to mix are needed"
    if not _own(setting):
        return "every model has the base's text encoder, so a reset changes nothing"
    return ""


def _run(setting: Setting) -> Answer:
    base = setting.base
    assert base is not None
    names = _own(setting)
    resets = [_reset(setting, "the mix", setting.mix(), setting.mix(encoders=(base,)))]
    resets += [_reset(setting, name, setting.alone(name), setting.mix((name,), (base,)))
               for name in names]  # fmt: skip
    restored = [_restored(setting, base, name) for name in names]
    equal = _equal(setting, base)
    data = {
        "base": base,
        "own_encoder": names,
        "reset": [{"what": one.label, "mse": one.mse, "of_another_seed": one.ratio.to_json(),
                   "better": _verdict(one.better)} for one in resets],
        "swapped_back": [
            {"model": one.label, "nearer": _verdict(one.nearer), "score": _verdict(one.gained),
             "share_restored": None if one.share is None else one.share.to_json()}
            for one in restored
        ],
        "reset_first": {"rounding": file_type(setting), "elements_that_differ": equal.elements,
                        "same_pictures": equal.same, "mse": equal.mse},
    }  # fmt: skip
    return Answer(_words(setting, resets, restored, equal), _sections(setting, resets, restored),
                  _charts(resets), data)  # fmt: skip


def _reset(setting: Setting, label: str, before: Recipe, after: Recipe) -> _Reset:
    tasks = setting.tasks()
    gallery = setting.gallery
    errors = _apart(setting, before, after, tasks)
    others = [_other_noise(task) for task in tasks]
    pairs = zip(gallery.pictures(before, tasks), gallery.pictures(before, others), strict=True)
    noise = np.array([mse(a, b) for a, b in pairs])
    rows = np.stack([errors, noise], axis=1)
    ratio = bootstrap_means(rows, _share, groups_of(tasks), seed=setting.seed)
    better = None
    if setting.score:
        better = compare_marks(gallery.scores(after, tasks, setting.score),
                               gallery.scores(before, tasks, setting.score),
                               than="with its own text encoder", seed=setting.seed)  # fmt: skip
    return _Reset(label, float(errors.mean()), ratio, better)


def _restored(setting: Setting, base: str, name: str) -> _Restored:
    """The mix with the child's text encoder against the mix with the base's one."""
    tasks, gallery = setting.tasks(), setting.gallery
    swapped, reset = setting.mix(encoders=(name,)), setting.mix(encoders=(base,))
    child = setting.alone(name)
    near = {
        label: dict(zip((t.name for t in tasks), -_apart(setting, recipe, child, tasks),
                        strict=True))
        for label, recipe in (("swapped", swapped), ("reset", reset))
    }  # fmt: skip
    nearer = compare_marks(near["swapped"], near["reset"], than="with the base's text encoder",
                           seed=setting.seed)  # fmt: skip
    if not setting.score:
        return _Restored(name, nearer, None, None)
    recipes = (swapped, reset, child, setting.mix((name,), (base,)))
    marks = [gallery.scores(recipe, tasks, setting.score) for recipe in recipes]
    gained = compare_marks(marks[0], marks[1], than="with the base's text encoder",
                           seed=setting.seed)  # fmt: skip
    rows = np.array([[one[task.name] for one in marks] for task in tasks])
    worth = compare_marks(marks[2], marks[3], seed=setting.seed)
    share = None
    if worth.better == "yes":
        share = bootstrap_means(rows, _regained, groups_of(tasks), seed=setting.seed)
    return _Restored(name, nearer, gained, share)


def _equal(setting: Setting, base: str) -> _Equal:
    """Reset every model and merge, against merge and reset, rounded after every step."""
    order, between = chain(setting.models), file_type(setting)
    first = assemble(setting, order, between, te=base)
    last = assemble(setting, order, between, te=base, reset=True)
    elements = elements_apart(first, last)
    first.close()
    last.close()
    recipe = setting.recipe(model(MADE), model(MADE), made=(MADE,))
    tasks = setting.tasks()
    shown = [
        list(setting.gallery.pictures(
            recipe, tasks, made=made_by(setting, order, between, te=base, reset=reset)))
        for reset in (False, True)
    ]  # fmt: skip
    errors = [mse(a, b) for a, b in zip(*shown, strict=True)]
    return _Equal(elements, errors.count(0.0) / len(errors), float(np.mean(errors)))


def _apart(setting: Setting, a: Recipe, b: Recipe, tasks: Sequence[Task]) -> Doubles:
    pairs = zip(setting.gallery.pictures(a, tasks), setting.gallery.pictures(b, tasks), strict=True)
    return np.array([mse(one, other) for one, other in pairs])


def _other_noise(task: Task) -> Task:
    """The same request with another seed: how far apart pictures are that ask for the same."""
    request = replace(task.request, seed=(task.request.seed + _NOISE) % (1 << 32))
    return replace(task, name=f"{task.name} again", request=request)


def _share(means: Doubles) -> float:
    return float(means[0] / means[1]) if means[1] > 0 else float("nan")


def _regained(means: Doubles) -> float:
    swapped, reset, own, bare = means
    return float((swapped - reset) / (own - bare)) if own > bare else float("nan")


def _words(
    setting: Setting, resets: Sequence[_Reset], restored: Sequence[_Restored], equal: _Equal
) -> list[str]:
    mix = resets[0]
    said = [
        f"A reset of the mix's text encoder changes its pictures by {_percent(mix.ratio)} of what "
        f"another seed does ({len(setting.exam.tasks)} pictures)."
        + (f" By {setting.score}, after the reset: {mix.better.text}." if mix.better else "")
    ]  # fmt: skip
    for one in resets[1:]:
        text = f"A reset of {one.label} changes its pictures by {_percent(one.ratio)} of what "
        text += "another seed does."
        said.append(text + (f" By {setting.score}: {one.better.text}." if one.better else ""))
    for back in restored:
        near = {"yes": "nearer to", "no": "farther from",
                "cannot tell": "not surely nearer to"}[back.nearer.better]  # fmt: skip
        text = f"With the text encoder of {back.label} the mix draws pictures {near} those of "
        text += f"{back.label} than with the base's"
        if back.gained is not None:
            text += f"; by {setting.score}: {back.gained.text}"
        if back.share is not None:
            text += (f"; of what the encoder is worth to {back.label} itself, the mix gets back "
                     f"{_percent(back.share)}")  # fmt: skip
        elif back.gained is not None:
            text += f"; it is not surely worth anything to {back.label} itself, so there is "
            text += "nothing to restore"
        said.append(text + ".")
    if equal.elements == 0 and equal.same == 1:
        said.append(f"Reset-then-merge equals merge-then-reset, also when every step is rounded to "
                    f"{file_type(setting)}: bit by bit, and in every picture.")  # fmt: skip
    else:
        said.append(f"Reset-then-merge and merge-then-reset differ in {100 * equal.elements:.3g} % "
                    f"of the elements when every step is rounded to {file_type(setting)}; "
                    f"{100 * equal.same:.0f} % of the pictures are the same.")  # fmt: skip
    return said


def _percent(share: Interval) -> str:
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _sections(
    setting: Setting, resets: Sequence[_Reset], restored: Sequence[_Restored]
) -> list[Section]:
    sections: list[Section] = [
        Table(
            "What a reset changes",
            ["what", "mean squared error", "of another seed", f"better by {setting.score or '–'}"],
            [
                TableRow([one.label, Cell(f"{one.mse:.3g}", value=one.mse), _percent(one.ratio),
                          one.better.text if one.better else "no score was named"])
                for one in resets
            ],
            "Another seed: the same requests with other noise.",
            numeric=frozenset({1}), wrapped=frozenset({3}),
        ),
        Table(
            "A child's text encoder in the mix",
            ["child", "are pictures nearer to the child's?", f"better by {setting.score or '–'}",
             "restored"],
            [
                TableRow([one.label, one.nearer.text, one.gained.text if one.gained else "",
                          _percent(one.share) if one.share else "cannot tell"])
                for one in restored
            ],
            "Against the mix with the base's text encoder. Restored: of what the encoder is worth "
            "to the child itself.",
            wrapped=frozenset({1, 2}),
        ),
    ]  # fmt: skip
    return sections


def _charts(resets: Sequence[_Reset]) -> dict[str, Chart]:
    shares = [one.ratio for one in resets]
    line = "reset"
    return {
        "reset": Curve(
            "What a reset of the text encoder changes", [one.label for one in resets],
            [(line, [share.value for share in shares])],
            [Band("95 % interval", [share.low for share in shares],
                  [share.high for share in shares])],
            axis="model", unit="share of what another seed changes", dots=frozenset({line}),
        )
    }  # fmt: skip


def _verdict(verdict: Verdict | None) -> dict[str, object] | None:
    if verdict is None:
        return None
    return {"better": verdict.better, "difference": verdict.difference, "p": verdict.p,
            "interval": [verdict.low, verdict.high], "text": verdict.text}  # fmt: skip


def _cost(setting: Setting) -> int:
    # The mix: twice with its own encoder, and reset; of each child: twice, reset, and its encoder
    # in the mix; the two orders of merging.
    return (3 + 4 * len(_own(setting)) + 2) * len(setting.exam.tasks)


ENCODER = Study(
    "text-encoder",
    "k",
    "Does a reset text encoder change what is drawn, and does a child's bring its entities back?",
    "--base; models with text encoders of their own; --score for what is restored",
    _missing,
    _cost,
    _run,
)
