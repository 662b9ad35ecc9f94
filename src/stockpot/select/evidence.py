"""What was measured, kept on disk: each mark once, whoever asked for it.

A line of JSON for each task of each candidate, appended as it comes. A run that was stopped reads
them and goes on; a pool that grew reuses them, since candidates are known by their contents. What a
candidate weighs is never written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, final

from stockpot.errors import OutputError, Problem, RequestError
from stockpot.select.choices import Choice, Pool

if TYPE_CHECKING:
    from stockpot.tune import Exam, Examiner, Task

__all__ = ["Evidence", "Stopped"]

_FORMAT = 1
_LONGEST_LINE = 1 << 20


class Stopped(Exception):
    """The budget of candidates or of time is used up; what was measured is kept."""


@final
@dataclass
class _Record:
    scores: dict[str, float]
    facts: dict[str, float]
    elapsed_s: float


@final
class Evidence:
    """Marks of candidates on one exam, from disk or from an examiner.

    Args:
        file: Where marks are kept; made if need be. None keeps them in memory.
        pool: What candidates are made of.
        exam: What each of them draws.
        examiner: Who draws and scores.
        score: Name of the scorer that decides.
        most_candidates: How many may be examined beyond those on file; None sets no limit.
        most_s: Seconds that examining may take; None sets no limit.
        progress: Is told a line after each candidate.

    Attributes:
        n_examined: Candidates that were examined in this run.
        n_reused: Candidates whose marks were on file.
        elapsed_s: Seconds that examining took, those on file included.

    Raises:
        RequestError: The file is of another kind or version.
        OutputError: It cannot be written.
    """

    def __init__(
        self,
        file: Path | None,
        pool: Pool,
        exam: Exam,
        examiner: Examiner,
        score: str,
        *,
        most_candidates: int | None = None,
        most_s: float | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.pool, self.exam, self.score = pool, exam, score
        self._examiner, self._progress = examiner, progress
        self._most, self._most_s = most_candidates, most_s
        self._file = file
        self._handle: BinaryIO | None = None
        self._marks: dict[str, dict[str, _Record]] = {}  # candidate's key, task's key
        self._seen: dict[str, Choice] = {}
        self.n_examined = self.n_reused = 0
        self.elapsed_s = 0.0
        if file is not None:
            self._read(file)
            self._open(file)

    def __enter__(self) -> Evidence:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def marks(self, choice: Choice, exam: Exam | None = None) -> Mapping[str, float]:
        """Score of each task of a candidate; asks the examiner for what is not known.

        Args:
            choice: The candidate.
            exam: Another exam than the search's, such as the held-out one.

        Returns:
            By the task's name, higher is better.

        Raises:
            Stopped: The budget is used up.
        """
        exam = exam or self.exam
        records = self._records(choice, exam)
        return {
            task.name: (-1 if task.reverse else 1) * records[task.key].scores[self.score]
            for task in exam.tasks
        }

    def facts(self, choice: Choice, exam: Exam | None = None) -> dict[str, dict[str, float]]:
        """Statistics of a candidate's pictures, by task."""
        exam = exam or self.exam
        records = self._records(choice, exam)
        return {task.name: records[task.key].facts for task in exam.tasks}

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The candidates that were asked for, in order, each once."""
        return tuple(self._seen.values())

    def _records(self, choice: Choice, exam: Exam) -> dict[str, _Record]:
        key = self.pool.key(choice)
        records = self._marks.setdefault(key, {})
        missing = [task for task in exam.tasks if not self._has(records, task)]
        first = key not in self._seen
        self._seen.setdefault(key, choice)
        if not missing:
            self.n_reused += first
            return records
        if self._most is not None and self.n_examined >= self._most:
            raise Stopped(f"{self.n_examined} candidates were examined, as many as were allowed")
        if self._most_s is not None and self.elapsed_s >= self._most_s:
            raise Stopped(f"examining took {self.elapsed_s:.0f} s, as long as was allowed")
        start = time.monotonic()
        tasks = {task.name: task for task in missing}
        for mark in self._examiner.examine(self.pool.recipe(choice), missing):
            task = tasks[mark.task]
            record = _Record(dict(mark.scores), dict(mark.facts), mark.elapsed_s)
            records[task.key] = record
            self._append(task, key, choice, record)
        self._sync()
        self.n_examined += 1
        self.elapsed_s += time.monotonic() - start
        self._progress(f"{self.n_examined}: {choice}")
        return records

    def _has(self, records: Mapping[str, _Record], task: Task) -> bool:
        return task.key in records and self.score in records[task.key].scores

    def _open(self, file: Path) -> None:
        try:
            new = not file.exists() or file.stat().st_size == 0
            self._handle = file.open("ab")
            if new:
                self._write({"stockpot_evidence": _FORMAT})
        except OSError as error:
            raise OutputError(f"{file}: marks cannot be kept there: {error.strerror}") from error

    def _append(self, task: Task, key: str, choice: Choice, record: _Record) -> None:
        self._write(
            {
                "key": key,
                "unets": choice.unets,
                "encoders": choice.encoders,
                "task": task.key,
                "name": task.name,
                "scores": record.scores,
                "facts": record.facts,
                "elapsed_s": round(record.elapsed_s, 6),
            }
        )

    def _write(self, value: Mapping[str, Any]) -> None:
        if self._handle is None:
            return
        try:
            # One write a line: a killed process leaves whole lines, and at most one torn end.
            self._handle.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
            self._handle.flush()
        except OSError as error:
            raise OutputError(f"{self._file}: {error.strerror}; what was measured before is kept"
                              ) from error  # fmt: skip

    def _sync(self) -> None:
        if self._handle is not None:
            os.fsync(self._handle.fileno())

    def _read(self, file: Path) -> None:
        if not file.exists():
            return
        with file.open("rb") as handle:
            for number, line in enumerate(_lines(handle), 1):
                try:
                    value = json.loads(line)
                    if number == 1:
                        known = value.get("stockpot_evidence") == _FORMAT
                        if not known:
                            raise ValueError("no evidence of a selection")
                        continue
                    record = _Record(
                        {str(k): float(v) for k, v in value["scores"].items()},
                        {str(k): float(v) for k, v in value["facts"].items()},
                        float(value["elapsed_s"]),
                    )
                    own = self._marks.setdefault(str(value["key"]), {})
                    own[str(value["task"])] = record
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    if not line.endswith(b"\n"):
                        break  # the end of a line that a killed process began
                    raise RequestError(
                        [
                            Problem(
                                "evidence",
                                f"a line of evidence must be a mark, but is not ({error})",
                                f"{file}, line {number}",
                                "choose another file, or remove the line",
                            )
                        ]
                    ) from error
        _cut_torn_end(file)


def _lines(handle: Iterable[bytes]) -> Iterator[bytes]:
    for line in handle:
        if len(line) > _LONGEST_LINE:
            raise RequestError([Problem("evidence", "a line of evidence has at most 1 MiB")])
        yield line


def _cut_torn_end(file: Path) -> None:
    """Take away what a killed process left of a line, so that the next one begins anew."""
    with file.open("rb+") as handle:
        handle.seek(0, os.SEEK_END)
        size = handle.tell()
        start = max(0, size - _LONGEST_LINE)
        handle.seek(start)
        tail = handle.read()
        if tail and not tail.endswith(b"\n"):
            handle.truncate(start + tail.rfind(b"\n") + 1)
