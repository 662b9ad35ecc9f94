"""A whole selection: survey, procedure, core, and the verdict on pictures that nobody has seen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.errors import Problem, RequestError, UnknownNameError
from stockpot.recipes import read_small_yaml
from stockpot.select.choices import Choice, Pool
from stockpot.select.deciding import Decision, Decisions, Rule
from stockpot.select.evidence import Evidence, Stopped
from stockpot.select.plans import PLANS, Outcome, Setup, author_plan, find_core

if TYPE_CHECKING:
    from stockpot.tune import Exam, Verdict

__all__ = [
    "Cost",
    "Selection",
    "decisions_json",
    "expected_cost",
    "read_decisions",
    "select_models",
]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a procedure takes.

    Attributes:
        candidates: How many are examined at most.
        pictures: How many are drawn at most, the verdict's included.
    """

    candidates: int
    pictures: int


@dataclass(frozen=True)
class Selection:
    """What was chosen, and why.

    Attributes:
        outcome: The procedure's.
        core: A smaller choice that holds the score; the whole one where none was looked for.
        core_decisions: What was decided of each part on the way to the core.
        blind: The mix of all, and its decision's rival.
        verdict: The choice against the blind mix on the held-out exam; None if it is the same, or
            the budget ran out before.
        core_verdict: The core against the choice, held out.
        twins: Parts that are exact copies: by part, name to the model that has it first.
        n_candidates: Examined in this run.
        n_reused: Taken from the evidence.
        stopped: Why the procedure ended early; empty if it did not.
        facts: Statistics of the pictures of choice and blind mix, by task, for the report.
    """

    outcome: Outcome
    core: Choice
    core_decisions: tuple[Decision, ...]
    blind: Choice
    verdict: Verdict | None
    core_verdict: Verdict | None
    twins: Mapping[str, Mapping[str, str]]
    n_candidates: int
    n_reused: int
    stopped: str = ""
    facts: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)


def expected_cost(pool: Pool, plan: str, n_tasks: int, n_held_out: int, core: bool) -> Cost:
    """Say beforehand what a procedure takes at most.

    Args:
        pool: The models.
        plan: One of `PLANS`.
        n_tasks: Of the exam.
        n_held_out: Tasks of the held-out exam.
        core: Whether a core is looked for.

    Example:
        >>> from stockpot.select import Member
        >>> members = tuple(Member(f"m{i}", f"u{i}", f"t{i}", "v") for i in range(4))
        >>> expected_cost(Pool(members, {}, "sd1", "m0", {}), "author", 16, 16, False).candidates
        10
    """
    n, te = len(pool.distinct("unet")), len(pool.distinct("te"))
    whole = len(set(pool.with_part("unet")) & set(pool.with_part("te")))
    counts = {
        "author": te + n + 2,
        "greedy-soup": 2 * whole - 1,
        "greedy-drop": whole * (whole + 1) // 2,
        "leave-one-out": whole + 1,
        "shapley": 8 * whole + whole,
    }
    candidates = counts[plan] + (2 * (n + te) if core else 0)
    return Cost(candidates, candidates * n_tasks + 3 * n_held_out)


def select_models(
    evidence: Evidence,
    held_out: Exam,
    *,
    plan: str = "author",
    rule: Rule = Rule(),  # noqa: B008 - frozen
    decisions: Decisions = Decisions(),  # noqa: B008 - frozen
    stop_after: str = "",
    core: bool = True,
) -> Selection:
    """Choose models, and judge the choice on pictures that played no part in it.

    Args:
        evidence: Pool, exam and examiner; what was measured before is not measured again.
        held_out: Other seeds, or other payloads too.
        plan: One of `PLANS`.
        rule: How much is enough.
        decisions: A person's pins and vetoes.
        stop_after: ``te``: stop before UNets are looked at (plan ``author``).
        core: Look for a smaller mix that holds the score.

    Returns:
        The selection; where a budget ended it early, of what was known by then.

    Raises:
        UnknownNameError: There is no such plan, or a pin or veto names no model.
        Stopped: The budget ended before anything could be chosen.
    """
    from stockpot.tune import compare_marks

    pool = evidence.pool
    if plan not in PLANS:
        raise UnknownNameError("plan", plan, PLANS)
    for _, name in (*decisions.pinned, *decisions.vetoed):
        pool.member(name)
    payload_of = {task.name: task.payload for task in evidence.exam.tasks}
    setup = Setup(pool, evidence.marks, payload_of, rule, decisions)
    made = author_plan(setup, stop_after) if plan == "author" else PLANS[plan](setup)
    small, stopped = made.choice, ""
    core_decisions: tuple[Decision, ...] = ()
    verdict = core_verdict = None
    blind = setup.everyone
    try:
        if core and not stop_after:
            small, core_decisions = find_core(setup, made.choice)
        if pool.key(made.choice) != pool.key(blind):
            chosen = evidence.marks(made.choice, held_out)
            verdict = compare_marks(
                chosen, evidence.marks(blind, held_out), than="the blind mix", level=rule.level
            )
        if pool.key(small) != pool.key(made.choice):
            core_verdict = compare_marks(
                evidence.marks(small, held_out),
                evidence.marks(made.choice, held_out),
                than="the whole choice",
                level=rule.level,
            )
    except Stopped as reason:
        stopped = str(reason)
    return Selection(
        made,
        small,
        core_decisions,
        blind,
        verdict,
        core_verdict,
        {part: pool.twins(part) for part in ("unet", "te")},
        evidence.n_examined,
        evidence.n_reused,
        stopped,
    )


def read_decisions(file: Path) -> Decisions:
    """Read a person's pins and vetoes.

    Args:
        file: YAML or JSON: ``pin`` and ``veto``, each with lists of models under ``unet`` and
            ``te``. The page of a selection writes such a file.

    Returns:
        What it says.

    Raises:
        RequestError: It says something else, or pins and vetoes the same.
    """
    value = read_small_yaml(file, "decisions")
    problems: list[Problem] = []
    if not isinstance(value, dict):
        value = {}
        problems.append(_wrong(file, "", "a file of decisions has `pin:` and `veto:`"))
    found = {word: frozenset(_pairs(file, word, value.pop(word, None), problems))
             for word in ("pin", "veto")}  # fmt: skip
    problems += [_wrong(file, str(word), "this word means nothing here") for word in value]
    for part, name in sorted(found["pin"] & found["veto"]):
        problems.append(_wrong(file, f"{part}: {name}", "pinned and vetoed at once"))
    if problems:
        raise RequestError(problems)
    return Decisions(found["pin"], found["veto"])


def decisions_json(decisions: Decisions) -> str:
    """Write decisions as the file that `read_decisions` reads."""
    value: dict[str, Any] = {}
    for word, pairs in (("pin", decisions.pinned), ("veto", decisions.vetoed)):
        value[word] = {part: sorted(name for p, name in pairs if p == part)
                       for part in ("unet", "te")}  # fmt: skip
    return json.dumps(value, indent=2) + "\n"


def _pairs(file: Path, word: str, value: Any, problems: list[Problem]) -> Iterable[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if value is None:
        return found
    if not isinstance(value, dict):
        problems.append(_wrong(file, word, "must have `unet:` and `te:`, each with models"))
        return found
    for part, names in value.items():
        if part not in ("unet", "te"):
            problems.append(_wrong(file, f"{word}.{part}", "the parts are unet and te"))
        elif isinstance(names, str):
            found.append((part, names))
        elif isinstance(names, list) and all(isinstance(name, str) for name in names):
            found += [(part, name) for name in names]
        elif names is not None:
            problems.append(_wrong(file, f"{word}.{part}", "must be a list of models' names"))
    return found


def _wrong(file: Path, place: str, message: str) -> Problem:
    return Problem("decisions", message, f"{file}: {place}" if place else str(file))
