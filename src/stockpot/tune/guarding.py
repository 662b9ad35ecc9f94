"""The guard: has a search found better pictures, or a weakness of its scorer?

Scorers can be pleased by what nobody asked for: blurred backgrounds, harsh contrast, garish
colours. The guard compares what pictures are like, not how good they are, with the parents'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stockpot.errors import Problem
from stockpot.tune.examining import Mark
from stockpot.tune.verdicts import Verdict, compare_marks

__all__ = ["GUARDED", "Drift", "guard"]

GUARDED: Mapping[str, str] = {
    "contrast": "contrast",
    "detail": "detail energy",
    "sharpness": "sharpness",
    "colourfulness": "saturation",
    "background_detail": "detail energy of the background",
}
"""The facts that are watched, in words; see `stockpot.tune.picture_facts`."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One fact of a candidate's pictures that lies outside of what the parents' have.

    Attributes:
        fact: A key of `GUARDED`.
        side: Whether it is ``below`` all parents or ``above`` them.
        parent: The nearest one.
        value: The candidate's mean.
        parents_value: The nearest parent's mean.
        verdict: Candidate against the nearest parent, paired by task.
    """

    fact: str
    side: Literal["below", "above"]
    parent: str
    value: float
    parents_value: float
    verdict: Verdict

    @property
    def problem(self) -> Problem:
        """The same as a finding."""
        v = self.verdict
        share = abs(v.difference) / self.parents_value if self.parents_value else float("inf")
        return Problem(
            "drift",
            f"the pictures' {GUARDED[self.fact]} is {share:.0%} {self.side} that of all parents "
            f"(difference to {self.parent} {v.difference:+.3g}, {100 * v.level:g} % interval "
            f"{v.low:+.3g} to {v.high:+.3g}, {v.n_tasks} tasks)",
            self.fact,
            "look at the pictures: the scorer may have been pleased by this alone",
        )


def guard(
    marks: Iterable[Mark],
    parents: Mapping[str, Iterable[Mark]],
    *,
    tolerance: float = 0.05,
    level: float = 0.95,
    payloads: Mapping[str, str] | None = None,
) -> tuple[Drift, ...]:
    """Find what a candidate's pictures have less or more of than every parent's.

    Args:
        marks: The candidate's, with facts; pictures need not be kept.
        parents: Marks of each parent for the same tasks, by name. A mix of fine-tunes tends to be
            smoother than each of them: give the uniform mix too, to see only what tuning did.
        tolerance: Drifts of less than this share of the nearest parent's mean are passed over.
        level: How sure a drift must be: the interval of the paired difference to the nearest
            parent excludes 0. Several facts are looked at, so that now and then a candidate without
            any drift has a finding.
        payloads: Each task's payload; see `stockpot.tune.compare_marks`.

    Returns:
        The drifts; none where tasks are too few to be sure of any.

    Example:
        >>> parent = [Mark(f"p{i}#0", {}, {"contrast": 0.2 + i / 100}) for i in range(8)]
        >>> blurred = [Mark(m.task, {}, {"contrast": m.facts["contrast"] / 2}) for m in parent]
        >>> [(d.fact, d.side, d.parent) for d in guard(blurred, {"a": parent})]
        [('contrast', 'below', 'a')]
    """
    found = []
    mine = list(marks)
    others = {name: list(theirs) for name, theirs in parents.items()}
    for fact in GUARDED:
        own = _values(mine, fact)
        rows = {name: _values(theirs, fact) for name, theirs in others.items()}
        # Parents that drew none of these tasks say nothing.
        rows = {name: row for name, row in rows.items() if row.keys() & own.keys()}
        if not rows:
            continue
        verdicts = {
            name: compare_marks(own, row, than=name, level=level, payloads=payloads)
            for name, row in rows.items()
        }
        nearest = min(verdicts, key=lambda name: abs(verdicts[name].difference))
        if len({verdict.difference > 0 for verdict in verdicts.values()}) > 1:
            continue  # between the parents
        verdict = verdicts[nearest]
        common = sorted(own.keys() & rows[nearest].keys())
        value = sum(own[task] for task in common) / len(common)
        theirs = sum(rows[nearest][task] for task in common) / len(common)
        if verdict.better == "cannot tell" or abs(verdict.difference) < tolerance * abs(theirs):
            continue
        side: Literal["below", "above"] = "above" if verdict.better == "yes" else "below"
        found.append(Drift(fact, side, nearest, value, theirs, verdict))
    return tuple(found)


def _values(marks: Sequence[Mark], fact: str) -> dict[str, float]:
    return {mark.task: mark.facts[fact] for mark in marks if fact in mark.facts}
