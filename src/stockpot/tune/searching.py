"""The search itself: baselines first, then what an optimiser proposes, task by task.

A `Search` hands out candidates and takes marks; it never draws. So a loop over one examiner, and a
driver of many machines, are the same search. Several processes may have a `Search` of one study.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, final

from stockpot.errors import LostWorkerError, StoppedError, StudyError
from stockpot.recipes import Origin, Recipe, Save, canonical
from stockpot.tune.claims import Claims
from stockpot.tune.exam import Exam, Task
from stockpot.tune.examining import Examiner, Mark
from stockpot.tune.holes import fill_holes
from stockpot.tune.keeping import keep_mark, kept_marks
from stockpot.tune.proposing import distributions_of, is_worse, predict_difference, propose
from stockpot.tune.settings import NEAR, Baseline, Limits, SearchSettings, check_same
from stockpot.tune.spaces import Space
from stockpot.tune.storing import StudyStore
from stockpot.tune.tallying import scores_of, tally

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Candidate", "Search", "candidate_key", "run_search"]

_WAIT_S = 0.2
_MOST_FAILURES = 10
_NO_ORIGIN: Origin | None = None


@dataclass
class Candidate:
    """A candidate that is being examined.

    Attributes:
        number: Of its trial.
        key: Of its recipe; equal recipes have equal marks.
        recipe: Without holes.
        name: Of a baseline; empty for what the optimiser proposed.
        marks: What it got so far, by task.
        trial_id: Of its trial in optuna's storage.
        best: Value and scores of the best candidate when this one began.
    """

    number: int
    key: str
    recipe: Recipe
    name: str = ""
    marks: dict[str, Mark] = field(default_factory=dict)
    trial_id: int = -1
    best: tuple[float, dict[str, float]] | None = None


def candidate_key(recipe: Recipe, pool: str = "") -> str:
    """Hash what decides a candidate's pictures.

    Args:
        recipe: Without holes.
        pool: What tells the pool's files from others of the same names.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> pool = {"a": "a.ckpt", "b": "b.ckpt"}
        >>> one, other = (make_recipe(text, pool) for text in ("mean(a, b)", "mean(b, a)"))
        >>> candidate_key(one) == candidate_key(other)
        True
    """
    plain = canonical(replace(recipe, save=Save(dtype=recipe.save.dtype), origin=_NO_ORIGIN))
    return hashlib.sha256(f"{plain.to_yaml()}\n{pool}".encode()).hexdigest()[:32]


@final
class Search:
    """One study, seen from one process.

    Args:
        store: Where it is kept.
        recipe: With holes.
        space: How few numbers move them.
        exam: What every candidate draws.
        settings: What makes the study.
        limits: How long to go on.
        baselines: What comes first.
        nearness: Gives minus the distance from the uniform mix; needed for that objective.
        pool: What tells the pool's files from others of the same names.
        keep_pictures: Whether pictures are stored.
        beat_s: Seconds between signs of life.

    Raises:
        StudyError: The study was begun otherwise.
    """

    def __init__(
        self,
        store: StudyStore,
        recipe: Recipe,
        space: Space,
        exam: Exam,
        settings: SearchSettings,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        *,
        baselines: Sequence[Baseline] = (),
        nearness: Callable[[Recipe], float] | None = None,
        pool: str = "",
        keep_pictures: bool = False,
        beat_s: float = 10.0,
    ) -> None:
        self.store, self.recipe, self.space, self.exam = store, recipe, space, exam
        self.settings, self.limits, self.baselines = settings, limits, tuple(baselines)
        self.keep_pictures = keep_pictures
        self._nearness, self._pool = nearness, pool
        if NEAR in settings.objectives and nearness is None:
            raise ValueError(f"the objective {NEAR!r} needs `nearness`")
        self._tasks = {task.key: task for task in exam.tasks}
        self._by_name = {task.name: task for task in exam.tasks}
        self._begin()
        store.study_id(len(settings.objectives))
        self.claims = Claims(store.book, beat_s)
        self._deadline = None if limits.time_s is None else time.monotonic() + limits.time_s
        self.why_done = ""

    def _begin(self) -> None:
        asked = self.settings.to_json() | {
            "recipe": replace(self.recipe, save=Save(), origin=_NO_ORIGIN).to_yaml(),
            "exam": self.exam.key,
            "pool": self._pool,
            "fixed": {name: str(value) for name, value in sorted(self.space.fixed.items())},
            "dials": [[d.name, d.low, d.high, d.whole] for d in self.space.dials],
            "baselines": [[b.name, candidate_key(b.recipe, self._pool)] for b in self.baselines],
        }  # fmt: skip
        key = self.store.note_key("settings")
        kept = self.store.book.note(key)
        if kept is None:
            self.store.book.put_note(key, json.dumps(asked))
        else:
            check_same(json.loads(kept), json.loads(json.dumps(asked)), self.store.where)

    def next_candidate(self, *, wait: bool = True) -> Candidate | None:
        """Get something to examine: first what a worker that died left, then the next trial.

        Args:
            wait: Whether to wait while all that is left is in the hands of other workers; they
                might die.

        Returns:
            A candidate with the marks that it has already; None when there is nothing to do.

        Raises:
            StudyError: Nothing but failures so far.
        """
        while True:
            trials = self.store.all_trials()
            self._check_failures(trials)
            running = [trial for trial in trials if not trial.state.is_finished()]
            for trial in running:
                claim = self._claim(trial.number)
                if self.claims.holder(claim) is None and self.claims.take(claim):
                    again = self.store.trials.get_trial(trial._trial_id)
                    if not again.state.is_finished():
                        return self._candidate(again)
            self.why_done = self._reason_to_end(trials)
            if not self.why_done:
                number = len(trials)
                if self.claims.take(self._claim(number)):
                    trials = self.store.all_trials()
                    if len(trials) == number:
                        return self._create(trials)
                    # The claim was a dead worker's, and it had got as far as creating the trial.
                    if not trials[number].state.is_finished():
                        return self._candidate(trials[number])
                    continue
            elif not running or not wait:
                return None
            if not wait:
                return None
            time.sleep(_WAIT_S)

    def _claim(self, number: int) -> str:
        return f"{self.store.name} trial {number}"

    def _check_failures(self, trials: Sequence[FrozenTrial]) -> None:
        from optuna.trial import TrialState

        finished = [trial for trial in trials if trial.state.is_finished()]
        own = [trial for trial in finished if not trial.user_attrs.get("baseline")]
        for some, what in ((finished, "candidates"), (own, "candidates of the search")):
            failed = [trial for trial in some if trial.state == TrialState.FAIL]
            if len(failed) == len(some) and len(failed) >= _MOST_FAILURES:
                raise StudyError(
                    f"{self.store.where}: all of {len(failed)} {what} failed; the last one said: "
                    f"{failed[-1].user_attrs.get('error', 'nothing')}"
                )

    def _reason_to_end(self, trials: Sequence[FrozenTrial]) -> str:
        own = [trial for trial in trials if not trial.user_attrs.get("imported")]
        if len(own) < len(self.baselines):
            return "out of time" if self._late() else ""
        searched = [trial for trial in own if not trial.user_attrs.get("baseline")]
        limits = self.limits
        if len(searched) >= limits.n_trials:
            return f"{limits.n_trials} candidates"
        if self._late():
            return "out of time"
        if limits.n_images is not None:
            n_open = sum(not trial.state.is_finished() for trial in trials)
            own_keys = {str(trial.user_attrs.get("candidate")) for trial in own}
            drawn = self.store.book.count_marks(self._tasks, own_keys)
            if drawn + (n_open + 1) * len(self.exam.tasks) > limits.n_images:
                return f"{limits.n_images} pictures"
        if limits.patience is not None and self._n_idle(own) >= limits.patience:
            return f"{limits.patience} candidates without a better one"
        return ""

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _n_idle(self, own: Sequence[FrozenTrial]) -> int:
        """Candidates since the last one that was better than all before, or joined the front."""
        idle, front = 0, list[list[float]]()
        for trial in own:
            if not trial.state.is_finished():
                continue
            values = trial.values if trial.state.name == "COMPLETE" else None
            better = values is not None and not any(
                all(a >= b for a, b in zip(old, values, strict=True)) for old in front
            )
            if better and values is not None:
                front.append(list(values))
            if trial.user_attrs.get("baseline"):
                continue
            idle = 0 if better else idle + 1
        return idle

    def _create(self, trials: Sequence[FrozenTrial]) -> Candidate:
        number = len(trials)
        ranges = distributions_of(self.space.dials)
        done = {trial.user_attrs.get("baseline") for trial in trials}
        baseline = next((b for b in self.baselines if b.name not in done), None)
        attrs: dict[str, Any] = {"worker": self.claims.me.name}
        system: Mapping[str, Any] = {}
        if baseline is not None:
            dials = None if baseline.values is None else self.space.find(baseline.values)
            recipe, values = baseline.recipe, baseline.values
            attrs["baseline"] = baseline.name
        else:
            settings = self.settings
            proposal = propose(self.space.dials, trials, settings.optimiser, settings.seed,
                               number, len(settings.objectives))  # fmt: skip
            dials, system = dict(proposal.dials), proposal.system_attrs
            values = self.space.fill(dials)
            recipe = fill_holes(self.recipe, values)
        attrs["candidate"] = candidate_key(recipe, self._pool)
        attrs["values"] = {} if values is None else {n: str(v) for n, v in values.items()}
        self.store.book.put_candidate(attrs["candidate"], recipe.to_yaml())
        trial_id = self.store.add_trial(dials or {}, ranges if dials else {}, attrs, system)
        return self._candidate(self.store.trials.get_trial(trial_id))

    def _candidate(self, trial: FrozenTrial) -> Candidate:
        attrs = trial.user_attrs
        name = attrs.get("baseline", "")
        if name:
            recipe = next(b.recipe for b in self.baselines if b.name == name)
        else:
            values = {n: Fraction(v) for n, v in attrs["values"].items()}
            recipe = fill_holes(self.recipe, values)
        candidate = Candidate(trial.number, attrs["candidate"], recipe, name,
                              trial_id=trial._trial_id)  # fmt: skip
        candidate.marks = self.kept_marks(candidate.key, self.exam)
        # Found once, at the start: a candidate is measured by one other all the way.
        candidate.best = self._best()
        return candidate

    def kept_marks(self, key: str, exam: Exam) -> dict[str, Mark]:
        """Read the marks that a candidate has for an exam's tasks, by task, in their order."""
        return kept_marks(self.store.book, key, exam)

    def left(self, candidate: Candidate) -> tuple[Task, ...]:
        """The tasks that a candidate has no mark for, in the order to draw them.

        Where candidates may be stopped each has an order of its own, still one picture of each
        payload before the second ones. The best one so far is the best by the luck of some tasks
        as well; if those came first every time, whatever follows would be stopped by them.
        """
        tasks = self.exam.tasks
        if self._may_be_stopped(candidate):
            dice = random.Random(f"{self.settings.seed} {candidate.number}")
            turns: dict[str, int] = {}
            places = []
            for task in tasks:
                turn = turns[task.payload] = turns.get(task.payload, -1) + 1
                places.append((turn, dice.random()))
            tasks = tuple(task for _, task in sorted(zip(places, tasks, strict=True),
                                                     key=lambda pair: pair[0]))  # fmt: skip
        return tuple(task for task in tasks if task.name not in candidate.marks)

    def _may_be_stopped(self, candidate: Candidate) -> bool:
        one = len(self.settings.objectives) == 1
        return self.settings.stop_p is not None and not candidate.name and one

    def keep_mark(self, key: str, mark: Mark, task: Task) -> None:
        """Store a mark, and its picture where it has one."""
        keep_mark(self.store.book, key, mark, task)

    def record(self, candidate: Candidate, mark: Mark) -> bool:
        """Take a mark of a candidate; it is stored before anything is made of it.

        Args:
            candidate: From `next_candidate`.
            mark: Of one of its tasks.

        Returns:
            Whether the candidate can be stopped: it is worse than the best.
        """
        self.keep_mark(candidate.key, mark, self._by_name[mark.task])
        candidate.marks[mark.task] = mark
        return self.may_stop(candidate)

    def may_stop(self, candidate: Candidate) -> bool:
        """Whether what a candidate got so far is enough to know that it is worse than the best.

        Args:
            candidate: With some of its marks. Baselines are never stopped.
        """
        if candidate.best is None or not self._may_be_stopped(candidate):
            return False
        assert self.settings.stop_p is not None
        mine = scores_of(self.exam.tasks, candidate.marks.values(), self.settings.objectives[0])
        return is_worse(mine, candidate.best[1], self.settings.stop_p)

    def _best(self) -> tuple[float, dict[str, float]] | None:
        """The best candidate that drew all tasks: its value, and scores by task."""
        best: tuple[float, FrozenTrial] | None = None
        for trial in self.store.all_trials():
            if trial.state.name == "COMPLETE" and not trial.user_attrs.get("imported"):
                if best is None or trial.values[0] > best[0]:
                    best = (trial.values[0], trial)
        if best is None:
            return None
        marks = self.kept_marks(best[1].user_attrs["candidate"], self.exam)
        return best[0], scores_of(self.exam.tasks, marks.values(), self.settings.objectives[0])

    def finish(self, candidate: Candidate) -> None:
        """End a candidate's trial with what it got; one that was stopped gets an estimate.

        The estimate puts the best candidate's scores, moved by the mean difference so far, in
        the place of those that were not drawn, so that stopping after hard tasks is no handicap.

        Args:
            candidate: With all marks, or stopped.
        """
        n_left = len(self.left(candidate))
        attrs: dict[str, Any] = {"n_drawn": len(candidate.marks)}
        try:
            if not n_left:
                self.store.finish_trial(
                    candidate.trial_id, "complete", self.values(candidate), **attrs
                )
                return
            value, attrs["value_error"] = self._estimate(candidate)
            self.store.finish_trial(candidate.trial_id, "pruned", [value], **attrs)
        except Exception as error:
            self.fail(candidate, error)

    def values(self, candidate: Candidate) -> list[float]:
        """What a candidate with all its marks got, by objective.

        Raises:
            TallyError: Its scores have no such tally.
        """
        values = []
        for name in self.settings.objectives:
            if name == NEAR:
                assert self._nearness is not None
                values.append(self._nearness(candidate.recipe))
            else:
                scores = scores_of(self.exam.tasks, candidate.marks.values(), name)
                values.append(tally(scores, self.settings.tally))
        return values

    def _estimate(self, candidate: Candidate) -> tuple[float, float]:
        assert candidate.best is not None
        value, reference = candidate.best
        mine = scores_of(self.exam.tasks, candidate.marks.values(), self.settings.objectives[0])
        shift, error = predict_difference(mine, reference)
        full = {name: mine.get(name, score + shift) for name, score in reference.items()}
        return min(tally(full, self.settings.tally), value), error

    def fail(self, candidate: Candidate, error: BaseException) -> None:
        """End a candidate's trial that could not be examined; the search goes on.

        Args:
            candidate: From `next_candidate`.
            error: What happened.
        """
        text = f"{type(error).__name__}: {error}"[:2000]
        self.store.finish_trial(
            candidate.trial_id, "fail", None, error=text, n_drawn=len(candidate.marks)
        )

    def close(self) -> None:
        """Say that this process takes part no longer; what it holds is free."""
        self.claims.close()

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_search(
    search: Search, examiner: Examiner, progress: Callable[[Candidate], None] | None = None
) -> None:
    """Examine candidates one after the other until the search ends.

    Args:
        search: The study.
        examiner: Draws and scores.
        progress: Called after each candidate.

    Raises:
        StudyError: Nothing but failures.
        LostWorkerError: The examiner is gone; the candidate is not, and another goes on with it.
        StoppedError: Somebody asked for it; the same holds.
    """
    while (candidate := search.next_candidate()) is not None:
        try:
            _examine(search, examiner, candidate)
        except (LostWorkerError, StoppedError):
            raise  # the candidate can be gone on with, by another worker or later
        except Exception as error:  # one bad candidate must not end hours of work
            search.fail(candidate, error)
        else:
            search.finish(candidate)
        if progress is not None:
            progress(candidate)


def _examine(search: Search, examiner: Examiner, candidate: Candidate) -> None:
    if candidate.marks and search.may_stop(candidate):
        return  # killed between its last mark and its end
    for mark in _marks(search, examiner, candidate):
        candidate.marks[mark.task] = mark
        # What a batch has drawn already is paid for, and makes the estimate better.
        if not mark.n_drawn and search.may_stop(candidate):
            return


def _marks(search: Search, examiner: Examiner, candidate: Candidate) -> Iterator[Mark]:
    tasks = search.left(candidate)
    if not tasks:
        return
    by_name = {task.name: task for task in tasks}
    for mark in examiner.examine(candidate.recipe, tasks, pictures=search.keep_pictures):
        search.keep_mark(candidate.key, mark, by_name[mark.task])
        yield mark
