"""Study i: what survives of LoRAs and embeddings on a mix, that were trained on something else?

"VBP's embeddings works, LoRA also works", wrote the author of AstolfoMix, if they were trained on
the base or a popular model; here it is measured how much of what they do at home is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import StockpotError
from stockpot.recipes import Recipe
from stockpot.report import Cell, Chart, Heat, Section, Table, TableRow
from stockpot.studies._base import Answer, Setting, Study, groups_of
from stockpot.studies.contrasts import LEVEL, percent
from stockpot.studies.measures import shrink
from stockpot.studies.statistics import Interval, bootstrap_means, holm, sign_flips
from stockpot.tune import Task

__all__ = ["ADAPTERS"]

Doubles = npt.NDArray[np.float64]

_TASKS = 32
_SIDE = 32
_HALF = 0.5
_MOST_OTHERS = 4
_OTHERS = "the other parents"
_MIX, _TUNED = "the mix", "the tuned mix"


@dataclass(frozen=True)
class _Adapter:
    """One file: what calls it in a prompt, and where it was trained."""

    name: str
    kind: str
    home: str
    is_said: bool

    def added(self, prompt: str) -> str:
        call = f"<lora:{self.name}:1>" if self.kind == "LoRA" else self.name
        if not prompt:
            return call
        return f"{prompt} {call}" if self.kind == "LoRA" else f"{prompt}, {call}"


@dataclass(frozen=True)
class _Effect:
    """Of an adapter on one candidate.

    Attributes:
        adapter: Which.
        on: The candidate.
        share: Of its effect at home.
        p: That nothing is left, corrected for all effects of this study.
        concept: The same share for the word that it makes likelier at home; None where no
            classifier was given.
    """

    adapter: str
    on: str
    share: Interval
    p: float
    concept: Interval | None

    @property
    def state(self) -> str:
        """What can be said of it."""
        if self.share.low > _HALF:
            return "survives"
        left = self.p < LEVEL and self.share.value > 0
        if self.share.high < _HALF:
            return "survives in part" if left else "is lost"
        return "something survives" if left else "cannot tell"


def _adapters(setting: Setting) -> list[_Adapter]:
    found = []
    files = [(name, "LoRA", path) for name, path in setting.loras.items()]
    files += [(name, "embedding", path) for name, path in setting.embeddings.items()]
    for name, kind, path in files:
        home, is_said = setting.homes.get(name, ""), True
        if not home and path.suffix == ".safetensors":
            try:
                with open_checkpoint(path) as source:
                    said = source.metadata.get("ss_sd_model_name", "")
            except StockpotError:
                said = ""  # whoever draws with it will say what is wrong
            stem = said.rsplit(".", 1)[0] if said.endswith((".safetensors", ".ckpt")) else said
            home = stem if stem in setting.whole else ""
        if not home:
            home, is_said = setting.base or "", False
        found.append(_Adapter(name, kind, home, is_said))
    return found


def _missing(setting: Setting) -> str:
    if not setting.loras and not setting.embeddings:
        return "a LoRA or an embedding is needed: --lora FILE, --embedding FILE"
    if len(setting.models) < 2:
        return "at least two models to mix are needed"
    homeless = [one.name for one in _adapters(setting) if one.home not in setting.whole]
    if homeless:
        return (f"it must be known what {', '.join(homeless)} was trained on: --trained-on "
                "NAME=MODEL, or --base for all")  # fmt: skip
    return ""


def _tasks(setting: Setting) -> list[Task]:
    """Requests of the exam, and as many that ask for nothing."""
    asked = setting.tasks(_TASKS)
    first = asked[0]
    about = first.score_prompt or first.request.prompt
    settings = replace(first.request.settings, negative="")
    rng = np.random.default_rng(setting.seed)
    bare = [
        Task(f"bare {i}#0", f"bare {i}",
             replace(first.request, prompt="", seed=int(seed), settings=settings), about)
        for i, seed in enumerate(rng.choice(1 << 31, len(asked), replace=False))
    ]  # fmt: skip
    return [*asked, *bare]


def _with(task: Task, one: _Adapter) -> Task:
    # Scorers are asked about words of the exam in any case: some refuse an empty prompt, or one
    # that asks for two things, and their marks do not count here.
    return replace(
        task, name=f"{task.name} with {one.name}",
        request=replace(task.request, prompt=one.added(task.request.prompt)),
        score_prompt=task.score_prompt or task.request.prompt,
    )  # fmt: skip


def _candidates(setting: Setting, one: _Adapter) -> dict[str, Recipe]:
    """Home first; then mixes; then the base and some other parents."""
    found = {one.home: setting.alone(one.home), **setting.mixes()}
    others = [setting.base] if setting.base is not None and setting.base in setting.whole else []
    for name in (*others, *_siblings(setting, one)):
        found.setdefault(name, setting.alone(name))
    return found


def _siblings(setting: Setting, one: _Adapter) -> list[str]:
    """Other parents, as many as are looked at: what a mix is to be compared with."""
    others = [name for name in setting.models if name not in (one.home, setting.base)]
    return others[:_MOST_OTHERS]


def _run(setting: Setting) -> Answer:
    tasks = _tasks(setting)
    groups = groups_of(tasks)
    adapters = _adapters(setting)
    seen: dict[str, tuple[Doubles, Doubles | None]] = {}
    raw: list[tuple[_Adapter, str, Doubles, Doubles, Doubles | None, Doubles | None]] = []
    words: dict[str, list[str]] = {}
    at_home: dict[str, float] = {}
    p_home: dict[str, float] = {}
    for one in adapters:
        setting.progress(one.name)
        moved = {}
        for label, recipe in _candidates(setting, one).items():
            if label not in seen:
                seen[label] = _seen(setting, recipe, tasks)
            vectors, chances = _seen(setting, recipe, [_with(task, one) for task in tasks])
            before, likely = seen[label]
            rise = None if chances is None or likely is None else chances - likely
            moved[label] = (vectors - before, rise)
        half = _halves(groups)
        along = _along(moved[one.home][0], {k: v[0] for k, v in moved.items()}, half, tasks)
        rises, words[one.name] = _rises(setting, one, moved, half)
        for label in moved:
            raw.append((one, label, along[label], along[one.home],
                        rises.get(label), rises.get(one.home)))  # fmt: skip
        siblings = _siblings(setting, one)
        if siblings:
            mean = np.mean([along[m] for m in siblings], axis=0)
            rise = np.mean([rises[m] for m in siblings], axis=0) if rises else None
            raw.append((one, _OTHERS, mean, along[one.home], rise, rises.get(one.home)))
        if rises:
            at_home[one.name] = float(rises[one.home].mean())
        # Two halves whose directions are each other's are one observation: at home, where that is
        # so, whether there is any effect is asked of whole vectors.
        p_home[one.name] = sign_flips(moved[one.home][0], groups, seed=setting.seed,
                                      n_flips=10 * setting.n_permutations)  # fmt: skip
    p = holm({f"{one.name} on {label}": p_home[one.name] if label == one.home
              else _one_sided(row, groups, setting) for one, label, row, *_ in raw})  # fmt: skip
    effects = [
        _Effect(one.name, label, _share(row, home, groups, setting), p[f"{one.name} on {label}"],
                None if rise is None or home_rise is None
                else _share(rise, home_rise, groups, setting))
        for one, label, row, home, rise, home_rise in raw
    ]  # fmt: skip
    data = {
        "adapters": [{"name": one.name, "kind": one.kind, "home": one.home,
                      "home_is_known": one.is_said, "makes_likelier": words[one.name],
                      "rise_at_home": at_home.get(one.name)} for one in adapters],
        "effects": [{"adapter": one.adapter, "on": one.on, "share": one.share.to_json(),
                     "p_holm": one.p, "concept": one.concept and one.concept.to_json(),
                     "state": one.state} for one in effects],
        "n_pictures": len(tasks),
    }  # fmt: skip
    return Answer(_words(setting, adapters, effects, words, at_home, len(tasks)),
                  _sections(effects), _charts(adapters, effects), data)  # fmt: skip


def _seen(
    setting: Setting, recipe: Recipe, tasks: Sequence[Task]
) -> tuple[Doubles, Doubles | None]:
    """What pictures look like, as vectors; and probabilities of all words, if somebody can say."""
    pictures = list(setting.gallery.pictures(recipe, tasks))
    if setting.embed is not None:
        vectors = np.asarray(setting.embed(pictures), np.float64)
    else:
        vectors = np.stack([shrink(one, _SIDE).astype(np.float64).ravel() / 255
                            for one in pictures])  # fmt: skip
    classifier = setting.classifier
    if classifier is None or not classifier.sure:
        return vectors, None
    shown = classifier.look(pictures)
    return vectors, np.exp(np.concatenate([shown[name] for name in classifier.concepts], axis=1))


def _halves(groups: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Every second payload."""
    place = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    return np.array([place[name] % 2 == 0 for name in groups])


def _along(
    home: Doubles, moved: Mapping[str, Doubles], half: npt.NDArray[np.bool_],
    tasks: Sequence[Task],
) -> dict[str, Doubles]:  # fmt: skip
    """How far each picture moves in the direction in which pictures move at home.

    The direction is found in one half of the payloads and used in the other, and the other way
    round, each kind of prompt by itself: where it was found, chance would count as effect.
    """
    bare = np.array([not task.request.prompt for task in tasks])
    found = {label: np.zeros(len(tasks)) for label in moved}
    for kind in (bare, ~bare):
        for side in (half, ~half):
            found_in, used_in = kind & side, kind & ~side
            if not found_in.any() or not used_in.any():
                continue
            direction = home[found_in].mean(axis=0)
            length = float(np.linalg.norm(direction))
            direction = direction / length if length > 0 else direction
            for label, rows in moved.items():
                found[label][used_in] = rows[used_in] @ direction
    return found


def _rises(
    setting: Setting, one: _Adapter, moved: Mapping[str, tuple[Doubles, Doubles | None]],
    half: npt.NDArray[np.bool_],
) -> tuple[dict[str, Doubles], list[str]]:  # fmt: skip
    """How much likelier the word becomes that becomes likeliest at home, crossed like `_along`."""
    home = moved[one.home][1]
    classifier = setting.classifier
    if home is None or classifier is None:
        return {}, []
    names = [word for words in classifier.concepts.values() for word in words]
    found = {label: np.zeros(len(half)) for label in moved}
    words = []
    for side in (half, ~half):
        word = int(home[side].mean(axis=0).argmax())
        words.append(names[word])
        for label, (_, rows) in moved.items():
            if rows is not None:
                found[label][~side] = rows[~side, word]
    return found, list(dict.fromkeys(words))


def _one_sided(row: Doubles, groups: Sequence[str], setting: Setting) -> float:
    """p that pictures do not move in that direction: half of the two-sided one, or the rest."""
    p = sign_flips(row, groups, n_flips=10 * setting.n_permutations, seed=setting.seed)
    return p / 2 if row.mean() > 0 else 1 - p / 2


def _share(row: Doubles, home: Doubles, groups: Sequence[str], setting: Setting) -> Interval:
    def ratio(means: Doubles) -> float:
        return float(means[0] / means[1]) if means[1] > 0 else float("nan")

    return bootstrap_means(np.stack([row, home], axis=1), ratio, groups, seed=setting.seed)


def _words(
    setting: Setting, adapters: Sequence[_Adapter], effects: Sequence[_Effect],
    words: Mapping[str, Sequence[str]], at_home: Mapping[str, float], n: int,
) -> list[str]:  # fmt: skip
    by = {(one.adapter, one.on): one for one in effects}
    known = [one for one in adapters if by[one.name, one.home].p < LEVEL]
    labels = [label for label in (_MIX, _TUNED) if any(one.on == label for one in effects)]
    said = []
    for label in labels:
        states = [by[one.name, label].state for one in known]
        if not known:
            said.append("Cannot tell: nothing that was given does anything sure at home.")
            break
        n_part = states.count("survives in part") + states.count("something survives")
        said.append(
            f"Of {len(known)} LoRAs and embeddings that do something at home, on {label}: surely "
            f"more than half of it survives of {states.count('survives')}, something of {n_part}, "
            f"nothing that could be seen of {states.count('is lost')}, cannot tell of "
            f"{states.count('cannot tell')} ({n} pictures with and without each)."
        )
    for one in adapters:
        home = by[one.name, one.home]
        where = one.home if one.is_said else f"{one.home}, which stands in for an unknown one"
        if home.p >= LEVEL:
            said.append(f"{one.name} ({one.kind}, trained on {where}) does nothing sure there, so "
                        "there is nothing to survive.")  # fmt: skip
            continue
        parts = [f"{label} {_told(by[one.name, label])}" for label in (*labels, _OTHERS)
                 if (one.name, label) in by]  # fmt: skip
        if setting.base is not None and one.home != setting.base and \
                (one.name, setting.base) in by:  # fmt: skip
            parts.append(f"{setting.base} {_told(by[one.name, setting.base])}")
        text = f"{one.name} ({one.kind}, trained on {where}), of its effect there: "
        text += "; ".join(parts)
        if one.name in at_home:
            text += (f". There it makes {' or '.join(words[one.name])} likelier, by "
                     f"{100 * at_home[one.name]:.0f} points")  # fmt: skip
            shares = [(label, by[one.name, label].concept) for label in labels]
            text += "; of that: " + "; ".join(f"{label} {percent(share)}"
                                              for label, share in shares if share)  # fmt: skip
        said.append(text + ".")
    how = "features" if setting.embed is not None else "pixels"
    said.append(
        f"An effect is how far {how} of a picture move, for prompts as asked and for none, in the "
        "direction in which they move at home; direction and distance come from different "
        "prompts. It says nothing of what else is changed."
    )
    return said


def _told(one: _Effect) -> str:
    return f"{percent(one.share)}, {one.state}"


def _sections(effects: Sequence[_Effect]) -> list[Section]:
    rows = [
        TableRow(
            [one.adapter, one.on, Cell(f"{one.share.value:.2f}", value=one.share.value),
             f"{one.share.low:.2f} … {one.share.high:.2f}",
             Cell(f"{one.p:.4f}", value=one.p),
             percent(one.concept) if one.concept else "–", one.state],
            "strong" if one.on in (_MIX, _TUNED) else "plain",
        )
        for one in effects
    ]  # fmt: skip
    return [
        Table(
            "Effects, as shares of the effect at home",
            ["adapter", "on", "share", "interval", "p, corrected", "of the word's rise", ""],
            rows,
            "p: that nothing is left, one-sided, corrected for this table. The first row of each "
            "is its home.",
            numeric=frozenset({2, 4}), sortable=True,
        )
    ]  # fmt: skip


def _charts(adapters: Sequence[_Adapter], effects: Sequence[_Effect]) -> dict[str, Chart]:
    """Where every adapter was tried, and how much of it was left there."""
    by = {(one.adapter, one.on): one.share.value for one in effects}
    tried = dict.fromkeys(one.on for one in effects)
    names = [one.name for one in adapters]
    places = [
        label
        for label in tried
        if all(np.isfinite(by.get((name, label), np.nan)) for name in names)
    ]
    return {
        "shares": Heat(
            "What is left of each", names, places,
            [[max(0.0, by[name, label]) for label in places] for name in names],
            "of the effect at home",
        ),
    }  # fmt: skip


def _cost(setting: Setting) -> int:
    tasks = 2 * len(setting.tasks(_TASKS))
    adapters = _adapters(setting)
    everyone = {label for one in adapters for label in _candidates(setting, one)}
    return tasks * (len(everyone) + sum(len(_candidates(setting, one)) for one in adapters))


ADAPTERS = Study(
    "adapters",
    "i",
    "What survives on a mix of LoRAs and embeddings that were trained on something else?",
    "--lora or --embedding; --trained-on, or --base, for where; --features, --concepts for more",
    _missing,
    _cost,
    _run,
)
