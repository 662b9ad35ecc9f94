"""Examiners: a candidate and tasks in, marks out, one after the other so that one can stop."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

from stockpot.draw import LiveMix, describe_picture, few_threads, paint_alike
from stockpot.errors import ScorerError
from stockpot.recipes import Recipe
from stockpot.scores import Picture, Scorer, Scores, picture_statistics

if TYPE_CHECKING:
    from stockpot.draw import DrawSettings
    from stockpot.tune.exam import Task

__all__ = [
    "CallableExaminer", "Examiner", "LiveExaminer", "Mark", "picture_facts", "score_together",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mark:
    """What one task of one candidate got.

    Attributes:
        task: The task's name.
        scores: By scorer, as the scorer gave them; higher is better, except for tasks that are
            reversed (see `stockpot.tune.scores_of`).
        facts: What the picture is like, whatever its scores; see `picture_facts`.
        elapsed_s: Its share of the seconds of drawing and scoring; the first one of a candidate
            has the change of the mix too.
        picture: uint8 RGB, `[height, width, 3]`, if it was asked for.
        n_drawn: How many further tasks are drawn already, so that their marks cost nothing more:
            the rest of a batch.
    """

    task: str
    scores: Mapping[str, float]
    facts: Mapping[str, float] = field(default_factory=dict)
    elapsed_s: float = 0.0
    picture: Picture | None = field(default=None, compare=False, repr=False)
    n_drawn: int = field(default=0, compare=False)


def picture_facts(picture: Picture) -> dict[str, float]:
    """Measure what a guard watches: how a picture is, not how good.

    Args:
        picture: uint8 RGB, `[height, width, 3]`.

    Returns:
        The numbers of `stockpot.scores.picture_statistics`, and those of
        `stockpot.draw.describe_picture` that tell subject and background apart.

    Example:
        >>> import numpy as np
        >>> picture_facts(np.full((8, 8, 3), 128, np.uint8))["contrast"]
        0.0
    """
    whole, parts = picture_statistics(picture), describe_picture(picture)
    return {
        "brightness": whole.brightness,
        "contrast": whole.contrast,
        "detail": whole.detail,
        "sharpness": whole.sharpness,
        "colourfulness": whole.colourfulness,
        "subject": parts.subject,
        "subject_contrast": parts.subject_contrast,
        "subject_detail": parts.subject_detail,
        "background_contrast": parts.background_contrast,
        "background_detail": parts.background_detail,
    }


class Examiner(ABC):
    """Something that draws and scores a candidate's tasks.

    One at a time: not to be used by two threads, and what `examine` returned for one candidate is
    to be finished or dropped before the next candidate begins.
    """

    @abstractmethod
    def examine(
        self, recipe: Recipe, tasks: Sequence[Task], *, pictures: bool = False
    ) -> Iterator[Mark]:
        """Draw and score tasks, lazily: work is done when the next mark is asked for.

        Args:
            recipe: The candidate; no holes are left in it.
            tasks: What to draw.
            pictures: Whether marks hold their pictures.

        Yields:
            One mark a task. A batch of tasks is drawn at once, so that marks come in the order of
            the tasks within groups of equal settings only; each says which task it is for.

        Raises:
            StockpotError: The candidate cannot be mixed or drawn, or a scorer fails; the examiner
                can go on with another one.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of models and files; closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@final
class CallableExaminer(Examiner):
    """An examiner that asks a function: for surrogates, and for programs that draw elsewhere.

    Args:
        function: From candidate and task to a mark, to scores by scorer, or to one score, which
            is then called ``score``.

    Example:
        >>> from stockpot.draw import Request
        >>> from stockpot.recipes import make_recipe
        >>> from stockpot.tune import Task
        >>> examiner = CallableExaminer(lambda recipe, task: task.request.seed / 4)
        >>> recipe = make_recipe("a", {"a": "a.safetensors"})
        >>> task = Task("cat#0", "cat", Request("a cat", 3))
        >>> [dict(mark.scores) for mark in examiner.examine(recipe, [task])]
        [{'score': 0.75}]
    """

    def __init__(
        self, function: Callable[[Recipe, Task], Mark | Mapping[str, float] | float]
    ) -> None:
        self._function = function

    def examine(
        self, recipe: Recipe, tasks: Sequence[Task], *, pictures: bool = False
    ) -> Iterator[Mark]:
        """Call the function for each task; see `Examiner.examine`."""
        for task in tasks:
            start = time.monotonic()
            found = self._function(recipe, task)
            elapsed_s = time.monotonic() - start
            if isinstance(found, Mark):
                yield replace(found, task=task.name, elapsed_s=found.elapsed_s or elapsed_s)
                continue
            scores = dict(found) if isinstance(found, Mapping) else {"score": float(found)}
            yield Mark(task.name, scores, elapsed_s=elapsed_s)

    def close(self) -> None:
        """Nothing is held, so nothing happens."""


@final
class LiveExaminer(Examiner):
    """An examiner that draws on a live mix. Made by `open_examiner`.

    Args:
        open_mix: Opens the live mix on its first recipe.
        scorers: By the name that marks have for them.
        batch: How many tasks of equal settings to draw at once.
        closing: What to close at the end.
    """

    def __init__(
        self,
        open_mix: Callable[[Recipe], LiveMix],
        scorers: Mapping[str, Scorer],
        batch: int = 4,
        closing: ExitStack | None = None,
    ) -> None:
        if not scorers:
            raise ScorerError("an examiner needs at least one scorer")
        if batch < 1:
            raise ValueError(f"`batch` must be at least 1, but got {batch}")
        self.scorers = dict(scorers)
        self._open_mix, self._batch, self._closing = open_mix, batch, closing or ExitStack()
        self._live: LiveMix | None = None
        self._shown: Recipe | None = None

    def show(self, recipe: Recipe) -> LiveMix:
        """Let the painter hold a candidate; nothing happens where it already does.

        Args:
            recipe: The candidate.

        Returns:
            What draws it, until the next one is shown.

        Raises:
            StockpotError: It cannot be mixed, or it has not all that drawing needs.
        """
        if self._live is None:
            self._live = self._open_mix(recipe)
        elif self._shown != recipe:
            self._shown = None  # if this fails half way, the painter holds no candidate
            self._live.show(recipe)
        self._shown = recipe
        return self._live

    def examine(
        self, recipe: Recipe, tasks: Sequence[Task], *, pictures: bool = False
    ) -> Iterator[Mark]:
        """Change the mix in place, draw and score; see `Examiner.examine`.

        Where a scorer compares pictures with each other (`Scorer.pointwise` is False), all tasks
        are drawn before the first mark comes. Such scores compare a candidate with itself; see
        `score_together` for candidates with each other.
        """
        start = time.monotonic()
        whole = not all(scorer.pointwise for scorer in self.scorers.values())
        drawn: list[tuple[Task, Picture]] = []
        for group in _batches(tasks, self._batch):
            # Another candidate may have been shown since the last mark.
            live = self.show(recipe)
            drawn += zip(group, self._draw(live, group), strict=True)
            if not whole:
                yield from self._marks(drawn, start, pictures)
                drawn, start = [], time.monotonic()
        if drawn:
            yield from self._marks(drawn, start, pictures)

    def _draw(self, live: LiveMix, tasks: Sequence[Task]) -> list[Picture]:
        requests = [
            replace(r, settings=replace(r.settings, batch=self._batch))
            for r in (task.request for task in tasks)
        ]
        with few_threads(live.painter.parts):
            return list(paint_alike(live.painter, requests).pictures)

    def _marks(
        self, drawn: Sequence[tuple[Task, Picture]], start: float, keep: bool
    ) -> Iterator[Mark]:
        tasks, pictures = [task for task, _ in drawn], [picture for _, picture in drawn]
        scores = {name: _score(scorer, tasks, pictures) for name, scorer in self.scorers.items()}
        facts = [picture_facts(picture) for picture in pictures]
        elapsed_s = (time.monotonic() - start) / len(drawn)
        for i, (task, picture) in enumerate(drawn):
            own = {name: float(values[i]) for name, values in scores.items()}
            kept = picture if keep else None
            yield Mark(task.name, own, facts[i], elapsed_s, kept, len(drawn) - 1 - i)

    def close(self) -> None:
        """Let go of painter and pool, and close the files that `open_examiner` opened."""
        self._live = self._shown = None
        self._open_mix = _closed
        self._closing.close()


def _closed(recipe: Recipe) -> LiveMix:
    raise RuntimeError("this examiner is closed; open another one")


def _batches(tasks: Sequence[Task], batch: int) -> Iterator[list[Task]]:
    """The next task, with those after it that can be drawn along; the same groups every time."""
    waiting = list(tasks)
    while waiting:
        settings: DrawSettings = waiting[0].request.settings
        group = [task for task in waiting if task.request.settings == settings][:batch]
        chosen = {id(task) for task in group}
        waiting = [task for task in waiting if id(task) not in chosen]
        yield group


def score_together(
    marks: Mapping[str, Sequence[Mark]], tasks: Sequence[Task], name: str, scorer: Scorer
) -> dict[str, list[Mark]]:
    """Score the pictures of several candidates at once.

    A scorer that compares pictures with each other, such as a person who chooses, says nothing of
    candidates that it sees one at a time: each one's mean is 0. Here it sees all of them.

    Args:
        marks: Of each candidate, with pictures; see `Examiner.examine`.
        tasks: Those of the marks.
        name: What marks call the scorer.
        scorer: Any.

    Returns:
        The marks with this score added.

    Raises:
        ScorerError: A mark has no picture, or the scorer cannot score them.
    """
    by_name = {task.name: task for task in tasks}
    rows = [(candidate, mark) for candidate, own in marks.items() for mark in own]
    pictures = [mark.picture for _, mark in rows if mark.picture is not None]
    if len(pictures) < len(rows):
        raise ScorerError("marks need their pictures to be scored again; examine with pictures")
    asked = [by_name[mark.task] for _, mark in rows]
    scores = _score(scorer, asked, pictures)
    found: dict[str, list[Mark]] = {candidate: [] for candidate in marks}
    for (candidate, mark), score in zip(rows, scores, strict=True):
        found[candidate].append(replace(mark, scores={**mark.scores, name: float(score)}))
    return found


def _score(scorer: Scorer, tasks: Sequence[Task], pictures: Sequence[Picture]) -> Scores:
    return scorer.score(
        pictures,
        [task.request.prompt for task in tasks],
        score_prompts=[task.score_prompt for task in tasks],
    )
