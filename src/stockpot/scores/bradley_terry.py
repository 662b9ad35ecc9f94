"""From "this one is better" to numbers: the model of Bradley and Terry (Biometrika, 1952)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Comparison", "fit_strengths"]

_MOST_ROUNDS = 10_000
_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True)
class Comparison:
    """One answer.

    Attributes:
        first: Index of one picture.
        second: Index of the other.
        share: How much of the point the first one gets: 1 if it is better, 0 if the other one is,
            0.5 if neither.
    """

    first: int
    second: int
    share: float


def fit_strengths(
    n: int, comparisons: Sequence[Comparison], *, prior: float = 0.5
) -> npt.NDArray[np.float64]:
    """Find the strengths under which the answers are most probable.

    The model: i is preferred to j with probability ``1 / (1 + exp(s_j - s_i))``. Each picture is
    also taken to have drawn `prior` times against an average one and that often again, which keeps
    a picture that always won at a finite strength, and gives pictures that were never compared the
    average. Solved by minorisation (Hunter, Annals of Statistics 2004), which always converges.

    Args:
        n: How many pictures.
        comparisons: Answers, in any order.
        prior: Strength of the prior in points; above 0. Larger values draw strengths together.

    Returns:
        Strengths in logits, `[n]`, with mean 0.

    Example:
        >>> strengths = fit_strengths(2, [Comparison(0, 1, 1.0)] * 3)
        >>> bool(strengths[0] > 0), bool(strengths[0] == -strengths[1])
        (True, True)
    """
    if not n:
        return np.zeros(0)
    points = np.full(n, prior)
    games = np.zeros((n, n))
    for answer in comparisons:
        points[answer.first] += answer.share
        points[answer.second] += 1 - answer.share
        games[answer.first, answer.second] += 1
        games[answer.second, answer.first] += 1
    strength = np.ones(n)
    for _ in range(_MOST_ROUNDS):
        against = games / (strength[:, None] + strength[None, :])
        # The average opponent of the prior has strength 1.
        new = points / (against.sum(axis=1) + 2 * prior / (strength + 1))
        change = np.abs(np.log(new / strength)).max()
        strength = new
        if change < _TOLERANCE:
            break
    logits = np.log(strength)
    return np.asarray(logits - logits.mean())
