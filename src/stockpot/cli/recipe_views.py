"""``stockpot recipe contributions``, ``graph`` and ``lint``: recipes as pictures and findings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.output import note, print_json, print_table, safe_text
from stockpot.cli.recipe_files import fold_any, predictions_of, read_any, write_text

__all__ = ["contributions", "graph", "lint_recipe"]

File = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Stockpot's YAML, or any format that imports.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Layout = Annotated[
    str | None, typer.Option(help="sd1, sd2, sdxl …; by default what files and recipe tell.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


def contributions(
    file: File,
    layout: Layout = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Draw a heat map into this SVG file.")
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Say what each model contributes, however deep the recipe is: one line a model."""
    from stockpot.recipes import draw_shares

    imported, folded = fold_any(file, layout)
    if output is not None:
        title = imported.facts.output or file.name
        write_text(output, draw_shares(folded, title), overwrite)
        note(f"{output}: {len(folded.rows)} blocks of {len(folded.models)} models")
    if json_:
        print_json(folded.to_json())
        return
    parts = list(dict.fromkeys(c.component for c in folded.rows if c.block != "all"))
    parts = parts or list(dict.fromkeys(c.component for c in folded.rows))
    print_table(["model", *(f">{part}" for part in parts)], (
        [str(name), *(_span([float(row.get(name, 0)) for cell, row in folded.rows.items()
                        if cell.component == part]) for part in parts)]
        for name in (folded.atoms if folded.calls else folded.models)
    ))  # fmt: skip


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    if low == high:
        return f"{low:.4g}"
    return f"{low:.3g} … {high:.3g} (mean {sum(values) / len(values):.3g})"


def graph(
    file: File,
    output: Annotated[Path, typer.Option("-o", "--output", help="The SVG file.")],
    overwrite: Overwrite = False,
) -> None:
    """Draw how a recipe is made: models on the left, the result on the right."""
    from stockpot.recipes import draw_graph

    imported = read_any(file)
    title = imported.facts.output or file.name
    write_text(output, draw_graph(imported.recipe, title), overwrite)
    typer.echo(str(output))


def lint_recipe(file: File, layout: Layout = None, json_: Json = False) -> None:
    """Print what looks like a slip in a recipe, and what to do about it.

    Findings are no errors: the exit code is 0 whenever the recipe could be read.
    """
    from stockpot.recipes import lint

    imported = read_any(file)
    folder = file if file.is_dir() else file.parent
    findings = lint(imported, layout=layout, predictions=predictions_of(imported, folder))
    if json_:
        print_json([finding.to_json() for finding in findings])
        return
    for finding in findings:
        typer.echo(safe_text(f"{finding.code}: {finding}"))
    note(f"{len(findings)} findings")
