"""What each block's weight does to the score, with how sure that is: a linear model of trials.

Ridge regression as a Gaussian posterior, its two scales chosen by the evidence (MacKay 1992). With
fewer trials than blocks the intervals are wide, and that is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from stockpot.tune.holes import Hole

__all__ = ["Effect", "estimate_effects"]

_FEWEST = 6
_SURE = 1.96


@dataclass(frozen=True, slots=True)
class Effect:
    """What moving one hole from its low to its high end does to the score, others held.

    Attributes:
        name: Of the hole.
        effect: Change of the score.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    name: str
    effect: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def estimate_effects(
    holes: Sequence[Hole], values: Sequence[Mapping[str, Fraction]], scores: Sequence[float]
) -> tuple[Effect, ...]:
    """Fit a linear model of the score.

    Args:
        holes: Whose effect is wanted; those that never moved are left out.
        values: Of all holes, one mapping a trial.
        scores: What each trial got.

    Returns:
        One effect a hole; none at all from fewer than six trials.

    Example:
        >>> hole = Hole("t", "", Fraction(0), Fraction(1))
        >>> trials = [{"t": Fraction(i, 10)} for i in range(11)]
        >>> (effect,) = estimate_effects([hole], trials, [0.1 + 0.02 * i for i in range(11)])
        >>> round(effect.effect, 2), effect.sure
        (0.2, True)
    """
    import numpy as np

    if len(values) < _FEWEST:
        return ()
    moved = [hole for hole in holes if len({row[hole.name] for row in values}) > 1]
    if not moved:
        return ()
    inputs = np.array(
        [[float((row[h.name] - h.low) / (h.high - h.low)) for h in moved] for row in values]
    )
    targets = np.array(scores, float)
    spread = float(targets.std()) or 1.0
    inputs -= inputs.mean(axis=0)
    targets = (targets - targets.mean()) / spread
    # One decomposition serves all scales.
    left, singular, right = np.linalg.svd(inputs, full_matrices=False)
    projected = left.T @ targets
    rest = float(max(targets @ targets - projected @ projected, 0.0))
    n = len(targets)
    best: tuple[float, float, float] | None = None
    for prior in np.logspace(-4, 2, 37):  # variance of an effect, in units of the noise's
        shrunk = 1 + prior * singular**2
        noise = (rest + float(np.sum(projected**2 / shrunk))) / n
        evidence = -n * np.log(max(noise, 1e-12)) - float(np.sum(np.log(shrunk)))
        if best is None or evidence > best[0]:
            best = (evidence, float(prior), noise)
    assert best is not None
    _, prior, noise = best
    gain = prior * singular / (1 + prior * singular**2)
    means = right.T @ (gain * projected)
    reduced = prior**2 * singular**2 / (1 + prior * singular**2)
    variances = noise * (prior - np.einsum("ij,i,ij->j", right, reduced, right))
    errors = _SURE * np.sqrt(np.maximum(variances, 0.0)) * spread
    return tuple(
        Effect(hole.name, float(mean * spread), float(mean * spread - e), float(mean * spread + e))
        for hole, mean, e in zip(moved, means, errors, strict=True)
    )
