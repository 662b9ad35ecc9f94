"""Which candidates to keep: those that are not surely worse, and those that alone know something.

A candidate is compared with a rival task by task: both drew the same requests from the same noise,
so that what is left of a difference is the candidate's own. Two questions are asked of each:

- Is it surely worse than the best, by more than matters? What matters is a share of the spread
  that the best candidate's own marks have within a payload (an effect size, Cohen's d): scores
  have units of their own, and a difference far below what another seed does is one nobody sees.
- Does it know something? On some payload it beats the middle of the others by more than matters,
  and by more than luck, Holm's correction for all payloads and candidates that were looked at.

The second question is what keeps the only model that draws a style, though it is bad at the rest.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stockpot.errors import MissingExtraError

__all__ = ["Decision", "Decisions", "Marks", "Rule", "decide", "spread_within"]

Marks = Mapping[str, float]
"""Score of each task of one candidate, by the task's name."""

_LEAST_FOR_A_TEST = 4


@dataclass(frozen=True, slots=True)
class Rule:
    """How much is enough.

    Attributes:
        margin: How much worse than the best a candidate may surely be, in standard deviations of
            the best one's marks within a payload. 0.5 is what Cohen called a medium effect; 0
            drops whatever is surely worse at all.
        level: Confidence of the intervals.
        alpha: Of the test for what a candidate knows, over all of them together.
    """

    margin: float = 0.5
    level: float = 0.95
    alpha: float = 0.05


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one candidate of a step.

    Attributes:
        name: The model.
        kept: Whether it stays.
        why: In words.
        score: Mean of its marks.
        difference: Mean paired difference to the best candidate; 0 for that one.
        low: Lower end of its interval.
        high: Upper end.
        knows: Payloads on which it surely beats the middle of the others.
    """

    name: str
    kept: bool
    why: str
    score: float
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    knows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decisions:
    """What a person has decided beforehand, or on the page of an earlier run.

    Attributes:
        pinned: Pairs of a part (``unet`` or ``te``) and a model that stay whatever the marks say.
        vetoed: Pairs that go.
    """

    pinned: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    vetoed: frozenset[tuple[str, str]] = field(default_factory=frozenset)

    def overrule(self, part: str, found: Sequence[Decision]) -> tuple[Decision, ...]:
        """Let the person have the last word.

        Args:
            part: ``unet`` or ``te``.
            found: What the marks say.

        Returns:
            The same, with what was pinned or vetoed.
        """
        result = []
        for one in found:
            key = (part, one.name)
            if key in self.vetoed:
                one = _changed(one, False, "vetoed by hand")
            elif key in self.pinned:
                one = _changed(one, True, "pinned by hand")
            result.append(one)
        return tuple(result)


def decide(
    marks: Mapping[str, Marks], payload_of: Mapping[str, str], rule: Rule = Rule(),  # noqa: B008
) -> tuple[Decision, ...]:  # fmt: skip
    """Judge the candidates of one step by their marks.

    Args:
        marks: By model; every candidate has the same tasks.
        payload_of: Payload of each task.
        rule: How much is enough.

    Returns:
        One decision a model, best first. At least one is kept: the best.

    Example:
        >>> tasks = {f"p#{i}": "p" for i in range(8)}
        >>> good = {task: 0.8 + 0.01 * (i % 2) for i, task in enumerate(tasks)}
        >>> bad = {task: 0.1 + 0.02 * (i % 2) for i, task in enumerate(tasks)}
        >>> [(one.name, one.kept) for one in decide({"bad": bad, "good": good}, tasks)]
        [('good', True), ('bad', False)]
    """
    from stockpot.tune import compare_marks

    means = {name: statistics.fmean(own.values()) for name, own in marks.items()}
    ranked = sorted(marks, key=lambda name: (-means[name], name))
    best = ranked[0]
    matters = rule.margin * spread_within(marks[best], payload_of)
    known = _known(marks, payload_of, matters, rule)
    found = []
    for name in ranked:
        if name == best:
            found.append(Decision(name, True, "the best", means[name], knows=known[name]))
            continue
        verdict = compare_marks(marks[name], marks[best], payloads=payload_of, level=rule.level)
        gap = Decision(
            name, True, "", means[name], verdict.difference, verdict.low, verdict.high, known[name]
        )
        if verdict.high >= -matters:
            why = "as good as the best, as far as can be told"
            found.append(_changed(gap, True, why if verdict.low < 0 else "better"))
        elif known[name]:
            why = f"worse than the best, but alone good at {', '.join(known[name])}"
            found.append(_changed(gap, True, why))
        else:
            found.append(_changed(gap, False, "surely worse than the best, by more than matters"))
    return tuple(found)


def _changed(one: Decision, kept: bool, why: str) -> Decision:
    return Decision(one.name, kept, why, one.score, one.difference, one.low, one.high, one.knows)


def spread_within(own: Marks, payload_of: Mapping[str, str]) -> float:
    """Measure how marks scatter within payloads, all of them together.

    Args:
        own: One candidate's marks.
        payload_of: Payload of each task.

    Returns:
        The pooled standard deviation; that of all marks where no payload has two tasks, 0 for
        one task alone.

    Example:
        >>> tasks = {"a#0": "a", "a#1": "a", "b#0": "b"}
        >>> spread_within({"a#0": 1.0, "a#1": 5.0, "b#0": 11.0}, tasks)
        2.8284271247461903
    """
    groups: dict[str, list[float]] = {}
    for task, mark in own.items():
        groups.setdefault(payload_of[task], []).append(mark)
    free = len(own) - len(groups)
    if free:
        squares = sum(len(group) * statistics.pvariance(group) for group in groups.values())
        return float((squares / free) ** 0.5)
    return statistics.stdev(own.values()) if len(own) > 1 else 0.0


def _known(
    marks: Mapping[str, Marks], payload_of: Mapping[str, str], matters: float, rule: Rule
) -> dict[str, tuple[str, ...]]:
    """For each model the payloads at which it beats the others' median, after Holm (1979)."""
    payloads: dict[str, list[str]] = {}
    for task in next(iter(marks.values())):
        payloads.setdefault(payload_of[task], []).append(task)
    tested: list[tuple[float, str, str]] = []
    for name, own in marks.items():
        others = [other for key, other in marks.items() if key != name]
        if len(others) < 2:  # one other is no middle
            continue
        for payload, tasks in payloads.items():
            if len(tasks) < _LEAST_FOR_A_TEST:
                continue
            gaps = np.array(
                [own[task] - statistics.median(other[task] for other in others) for task in tasks]
            )
            tested.append((_p_above(gaps, matters), name, payload))
    found: dict[str, list[str]] = {name: [] for name in marks}
    for rank, (p, name, payload) in enumerate(sorted(tested)):
        if p * (len(tested) - rank) > rule.alpha:
            break
        found[name].append(payload)
    return {name: tuple(sorted(names)) for name, names in found.items()}


def _p_above(gaps: npt.NDArray[np.float64], bound: float) -> float:
    """Student's one-sided test that the mean of paired differences is above a bound."""
    try:
        from scipy.special import stdtr
    except ImportError as error:
        raise MissingExtraError("a selection", "tune") from error
    above = float(gaps.mean()) - bound
    scale = float(gaps.std(ddof=1)) / len(gaps) ** 0.5
    if scale <= 1e-12 * abs(above):  # all alike, to rounding
        return 0.0 if above > 0 else 1.0
    return float(stdtr(len(gaps) - 1, -above / scale)) if scale else 1.0
