"""A study's book in optuna's journal: one file that only grows, for disks that machines share.

Each entry is an attribute of a study of its own, made in the order of the journal. Where two
workers write the same, the first one counts, and both see that.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, final

from stockpot.tune.books import Book, KeptMark
from stockpot.tune.claims import Claimed, Worker
from stockpot.tune.soundness import MARK_SHAPE, damage, unfit

if TYPE_CHECKING:
    from optuna.storages import JournalStorage

__all__ = ["JournalBook"]


@final
class JournalBook(Book):
    """A book in a journal.

    Args:
        storage: optuna's.
        name: Of the study that holds the entries.
    """

    def __init__(self, storage: JournalStorage, name: str) -> None:
        import optuna
        from optuna.study import StudyDirection

        self._storage = storage
        try:
            self._id = storage.get_study_id_from_name(name)
        except KeyError:
            try:
                self._id = storage.create_new_study([StudyDirection.MAXIMIZE], name)
            except optuna.exceptions.DuplicatedStudyError:
                self._id = storage.get_study_id_from_name(name)

    def _read(self) -> dict[str, Any]:
        return self._storage.get_study_user_attrs(self._id)

    def _write(self, key: str, value: Any) -> None:
        self._storage.set_study_user_attr(self._id, key, value)

    def _first(self, prefix: str, value: Any) -> bool:
        """Write an entry of one's own under a prefix; whether it is the first there."""
        import uuid

        if any(self._below(prefix)):
            return False
        mine = f"{prefix}{uuid.uuid4().hex}"
        self._write(mine, value)
        return next(self._below(prefix))[0] == mine

    def _below(self, prefix: str) -> Iterator[tuple[str, Any]]:
        return ((key, value) for key, value in self._read().items() if key.startswith(prefix))

    def note(self, key: str) -> str | None:
        """Read a text; see `Book.note`."""
        return self._read().get(f"note/{key}")

    def put_note(self, key: str, text: str) -> None:
        """Write a text; see `Book.put_note`."""
        self._write(f"note/{key}", text)

    def put_candidate(self, key: str, recipe: str) -> None:
        """Write a candidate; see `Book.put_candidate`."""
        if self.candidate(key) is None:
            self._write(f"candidate/{key}", recipe)

    def candidate(self, key: str) -> str | None:
        """Read a candidate; see `Book.candidate`."""
        return self._read().get(f"candidate/{key}")

    def put_mark(self, mark: KeptMark, picture: bytes | None = None) -> bool:
        """Write a mark; see `Book.put_mark`."""
        png = None if picture is None else base64.b64encode(picture).decode()
        entry = {"name": mark.name, "scores": dict(mark.scores), "facts": dict(mark.facts),
                 "elapsed_s": mark.elapsed_s, "png": png}  # fmt: skip
        return self._first(f"mark/{mark.candidate}/{mark.task}/", entry)

    def marks(self, candidate: str | None = None) -> list[KeptMark]:
        """Read marks; see `Book.marks`."""
        prefix = "mark/" if candidate is None else f"mark/{candidate}/"
        found: dict[tuple[str, str], KeptMark] = {}
        for key, entry in self._below(prefix):
            _, whose, task, _ = key.split("/")
            if wrong := unfit(entry, MARK_SHAPE, "a mark"):
                raise damage("the journal", wrong)
            mark = KeptMark(whose, task, entry["name"], entry["scores"], entry["facts"],
                            entry["elapsed_s"])  # fmt: skip
            found.setdefault((whose, task), mark)
        return list(found.values())

    def count_marks(self, tasks: Collection[str], candidates: Collection[str] | None = None) -> int:
        """Count marks; see `Book.count_marks`."""
        return sum(
            mark.task in tasks and (candidates is None or mark.candidate in candidates)
            for mark in self.marks()
        )

    def picture(self, candidate: str, task: str) -> bytes | None:
        """Read a picture; see `Book.picture`."""
        for _, entry in self._below(f"mark/{candidate}/{task}/"):
            return None if entry["png"] is None else base64.b64decode(entry["png"])
        return None

    def put_worker(self, worker: Worker) -> None:
        """Write down a worker; see `WorkerBook.put_worker`."""
        entry = [worker.machine, worker.pid, worker.started]
        self._write(f"worker/{worker.name}", json.dumps(entry))

    def put_beat(self, worker: str, beat: int) -> None:
        """Write down a beat; see `WorkerBook.put_beat`."""
        self._write(f"beat/{worker}", beat)

    def worker(self, name: str) -> tuple[Worker, int] | None:
        """Read a worker; see `WorkerBook.worker`."""
        entries = self._read()
        if f"worker/{name}" not in entries:
            return None
        machine, pid, started = json.loads(entries[f"worker/{name}"])
        return Worker(name, machine, pid, started), int(entries.get(f"beat/{name}", 0))

    def claimed(self, what: str) -> Claimed | None:
        """Read a claim; see `WorkerBook.claimed`."""
        last: Claimed | None = None
        for key, worker in self._below(f"claim/{what}/"):
            generation = int(key.split("/")[2])
            if last is None or generation > last.generation:
                last = Claimed(generation, worker)
        return last

    def put_claim(self, what: str, claim: Claimed) -> bool:
        """Write a claim; see `WorkerBook.put_claim`."""
        return self._first(f"claim/{what}/{claim.generation}/", claim.worker)
