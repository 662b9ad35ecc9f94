"""Study j: which parents does a picture of a mix come from: those that it resembles?

The author of AstolfoMix expected most contents from the parent with the highest score, and read
grids for whom a picture looks like. What it looks like, and what it would be without a parent, are
two things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stockpot.recipes import Recipe
from stockpot.report import Cell, Chart, Curve, Section, Table, TableRow
from stockpot.scores import Picture
from stockpot.studies._base import Answer, Setting, Study, groups_of
from stockpot.studies.contrasts import LEVEL, Contrast, contrast_all, percent
from stockpot.studies.detail import shares_of
from stockpot.studies.measures import shrink
from stockpot.studies.statistics import Interval, bootstrap_means, correlate, holm
from stockpot.tune import Task

__all__ = ["PARENTS"]

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

_FEWEST = 3
_TASKS = 256
_HALF = 0.5
_SIDE = 64
_FEWEST_PAYLOADS = 5
_PIXELS, _FEATURES = "pixels", "features"
_TUNED = "the tuned mix"
_SIZE, _PULL = "what changes without it", "the pull towards it"


@dataclass(frozen=True)
class _Link:
    """Whether resemblance and a kind of contribution go together.

    Attributes:
        space: Pixels or features.
        kind: Of contribution.
        over: Rank correlation over parents, of means over pictures.
        over_p: By relabelling parents, two-sided.
        within: Rank correlation within pictures, what is common to all pictures taken off.
        within_p: By exchanging payloads, two-sided; corrected with the others.
        agree: Share of pictures whose nearest parent contributes most.
        chance: The same where payloads are exchanged.
    """

    space: str
    kind: str
    over: float
    over_p: float
    within: Interval
    within_p: float
    agree: float
    chance: float


@dataclass(frozen=True)
class _Table:
    """By picture and parent: how far apart, how much it changes, how far it is pulled.

    Besides, `elsewhere`: how far apart from the parent's picture of another payload; and `rest`,
    by picture, parent left out and parent: how far the mix without the one is from the other.
    """

    distance: Doubles
    size: Doubles
    pull: Doubles
    elsewhere: Doubles
    rest: Doubles


def _missing(setting: Setting) -> str:
    n = len(setting.models)
    return "" if n >= _FEWEST else f"at least {_FEWEST} models to mix are needed, but there are {n}"


def _without(setting: Setting, name: str) -> Recipe:
    return setting.mix(tuple(other for other in setting.models if other != name))


def _run(setting: Setting) -> Answer:
    tasks = setting.tasks(_TASKS)
    spaces: dict[str, Callable[[Sequence[Picture]], Floats]] = {_PIXELS: _pixels}
    if setting.embed is not None:
        spaces[_FEATURES] = setting.embed
    mixes = setting.mixes()
    tables, tuned = _tables(setting, tasks, spaces, mixes)
    groups = groups_of(tasks)
    links = _links(setting, tables, groups)
    main = list(spaces)[-1]
    nearest = _nearest(setting, tables[main].distance, groups)
    kin = contrast_all(
        {space: (one.distance.mean(axis=1), one.elsewhere.mean(axis=1))
         for space, one in tables.items()},
        groups, n_permutations=setting.n_permutations, seed=setting.seed,
    )  # fmt: skip
    still = {space: bootstrap_means(_still(one)[:, None], lambda mean: float(mean[0]), groups,
                                    seed=setting.seed)
             for space, one in tables.items()}  # fmt: skip
    shares = shares_of(setting, mixes[_TUNED]) if _TUNED in mixes else None
    of_tuned = _nearest(setting, tuned[main], groups) if main in tuned else {}
    weights = _by_weight(setting, shares, of_tuned)
    data = {
        "models": setting.models,
        "against_another_request": {space: one.to_json() for space, one in kin.items()},
        "nearest_without_it_too": {space: one.to_json() for space, one in still.items()},
        "nearest": {name: one.to_json() for name, one in nearest.items()},
        "tuned": {"nearest": {name: one.to_json() for name, one in of_tuned.items()},
                  "shares_of_weights": shares, "correlation": weights},
        "means": {
            space: {"distance": table.distance.mean(axis=0), "size": table.size.mean(axis=0),
                    "pull": table.pull.mean(axis=0)}
            for space, table in tables.items()
        },
        "links": [
            {"space": one.space, "contribution": one.kind, "over_parents": one.over,
             "p_over_parents": one.over_p, "within_pictures": one.within.to_json(),
             "p_within": one.within_p, "agree": one.agree, "chance": one.chance}
            for one in links
        ],
        "n_pictures": len(tasks),
    }  # fmt: skip
    head = _verdict(kin[main], still[main], main, len(setting.models), len(tasks))
    return Answer([head, *_words(setting, links, nearest, of_tuned, weights, main)],
                  _sections(setting, tables[main], nearest, links),
                  _charts(setting, nearest, tables[main]), data)  # fmt: skip


def _pixels(pictures: Sequence[Picture]) -> Floats:
    return np.stack([shrink(one, _SIDE).astype(np.float32).ravel() / 255 for one in pictures])


def _tables(
    setting: Setting, tasks: Sequence[Task],
    spaces: Mapping[str, Callable[[Sequence[Picture]], Floats]], mixes: Mapping[str, Recipe],
) -> tuple[dict[str, _Table], dict[str, Doubles]]:  # fmt: skip
    def seen(recipe: Recipe) -> dict[str, Floats]:
        pictures = list(setting.gallery.pictures(recipe, tasks))
        return {space: see(pictures) for space, see in spaces.items()}

    other = _other_payload(tasks)
    whole = {label: seen(recipe) for label, recipe in mixes.items()}
    parents = {name: seen(setting.alone(name)) for name in setting.models}
    rests = {name: seen(_without(setting, name)) for name in setting.models}
    tables, tuned = {}, {}
    for space in spaces:
        mix, own = whole["the mix"][space], [one[space] for one in parents.values()]
        rest = [one[space] for one in rests.values()]
        pulls = []
        for parent, without in zip(own, rest, strict=True):
            towards = parent - without
            length = np.square(towards).sum(axis=1)
            moved = ((mix - without) * towards).sum(axis=1)
            pulls.append(moved / np.where(length > 0, length, 1))
        tables[space] = _Table(
            _columns(mix, own),
            _columns(mix, rest),
            np.stack(pulls, axis=1).astype(np.float64),
            _columns(mix, [one[other] for one in own]),
            np.stack([_columns(without, own) for without in rest], axis=1),
        )
        if _TUNED in whole:
            tuned[space] = _columns(whole[_TUNED][space], own)
    return tables, tuned


def _columns(one: Floats, others: Sequence[Floats]) -> Doubles:
    return np.stack([_apart(one, other) for other in others], axis=1)


def _other_payload(tasks: Sequence[Task]) -> npt.NDArray[np.int64]:
    """For each task, one of another payload, where there is another."""
    names = list(dict.fromkeys(task.payload for task in tasks))
    first = {task.payload: i for i, task in reversed(list(enumerate(tasks)))}
    return np.array([first[names[(names.index(t.payload) + 1) % len(names)]] for t in tasks])


def _still(table: _Table) -> Doubles:
    """1 where the nearest parent is the nearest of the mix without it, too."""
    nearest = table.distance.argmin(axis=1)
    rest = table.rest[np.arange(len(nearest)), nearest]
    return np.asarray(rest.argmin(axis=1) == nearest, np.float64)


def _apart(a: Floats, b: Floats) -> Doubles:
    found: Doubles = np.square(a - b).mean(axis=1).astype(np.float64)
    return found


def _nearest(setting: Setting, distance: Doubles, groups: Sequence[str]) -> dict[str, Contrast]:
    """In how many pictures each parent is the nearest, against an equal share."""
    n = distance.shape[1]
    is_it = (distance == distance.min(axis=1, keepdims=True)).astype(np.float64)
    is_it /= is_it.sum(axis=1, keepdims=True)
    pairs = {name: (is_it[:, i], np.full(len(is_it), 1 / n))
             for i, name in enumerate(setting.models)}  # fmt: skip
    return contrast_all(pairs, groups, how="difference", alike=0.02,
                        n_permutations=setting.n_permutations, seed=setting.seed)  # fmt: skip


def _links(setting: Setting, tables: Mapping[str, _Table], groups: Sequence[str]) -> list[_Link]:
    found = []
    for space, table in tables.items():
        for kind, rows in ((_SIZE, table.size), (_PULL, table.pull)):
            near = -table.distance
            over, over_p = _over_parents(near.mean(axis=0), rows.mean(axis=0), setting)
            a, b = _centred(near), _centred(rows)
            columns = np.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)], axis=1)
            within = bootstrap_means(columns, _correlation, groups, seed=setting.seed)
            within_p, agree, chance = _exchanged(a, b, near, rows, groups, setting)
            found.append(_Link(space, kind, over, over_p, within, within_p, agree, chance))
    p = holm({f"{i} {which}": value for i, one in enumerate(found)
              for which, value in (("over", one.over_p), ("within", one.within_p))})  # fmt: skip
    return [
        _Link(one.space, one.kind, one.over, p[f"{i} over"], one.within, p[f"{i} within"],
              one.agree, one.chance)
        for i, one in enumerate(found)
    ]  # fmt: skip


def _correlation(means: Doubles) -> float:
    both, first, second = means
    return float(both / np.sqrt(first * second)) if first > 0 and second > 0 else float("nan")


def _centred(rows: Doubles) -> Doubles:
    """Ranks within each picture, without what a parent's ranks are on average."""
    ranks = rows.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable").astype(np.float64)
    found: Doubles = ranks - ranks.mean(axis=0)
    return found


def _over_parents(a: Doubles, b: Doubles, setting: Setting) -> tuple[float, float]:
    r = correlate(a, b)
    if not np.isfinite(r):
        return r, 1.0
    rng = np.random.default_rng(setting.seed)
    reached = sum(abs(correlate(a, rng.permutation(b))) >= abs(r) - 1e-12
                  for _ in range(setting.n_permutations))  # fmt: skip
    return r, (1 + reached) / (setting.n_permutations + 1)


def _exchanged(
    a: Doubles, b: Doubles, near: Doubles, rows: Doubles, groups: Sequence[str], setting: Setting
) -> tuple[float, float, float]:
    """p of the correlation within pictures, agreement, and agreement by chance.

    Whole payloads change places, since pictures of one prompt are alike.
    """
    n = len(a)
    names = list(dict.fromkeys(groups))
    place = np.array([names.index(one) for one in groups])
    if len(names) < _FEWEST_PAYLOADS:
        place = np.arange(n)
    count = int(place.max()) + 1
    one = np.stack([a[place == i].mean(axis=0) for i in range(count)])
    other = np.stack([b[place == i].mean(axis=0) for i in range(count)])
    agree = float((near.argmax(axis=1) == rows.argmax(axis=1)).mean())
    share = np.stack([np.bincount(near[place == i].argmax(axis=1), minlength=a.shape[1])
                      / (place == i).sum() for i in range(count)])  # fmt: skip
    share_of = np.stack([np.bincount(rows[place == i].argmax(axis=1), minlength=a.shape[1])
                         / (place == i).sum() for i in range(count)])  # fmt: skip
    rng = np.random.default_rng(setting.seed)
    reached, by_chance = 1, []
    true = abs(float((one * other).sum()))
    for _ in range(setting.n_permutations):
        order = rng.permutation(count)
        reached += abs(float((one * other[order]).sum())) >= true - 1e-9
        by_chance.append(float((share * share_of[order]).sum(axis=1).mean()))
    return reached / (setting.n_permutations + 1), agree, float(np.mean(by_chance))


def _by_weight(
    setting: Setting, shares: Mapping[str, float] | None, nearest: Mapping[str, Contrast]
) -> dict[str, float] | None:
    if shares is None or not nearest:
        return None
    a = np.array([shares.get(name, 0.0) for name in setting.models])
    b = np.array([nearest[name].a for name in setting.models])
    r, p = _over_parents(a, b, setting)
    return {"r": r, "p": p}


def _words(
    setting: Setting, links: Sequence[_Link], nearest: Mapping[str, Contrast],
    of_tuned: Mapping[str, Contrast], weights: Mapping[str, float] | None, main: str,
) -> list[str]:  # fmt: skip
    by = {(one.space, one.kind): one for one in links}
    pull, size = by[main, _PULL], by[main, _SIZE]
    said = [_nearest_words("the mix", nearest, main)
            + f" Every model is 1/{len(setting.models)} of the mix's weights."]  # fmt: skip
    sure = "surely" if pull.within_p < LEVEL else "not surely"
    said.append(
        f"Within pictures, resemblance and pull go together with a rank correlation of "
        f"{pull.within}, {sure} more than chance (p {pull.within_p:.2g} after Holm's correction); "
        "some of that is arithmetic, since both contain the mix's picture."
    )
    said.append(
        f"The nearest parent is also the one that pulls most in {100 * pull.agree:.0f} % of the "
        f"pictures ({100 * pull.chance:.0f} % by chance), and the one without which the picture "
        f"changes most in {100 * size.agree:.0f} % ({100 * size.chance:.0f} % by chance)."
    )
    said.append(
        "Over parents: those that pictures resemble more pull "
        f"{_how(pull.over, pull.over_p)}, and change pictures {_how(size.over, size.over_p)} when "
        "left out. That a far parent changes more is arithmetic: without it the mix moves away "
        "from it by its distance over n − 1."
    )
    if of_tuned:
        text = _nearest_words(_TUNED, of_tuned, main)
        if weights is not None:
            text += (f" Its weights and resemblance: rank correlation {weights['r']:.2f}, p "
                     f"{weights['p']:.2g}.")  # fmt: skip
        said.append(text)
    else:
        said.append("No tuned mix was given (--tuned), so nothing is said of one.")
    said.append(
        f"Resemblance is nearness of {main} with the same request and noise. The pull is how far, "
        "of the way from the mix without a parent to that parent's picture, adding the parent "
        "moves the picture; if pictures were as linear as weights, it would be 1/n for all."
    )
    return said


def _verdict(kin: Contrast, still: Interval, main: str, n_models: int, n: int) -> str:
    if kin.state != "less":
        return (f"Cannot tell: by {main}, pictures of the mix are not surely nearer to those of "
                f"its parents than to pictures of other requests ({n} pictures).")  # fmt: skip
    facts = (f"in {percent(still)} of {n} pictures the parent that is nearest to the mix's picture "
             f"is also the nearest to that of the mix without it, which owes it nothing; "
             f"{100 / n_models:.0f} % if it were chance")  # fmt: skip
    if still.low > _HALF:
        return f"No: a picture mostly resembles whom it would resemble anyway ({facts})."
    if still.high < _HALF:
        return f"Yes, mostly: the resemblance goes when the parent goes ({facts})."
    return f"Cannot tell whether resemblance shows where a picture comes from ({facts})."


def _nearest_words(label: str, nearest: Mapping[str, Contrast], main: str) -> str:
    ranked = sorted(nearest.values(), key=lambda one: -one.a)
    sure = [one for one in ranked if one.state in ("more", "less")]
    text = f"By {main}, pictures of {label} are nearest to those of " + ", ".join(
        f"{one.name} ({100 * one.a:.0f} %)" for one in ranked) + "; "  # fmt: skip
    if not sure:
        return text + "no parent is surely nearest more or less often than others."
    return text + ("surely more or less often than an equal share: "
                   + ", ".join(f"{one.name} {one.state}" for one in sure) + ".")  # fmt: skip


def _how(r: float, p: float) -> str:
    if not np.isfinite(r):
        return "all the same"
    word = "more" if r > 0 else "less"
    sure = "surely " if p < LEVEL else "perhaps "
    return f"{sure}{word} (rank correlation {r:.2f}, p {p:.2g})"


def _sections(
    setting: Setting, table: _Table, nearest: Mapping[str, Contrast], links: Sequence[_Link]
) -> list[Section]:
    rows = [
        TableRow([name, Cell(f"{100 * nearest[name].a:.0f} %", value=nearest[name].a),
                  nearest[name].state, f"{table.distance[:, i].mean():.4g}",
                  f"{table.size[:, i].mean():.4g}", f"{table.pull[:, i].mean():.3f}"])
        for i, name in enumerate(setting.models)
    ]  # fmt: skip
    return [
        Table(
            "Parents",
            ["parent", "nearest in", "against an equal share", "difference from the mix",
             "change without it", "pull"],
            rows, "Means over pictures; differences are squared.",
            numeric=frozenset({1, 3, 4, 5}), sortable=True,
        ),
        Table(
            "Resemblance and contribution",
            ["seen in", "contribution", "over parents", "p", "within pictures", "interval", "p",
             "agree", "by chance"],
            [
                TableRow([one.space, one.kind, f"{one.over:.2f}", f"{one.over_p:.4f}",
                          f"{one.within.value:.3f}",
                          f"{one.within.low:.3f} … {one.within.high:.3f}", f"{one.within_p:.4f}",
                          f"{100 * one.agree:.0f} %", f"{100 * one.chance:.0f} %"],
                         "strong" if one.within_p < LEVEL else "plain")
                for one in links
            ],
            "Rank correlations with resemblance; p after Holm's correction for this table. Within "
            "pictures: what is common to all pictures is taken off, and whole payloads change "
            "places.", numeric=frozenset({2, 3, 4, 6, 7, 8}),
        ),
    ]  # fmt: skip


def _charts(setting: Setting, nearest: Mapping[str, Contrast], table: _Table) -> dict[str, Chart]:
    pull = np.clip(table.pull.mean(axis=0), 0, None)
    pull = pull / pull.sum() if pull.sum() > 0 else pull
    size = table.size.mean(axis=0)
    size = size / size.sum() if size.sum() > 0 else size
    n = len(setting.models)
    return {
        "parents": Curve(
            "Resemblance and contribution of each parent", list(setting.models),
            [("nearest in, share of pictures", [nearest[m].a for m in setting.models]),
             ("pull, share of all", pull.tolist()),
             ("change without it, share of all", size.tolist()), ("weight", [1 / n] * n)],
            axis="parent", unit="share",
        ),
    }  # fmt: skip


PARENTS = Study(
    "parents",
    "j",
    "Which parents does a picture of a mix come from: those that it resembles?",
    "three models or more; --tuned and --features for more",
    _missing,
    lambda setting: (2 * len(setting.models) + len(setting.mixes())) * len(setting.exam.tasks),
    _run,
)
