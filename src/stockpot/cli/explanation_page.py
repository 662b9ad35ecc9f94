"""The page of an explanation: shares by component and block, in words first."""

from __future__ import annotations

from pathlib import Path

import stockpot
from stockpot.checkpoints import write_whole
from stockpot.cli.explanation_words import remarks, verdict
from stockpot.cli.figure_files import write_charts
from stockpot.compare import Explanation, Part
from stockpot.report import (
    Cell,
    Chart,
    Code,
    Figures,
    Heat,
    Note,
    Page,
    Section,
    Table,
    TableRow,
    write_page,
)

__all__ = ["explanation_page", "write_explanation"]


def write_explanation(
    told: Explanation, recipe: str, folder: Path, *, overwrite: bool = False
) -> Path:
    """Write the page, the figures, and the recipe.

    Args:
        told: What the mix is made of.
        recipe: The same as a recipe.
        folder: Where.
        overwrite: Replace what is there.

    Returns:
        The page.
    """
    page, charts = explanation_page(told, recipe)
    write_charts(charts, folder / "figures", overwrite=overwrite)
    write_whole(folder / "recipe.yaml", recipe.encode())
    return write_page(page, folder / "explanation.html", overwrite=overwrite)


def explanation_page(told: Explanation, recipe: str) -> tuple[Page, dict[str, Chart]]:
    """Describe an explanation.

    Args:
        told: What the mix is made of.
        recipe: The same as a recipe.

    Returns:
        The page, and its figures by file name.
    """
    sentences = [
        f"{component}: {_words(part)} ({verdict(told, part)})."
        for component, part in told.components.items()
        if part.ratios
    ]
    sentences += [f"{remark}." for remark in remarks(told)]
    sections: list[Section] = [Note("Findings", sentences), _shares(told)]
    charts: dict[str, Chart] = {}
    for component, blocks in told.blocks.items():
        names = [n for n in told.pool if any(part.ratios.get(n) for part in blocks.values())]
        if len(blocks) < 2 or not names:
            continue
        shares = Heat(
            f"{told.mix}, {component}: shares by block",
            names,
            list(blocks),
            [[part.ratios.get(name, float("nan")) for part in blocks.values()] for name in names],
            "share",
            signed=bool(told.base),
        )
        residual = Heat(
            f"{told.mix}, {component}: what is left, in roundings",
            ["residual / rounding"],
            list(blocks),
            [[part.residual / part.noise if part.noise else 0.0 for part in blocks.values()]],
            "× rounding",
        )
        charts |= {f"{component}-shares": shares, f"{component}-residual": residual}
        sections.append(
            Figures(
                f"Blocks of {component}",
                [("shares", shares), ("residual", residual)],
                "A residual of about 1 is what saving in the file's type leaves.",
                f"Numbers: figures/{component}-*.csv",
            )
        )
    sections.append(
        Code("As a recipe", recipe, "The simplest ratios within these bounds; also in recipe.yaml.")
    )
    page = Page(
        title=f"What {told.mix} is made of",
        lead="Least squares on inner products: the shares of the pool's models that come nearest "
        "to the checkpoint, with what they leave.",
        sections=sections,
        footer=f"Stockpot {stockpot.__version__}. Figures as PNG, CSV and JSON lie in figures/.",
    )
    return page, charts


def _words(part: Part) -> str:
    shares = sorted(part.ratios.items(), key=lambda item: -abs(item[1]))
    return ", ".join(f"{ratio:.4g} {name}" for name, ratio in shares if abs(ratio) > 5e-5)


def _shares(told: Explanation) -> Table:
    rows = []
    for component, part in told.components.items():
        for name, ratio in sorted(part.ratios.items(), key=lambda item: -item[1]):
            if ratio or part.confidence[name] > 0.05:
                rows.append(
                    TableRow(
                        [
                            component,
                            name,
                            Cell(f"{ratio:.4f}", bar=min(max(ratio, 0.0), 1.0), value=ratio),
                            f"{part.confidence[name]:.2g}",
                            f"{part.residual:.4g}",
                            f"{part.noise:.4g}",
                        ],
                        "plain" if part.is_explained else "faint",
                    )
                )
    return Table(
        "Shares",
        ["component", "model", "share", "±", "residual", "one rounding"],
        rows,
        "Residual: distance of the checkpoint from the best mix, in weight units. One rounding: "
        "what saving in its type leaves. ±: how far a share may be off.",
        numeric=frozenset({2, 3, 4, 5}),
        sortable=True,
    )
