"""Tallies: how the scores of many pictures become one number, the one that a search maximises."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from stockpot.errors import TallyError, UnknownNameError

if TYPE_CHECKING:
    from stockpot.tune.exam import Task
    from stockpot.tune.examining import Mark

__all__ = ["AUTOMBW_TALLIES", "TALLIES", "check_tally", "scores_of", "tally"]


def _arithmetic(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _geometric(values: Sequence[float]) -> float:
    if min(values) == 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _harmonic(values: Sequence[float]) -> float:
    smallest = min(values)
    # Scaled, so that neither tiny nor huge values leave the range of doubles.
    if smallest == 0:
        return 0.0
    return smallest * len(values) / math.fsum(smallest / value for value in values)


def _power(values: Sequence[float], power: int) -> float:
    largest = max(map(abs, values))
    if largest == 0:
        return 0.0
    mean = math.fsum((value / largest) ** power for value in values) / len(values)
    return largest * math.copysign(abs(mean) ** (1 / power), mean)


def _quadratic(values: Sequence[float]) -> float:
    return _power(values, 2)


def _cubic(values: Sequence[float]) -> float:
    return _power(values, 3)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else _halfway(ordered[half - 1], ordered[half])


def _midrange(values: Sequence[float]) -> float:
    return _halfway(min(values), max(values))


def _halfway(low: float, high: float) -> float:
    return low / 2 + high / 2


TALLIES: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {
        "arithmetic": _arithmetic,
        "geometric": _geometric,
        "harmonic": _harmonic,
        "quadratic": _quadratic,
        "cubic": _cubic,
        "median": _median,
        "min": min,
        "max": max,
        "midrange": _midrange,
    }
)
"""Every tally by its name. Harmonic ≤ geometric ≤ arithmetic ≤ quadratic ≤ cubic: the earlier, the
more a bad picture costs; the later, the more a good one brings."""

AUTOMBW_TALLIES: Mapping[str, str] = MappingProxyType(
    {
        "Harmonic Mean": "harmonic",
        "Geometric Mean": "geometric",
        "Arithmetic Mean": "arithmetic",
        "Quadratic Mean": "quadratic",
        "Cubic Mean": "cubic",
        "A/G Mean": "arithmetic/geometric*arithmetic",
        "G/H Mean": "geometric/harmonic*arithmetic",
        "A/H Mean": "arithmetic/harmonic*arithmetic",
        "Median": "median",
        "Min": "min",
        "Max": "max",
        "Mid-Range": "midrange",
    }
)
"""AutoMBW's names of tallies in ours; its three ratios reward scores that differ much."""

# These lose or twist the sign of a score.
_FROM_ZERO = frozenset({"geometric", "harmonic", "quadratic"})
_OPERATOR = re.compile(r"\s*([*/])\s*")


def check_tally(name: str) -> tuple[tuple[str, str], ...]:
    """Read the name of a tally, before anything is drawn.

    Args:
        name: One of `TALLIES`, or several joined by ``/`` and ``*``, worked off from the left:
            ``min/max``, ``arithmetic/geometric*arithmetic``.

    Returns:
        Operator and tally of each part; the first operator is ``*``.

    Raises:
        UnknownNameError: A part is no tally.

    Example:
        >>> check_tally("min / max")
        (('*', 'min'), ('/', 'max'))
    """
    pieces = ["*", *_OPERATOR.split(name.strip())]
    parts = tuple(zip(pieces[::2], pieces[1::2], strict=True))
    for _, part in parts:
        if part not in TALLIES:
            raise UnknownNameError("tally", part, TALLIES)
    return parts


def tally(scores: Iterable[float] | Mapping[str, float], name: str = "arithmetic") -> float:
    """Make one number of many scores.

    The result does not depend on their order. Means lie between the least and the greatest score.

    Args:
        scores: At least one; by task, so that errors can name it, or without names.
        name: As for `check_tally`. ``geometric``, ``harmonic``, ``quadratic`` and all ratios need
            scores that are not negative: of others they would lose the sign or have no value.

    Returns:
        The number; higher is better.

    Raises:
        UnknownNameError: There is no such tally.
        TallyError: There are no scores, one is not finite, or one is negative where that is
            impossible; a search counts the candidate as failed and goes on.

    Example:
        >>> tally([1, 2, 4], "geometric"), tally([1, 2, 4], "min/max")
        (2.0, 0.25)
        >>> tally({"cat#0": 0.5, "cat#1": -0.25}, "geometric")
        Traceback (most recent call last):
        ...
        stockpot.errors.TallyError: the tally `geometric` needs scores from 0 on, but cat#1 has ...
    """
    parts = check_tally(name)
    named = dict(scores) if isinstance(scores, Mapping) else _numbered(scores)
    if not named:
        raise TallyError("a tally needs at least one score, but there is none")
    for task, value in named.items():
        if not math.isfinite(value):
            raise TallyError(f"a tally needs finite scores, but {task} has {value}")
        if value < 0 and (len(parts) > 1 or parts[0][1] in _FROM_ZERO):
            raise TallyError(
                f"the tally `{name}` needs scores from 0 on, but {task} has {value:g}; choose "
                "`arithmetic`, `cubic`, `median`, `min`, `max` or `midrange`"
            )
    values = [float(value) for value in named.values()]
    result = 1.0
    for operator, part in parts:
        # Rounding must not carry a mean past the scores that it is a mean of.
        found = min(max(TALLIES[part](values), min(values)), max(values))
        if operator == "/" and found == 0:
            raise TallyError(f"the tally `{name}` divides by its `{part}`, which is 0")
        result = result / found if operator == "/" else result * found
    return result


def _numbered(scores: Iterable[float]) -> dict[str, float]:
    return {f"score {i} (counted from 0)": value for i, value in enumerate(scores)}


def scores_of(tasks: Iterable[Task], marks: Iterable[Mark], scorer: str) -> dict[str, float]:
    """Take one scorer's scores from marks, as they count: minus the score of a reversed task.

    Args:
        tasks: Those of the exam.
        marks: In any order, of some or all of the tasks; others are left out.
        scorer: Its name.

    Returns:
        By task, in the order of the exam.

    Raises:
        UnknownNameError: A mark has no such score.
    """
    by_task = {mark.task: mark for mark in marks}
    found = {}
    for task in tasks:
        mark = by_task.get(task.name)
        if mark is None:
            continue
        if scorer not in mark.scores:
            raise UnknownNameError("scorer", scorer, mark.scores)
        score = mark.scores[scorer]
        found[task.name] = -score if task.reverse else score
    return found
