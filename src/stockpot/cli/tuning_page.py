"""The page of a study: verdict, convergence, effects, front, pictures, cost, open questions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stockpot
from stockpot.cli.figure_files import write_charts
from stockpot.cli.tuning_view import StudyView, read_study
from stockpot.report import (
    Band,
    Cell,
    Chart,
    Code,
    Curve,
    Figures,
    Gallery,
    GalleryRow,
    Note,
    Page,
    Section,
    Table,
    TableRow,
    Tile,
    write_page,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from stockpot.tune import Effect, StudyStore

__all__ = ["held_out_gallery", "standings_table", "study_page", "write_study_page"]

_MOST_PICTURES = 8


def write_study_page(store: StudyStore, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the page, and every figure as PNG, CSV and JSON under ``figures``.

    Args:
        store: The study.
        folder: Where.
        overwrite: Replace what is there.

    Returns:
        The page.
    """
    view = read_study(store)
    page, charts = study_page(store, view)
    if charts:
        write_charts(charts, folder / "figures", overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    return write_page(page, folder / "tuning.html", overwrite=overwrite)


def study_page(store: StudyStore, view: StudyView) -> tuple[Page, dict[str, Chart]]:
    """Describe a study.

    Args:
        store: Where pictures are.
        view: What it holds.

    Returns:
        The page, and its figures by file name.
    """
    charts: dict[str, Chart] = {}
    result = view.result
    lead = result["text"] if result else "The study has no verdict yet: run it to its end."
    effects = _effects(view)
    sections: list[Section] = []
    if result:
        sections.append(standings_table(result))
        gallery = held_out_gallery(store, result)
        if gallery is not None:
            sections.append(gallery)
    curve = _convergence(view)
    if curve is not None:
        charts["convergence"] = curve
        sections.append(
            Figures("Convergence", [("score", curve)],
                    "The best so far, against every baseline on the same pictures. These are the "
                    "search's own scores: the best of many noisy numbers, so too good.",
                    "Numbers: figures/convergence.csv")
        )  # fmt: skip
    front = _front(view)
    if front is not None:
        charts["front"] = front
        sections.append(
            Figures("Pareto front", [("front", front)], "Candidates that no other one beats in "
                    "every objective, the best in the first one first.",
                    "Numbers: figures/front.csv")
        )  # fmt: skip
    if effects:
        charts["effects"] = _effect_curve(effects)
        sections += [
            Figures("What each weight does", [("effect", charts["effects"])],
                    "Change of the score when one number goes from its low to its high end and "
                    "the others stay: a linear model of all candidates, with its 95 % interval. "
                    "Of twenty intervals one lies wrong by chance.",
                    "Numbers: figures/effects.csv"),
            _effect_table(effects),
        ]  # fmt: skip
    sections += [_cost(view), Note("What could not be concluded", _open_questions(view, effects))]
    if result:
        winner = result["standings"][0]
        sections.append(Code(f"Recipe of {winner['name']}", winner["recipe"],
                             "The best on the held-out exam."))  # fmt: skip
    tiles = [
        Tile(str(view.count("COMPLETE", "PRUNED", "FAIL")), "candidates"),
        Tile(str(view.n_pictures), "pictures"),
        Tile(f"{view.seconds / 3600:.2f} h", "drawing and scoring"),
        Tile(str(view.count("PRUNED")), "stopped early"),
    ]
    title = f"Tuning: {Path(store.where).name}"
    return Page(title, lead, sections, tiles, f"Stockpot {stockpot.__version__}"), charts


def _own(view: StudyView) -> list[FrozenTrial]:
    """Trials with values that were examined here, in order, or the imported ones if none were."""
    valued = [t for t in view.trials if t.state.name in ("COMPLETE", "PRUNED")]
    own = [t for t in valued if not t.user_attrs.get("imported")]
    return own or valued


def _convergence(view: StudyView) -> Curve | None:
    trials = _own(view)
    searched = [t for t in trials if not t.user_attrs.get("baseline")]
    if not searched:
        return None
    best, line, each = float("-inf"), [], []
    for trial in searched:
        if trial.state.name == "COMPLETE":
            best = max(best, trial.values[0])
        line.append(best)
        each.append(trial.values[0])
    places = [str(i + 1) for i in range(len(searched))]
    lines: list[tuple[str, Sequence[float]]] = [("best so far", line), ("each candidate", each)]
    for trial in trials:
        if trial.user_attrs.get("baseline"):
            lines.append((trial.user_attrs["baseline"], [trial.values[0]] * len(places)))
    objective = view.settings.get("objectives", ["score"])[0]
    return Curve("Convergence", places, lines, axis="candidate", unit=objective,
                 dots=frozenset({"each candidate"}), from_zero=False)  # fmt: skip


def _front(view: StudyView) -> Curve | None:
    from stockpot.tune import pareto_front

    objectives = view.settings.get("objectives", [])
    if len(objectives) < 2:
        return None
    front = pareto_front(list(view.trials))
    if not front:
        return None
    names = [str(t.user_attrs.get("baseline") or f"trial {t.number}") for t in front]
    lines = [(name, [t.values[i] for t in front]) for i, name in enumerate(objectives)]
    return Curve("Pareto front", names, lines, axis="candidate", unit="score", from_zero=False)


def _effects(view: StudyView) -> tuple[Effect, ...]:
    from stockpot.recipes import parse_recipe
    from stockpot.tune import Hole, estimate_effects, find_holes

    rows = [
        ({n: Fraction(v) for n, v in t.user_attrs["values"].items()}, t.values[0])
        for t in _own(view)
        if t.user_attrs.get("values")
    ]
    if not rows:
        return ()
    if "recipe" in view.settings:
        holes = list(find_holes(parse_recipe(view.settings["recipe"])))
    else:  # tables alone: what they hold tells the ranges
        holes = [
            Hole(n, "", min(r[0][n] for r in rows), max(r[0][n] for r in rows)) for n in rows[0][0]
        ]
    holes = [hole for hole in holes if hole.low < hole.high]
    return estimate_effects(holes, [row for row, _ in rows], [score for _, score in rows])


def _effect_curve(effects: Sequence[Effect]) -> Curve:
    band = Band("95 % interval", [e.low for e in effects], [e.high for e in effects])
    lines = [("effect", [e.effect for e in effects]), ("none", [0.0] * len(effects))]
    return Curve("Effects", [e.name for e in effects], lines, [band], "hole", "score",
                 dots=frozenset({"effect"}))  # fmt: skip


def _effect_table(effects: Sequence[Effect]) -> Table:
    most = max(max(abs(e.effect) for e in effects), 1e-12)
    rows = [
        TableRow(
            [e.name, Cell(f"{e.effect:+.4f}", bar=abs(e.effect) / most, value=e.effect),
             Cell(f"{e.low:+.4f}", value=e.low), Cell(f"{e.high:+.4f}", value=e.high),
             "up" if e.low > 0 else "down" if e.high < 0 else "cannot tell"],
            "strong" if e.sure else "plain",
        )
        for e in effects
    ]  # fmt: skip
    return Table("Effects in numbers", ["hole", "effect", "from", "to", "sure"], rows,
                 numeric=frozenset({1, 2, 3}), sortable=True)  # fmt: skip


def standings_table(result: dict[str, Any]) -> Table:
    """The table of all candidates that were held out.

    Args:
        result: Of `stockpot.tune.result_json`.
    """
    rows = []
    wider = ""
    if result["level"] > 0.95:
        wider = (" Intervals of searched candidates are wider than 95 %, since the best of "
                 "several is picked.")  # fmt: skip
    for one in result["standings"]:
        verdict = one["verdict"] or {}
        held = one["held_out"]
        interval = ""
        if verdict.get("low") is not None and verdict.get("high") is not None:
            interval = f"{verdict['low']:+.4f} to {verdict['high']:+.4f}"
        rows.append(
            TableRow(
                [
                    one["name"],
                    Cell("–" if held is None else f"{held:.4f}", value=held),
                    " ".join(f"{value:.4f}" for value in one["search_values"]),
                    f"{verdict['difference']:+.4f}" if verdict else "",
                    interval,
                    verdict.get("better", ""),
                    "; ".join(one["drifts"]),
                ],
                "plain" if one["baseline"] else "strong",
            )
        )
    return Table(
        f"Held out: {result['scorer']} on {len(result['tasks'])} pictures",
        ["candidate", "held out", "in the search", "against the uniform mix", "interval",
         "better", "guard"],
        rows,
        "The search has not seen them. Differences are paired by picture." + wider,
        numeric=frozenset({1, 2, 3}), wrapped=frozenset({6}),
    )  # fmt: skip


def held_out_gallery(store: StudyStore, result: dict[str, Any]) -> Gallery | None:
    """Pictures of the held-out exam, a row a candidate; None where none were kept.

    Args:
        store: Where they are.
        result: Of `stockpot.tune.result_json`.
    """
    tasks = result["tasks"][:_MOST_PICTURES]
    rows = []
    for one in result["standings"]:
        pictures = [store.book.picture(one["candidate"], task["key"]) for task in tasks]
        if any(picture is not None for picture in pictures):
            held = "" if one["held_out"] is None else f"{one['held_out']:.4f}"
            badge = "baseline" if one["baseline"] else "searched"
            rows.append(GalleryRow(one["name"], pictures, held, badge))
    if not rows:
        return None
    columns = [task["payload"] if len(task["prompt"]) > 60 else task["prompt"] for task in tasks]
    return Gallery("The same held-out pictures by every candidate", columns, rows,
                   "The best on the held-out exam first.")  # fmt: skip


def _cost(view: StudyView) -> Table:
    each = view.seconds / view.n_pictures if view.n_pictures else 0.0
    rows = [
        ("pictures drawn", f"{view.n_pictures}"),
        ("seconds a picture, drawing and scoring", f"{each:.2f}"),
        ("hours in all", f"{view.seconds / 3600:.3f}"),
        ("pictures not drawn since candidates were stopped", f"{view.n_saved}"),
        ("hours that saved", f"{view.n_saved * each / 3600:.3f}"),
        ("candidates that failed", f"{view.count('FAIL')}"),
    ]
    return Table("Cost", ["what", "how much"], [TableRow(row) for row in rows],
                 numeric=frozenset({1}), wrapped=frozenset({0}))  # fmt: skip


def _open_questions(view: StudyView, effects: Sequence[Effect]) -> list[str]:
    told = []
    result = view.result
    if result is None:
        told.append("Nothing was held out yet, so no candidate can be called better than another.")
    else:
        for name, verdict in result["against"].items():
            if verdict["better"] == "cannot tell":
                numbers = verdict["text"].partition(" cannot tell ")[2]
                told.append(f"Whether the best of the search is better than {name} {numbers}.")
        for name, text in result["failures"].items():
            told.append(f"{name} could not be drawn on the held-out exam: {text}")
    unsure = [effect.name for effect in effects if not effect.sure]
    if unsure:
        which = f" ({', '.join(unsure)})" if len(unsure) < len(effects) else ""
        told.append(f"The effect of {len(unsure)} of {len(effects)} numbers: their intervals "
                    f"include 0{which}.")  # fmt: skip
    if not effects:
        told.append("The effect of any single number: too few candidates, or all baselines.")
    n_stopped = view.count("PRUNED")
    if n_stopped:
        told.append(f"The exact score of {n_stopped} candidates that were stopped early: what "
                    "counts for them is an estimate.")  # fmt: skip
    if any(t.user_attrs.get("imported") for t in view.trials):
        told.append("Whether imported scores are on this study's scale: they count as they are.")
    told.append("Anything about prompts, sizes and samplers that no payload has; and whether "
                "people like what the scorer likes.")  # fmt: skip
    return told
