"""Several scorers as one: a weighted sum of standardised scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np

from stockpot.errors import ScorerError
from stockpot.scores._base import Images, Picture, Reading, Scale, Scorer, Scores

__all__ = ["Hybrid", "Part"]


@dataclass(frozen=True)
class Part:
    """One scorer of a hybrid.

    Attributes:
        scorer: Any scorer.
        weight: How much a standard deviation of it counts; negative for what should be low.
        scale: What is a standard deviation; the scorer's own where it has one.
    """

    scorer: Scorer
    weight: float
    scale: Scale


@final
class Hybrid(Scorer):
    """A weighted sum of standardised scores, divided by the sum of the weights' magnitudes.

    Scores of different scorers have different units; without scales the one with the largest
    numbers would decide alone. A scale comes from the scorer's authors, or from reference
    pictures: those of the models that are merged, for example.

    Args:
        parts: At least one; weights are finite and not all 0.

    Raises:
        ScorerError: There are no parts, or a weight is not finite, or all are 0.
    """

    name = "hybrid"
    range = "weighted mean of standard deviations above the reference"

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        weights = [part.weight for part in self.parts]
        if not np.isfinite(weights).all() or not any(weights):
            raise ScorerError(
                f"a hybrid needs finite weights, and one that is not 0, but got {weights}"
            )
        self.uses_prompt = any(part.scorer.uses_prompt for part in self.parts)
        self.deterministic = all(part.scorer.deterministic for part in self.parts)
        self.pointwise = all(part.scorer.pointwise for part in self.parts)
        self.batch_size = min(part.scorer.batch_size for part in self.parts)

    @classmethod
    def from_scales(
        cls,
        scorers: Sequence[tuple[Scorer, float]],
        scales: Mapping[str, Scale] | None = None,
    ) -> Self:
        """Make one from scorers, weights and scales by name.

        Args:
            scorers: Each with its weight.
            scales: By the scorer's name; needed for each that has none of its own. One that is
                given wins over the scorer's own.

        Returns:
            The hybrid.

        Raises:
            ScorerError: Scales are missing; all are named.
        """
        found = {**{s.name: s.scale for s, _ in scorers if s.scale}, **(scales or {})}
        missing = sorted({scorer.name for scorer, _ in scorers} - found.keys())
        if missing:
            raise ScorerError(
                f"a hybrid needs to know what a standard deviation is of {', '.join(missing)}: fit "
                "scales to reference pictures first (stockpot score PICTURES… --score NAME "
                "--save-scales FILE, then --scales FILE)"
            )
        return cls([Part(scorer, weight, found[scorer.name]) for scorer, weight in scorers])

    @classmethod
    def fit(
        cls, scorers: Sequence[tuple[Scorer, float]], images: Images, prompts: Sequence[str]
    ) -> Self:
        """Make one whose scales are fitted to reference pictures.

        Args:
            scorers: Each with its weight.
            images: Reference pictures, such as those of the models that are merged.
            prompts: What they were asked to show.

        Returns:
            The hybrid; on the reference pictures each part has mean 0 and SD 1.

        Raises:
            ScorerError: A scorer gives all of them the same score.
        """
        return cls(
            [
                Part(scorer, weight, Scale.fit(scorer.score(images, prompts)))
                for scorer, weight in scorers
            ]
        )

    def read(self, text: str) -> Reading:
        """Say what the part that sees least of a prompt leaves out.

        Args:
            text: A prompt whose syntax is stripped.

        Returns:
            The prompt and the longest end that is left out.
        """
        seen = [part.scorer.read(text) for part in self.parts if part.scorer.uses_prompt]
        return max(seen, key=lambda reading: len(reading.left_out), default=Reading(text))

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        total = np.zeros(len(pictures))
        for part in self.parts:
            scores = part.scorer.score_texts(pictures, texts)
            total += part.weight * part.scale.standardise(scores)
        return total / sum(abs(part.weight) for part in self.parts)
