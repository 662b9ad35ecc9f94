"""Study g: is what was asked for drawn, and all of it together; by parents and by the mix?

"At least you won't get Miku when prompting Haruhi" (the author of AstolfoMix, of a mix that was no
beauty): concepts that a parent confuses, and pictures that have one thing asked for but not all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stockpot.recipes import Recipe
from stockpot.report import Cell, Chart, Heat, Section, Table, TableRow
from stockpot.studies._base import Answer, Setting, Study, groups_of
from stockpot.studies.classifying import Classifier
from stockpot.studies.contrasts import Contrast, contrast_all
from stockpot.studies.statistics import Interval
from stockpot.studies.tables import contrast_table
from stockpot.tune import Task

__all__ = ["CONCEPTS"]

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_ALIKE = 0.05
_N_KNOWN = 1000
_FEWEST = 8  # pictures that ask for a word, in half of the exam, to call a confusion typical
_HALF = 0.5
_MIX, _TUNED, _PARENTS = "the mix", "the tuned mix", "the parents"
_ALL = "all together"
_TYPICAL = "confusions typical of a parent"
_MOST_CHARTS = 1


@dataclass(frozen=True)
class _Seen:
    """What a candidate drew: by attribute the word's number, and whether the classifier is sure."""

    words: Mapping[str, Ints]
    sure: Mapping[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class _Asked:
    """Tasks that ask for two attributes or more, and for which words; -1 where for none."""

    tasks: list[Task]
    words: Mapping[str, Ints]

    def right(self, seen: _Seen) -> Doubles:
        """1 where all that a task asks for is there."""
        wrong = [(asked >= 0) & (asked != seen.words[name]) for name, asked in self.words.items()]
        right: Doubles = 1.0 - np.any(wrong, axis=0).astype(np.float64)
        return right


def _asked(setting: Setting) -> _Asked:
    classifier = setting.classifier
    assert classifier is not None
    tasks = [task for task in setting.exam.tasks
             if not task.reverse and len(classifier.asked(task.request.prompt)) >= 2]  # fmt: skip
    said = [classifier.asked(task.request.prompt) for task in tasks]
    words = {
        name: np.array([each.index(one[name]) if name in one else -1 for one in said], np.int64)
        for name, each in classifier.concepts.items()
    }
    return _Asked(tasks, {name: row for name, row in words.items() if (row >= 0).any()})


def _missing(setting: Setting) -> str:
    if setting.classifier is None:
        return ("something must say what a picture shows: --concepts FILE with words by "
                "attribute, and a --score that reads prompts; or --concepts zoo")  # fmt: skip
    if len(setting.models) < 2:
        return "at least two models to mix are needed"
    n = len(_asked(setting).tasks)
    if n < _FEWEST:
        return (f"at least {_FEWEST} requests must name words of two attributes or more, but "
                f"{n} do")  # fmt: skip
    return ""


def _run(setting: Setting) -> Answer:
    classifier = setting.classifier
    assert classifier is not None
    asked = _asked(setting)
    parents = {name: _look(setting, setting.alone(name), asked) for name in setting.models}
    mixes = {label: _look(setting, one, asked) for label, one in setting.mixes().items()}
    pairs, of = _pairs(asked, parents, mixes)
    families = {name: _family(name) for name in pairs}
    found = contrast_all(pairs, of, how="difference", alike=_ALIKE, families=families,
                         n_permutations=setting.n_permutations, seed=setting.seed)  # fmt: skip
    errors = _errors(classifier, asked, setting.seed)
    rates = {label: float(asked.right(one).mean()) for label, one in {**parents, **mixes}.items()}
    bounds = {label: _bounds(asked, one) for label, one in {**parents, **mixes}.items()}
    confusion = {
        label: {name: _confusion(asked, name, ones, classifier) for name in asked.words}
        for label, ones in _sides(parents, mixes).items()
    }
    data = {
        "models": setting.models,
        "classifier": classifier.name,
        "concepts": {name: list(classifier.concepts[name]) for name in asked.words},
        "all_together": rates,
        "if_unsure_is_wrong_or_right": bounds if classifier.sure else None,
        "classifier_on_known_pictures": errors,
        "contrasts": [one.to_json() for one in found.values()],
        "confusion": confusion,
        "n_pictures": len(asked.tasks),
    }
    return Answer(_words(setting, asked, found, rates, bounds, errors),
                  _sections(classifier, found, rates, bounds, errors),
                  _charts(classifier, confusion), data)  # fmt: skip


def _look(setting: Setting, recipe: Recipe, asked: _Asked) -> _Seen:
    classifier = setting.classifier
    assert classifier is not None
    shown = classifier.look(list(setting.gallery.pictures(recipe, asked.tasks)))
    return _Seen(
        {name: shown[name].argmax(axis=1).astype(np.int64) for name in asked.words},
        {name: np.exp(shown[name].max(axis=1)) >= _HALF for name in asked.words},
    )


def _sides(parents: Mapping[str, _Seen], mixes: Mapping[str, _Seen]) -> dict[str, list[_Seen]]:
    return {_PARENTS: list(parents.values()), **{label: [one] for label, one in mixes.items()}}


def _pairs(
    asked: _Asked, parents: Mapping[str, _Seen], mixes: Mapping[str, _Seen]
) -> tuple[dict[str, tuple[Doubles, Doubles]], dict[str, list[str]]]:
    groups = np.array(groups_of(asked.tasks))
    pairs: dict[str, tuple[Doubles, Doubles]] = {}
    of: dict[str, list[str]] = {}

    def add(name: str, a: Doubles, b: Doubles, keep: npt.NDArray[np.bool_]) -> None:
        pairs[name], of[name] = (a[keep], b[keep]), list(groups[keep])

    every = np.ones(len(asked.tasks), bool)
    own = {name: asked.right(one) for name, one in parents.items()}
    mean = np.mean(list(own.values()), axis=0)
    for label, one in mixes.items():
        right = asked.right(one)
        add(f"{_ALL}: {label} against {_PARENTS}", right, mean, every)
        if label != _MIX:
            add(f"{_ALL}: {label} against {_MIX}", right, asked.right(mixes[_MIX]), every)
        for name, row in own.items():
            add(f"{_ALL}: {label} against {name}", right, row, every)
        for attribute, words in asked.words.items():
            theirs = np.mean([p.words[attribute] == words for p in parents.values()], axis=0)
            add(f"{attribute}: {label} against {_PARENTS}",
                (one.words[attribute] == words).astype(np.float64), theirs, words >= 0)  # fmt: skip
        typical = _typical(asked, parents, one)
        if typical is not None:
            a, b, keep = typical
            add(f"{_TYPICAL}: {label} against that parent", a, b, keep)
    return pairs, of


def _family(name: str) -> str:
    """What a comparison is corrected together with: the answer, its details, each parent."""
    if name.startswith(f"{_ALL}:"):
        return "answer" if name.endswith((_PARENTS, _MIX)) else "each parent"
    return "answer" if name.startswith(_TYPICAL) else "attributes"


def _typical(
    asked: _Asked, parents: Mapping[str, _Seen], mix: _Seen
) -> tuple[Doubles, Doubles, npt.NDArray[np.bool_]] | None:
    """How often a parent's commonest confusion is drawn, by the mix and by that parent.

    It is found in one half of the pictures and counted in the other, and the other way round:
    counted where it was found it would seem commoner than it is.
    """
    n = len(asked.tasks)
    half = np.arange(n) // max(1, len(set(groups_of(asked.tasks)))) % 2
    total, of_mix, of_parent = np.zeros(n), np.zeros(n), np.zeros(n)
    for seen in parents.values():
        for side in (0, 1):
            worst: tuple[float, str, int, int] | None = None
            for name, words in asked.words.items():
                for word in set(words[words >= 0].tolist()):
                    rows = (words == word) & (half == side)
                    if rows.sum() < _FEWEST or ((words == word) & (half != side)).sum() < 1:
                        continue
                    drawn = seen.words[name][rows]
                    counts = np.bincount(drawn[drawn != word]) if (drawn != word).any() else None
                    if counts is None:
                        continue
                    found = (float(counts.max() / rows.sum()), name, word, int(counts.argmax()))
                    worst = max(worst, found) if worst else found
            if worst is None:
                continue
            _, name, word, instead = worst
            rows = (asked.words[name] == word) & (half != side)
            total += rows
            of_mix += rows & (mix.words[name] == instead)
            of_parent += rows & (seen.words[name] == instead)
    keep = total > 0
    if not keep.any():
        return None
    share = np.where(keep, total, 1)
    return of_mix / share, of_parent / share, keep


def _bounds(asked: _Asked, seen: _Seen) -> tuple[float, float, float]:
    """All-together rate if what the classifier is unsure of is wrong, or right; share of unsure."""
    wrong = np.zeros(len(asked.tasks), bool)
    sure_wrong = np.zeros(len(asked.tasks), bool)
    unsure = np.zeros(len(asked.tasks), bool)
    for name, words in asked.words.items():
        there, sure = words >= 0, seen.sure[name]
        miss = there & (words != seen.words[name])
        wrong |= miss | (there & ~sure)
        sure_wrong |= miss & sure
        unsure |= there & ~sure
    return float((~wrong).mean()), float((~sure_wrong).mean()), float(unsure.mean())


def _errors(classifier: Classifier, asked: _Asked, seed: int) -> dict[str, float] | None:
    """How often the classifier sees all that is there, and all of what is there but for one."""
    if classifier.known is None:
        return None
    rng = np.random.default_rng(seed)
    pictures, shown = classifier.known(_N_KNOWN, seed)
    rows = classifier.look(pictures)
    names = list(asked.words)
    said = {name: [classifier.concepts[name][i] for i in rows[name].argmax(axis=1)]
            for name in names}  # fmt: skip
    same = np.array([[said[name][i] == one[name] for name in names]
                     for i, one in enumerate(shown)])  # fmt: skip
    fooled = []
    for i, one in enumerate(shown):
        # A prompt for the same with one word changed: the hardest to tell from what is there.
        name = names[rng.integers(len(names))]
        others = [word for word in classifier.concepts[name] if word != one[name]]
        wish = {**one, name: str(rng.choice(others))}
        fooled.append(all(said[each][i] == wish[each] for each in names))
    return {
        "sees_all": float(same.all(axis=1).mean()),
        "is_fooled": float(np.mean(fooled)),
        **{f"sees_{name}": float(same[:, i].mean()) for i, name in enumerate(names)},
    }


def _confusion(
    asked: _Asked, name: str, ones: Sequence[_Seen], classifier: Classifier
) -> list[list[float]]:
    n = len(classifier.concepts[name])
    counts = np.zeros((n, n))
    for seen in ones:
        for word, drawn in zip(asked.words[name], seen.words[name], strict=True):
            if word >= 0:
                counts[word, drawn] += 1
    total = counts.sum(axis=1, keepdims=True)
    shares: list[list[float]] = np.where(total > 0, counts / np.maximum(total, 1), 0).tolist()
    return shares


def _words(
    setting: Setting, asked: _Asked, found: Mapping[str, Contrast], rates: Mapping[str, float],
    bounds: Mapping[str, tuple[float, float, float]], errors: Mapping[str, float] | None,
) -> list[str]:  # fmt: skip
    n = len(asked.tasks)
    said = []
    labels = [label for label in (_MIX, _TUNED) if label in rates]
    for label in labels:
        one = found[f"{_ALL}: {label} against {_PARENTS}"]
        start = {"more": f"Yes: {label} draws all that is asked for together more often than its "
                         "parents", "less": f"No: {label} draws all that is asked for together "
                         "less often than its parents", "alike": f"No: {label} draws all that is "
                         "asked for together as often as its parents", "cannot tell":
                         f"Cannot tell whether {label} draws all that is asked for together more "
                         "often than its parents"}[one.state]  # fmt: skip
        said.append(f"{start}: in {_share(one.a)} of {n} pictures against {_share(one.b)} "
                    f"(difference {_points(one)}).")  # fmt: skip
        best = max(setting.models, key=lambda name: rates[name])
        against = found[f"{_ALL}: {label} against {best}"]
        better = [m for m in setting.models
                  if found[f"{_ALL}: {label} against {m}"].state == "more"]  # fmt: skip
        said.append(f"{label[0].upper()}{label[1:]} is surely better at it than {len(better)} of "
                    f"{len(setting.models)} parents; against the best one, {best}, which was "
                    f"picked afterwards: {_points(against)}, {against.state}.")  # fmt: skip
        said.append(f"By attribute, {label} against its parents: " + "; ".join(
            _attribute(name, found[f"{name}: {label} against {_PARENTS}"])
            for name in asked.words) + ".")  # fmt: skip
        typical = found.get(f"{_TYPICAL}: {label} against that parent")
        if typical is not None:
            said.append(
                f"What a parent typically draws instead of a word (found in half of the pictures, "
                f"counted in the others), it draws in {_share(typical.b)} of those that ask for "
                f"the word, {label} in {_share(typical.a)} (difference {_points(typical)}, "
                f"{typical.state}).")  # fmt: skip
    if _TUNED not in rates:
        said.append("No tuned mix was given (--tuned), so nothing is said of one.")
    said.append(_judged(setting, rates, bounds, errors))
    return said


def _judged(
    setting: Setting, rates: Mapping[str, float],
    bounds: Mapping[str, tuple[float, float, float]], errors: Mapping[str, float] | None,
) -> str:  # fmt: skip
    assert setting.classifier is not None
    name = setting.classifier.name
    parts = []
    if errors is None:
        parts.append(f"How often {name} errs is not known, so that rates are its opinion")
    else:
        true = _corrected(rates[_MIX], errors)
        theirs = float(np.mean([rates[one] for one in setting.models]))
        parts.append(
            f"Of {_N_KNOWN} pictures whose content is known, {name} sees all in "
            f"{_share(errors['sees_all'])} and is fooled in {_share(errors['is_fooled'])} where "
            f"one word is wrong; with these errors taken off, rates are {_share(true)} of the mix "
            f"and {_share(_corrected(theirs, errors))} of the parents; what models draw is harder "
            "to tell than those"
        )
    if setting.classifier.sure:
        low, high, unsure = bounds[_MIX]
        mean = np.mean([bounds[one] for one in setting.models], axis=0)
        parts.append(
            f"it is unsure of something in {_share(unsure)} of the mix's pictures and "
            f"{_share(mean[2])} of the parents'; if all of that were wrong or right, rates would "
            f"be {_share(low)} to {_share(high)} against {_share(mean[0])} to {_share(mean[1])}"
        )
    return "; ".join(parts) + "."


def _corrected(rate: float, errors: Mapping[str, float]) -> float:
    """The true rate that makes the classifier say this one (Rogan and Gladen, 1978)."""
    gain = errors["sees_all"] - errors["is_fooled"]
    return float(np.clip((rate - errors["is_fooled"]) / gain, 0, 1)) if gain > 0 else float("nan")


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"


def _points(one: Contrast) -> str:
    found: Interval = one.found
    return (f"{100 * found.value:+.0f} points, 95 % interval {100 * found.low:+.0f} to "
            f"{100 * found.high:+.0f}, p {one.corrected:.2g} after Holm's correction")  # fmt: skip


def _attribute(name: str, one: Contrast) -> str:
    return f"{name} {_share(one.a)} against {_share(one.b)} ({one.state})"


def _sections(
    classifier: Classifier, found: Mapping[str, Contrast], rates: Mapping[str, float],
    bounds: Mapping[str, tuple[float, float, float]], errors: Mapping[str, float] | None,
) -> list[Section]:  # fmt: skip
    rows = []
    for label, rate in rates.items():
        low, high, unsure = bounds[label]
        known = [_share(low), _share(high), _share(unsure)] if classifier.sure else ["–"] * 3
        true = _share(_corrected(rate, errors)) if errors else "–"
        rows.append(TableRow([label, Cell(_share(rate), value=rate), true, *known],
                             "strong" if label in (_MIX, _TUNED) else "plain"))  # fmt: skip
    return [
        Table(
            "All that was asked for, together",
            ["model", "rate", "errors taken off", "unsure is wrong", "unsure is right", "unsure"],
            rows,
            f"As {classifier.name} sees it; unsure: no word has half of the probability.",
            numeric=frozenset({1, 2, 3, 4, 5}), sortable=True,
        ),
        contrast_table("Compared", found, "Rates, from 0 to 1. Of confusions less is better, of "
                       "all else more. Corrected apart: against the parents together, against "
                       "each, and by attribute.", how="difference"),
    ]  # fmt: skip


def _charts(
    classifier: Classifier, confusion: Mapping[str, Mapping[str, list[list[float]]]]
) -> dict[str, Chart]:
    def errors(name: str) -> float:
        rows = np.array(confusion[_PARENTS][name])
        there = rows.sum(axis=1) > 0
        return float(1 - np.diag(rows)[there].mean())

    worst = sorted(confusion[_PARENTS], key=errors, reverse=True)[:_MOST_CHARTS]
    return {
        f"{name}-{label.replace('the ', '').replace(' ', '-')}": Heat(
            f"Asked and drawn, {name}: {label}", classifier.concepts[name],
            classifier.concepts[name], tables[name], "share of pictures that ask for the row",
        )
        for name in worst
        for label, tables in confusion.items()
    }  # fmt: skip


CONCEPTS = Study(
    "concepts",
    "g",
    "Is what was asked for drawn, and all of it together: by parents and by the mix?",
    "--concepts, and prompts that name two of its words or more",
    _missing,
    lambda setting: (len(setting.models) + len(setting.mixes())) * len(_asked(setting).tasks),
    _run,
)
