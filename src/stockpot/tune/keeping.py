"""Marks into a study's book and out of it; and drawing candidates that nobody searches for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from stockpot.errors import LostWorkerError, StoppedError
from stockpot.recipes import Recipe
from stockpot.tune.books import Book, KeptMark
from stockpot.tune.claims import Claims
from stockpot.tune.exam import Exam, Task
from stockpot.tune.examining import Examiner, Mark

__all__ = ["draw_exam", "keep_mark", "kept_marks"]

_WAIT_S = 0.3


def kept_marks(book: Book, key: str, exam: Exam) -> dict[str, Mark]:
    """Read the marks that a candidate has for an exam's tasks, by task, in their order.

    Args:
        book: Of the study.
        key: Of the candidate.
        exam: What it drew, or some of it.
    """
    kept = {mark.task: mark for mark in book.marks(key)}
    return {
        task.name: Mark(task.name, found.scores, found.facts, found.elapsed_s)
        for task in exam.tasks
        if (found := kept.get(task.key)) is not None
    }


def keep_mark(book: Book, key: str, mark: Mark, task: Task) -> None:
    """Store a mark, and its picture where it has one.

    Args:
        book: Of the study.
        key: Of the candidate.
        mark: What it got.
        task: What it drew.
    """
    picture = None
    if mark.picture is not None:
        from stockpot.draw import to_png

        picture = to_png(mark.picture, "")
    kept = KeptMark(key, task.key, task.name, dict(mark.scores), dict(mark.facts), mark.elapsed_s)
    book.put_mark(kept, picture)


def draw_exam(
    book: Book,
    claims: Claims,
    examiner: Examiner,
    exam: Exam,
    candidates: Sequence[tuple[str, str, Callable[[], Recipe]]],
    progress: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Draw an exam with some candidates; workers share it, and what is drawn already stays.

    Args:
        book: Where marks are kept.
        claims: Of this worker.
        examiner: Draws and scores; these pictures are kept, for people to look at.
        exam: What to draw.
        candidates: Name, key, and what gives the recipe.
        progress: Called with the name of each candidate before it is drawn.

    Returns:
        What could not be drawn, and why, by name.
    """
    waiting = list(candidates)
    failures: dict[str, str] = {}
    while waiting:
        left = []
        for name, key, recipe in waiting:
            claim = f"held out {exam.key[:16]} {key}"
            failed = book.note(f"failed {claim}")
            if failed is not None:
                failures[name] = failed
                continue
            tasks = [t for t in exam.tasks if t.name not in kept_marks(book, key, exam)]
            if not tasks:
                continue
            if not claims.take(claim):
                left.append((name, key, recipe))
                continue
            if progress is not None:
                progress(name)
            tasks = [t for t in exam.tasks if t.name not in kept_marks(book, key, exam)]
            try:
                for mark in examiner.examine(recipe(), tasks, pictures=True):
                    keep_mark(book, key, mark, exam[mark.task])
            except (LostWorkerError, StoppedError):
                raise
            except Exception as error:  # as in the search: one that fails must not end it
                failures[name] = f"{type(error).__name__}: {error}"[:2000]
                book.put_note(f"failed {claim}", failures[name])
        if len(left) == len(waiting):
            time.sleep(_WAIT_S)
        waiting = left
    return failures
