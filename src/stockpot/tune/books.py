"""What a study keeps besides its trials, whatever holds it: tables or a journal."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from stockpot.tune.claims import WorkerBook

__all__ = ["Book", "KeptMark"]


@dataclass(frozen=True, slots=True)
class KeptMark:
    """A mark as it is stored.

    Attributes:
        candidate: The candidate's key.
        task: The task's key.
        name: The task's name.
        scores: By scorer.
        facts: Of the picture.
        elapsed_s: Seconds that it took.
    """

    candidate: str
    task: str
    name: str
    scores: Mapping[str, float]
    facts: Mapping[str, float] = field(default_factory=dict)
    elapsed_s: float = 0.0


class Book(WorkerBook):
    """What a study keeps besides its trials: settings, candidates, marks, pictures, claims."""

    @abstractmethod
    def note(self, key: str) -> str | None:
        """Read a text by its key."""

    @abstractmethod
    def put_note(self, key: str, text: str) -> None:
        """Write a text, in place of one that is there."""

    @abstractmethod
    def put_candidate(self, key: str, recipe: str) -> None:
        """Write down a candidate's recipe, once."""

    @abstractmethod
    def candidate(self, key: str) -> str | None:
        """Read a candidate's recipe."""

    @abstractmethod
    def put_mark(self, mark: KeptMark, picture: bytes | None = None) -> bool:
        """Write a mark and its picture (a PNG file) unless there is one; whether it was written."""

    @abstractmethod
    def marks(self, candidate: str | None = None) -> list[KeptMark]:
        """Read the marks of a candidate, or of all."""

    @abstractmethod
    def count_marks(self, tasks: Collection[str], candidates: Collection[str] | None = None) -> int:
        """Count the marks for some tasks, by their keys; of some candidates, or of all."""

    @abstractmethod
    def picture(self, candidate: str, task: str) -> bytes | None:
        """Read a picture, if it was kept."""

    def close(self) -> None:
        """Let go of the file."""
