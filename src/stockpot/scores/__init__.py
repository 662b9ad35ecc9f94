"""Scorers: pictures and prompts in, one number a picture out, higher is better.

Importing this package loads no torch; making a scorer does.

Examples:
    >>> sorted(SCORERS)
    ['attributes', 'clip']
"""

from collections.abc import Mapping
from types import MappingProxyType

from stockpot.errors import UnknownNameError
from stockpot.scores._base import Images, Scorer, Scores
from stockpot.scores.attributes import AttributeJudge, judge_network
from stockpot.scores.clip import ClipReward

__all__ = [
    "SCORERS",
    "AttributeJudge",
    "ClipReward",
    "Images",
    "Scorer",
    "Scores",
    "judge_network",
    "make_scorer",
]

SCORERS: Mapping[str, type[Scorer]] = MappingProxyType(
    {
        "attributes": AttributeJudge,
        "clip": ClipReward,
    }
)
"""Every scorer by its name; each can be made without arguments where the zoo is installed."""


def make_scorer(name: str) -> Scorer:
    """Make a scorer by its name, with its defaults.

    Args:
        name: One of `SCORERS`.

    Returns:
        The scorer, loaded.

    Raises:
        UnknownNameError: There is no such scorer.
        stockpot.zoo.ZooNotInstalled: Its weights are not installed.

    Examples:
        >>> make_scorer("attributes").range
        'mean log-probability of the named attributes, -10 to 0'
    """
    if name not in SCORERS:
        raise UnknownNameError("scorer", name, SCORERS)
    return SCORERS[name]()
