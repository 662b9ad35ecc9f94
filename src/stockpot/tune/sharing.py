"""Examiners in other processes: each holds the pool once, and candidates come to it.

A search, a verdict and a selection see an examiner like any other. Where the worker is lost that
did the drawing, `LostWorkerError` comes out of it; the marks that came before are kept.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

from stockpot.engine import Ask, Crew, Post, Stop
from stockpot.errors import ClusterError, LostWorkerError
from stockpot.recipes import Recipe, parse_recipe
from stockpot.tune.exam import Task
from stockpot.tune.examining import Examiner, Mark

__all__ = ["CrewExaminer", "ExaminerPost", "examine_on_crew", "open_examiner_post"]


@dataclass(frozen=True)
class _Asked:
    """What a worker is told of a candidate."""

    recipe: str
    tasks: tuple[Task, ...]
    pictures: bool


def open_examiner_post(opening: Callable[[], Examiner], n_threads: int) -> ExaminerPost:
    """Open an examiner in a worker.

    Args:
        opening: Opens it; can be pickled.
        n_threads: How many threads there are to use; an examiner takes what its settings say.
    """
    return ExaminerPost(opening())


@final
class ExaminerPost(Post):
    """Draws and scores candidates that others propose.

    Args:
        examiner: Who does it; closed at the end.

    Attributes:
        lanes: 1, as an examiner does one thing at a time.
        gathers: False, as a candidate may be stopped after each mark.
    """

    lanes = 1
    gathers = False

    def __init__(self, examiner: Examiner) -> None:
        self._examiner = examiner

    def work(self, request: _Asked) -> Iterator[Mark]:
        """Examine a candidate; see `Examiner.examine`."""
        yield from self._examiner.examine(
            parse_recipe(request.recipe, "a candidate"), request.tasks, pictures=request.pictures
        )

    def close(self) -> None:
        """Close the examiner."""
        self._examiner.close()


@final
class _AskingExaminer(Examiner):
    """An examiner that is somewhere else."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def examine(
        self, recipe: Recipe, tasks: Sequence[Task], *, pictures: bool = False
    ) -> Iterator[Mark]:
        """Have tasks drawn and scored; see `Examiner.examine`."""
        yield from self._ask(_Asked(recipe.to_yaml(), tuple(tasks), pictures))

    def close(self) -> None:
        """Whoever opened it closes it."""


def examine_on_crew(
    crew: Crew,
    opening: Callable[[], Examiner],
    use: Callable[[Examiner], None],
    stop: Stop | None = None,
) -> None:
    """Give each worker's examiner to a function, each in a thread of its own.

    Args:
        crew: The workers.
        opening: Opens an examiner in a worker; can be pickled.
        use: Examines until nothing is left to do, and returns; called once for each worker, again
            where one was lost, and for one that comes later. It lets `LostWorkerError` out.
        stop: Ends all at once where it is asked to.

    Raises:
        ClusterError: There are no workers, or they cannot work.
        StockpotError: What `use` raised.
    """
    ended = threading.Event()

    def slots() -> Iterator[int]:
        for number in itertools.count():
            if ended.is_set():
                return
            yield number

    def take(slot: int, ask: Ask) -> None:
        use(_AskingExaminer(ask))
        ended.set()

    crew.share(partial(open_examiner_post, opening), slots(), take, stop=stop)


@final
class CrewExaminer(Examiner):
    """An examiner whose tasks are drawn by all workers of a crew at once.

    For whoever has one candidate at a time and waits for all of its marks. They come in the order
    in which they are ready.

    Args:
        crew: The workers.
        opening: Opens an examiner in a worker; can be pickled.
        n_parts: Into how many parts a candidate's tasks are cut at most: the number of workers.
    """

    def __init__(self, crew: Crew, opening: Callable[[], Examiner], n_parts: int) -> None:
        self._n_parts = n_parts
        self._stop = Stop()
        self._waiting: queue.Queue[_Part] = queue.Queue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(crew, opening), daemon=True)
        self._thread.start()

    def _run(self, crew: Crew, opening: Callable[[], Examiner]) -> None:
        try:
            examine_on_crew(crew, opening, self._serve, self._stop)
        except BaseException as error:
            self._error = error

    def _serve(self, examiner: Examiner) -> None:
        while not self._stop.asked:
            try:
                part = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            part.run(examiner, self._waiting)

    def examine(
        self, recipe: Recipe, tasks: Sequence[Task], *, pictures: bool = False
    ) -> Iterator[Mark]:
        """Have tasks drawn and scored by all; see `Examiner.examine`."""
        # Tasks that stand together may be drawn at once; a part is as many of them as there are.
        size = -(-len(tasks) // self._n_parts) if tasks else 1
        found: queue.Queue[Mark | BaseException] = queue.Queue()
        for start in range(0, len(tasks), size):
            self._waiting.put(_Part(recipe, list(tasks[start : start + size]), pictures, found))
        n_left = len(tasks)
        while n_left:
            try:
                one = found.get(timeout=0.2)
            except queue.Empty:
                if self._thread.is_alive():
                    continue
                raise self._error or ClusterError("the workers have ended") from None
            if isinstance(one, BaseException):
                raise one
            n_left -= 1
            yield one

    def close(self) -> None:
        """Let go of the workers."""
        self._stop.ask(now=True)
        self._thread.join()


@dataclass
class _Part:
    """Some tasks of a candidate, and where their marks go."""

    recipe: Recipe
    tasks: list[Task]
    pictures: bool
    found: queue.Queue[Mark | BaseException]

    def run(self, examiner: Examiner, waiting: queue.Queue[_Part]) -> None:
        """Have them drawn; what a lost worker did not draw waits for another."""
        try:
            for mark in examiner.examine(self.recipe, tuple(self.tasks), pictures=self.pictures):
                self.tasks = [task for task in self.tasks if task.name != mark.task]
                self.found.put(mark)
        except LostWorkerError:
            waiting.put(self)
            raise
        except Exception as error:
            self.found.put(error)
