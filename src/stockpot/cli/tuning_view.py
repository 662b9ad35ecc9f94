"""What a study's state and result look like on a terminal, and as data."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import typer

from stockpot.cli.output import note, print_json, print_table, safe_text

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from stockpot.tune import Result, StudyStore, Verdict

__all__ = [
    "StudyView", "against_text", "print_result", "print_status", "read_study", "status_json",
]  # fmt: skip


@dataclass(frozen=True)
class StudyView:
    """A study as it is now, read without its models.

    Attributes:
        settings: As it was begun; empty where only tables were imported.
        stages: Trials of each stage.
        n_pictures: Drawn in all.
        seconds: Spent on drawing and scoring them.
        result: What was found on the held-out exam; None before that.
    """

    settings: dict[str, Any]
    stages: tuple[tuple[FrozenTrial, ...], ...]
    n_pictures: int
    seconds: float
    result: dict[str, Any] | None

    @property
    def trials(self) -> tuple[FrozenTrial, ...]:
        """Trials of all stages."""
        return tuple(trial for stage in self.stages for trial in stage)

    def count(self, *states: str) -> int:
        """How many trials have one of these states; imported ones aside."""
        return sum(
            trial.state.name in states and not trial.user_attrs.get("imported")
            for trial in self.trials
        )

    @property
    def n_saved(self) -> int:
        """Pictures that were not drawn since candidates were stopped."""
        n_tasks = max((int(t.user_attrs.get("n_drawn", 0)) for t in self.trials), default=0)
        return sum(
            n_tasks - int(trial.user_attrs.get("n_drawn", 0))
            for trial in self.trials
            if trial.state.name == "PRUNED"
        )


def read_study(store: StudyStore) -> StudyView:
    """Read what a study holds; it may be running meanwhile.

    Args:
        store: The study.
    """
    stages = [tuple(store.all_trials())]
    fine = store.named(f"{store.name} fine")
    if fine.is_there():
        stages.append(tuple(fine.all_trials()))
    own = {trial.user_attrs.get("candidate") for trials in stages for trial in trials}
    # A file with several studies has marks of others too.
    marks = [mark for mark in store.book.marks() if mark.candidate in own]
    return StudyView(
        store.settings() or {}, tuple(stages), len(marks),
        sum(mark.elapsed_s for mark in marks), store.result(),
    )  # fmt: skip


def status_json(view: StudyView) -> dict[str, Any]:
    """A study's state as plain data.

    Args:
        view: Of `read_study`.
    """
    return {
        "settings": {k: v for k, v in view.settings.items() if k not in ("recipe", "dials")},
        "candidates": view.count("COMPLETE", "PRUNED", "FAIL"),
        "stopped": view.count("PRUNED"),
        "failed": view.count("FAIL"),
        "running": view.count("RUNNING"),
        "imported": sum(bool(t.user_attrs.get("imported")) for t in view.trials),
        "pictures": view.n_pictures,
        "pictures_saved": view.n_saved,
        "seconds": round(view.seconds, 3),
        "trials": [_trial_json(stage, t) for stage, ts in enumerate(view.stages) for t in ts],
        "result": view.result,
    }


def _trial_json(stage: int, trial: FrozenTrial) -> dict[str, Any]:
    attrs = trial.user_attrs
    return {
        "stage": stage + 1,
        "number": trial.number,
        "name": attrs.get("baseline") or attrs.get("imported") or "",
        "state": trial.state.name.lower(),
        "values": trial.values,
        "drawn": attrs.get("n_drawn"),
        "holes": {n: float(Fraction(v)) for n, v in attrs.get("values", {}).items()},
        "error": attrs.get("error"),
    }


def print_status(view: StudyView) -> None:
    """Print where a study stands, and its best candidates.

    Args:
        view: Of `read_study`.
    """
    imported = sum(bool(t.user_attrs.get("imported")) for t in view.trials)
    typer.echo(
        f"{view.count('COMPLETE', 'PRUNED', 'FAIL')} candidates, {view.count('PRUNED')} of them "
        f"stopped early, {view.count('FAIL')} failed, {view.count('RUNNING')} running"
        + (f"; {imported} imported" if imported else "")
    )
    each = f", {view.seconds / view.n_pictures:.2f} s each" if view.n_pictures else ""
    typer.echo(
        f"{view.n_pictures} pictures in {view.seconds / 3600:.2f} h{each}; "
        f"{view.n_saved} not drawn, since candidates were stopped"
    )
    own = [t for t in view.trials if t.state.name == "COMPLETE"]
    ranked = sorted(own, key=lambda trial: -trial.values[0])
    shown = ranked[:8] + [t for t in ranked[8:] if t.user_attrs.get("baseline")]
    objectives = view.settings.get("objectives", ["score"])
    typer.echo("the search's own scores, which are too good, since they are the best of many:")
    print_table(
        ["candidate", *(f">{name}" for name in objectives)],
        ([_name(trial), *(f"{value:.4f}" for value in trial.values)] for trial in shown),
    )
    failed = [t for t in view.trials if t.state.name == "FAIL"]
    for trial in failed[-3:]:
        note(f"trial {trial.number} failed: {trial.user_attrs.get('error', '')}")
    if view.result is not None:
        typer.echo(safe_text(view.result["text"]))


def _name(trial: FrozenTrial) -> str:
    attrs = trial.user_attrs
    return str(attrs.get("baseline") or attrs.get("imported") or f"trial {trial.number}")


def print_result(store: StudyStore, result: Result, json_: bool) -> None:
    """Print how a study ended.

    Args:
        store: The study.
        result: What came of it.
        json_: Print data instead.
    """
    from stockpot.tune import result_json

    if json_:
        print_json(result_json(result))
        return
    print_table(
        ["candidate", ">held out", ">search", "against the uniform mix"],
        (
            [
                one.name,
                "–" if one.tallied is None else f"{one.tallied:.4f}",
                " ".join(f"{value:.4f}" for value in one.found),
                _against(one.verdict),
            ]
            for one in result.standings
        ),
        f"{result.scorer} on {len(result.exam.tasks)} held-out pictures",
    )
    for one in result.standings:
        for drift in one.drifts:
            typer.echo(safe_text(f"{one.name}: {drift.problem}"))
    for name, text in result.failures.items():
        note(f"{name} could not be drawn: {text}")
    typer.echo(safe_text(result.text))
    note(f"more: stockpot tune report {store.where} -o FOLDER")


def _against(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    return against_text(verdict.better, verdict.difference, verdict.low, verdict.high)


def against_text(better: str, difference: float, low: float | None, high: float | None) -> str:
    """Write a verdict as short as a cell of a table wants it.

    Args:
        better: ``yes``, ``no`` or ``cannot tell``.
        difference: Mean difference.
        low: Of its interval; None where there is no interval.
        high: The same.
    """
    # Without what rounding leaves of a zero: -0.0000 looks like something.
    told = f"{round(difference, 4) + 0.0:+.4f}"
    if low is not None and high is not None:
        told += ", " + " to ".join(f"{round(x, 4) + 0.0:+.4f}" for x in (low, high))
    return f"{better} ({told})"
