"""The page of a selection: what stays and why, with the pictures, and room for a veto."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import stockpot
from stockpot.report import (
    Ballot,
    Band,
    Cell,
    Chart,
    Code,
    Curve,
    Facts,
    Figures,
    Gallery,
    GalleryRow,
    Note,
    Page,
    Section,
    Table,
    TableRow,
    Tile,
)
from stockpot.select import used_table

if TYPE_CHECKING:
    from stockpot.select import Choice, Decision, Evidence, Pool, Selection, Step
    from stockpot.tune import Examiner, Verdict

__all__ = ["selection_json", "selection_page", "small_sheets"]

Sheets = Mapping[str, tuple[bytes, ...]]
"""PNG files of a candidate's first tasks, by the candidate's key."""


def small_sheets(
    evidence: Evidence, found: Selection, examiner: Examiner, n: int
) -> dict[str, tuple[bytes, ...]]:
    """Draw what the page shows: the first tasks of every candidate of a step.

    Args:
        evidence: What was measured.
        found: The selection.
        examiner: Who draws.
        n: Pictures of each.

    Returns:
        By the candidate's key.
    """
    from stockpot.draw import to_png

    pool, tasks = evidence.pool, list(evidence.exam.tasks[:n])
    wanted = {pool.key(found.blind): found.blind, pool.key(found.outcome.choice):
              found.outcome.choice, pool.key(found.core): found.core}  # fmt: skip
    for step in found.outcome.steps:
        if step.part in ("unet", "te"):
            wanted |= {pool.key(choice): choice for choice, _ in step.candidates}
    sheets = {}
    for key, choice in wanted.items():
        marks = {m.task: m for m in examiner.examine(pool.recipe(choice), tasks, pictures=True)}
        shown = [marks[task.name].picture for task in tasks]
        sheets[key] = tuple(to_png(picture) for picture in shown if picture is not None)
    return sheets


def selection_page(
    pool: Pool, evidence: Evidence, found: Selection, sheets: Sheets, recipe: str, core: str
) -> tuple[Page, dict[str, Chart]]:
    """Describe a selection.

    Args:
        pool: The models.
        evidence: What was measured.
        found: The selection.
        sheets: Pictures; see `small_sheets`.
        recipe: The choice, as it was written.
        core: The smallest mix that holds its score, as it was written.

    Returns:
        The page, and its figures by file name.
    """
    choice, steps = found.outcome.choice, found.outcome.steps
    sections: list[Section] = [Note("Findings", _findings(pool, found))]
    charts: dict[str, Chart] = {}
    sections.append(_used(pool, found))
    columns = [task.name for task in evidence.exam.tasks[: _width(sheets)]]
    for step in steps:
        if step.decisions:
            sections.append(_table(step))
            chart = _curve(step, evidence.score)
            charts[step.title] = chart
            sections.append(Figures(f"Figure: {step.title}", [("scores", chart)]))
        if step.part in ("unet", "te") and sheets:
            sections.append(_gallery(pool, found, step, sheets, columns))
    if sheets:
        ends = (("blind mix", found.blind), ("final mix", choice), ("core", found.core))
        rows = [GalleryRow(label, sheets[pool.key(one)], str(one)) for label, one in ends]
        sections.append(Gallery("Before and after", columns, rows))
        sections.append(
            Ballot(
                "Your decision", "decisions.json",
                "Pin or veto models beside their pictures above, save the file, and give the same "
                "command again with --decisions decisions.json --overwrite.",
            )
        )  # fmt: skip
    sections.append(Code("As a recipe", recipe, "Also in recipe.yaml."))
    if pool.key(found.core) != pool.key(choice):
        sections.append(Code("The core", core, "Also in core.yaml."))
    sections.append(_facts(pool, evidence, found))
    page = Page(
        title="Which models, which text encoders",
        lead="Each model's text encoder and UNet was swapped into the mix and drawn with the same "
        "requests from the same noise.",
        sections=sections,
        tiles=[
            Tile(f"{len(choice.unets)} of {len(pool.distinct('unet'))}", "UNets used"),
            Tile(f"{len(choice.encoders)} of {len(pool.distinct('te'))}", "text encoders used"),
            Tile(str(len(evidence.choices)), "candidates"),
        ],
        footer=f"Stockpot {stockpot.__version__}. Figures as PNG, CSV and JSON lie in figures/.",
    )
    return page, charts


def selection_json(
    pool: Pool, evidence: Evidence, found: Selection, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Give a selection as plain data.

    Args:
        pool: The models.
        evidence: What was measured.
        found: The selection.
        asked: What the user asked for.

    Returns:
        JSON's kinds of values.
    """
    return {
        "asked": dict(asked),
        "layout": pool.layout,
        "exam": evidence.exam.key,
        "set_aside": dict(pool.aside),
        "copies": {part: dict(found.twins[part]) for part in found.twins},
        "steps": [
            {
                "title": step.title,
                "part": step.part,
                "text": step.text,
                "candidates": [
                    {**_choice(one), "score": score} for one, score in step.candidates
                ],
                "decisions": [_decision(one) for one in step.decisions],
                "result": _choice(step.result),
            }
            for step in found.outcome.steps
        ],
        "values": found.outcome.values,
        "errors": found.outcome.errors,
        "choice": _choice(found.outcome.choice),
        "core": _choice(found.core),
        "core_decisions": [_decision(one) for one in found.core_decisions],
        "verdict": _verdict(found.verdict),
        "core_verdict": _verdict(found.core_verdict),
        "used": [
            {"model": name, "unet": unet, "te": encoder}
            for name, unet, encoder in used_table(pool, found.outcome.choice)
        ],
        "n_candidates": found.n_candidates,
        "n_reused": found.n_reused,
        "stopped": found.stopped,
    }  # fmt: skip


def _findings(pool: Pool, found: Selection) -> list[str]:
    said = [f"{step.title}: {step.text}." for step in found.outcome.steps]
    if found.verdict is not None:
        said.append(f"Against the blind mix, on pictures that played no part in the choice: "
                    f"{found.verdict.text}.")  # fmt: skip
    else:
        said.append("There is no verdict: the choice is the blind mix, or the budget ran out.")
    if pool.key(found.core) != pool.key(found.outcome.choice):
        said.append(f"The smallest core that was found to hold the score: {found.core}.")
    said += [f"{name} was set aside: {reason}." for name, reason in pool.aside.items()]
    if found.stopped:
        said.append(f"It was stopped early: {found.stopped}.")
    return said


def _used(pool: Pool, found: Selection) -> Table:
    rows = []
    twins = found.twins
    for name, unet, encoder in used_table(pool, found.outcome.choice):
        notes = [pool.aside.get(name, "")]
        for part, words in (("unet", "UNet"), ("te", "text encoder")):
            if name in twins[part]:
                notes.append(f"{words} is a copy of {twins[part][name]}'s")
        rows.append(
            TableRow(
                [name, "Y" if unet else "", "Y" if encoder else "", "; ".join(filter(None, notes))],
                "plain" if unet or encoder else "faint",
            )
        )
    return Table("Which parts are used", ["model", "UNet used?", "CLIP used?", "note"], rows,
                 wrapped=frozenset({3}))  # fmt: skip


def _table(step: Step) -> Table:
    rows = [
        TableRow(
            [
                one.name,
                Cell("stays" if one.kept else "goes", strong=one.kept),
                Cell(f"{one.score:.4f}", value=one.score),
                Cell(f"{one.difference:+.4f}", value=one.difference),
                f"{one.low:+.4f} … {one.high:+.4f}",
                one.why,
            ],
            "plain" if one.kept else "faint",
        )
        for one in step.decisions
    ]
    return Table(
        step.title[:1].upper() + step.title[1:],
        ["model", "", "score", "difference", "interval", "why"],
        rows,
        step.text + ".",
        numeric=frozenset({2, 3, 4}),
        wrapped=frozenset({5}),
        sortable=True,
    )


def _curve(step: Step, score: str) -> Curve:
    ranked = sorted(step.decisions, key=lambda one: -one.score)
    low = [one.score - one.difference + one.low for one in ranked]
    high = [one.score - one.difference + one.high for one in ranked]
    return Curve(
        step.title,
        [one.name for one in ranked],
        [("mean score", [one.score for one in ranked])],
        [Band("interval of the difference", low, high)],
        "model",
        score,
    )


def _gallery(
    pool: Pool, found: Selection, step: Step, sheets: Sheets, columns: list[str]
) -> Gallery:
    by_name = {one.name: one for one in step.decisions}
    rows = []
    for choice, _ in step.candidates:
        name = (choice.encoders if step.part == "te" else choice.unets)[0]
        one = by_name[name]
        rows.append(
            GalleryRow(
                name,
                sheets[pool.key(choice)],
                one.why,
                "stays" if one.kept else "goes",
                "plain" if one.kept else "faint",
                f"{step.part}:{name}",
            )
        )
    return Gallery(f"Pictures: {step.title}", columns, rows)


def _facts(pool: Pool, evidence: Evidence, found: Selection) -> Facts:
    items = [
        ("procedure", found.outcome.plan),
        ("score", evidence.score),
        ("tasks of each candidate", str(len(evidence.exam.tasks))),
        ("candidates examined now", str(found.n_candidates)),
        ("candidates known before", str(found.n_reused)),
        ("seconds of drawing and scoring", f"{evidence.elapsed_s:.0f}"),
        ("architecture", pool.layout),
        ("VAE of all candidates", pool.vae),
    ]
    return Facts("Cost", items)


def _width(sheets: Sheets) -> int:
    return max((len(pictures) for pictures in sheets.values()), default=0)


def _choice(choice: Choice) -> dict[str, list[str]]:
    return {"unets": list(choice.unets), "encoders": list(choice.encoders)}


def _decision(one: Decision) -> dict[str, Any]:
    return {
        "model": one.name,
        "kept": one.kept,
        "why": one.why,
        "score": one.score,
        "difference": one.difference,
        "interval": [one.low, one.high],
        "knows": list(one.knows),
    }


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {
        "better": verdict.better,
        "difference": verdict.difference,
        "interval": [verdict.low, verdict.high],
        "p": verdict.p,
        "n_tasks": verdict.n_tasks,
        "text": verdict.text,
    }
