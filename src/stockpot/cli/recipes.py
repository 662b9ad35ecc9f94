"""``stockpot recipe``: look at recipes without running them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli import recipe_views
from stockpot.cli.output import note, print_fold, print_json, print_table
from stockpot.cli.recipe_files import (
    find_layout,
    fold_any,
    history_in,
    read_any,
    uses_of,
    write_text,
)

if TYPE_CHECKING:
    from stockpot.recipes import Difference, Recipe

__all__ = ["app"]

app = typer.Typer(help="Look at recipes without running them.", no_args_is_help=True)

File = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Stockpot's YAML, or any format that imports.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Layout = Annotated[
    str | None, typer.Option(help="sd1, sd2, sdxl …; by default what files and recipe tell.")
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File; else it is printed.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


@app.command()
def show(
    file: File,
    table: Annotated[
        bool, typer.Option("--table", help="Print the table of models alone.")
    ] = False,
    json_: Json = False,
) -> None:
    """Print a recipe in its canonical form, and its table of models if it tells about them."""
    recipe = read_any(file).recipe
    told = any(e.title or e.status or e.url or e.licence for e in recipe.pool.values())
    rows = _models(recipe) if json_ or table or told else []
    if json_:
        print_json(
            {
                "pool": {name: entry.file for name, entry in recipe.pool.items()},
                "let": {name: str(value) for name, value in recipe.let.items()},
                "mix": {name: str(value) for name, value in recipe.mix.items()},
                "models": rows,
                "text": recipe.to_yaml(),
            }
        )
        return
    if not table:
        typer.echo(recipe.to_yaml(), nl=False)
    if rows:
        print_table(
            ["name", "model", "status", "UNET used?", "CLIP used?", "licence", "url"],
            (
                [
                    str(row["name"]), str(row["title"] or ""), str(row["status"] or ""),
                    "Y" if row["unet"] else "", "Y" if row["clip"] else "",
                    str(row["licence"] or ""), str(row["url"] or ""),
                ]
                for row in rows
            ),
        )  # fmt: skip


def _models(recipe: Recipe) -> list[dict[str, object]]:
    """The author's table: each model, what it is, and whether UNet and text encoder are used."""
    from stockpot.errors import RecipeError
    from stockpot.layouts import get_layout
    from stockpot.recipes import fold, likely_layout

    folded = None
    try:
        folded = fold(recipe, get_layout(likely_layout(recipe) or "sd1"))
    except RecipeError:
        pass  # Not linear, or with patterns: then what the expressions read counts.
    uses = uses_of(recipe, folded)
    return [
        {"name": name, "title": entry.title, "status": entry.status, "unet": uses[name][0],
         "clip": uses[name][1], "licence": entry.licence, "url": entry.url, "note": entry.note,
         "unknown": entry.unknown}
        for name, entry in recipe.pool.items()
    ]  # fmt: skip


@app.command("fold")
def fold_recipe(file: File, layout: Layout = None, json_: Json = False) -> None:
    """Print what each model contributes to each block, exactly."""
    from stockpot.errors import Problem, RecipeError
    from stockpot.recipes.importers import detect_format

    ours = file.is_file() and file.suffix.lower() in (".yaml", ".yml")
    if ours:
        try:
            text = file.read_text("utf-8", "replace")[:1_000_000]
        except OSError as error:
            said = f"the recipe cannot be read: {error.strerror}"
            raise RecipeError([Problem("unreadable", said, str(file))]) from error
        ours = detect_format(text) == "stockpot"
    _, folded = fold_any(file, layout, strict=ours)
    for problem in folded.warnings:
        note(f"note: {problem}")
    if json_:
        print_json(folded.to_json())
        return
    print_fold(folded)


@app.command()
def same(first: File, second: File, layout: Layout = None, json_: Json = False) -> None:
    """Say whether two recipes make the same model, given files with equal sets of keys.

    Of two checkpoints all steps that led to them count, down to the raw models, which are known
    by what they hold. The exit code is 0 if they are the same, and 1 if not.
    """
    differences = _compared(first, second, layout)
    if json_:
        print_json({"same": not differences, "given": "equal key sets", "rows": differences})
    elif differences:
        typer.echo(f"different: {len(differences)} rows differ (stockpot recipe diff)")
    else:
        typer.echo("the same model, given files with equal key sets")
    raise typer.Exit(1 if differences else 0)


@app.command()
def diff(first: File, second: File, layout: Layout = None, json_: Json = False) -> None:
    """Print where the shares of two recipes differ; the exit code is 1 where they do."""
    differences = _compared(first, second, layout)
    if json_:
        print_json({"rows": differences})
    elif not differences:
        typer.echo("no difference, given files with equal key sets")
    else:
        print_table(
            ["blocks", "model", ">first", ">second", ">difference"],
            ([str(d["blocks"]), str(d["model"]), f"{d['first']:.6g}", f"{d['second']:.6g}",
              f"{d['difference']:+.3g}"] for d in differences),
        )  # fmt: skip
    raise typer.Exit(1 if differences else 0)


def _compared(first: Path, second: Path, layout: str | None) -> list[dict[str, object]]:
    from stockpot.engine import compare_shares, shares_of
    from stockpot.recipes import compare_folds, fold

    histories = [history_in(path) for path in (first, second)]
    if histories[0] and histories[1]:
        shares = [shares_of(history) for history in histories if history]
        return [_difference(d) for d in compare_shares(*shares)]

    mine, theirs = read_any(first), read_any(second)
    a = find_layout(mine, first.parent, layout, strict=False)
    told = layout or a.name
    folds = [
        fold(i.recipe.resolve_pool(f.parent, absolute=True),
             find_layout(i, f.parent, told, strict=False))
        for i, f in ((mine, first), (theirs, second))
    ]  # fmt: skip
    return [_difference(d) for d in compare_folds(*folds)]


def _difference(found: Difference) -> dict[str, object]:
    return {
        "blocks": found.label,
        "model": found.model,
        "first": float(found.first),
        "second": float(found.second),
        "difference": float(found.second - found.first),
    }


@app.command("import")
def import_recipe(
    source: Annotated[Path, typer.Argument(help="A recipe of any format, or a folder of them.")],
    output: Output = None,
    make: Annotated[
        str | None, typer.Option(help="For a folder: which result to make, such as 12b.")
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Turn a recipe of another tool, or a folder of them, into a Stockpot recipe."""
    imported = read_any(source, make)
    for problem in imported.notes:
        note(f"note: {problem}")
    text = imported.recipe.to_yaml()
    facts = imported.facts
    if output is not None:
        write_text(output, text, overwrite)
    if json_:
        print_json(
            {
                "format": facts.dialect,
                "models": facts.n_models,
                "steps": facts.n_steps,
                "edges": facts.n_edges,
                "unknown_parents": facts.n_holes,
                "layout": facts.layout,
                "candidates": {name: list(found) for name, found in facts.candidates.items()},
                "elections": dict(facts.elections),
                "notes": [str(problem) for problem in imported.notes],
                "text": text,
            }
        )
    elif output is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"{output}: {facts}")


@app.command()
def export(
    file: File,
    to: Annotated[str, typer.Option(help="a1111, yaml or python.")] = "yaml",
    output: Output = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a recipe in the form of another program."""
    from stockpot.recipes import export_recipe

    text = export_recipe(read_any(file).recipe, to)
    if output is not None:
        write_text(output, text, overwrite)
        typer.echo(str(output))
    else:
        typer.echo(text, nl=False)


app.command("contributions")(recipe_views.contributions)
app.command("graph")(recipe_views.graph)
app.command("lint")(recipe_views.lint_recipe)
