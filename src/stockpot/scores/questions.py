"""What a person is asked, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stockpot.scores._base import Picture

__all__ = ["Asker", "Question"]


@dataclass(frozen=True)
class Question:
    """What a person is asked.

    Attributes:
        left: A picture, uint8 RGB.
        right: Another.
        prompt: What both were asked to show; may be empty.
        number: Which question it is, counted from 1; those of earlier sittings count.
        total: About how many there will be.
    """

    left: Picture
    right: Picture
    prompt: str
    number: int
    total: int


class Asker(Protocol):
    """Somebody who shows questions to a person."""

    def ask(self, question: Question) -> float | None:
        """Ask which picture is better.

        Args:
            question: What to show.

        Returns:
            1 for the left one, 0 for the right one, 0.5 for neither; None to stop for now.
        """

    def close(self) -> None:
        """Say that there are no more questions."""
