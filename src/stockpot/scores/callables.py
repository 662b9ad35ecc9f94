"""Scorers that others wrote: any Python callable, installed under an entry point."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, final

import numpy as np

from stockpot.errors import ScorerError
from stockpot.scores._base import Picture, Scorer, Scores, Setting

__all__ = ["GROUP", "CallableScorer", "load_plugin", "plugins"]

GROUP = "stockpot.scores"
"""The group of entry points under which distributions offer scorers."""


@final
class CallableScorer(Scorer):
    """A function of pictures and prompts as a scorer.

    Args:
        name: What to call it.
        function: Takes a list of uint8 arrays `[height, width, 3]` and a list of as many prompts,
            syntax stripped; returns as many numbers, higher is better. It gets copies. Scores of a
            picture must not depend on the other pictures.
        uses_prompt: Whether it looks at prompts.
        deterministic: Whether it gives the same picture the same score each time.

    Example:
        >>> light = CallableScorer("light", lambda pictures, prompts: [p.mean() for p in pictures])
        >>> light.score(np.full((1, 2, 2, 3), 7, np.uint8), ["a cat"]).tolist()
        [7.0]
    """

    range = "as its author has it"

    def __init__(
        self,
        name: str,
        function: Callable[[list[Picture], list[str]], Any],
        *,
        uses_prompt: bool = True,
        deterministic: bool = True,
    ) -> None:
        self.name = name
        self._function = function
        self.uses_prompt = uses_prompt
        self.deterministic = deterministic

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        try:
            found = self._function([np.array(picture) for picture in pictures], list(texts))
        except Exception as error:
            raise ScorerError(f"{self.name} failed: {type(error).__name__}: {error}") from error
        if isinstance(found, str | bytes) or not hasattr(found, "__iter__"):
            raise ScorerError(
                f"{self.name} must give a list of numbers, but gave {type(found).__name__}"
            )
        try:
            return np.asarray(list(found), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ScorerError(f"{self.name} must give a list of numbers: {error}") from error


def plugins() -> dict[str, EntryPoint]:
    """List what installed distributions offer.

    Returns:
        Entry points of the group `GROUP` by name; nothing of them is loaded.

    Raises:
        ScorerError: Two distributions offer the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise ScorerError(
                f"two installed distributions offer a scorer {point.name!r} ({other.value} and "
                f"{point.value}); uninstall one"
            )
    return found


def load_plugin(point: EntryPoint, setting: Setting) -> Scorer:
    """Load a scorer that a distribution offers.

    Args:
        point: Its entry point: a `Scorer` class or object, or a callable as `CallableScorer`
            takes it.
        setting: For a class: what its `make` gets.

    Returns:
        The scorer.

    Raises:
        ScorerError: It cannot be imported, or is no scorer and no callable.
    """
    try:
        found = point.load()
        if isinstance(found, type) and issubclass(found, Scorer):
            return found.make(setting)
    except ScorerError:
        raise
    except Exception as error:
        raise ScorerError(
            f"the scorer {point.name!r} ({point.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(found, Scorer):
        return found
    if not callable(found):
        raise ScorerError(
            f"the scorer {point.name!r} ({point.value}) must be a Scorer or a callable, but is "
            f"{type(found).__name__}"
        )
    return CallableScorer(point.name, found)
