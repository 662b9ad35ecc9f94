"""What a study found: the best few and all baselines, drawn again with seeds nobody has seen.

The score that a search maximised is never the result: the best of many noisy numbers is too good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

from stockpot.errors import StudyError, TallyError
from stockpot.recipes import Recipe, parse_recipe
from stockpot.tune.baselines import UNIFORM
from stockpot.tune.exam import Exam
from stockpot.tune.examining import Examiner, Mark
from stockpot.tune.guarding import Drift, guard
from stockpot.tune.keeping import draw_exam
from stockpot.tune.searching import Search
from stockpot.tune.settings import NEAR
from stockpot.tune.tallying import scores_of, tally
from stockpot.tune.verdicts import Verdict, compare_marks

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = [
    "Result", "Standing", "best_trials", "evidence", "hold_out", "judge", "pareto_front",
    "rank", "result_json",
]  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """A candidate on the held-out exam.

    Attributes:
        name: Of a baseline, or ``trial N``.
        number: Of its trial.
        key: Of the candidate.
        recipe: Without holes.
        values: Of the holes; empty for baselines that are no filling.
        found: What it got in the search, by objective; empty where its trial failed.
        held_out: Scores by task of the held-out exam.
        tallied: Tally of these, or None where there is none.
        verdict: Against the uniform mix; None for that one itself, and where it is not there.
        drifts: What the guard says against all models alone and the uniform mix.
        baseline: Whether nobody searched for it.
    """

    name: str
    number: int
    key: str
    recipe: Recipe
    values: Mapping[str, Fraction]
    found: tuple[float, ...]
    held_out: Mapping[str, float]
    tallied: float | None = None
    verdict: Verdict | None = None
    drifts: tuple[Drift, ...] = ()
    baseline: bool = False


@dataclass(frozen=True)
class Result:
    """The end of a study.

    Attributes:
        standings: The best few and all baselines, the best on the held-out exam first.
        exam: The held-out exam.
        scorer: What they are ranked by: the first objective that is a scorer.
        level: Of each verdict's interval: higher than 0.95 where several were picked, so that
            picking the best of them keeps the promise.
        failures: Candidates that could not be drawn on the held-out exam, and why.
        against: Verdicts of the winner against each baseline, by name.
    """

    standings: tuple[Standing, ...]
    exam: Exam
    scorer: str
    level: float
    failures: Mapping[str, str] = field(default_factory=dict)
    against: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def winner(self) -> Standing:
        """The best on the held-out exam; it may be a baseline."""
        return self.standings[0]

    @property
    def searched(self) -> Standing | None:
        """The best on the held-out exam of what was searched for."""
        return next((one for one in self.standings if not one.baseline), None)

    @property
    def text(self) -> str:
        """The sentence that a study ends with."""
        best = self.searched
        if best is None:
            return ("no candidate of the search was drawn to its end: all were stopped early, or "
                    "failed, so there is nothing to compare")  # fmt: skip
        if best.verdict is None:
            return f"{best.name}: there is no uniform mix to compare with"
        text = f"{best.name}: {best.verdict.text}"
        if self.winner.baseline:
            tied = self.winner.tallied == best.tallied
            how = "is as good as the best" if tied else "is ahead of all"
            text += f"; on the held-out exam {self.winner.name} {how} that was searched"
        return text


def pareto_front(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that no other one beats in every objective, best in the first objective first.

    Args:
        trials: Finished ones are looked at, that drew all their tasks here.
    """
    whole = [t for t in trials if t.state.name == "COMPLETE" and not t.user_attrs.get("imported")]
    front = [
        trial
        for trial in whole
        if not any(
            all(a >= b for a, b in zip(o.values, trial.values, strict=True))
            and o.values != trial.values
            for o in whole
        )
    ]
    return sorted(front, key=lambda t: (-t.values[0], t.number))


def best_trials(trials: list[FrozenTrial], n: int) -> list[FrozenTrial]:
    """The best candidates of a search, baselines aside; with several objectives of the front.

    Args:
        trials: All of the study.
        n: How many at most; equal candidates count once.
    """
    found: dict[str, FrozenTrial] = {}
    own = [t for t in trials if t.state.name == "COMPLETE" and not t.user_attrs.get("imported")]
    several = any(len(t.values) > 1 for t in own)
    ranked = pareto_front(own) if several else sorted(own, key=lambda t: (-t.values[0], t.number))
    for trial in ranked:
        if not trial.user_attrs.get("baseline"):
            found.setdefault(trial.user_attrs["candidate"], trial)
    return list(found.values())[:n]


def hold_out(
    stages: Sequence[Search],
    examiner: Examiner,
    exam: Exam,
    n_best: int = 3,
    progress: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Draw the held-out exam with the best few and all baselines; workers share it.

    Args:
        stages: Searches of one study that have ended: one, or a coarse one and those that went
            on from it.
        examiner: Draws and scores; these pictures are kept, for people to look at.
        exam: Held out.
        n_best: How many of the best.
        progress: Called with the name of each candidate before it is drawn.

    Returns:
        What could not be drawn, and why, by name.
    """
    search = stages[-1]
    candidates = [
        (name, trial.user_attrs["candidate"], partial(_recipe, search, trial))
        for name, trial in _finalists(stages, n_best)
    ]
    book = search.store.book
    return draw_exam(book, search.claims, examiner, exam, candidates, progress)


def _finalists(stages: Sequence[Search], n_best: int) -> list[tuple[str, FrozenTrial]]:
    """Baselines of the first stage, and the best of all stages; each candidate once."""
    named: dict[str, tuple[str, FrozenTrial]] = {}
    everything = [stage.store.all_trials() for stage in stages]
    for trial in everything[0]:
        if trial.user_attrs.get("baseline") and trial.state.name == "COMPLETE":
            named.setdefault(trial.user_attrs["candidate"], (trial.user_attrs["baseline"], trial))
    names = {
        id(trial): f"trial {trial.number}"
        if not stage
        else f"stage {stage + 1} trial {trial.number}"
        for stage, trials in enumerate(everything)
        for trial in trials
    }
    found = best_trials([trial for trials in everything for trial in trials], n_best + len(named))
    picked = [trial for trial in found if trial.user_attrs["candidate"] not in named][:n_best]
    return [*named.values(), *((names[id(trial)], trial) for trial in picked)]


def _recipe(search: Search, trial: FrozenTrial) -> Recipe:
    text = search.store.book.candidate(trial.user_attrs["candidate"])
    if text is None:
        raise StudyError(f"{search.store.where}: the recipe of trial {trial.number} is lost")
    return parse_recipe(text)


def judge(
    stages: Sequence[Search],
    exam: Exam,
    n_best: int = 3,
    failures: Mapping[str, str] | None = None,
) -> Result:
    """Compare what was drawn on the held-out exam.

    Args:
        stages: As for `hold_out`.
        exam: Held out; candidates without all of its marks are left out.
        n_best: As for `hold_out`.
        failures: What `hold_out` returned.

    Returns:
        The result.

    Raises:
        StudyError: Nothing was drawn.
    """
    search = stages[-1]
    scorer = next(name for name in search.settings.objectives if name != NEAR)
    finalists = _finalists(stages, n_best)
    n_searched = sum(not trial.user_attrs.get("baseline") for _, trial in finalists)
    level = 1 - 0.05 / max(n_searched, 1)
    drawn = []
    for name, trial in finalists:
        attrs = trial.user_attrs
        marks = search.kept_marks(attrs["candidate"], exam)
        if len(marks) < len(exam.tasks):
            continue
        values = {n: Fraction(v) for n, v in attrs.get("values", {}).items()}
        entrant = Standing(
            name, trial.number, attrs["candidate"], _recipe(search, trial), values,
            tuple(trial.values), {}, baseline=bool(attrs.get("baseline")),
        )  # fmt: skip
        drawn.append((entrant, marks))
    if not drawn:
        raise StudyError(f"{search.store.where}: no candidate was drawn on the held-out exam")
    return rank(drawn, exam, scorer, search.settings.tally, level=level, failures=failures)


def rank(
    drawn: Sequence[tuple[Standing, Mapping[str, Mark]]],
    exam: Exam,
    scorer: str,
    tally_name: str,
    *,
    level: float = 0.95,
    failures: Mapping[str, str] | None = None,
) -> Result:
    """Compare candidates by what they got on an exam.

    Args:
        drawn: Each candidate, without scores and verdict, and its marks for all tasks; at least
            one.
        exam: What was drawn.
        scorer: What counts.
        tally_name: How scores become one number.
        level: Of the intervals of candidates that are no baselines.
        failures: What could not be drawn.
    """
    payloads = {task.name: task.payload for task in exam.tasks}
    scored = {one.name: scores_of(exam.tasks, marks.values(), scorer) for one, marks in drawn}
    parents = {one.name: list(marks.values()) for one, marks in drawn if one.baseline}
    uniform = scored.get(UNIFORM)
    standings = []
    for one, marks in drawn:
        scores, verdict = scored[one.name], None
        if uniform is not None and one.name != UNIFORM:
            verdict = compare_marks(
                scores, uniform, payloads=payloads, level=0.95 if one.baseline else level
            )
        drifts = () if one.baseline else guard(marks.values(), parents, payloads=payloads)
        tallied = _tallied(scores, tally_name)
        standings.append(
            replace(one, held_out=scores, tallied=tallied, verdict=verdict, drifts=drifts)
        )
    standings.sort(key=lambda s: (s.tallied is None, -(s.tallied or 0.0), s.number))
    against = {}
    best = next((one for one in standings if not one.baseline), None)
    if best is not None:
        against = {
            one.name: compare_marks(
                best.held_out, one.held_out, than=one.name, payloads=payloads, level=level
            )
            for one in standings
            if one.baseline
        }
    return Result(tuple(standings), exam, scorer, level, dict(failures or {}), against)


def _tallied(scores: Mapping[str, float], name: str) -> float | None:
    try:
        return tally(scores, name)
    except TallyError:
        return None


def evidence(result: Result, chosen: Standing, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a merged file says of the study that chose its recipe.

    Args:
        result: Of the study.
        chosen: The standing whose recipe is written.
        settings: Of the study, as `StudyStore.settings` reads them.

    Returns:
        Plain data: no path, no date.
    """
    return {
        "candidate": chosen.name,
        "values": {name: str(value) for name, value in chosen.values.items()},
        "search_value": list(chosen.found),
        "held_out": chosen.tallied,
        "verdict": "" if chosen.verdict is None else chosen.verdict.text,
        "against": {} if chosen.baseline else {n: v.text for n, v in result.against.items()},
        "drifts": [str(drift.problem) for drift in chosen.drifts],
        "scorer": result.scorer,
        "held_out_exam": result.exam.key,
        "n_held_out_tasks": len(result.exam.tasks),
        **{name: settings[name] for name in ("exam", "tally", "optimiser", "seed", "space")
           if name in settings},
    }  # fmt: skip


def result_json(result: Result) -> dict[str, Any]:
    """A result as plain data.

    Args:
        result: Of `judge`.
    """
    return {
        "text": result.text,
        "winner": result.winner.name,
        "scorer": result.scorer,
        "level": result.level,
        "failures": dict(result.failures),
        "exam": result.exam.key,
        "tasks": [
            {"name": task.name, "key": task.key, "payload": task.payload,
             "prompt": task.request.prompt}
            for task in result.exam.tasks
        ],
        "standings": [
            {
                "name": one.name,
                "trial": one.number,
                "candidate": one.key,
                "baseline": one.baseline,
                "values": {name: str(value) for name, value in one.values.items()},
                "search_values": list(one.found),
                "held_out": one.tallied,
                "scores": dict(one.held_out),
                "verdict": None if one.verdict is None else _verdict_json(one.verdict),
                "drifts": [str(drift.problem) for drift in one.drifts],
                "recipe": one.recipe.to_yaml(),
            }
            for one in result.standings
        ],
        "against": {name: _verdict_json(verdict) for name, verdict in result.against.items()},
    }  # fmt: skip


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "better": verdict.better,
        "difference": verdict.difference,
        "low": _finite(verdict.low),
        "high": _finite(verdict.high),
        "p": verdict.p,
        "n_tasks": verdict.n_tasks,
        "level": verdict.level,
        "text": verdict.text,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
