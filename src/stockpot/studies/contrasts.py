"""Many paired comparisons at once: each a ratio or a difference, all corrected together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stockpot.studies.statistics import Interval, bootstrap_means, holm, sign_flips

__all__ = ["ALIKE", "LEVEL", "Contrast", "State", "contrast_all", "percent", "percent_text"]

Doubles = npt.NDArray[np.float64]
State = Literal["more", "less", "alike", "cannot tell"]

LEVEL = 0.05
"""Below this corrected p a difference is sure."""

ALIKE = 0.1
"""Within this share, to either side, two are called alike."""


@dataclass(frozen=True)
class Contrast:
    """One quantity of one candidate against another's.

    Attributes:
        name: What was compared.
        a: Mean of the first.
        b: Mean of the second.
        found: Their ratio, or their difference, with its interval.
        p: Of a randomisation test of the paired differences; see `sign_flips`.
        corrected: By Holm, for all that was compared along with it.
        state: ``alike`` where the whole interval is so near that it does not matter: of a ratio
            within a tenth of 1; else ``more`` or ``less`` where the corrected p is below 0.05;
            else ``cannot tell``.
    """

    name: str
    a: float
    b: float
    found: Interval
    p: float
    corrected: float
    state: State

    def to_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {"what": self.name, "a": self.a, "b": self.b, "found": self.found.to_json(),
                "p": self.p, "p_holm": self.corrected, "state": self.state}  # fmt: skip


def contrast_all(
    pairs: Mapping[str, tuple[Doubles, Doubles]],
    groups: Mapping[str, Sequence[str]] | Sequence[str],
    *,
    how: Literal["ratio", "difference"] = "ratio",
    alike: float = ALIKE,
    families: Mapping[str, str] | None = None,
    n_permutations: int = 1000,
    seed: int = 0,
) -> dict[str, Contrast]:
    """Compare many pairs, and correct for their number (Holm).

    Args:
        pairs: By what is compared, numbers of both candidates a task, each ``[n]``.
        groups: Each task's payload; by pair where they differ.
        how: Ratios of means, for what cannot be negative; or differences.
        alike: How small a difference (or distance of the ratio from 1) does not matter.
        families: By pair, what it is corrected together with; None corrects all together.
        n_permutations: A tenth of how often signs are flipped.
        seed: Of flips and resamplings.

    Returns:
        By what is compared.

    Example:
        >>> base = np.linspace(1, 2, 32)
        >>> groups = [str(i // 2) for i in range(32)]
        >>> found = contrast_all({"half": (base / 2, base), "same": (base, base)}, groups)
        >>> found["half"].state, found["half"].found.value, found["same"].state
        ('less', 0.5, 'alike')
    """
    kept = {name: (_finite(a, b)) for name, (a, b) in pairs.items()}
    of = {name: list(groups[name] if isinstance(groups, Mapping) else groups) for name in pairs}
    p, found = {}, {}
    for name, (a, b) in kept.items():
        rows = np.stack([a, b], axis=1)
        statistic = _ratio if how == "ratio" else _difference
        found[name] = bootstrap_means(rows, statistic, of[name], seed=seed)
        p[name] = sign_flips(a - b, of[name], n_flips=10 * n_permutations, seed=seed)
    of_family: dict[str, dict[str, float]] = {}
    for name, value in p.items():
        of_family.setdefault(families[name] if families else "", {})[name] = value
    corrected = {name: value for own in of_family.values() for name, value in holm(own).items()}
    return {
        name: Contrast(
            name, float(a.mean()), float(b.mean()), found[name], p[name], corrected[name],
            _state(found[name], float((a - b).mean()), corrected[name], how, alike),
        )
        for name, (a, b) in kept.items()
    }  # fmt: skip


def percent(share: Interval) -> str:
    """Such as ``62 % (55 to 70)``."""
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def percent_text(one: Contrast) -> str:
    """A ratio with all that it rests on."""
    low, high = 100 * one.found.low, 100 * one.found.high
    return (f"{100 * one.found.value:.0f} % (95 % interval {low:.0f} to {high:.0f}, "
            f"p {one.corrected:.2g} after Holm's correction)")  # fmt: skip


def _finite(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("numbers to compare are finite, and one a task")
    return a, b


def _ratio(means: Doubles) -> float:
    return float(means[0] / means[1]) if means[1] > 0 else float("nan")


def _difference(means: Doubles) -> float:
    return float(means[0] - means[1])


def _state(found: Interval, difference: float, p: float, how: str, alike: float) -> State:
    neutral = 1.0 if how == "ratio" else 0.0
    within = found.low >= neutral - alike and found.high <= neutral + alike
    if within:
        return "alike"
    if p < LEVEL:
        return "more" if difference > 0 else "less"
    return "cannot tell"
