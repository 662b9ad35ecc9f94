"""Verdicts: is one candidate better than another, and how sure is that?

The result of a search is never its search score, which is the best of many noisy ones. It is a
comparison on tasks that the search has not seen, paired by task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from stockpot.errors import MissingExtraError

__all__ = ["Verdict", "compare_marks", "bootstrap_mean"]

Better = Literal["yes", "no", "cannot tell"]

_FEWEST_PAYLOADS = 5
_PIECE = 1000


@dataclass(frozen=True, slots=True)
class Verdict:
    """A comparison of two candidates, paired by task.

    Attributes:
        better: ``yes`` where the whole interval is above 0, ``no`` where it is below, else
            ``cannot tell``; with too few tasks for any answer always the last.
        difference: Mean over tasks of the first candidate's score minus the second's.
        low: Lower end of the interval of this difference.
        high: Upper end.
        p: Two-sided p of Wilcoxon's signed-rank test over tasks; it knows nothing of payloads.
        n_tasks: Tasks that both have.
        n_payloads: Payloads that these are from.
        unit: What was resampled: ``payloads`` with all their tasks, or single tasks (``seeds``)
            where there are fewer than five payloads: then the verdict is about these prompts only.
        level: Of the interval.
        text: All of it in words.
    """

    better: Better
    difference: float
    low: float
    high: float
    p: float
    n_tasks: int
    n_payloads: int
    unit: Literal["payloads", "seeds"]
    level: float
    text: str


def compare_marks(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    than: str = "the uniform mix",
    payloads: Mapping[str, str] | None = None,
    level: float = 0.95,
    n_boot: int = 10_000,
    seed: int = 0,
) -> Verdict:
    """Say whether one candidate is better than another.

    The difference is bootstrapped over payloads (see `bootstrap_mean`): pictures of one prompt are
    alike, and more seeds of it are not more prompts.

    Args:
        a: Scores of the candidate by task, as they count; see `stockpot.tune.scores_of`.
        b: Scores of the other one. Tasks that only one of them has are left out, and the text
            says how many.
        than: What to call the other one.
        payloads: Each task's payload; by default what stands before ``#`` in its name.
        level: Of the interval, inside (0, 1).
        n_boot: Resamplings; fewer than a thousand make ends that wobble.
        seed: Of the resampling. Equal marks and seeds give equal verdicts, and `a` against `b` is
            exactly minus `b` against `a`.

    Returns:
        The verdict. Nothing is concluded from fewer tasks than a sign test would need at that
        level, six at 0.95.

    Raises:
        ValueError: `level` or `n_boot` is out of range, or a score is not finite.
        MissingExtraError: scipy is not installed.

    Example:
        >>> a = {f"p{i}#0": 0.5 + 0.01 * i for i in range(8)}
        >>> b = {f"p{i}#0": 0.4 + 0.012 * i for i in range(8)}
        >>> verdict = compare_marks(a, b)
        >>> verdict.better, round(verdict.difference, 3)
        ('yes', 0.093)
        >>> print(verdict.text)
        better than the uniform mix: yes (mean difference +0.093, 95 % interval +0.089 to +0.097,
        8 tasks of 8 payloads, Wilcoxon p 0.0078)
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be inside (0, 1), but got {level}")
    names = sorted(a.keys() & b.keys())
    of = {name: name.partition("#")[0] if payloads is None else payloads[name] for name in names}
    clusters = sorted(set(of.values()))
    differences = np.array([a[name] - b[name] for name in names], dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError("scores must be finite to be compared")
    by_payload = [differences[[of[n] == one for n in names]] for one in clusters]
    unit: Literal["payloads", "seeds"] = "payloads"
    if len(clusters) < _FEWEST_PAYLOADS:
        unit, by_payload = "seeds", [differences[i : i + 1] for i in range(len(names))]
    better: Better = "cannot tell"
    low, high, mean = -math.inf, math.inf, 0.0
    if len(names):
        mean = math.fsum(differences) / len(names)
    enough = 2.0 ** (1 - len(names)) <= 1 - level
    if enough:
        low, high = bootstrap_mean(by_payload, level=level, n_boot=n_boot, seed=seed)
        better = "yes" if low > 0 else "no" if high < 0 else "cannot tell"
    p = _wilcoxon(differences)
    verdict = Verdict(better, mean, low, high, p, len(names), len(clusters), unit, level, "")
    n_alone = len(a.keys() ^ b.keys())
    return _told(verdict, than, n_alone, enough)


def bootstrap_mean(
    groups: Sequence[npt.NDArray[np.float64]], *, level: float, n_boot: int, seed: int
) -> tuple[float, float]:
    """Bootstrap the mean of numbers that come in groups: whole groups are drawn with replacement.

    The interval is the expanded percentile one (Hesterberg 2015, 1411.5279): its tails are those
    that give Student's interval for the mean of as many normal numbers, since plain percentiles
    are too narrow for few groups. Members are not drawn again within their groups: that would count
    their noise twice (`bench/verdict_coverage.py`).

    Args:
        groups: At least two arrays with at least one number each; groups are independent, members
            of one need not be.
        level: Of the interval, inside (0, 1).
        n_boot: Resamplings, at least 1.
        seed: Of the resampling.

    Returns:
        Both ends.

    Raises:
        ValueError: There are fewer than two groups, or no resamplings.
        MissingExtraError: scipy is not installed.

    Example:
        >>> groups = [np.array([1.0, 2.0]), np.array([3.0]), np.array([2.0, 2.0])]
        >>> low, high = bootstrap_mean(groups, level=0.5, n_boot=1000, seed=0)
        >>> low < 2 < high
        True
    """
    n = len(groups)
    if n < 2 or n_boot < 1:
        raise ValueError(f"a bootstrap needs two groups and a resampling, but got {n} and {n_boot}")
    rng = np.random.default_rng(seed)
    sums = np.array([group.sum() for group in groups])
    counts = np.array([len(group) for group in groups])
    means = np.empty(n_boot)
    # In pieces: groups times resamplings may be many.
    for start in range(0, n_boot, _PIECE):
        chosen = rng.integers(n, size=(min(_PIECE, n_boot - start), n))
        means[start : start + _PIECE] = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    tail = _tail(n, level)
    # Written so that minus the numbers gives exactly minus the ends.
    return float(np.quantile(means, tail)), -float(np.quantile(-means, tail))


def _tail(n: int, level: float) -> float:
    """How much to cut off on each side; half of 1 - level for very many groups."""
    try:
        from scipy import special
    except ImportError as error:
        raise MissingExtraError("a verdict", "tune") from error
    t = special.stdtrit(n - 1, (1 - level) / 2)
    return float(special.ndtr(t * math.sqrt(n / (n - 1))))


def _wilcoxon(differences: npt.NDArray[np.float64]) -> float:
    if not differences.any():
        return 1.0
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtraError("a verdict", "tune") from error
    return float(stats.wilcoxon(differences).pvalue)


def _told(verdict: Verdict, than: str, n_alone: int, enough: bool) -> Verdict:
    tasks = f"{verdict.n_tasks} task{'s' * (verdict.n_tasks != 1)}"
    of = f"{verdict.n_payloads} payload{'s' * (verdict.n_payloads != 1)}"
    if not verdict.n_tasks:
        text = "no task was drawn for both"
    elif not enough:
        text = (
            f"mean difference {verdict.difference:+.3g}; {tasks} of {of} are too few for an "
            "interval"
        )
    else:
        text = (
            f"mean difference {verdict.difference:+.3g}, {100 * verdict.level:g} % interval "
            f"{verdict.low:+.3g} to {verdict.high:+.3g}, {tasks} of {of}, "
            f"Wilcoxon p {verdict.p:.2g}"
        )
        if verdict.unit == "seeds":
            text += "; for these prompts only, since payloads are too few to resample"
    if n_alone:
        text += f"; {n_alone} that only one of them has left out"
    return replace(verdict, text=f"better than {than}: {verdict.better} ({text})")
