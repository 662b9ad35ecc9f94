"""What a study searches and how: the part that may never change, and the part that may grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from stockpot.errors import Problem, StudyError
from stockpot.recipes import Recipe

__all__ = ["NEAR", "Baseline", "Limits", "SearchSettings", "check_same"]

#: The objective that is no scorer: 0 for the uniform mix, and lower the farther from it.
NEAR = "near-uniform"


@dataclass(frozen=True, slots=True)
class Baseline:
    """A candidate that nobody searched for, and that must be beaten.

    Attributes:
        name: Such as ``a alone``.
        recipe: Without holes.
        values: Of the holes that make it; None where it is no filling of the recipe.
    """

    name: str
    recipe: Recipe
    values: Mapping[str, Fraction] | None = None


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What makes a study: another value is another study.

    Attributes:
        objectives: What is maximised: scorers by name, or `NEAR`.
        scorers: All whose scores are kept, the objectives' among them.
        tally: How scores become one number; see `stockpot.tune.tally`.
        optimiser: A key of `stockpot.tune.OPTIMISERS`.
        seed: Of the optimiser and of what is held out.
        space: A key of `stockpot.tune.SPACES`, as the user wrote it.
        stop_p: The chance to come out ahead of the best below which a candidate is stopped; None
            draws all its tasks. With several objectives none is stopped.
    """

    objectives: tuple[str, ...]
    scorers: tuple[str, ...]
    tally: str = "arithmetic"
    optimiser: str = "auto"
    seed: int = 0
    space: str = "each"
    stop_p: float | None = 0.2

    def __post_init__(self) -> None:
        for name in self.objectives:
            if name != NEAR and name not in self.scorers:
                raise ValueError(f"the objective {name!r} is no scorer of the study")
        if not any(name != NEAR for name in self.objectives):
            raise ValueError("at least one objective must be a scorer")

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "objectives": list(self.objectives),
            "scorers": list(self.scorers),
            "tally": self.tally,
            "optimiser": self.optimiser,
            "seed": self.seed,
            "space": self.space,
            "stop_p": self.stop_p,
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to go on; all of it may be changed when a study is taken up again.

    Attributes:
        n_trials: Candidates that the optimiser may try, in the whole study; baselines come on top.
        patience: Stop after so many candidates without a better one; None never stops for that.
        n_images: Pictures that the search may draw, in the whole study; what is held out comes on
            top. A candidate that might go beyond is not begun.
        time_s: Seconds from the start of this call, looked at between candidates.
    """

    n_trials: int = 100
    patience: int | None = None
    n_images: int | None = None
    time_s: float | None = None


def check_same(kept: Mapping[str, Any], asked: Mapping[str, Any], where: str) -> None:
    """Refuse to go on with a study in another way than it was begun.

    Args:
        kept: What the study says of itself.
        asked: What the command says now.
        where: The study.

    Raises:
        StudyError: They differ; all differences at once.
    """
    names = [name for name in {**kept, **asked} if kept.get(name) != asked.get(name)]
    if names:
        told = [
            str(Problem("study", f"the study was begun with {_short(kept.get(name))}, but now it "
                        f"is {_short(asked.get(name))}", f"{where}: {name}",
                        "begin another study with another --study"))
            for name in names
        ]  # fmt: skip
        raise StudyError("\n".join(told))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:60]}… ({len(text)} characters)"
