"""``stockpot recipe``: look at recipes without running them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.output import note, print_fold, print_json

if TYPE_CHECKING:
    from stockpot.layouts import Layout
    from stockpot.recipes import Recipe

__all__ = ["app"]

app = typer.Typer(help="Look at recipes without running them.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="A recipe (docs/recipe.md).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def show(file: File, json_: Json = False) -> None:
    """Print a recipe in its canonical form."""
    from stockpot.recipes import read_recipe

    recipe = read_recipe(file)
    if json_:
        print_json(
            {
                "pool": {name: entry.file for name, entry in recipe.pool.items()},
                "let": {name: str(value) for name, value in recipe.let.items()},
                "mix": {name: str(value) for name, value in recipe.mix.items()},
                "text": recipe.to_yaml(),
            }
        )
    else:
        typer.echo(recipe.to_yaml(), nl=False)


@app.command("fold")
def fold_recipe(
    file: File,
    layout: Annotated[
        str | None,
        typer.Option(help="sd1, sd2, sdxl …; by default what the files of the pool are."),
    ] = None,
    json_: Json = False,
) -> None:
    """Print what each model contributes to each block, exactly."""
    from stockpot.layouts import get_layout
    from stockpot.recipes import fold, read_recipe

    recipe = read_recipe(file).resolve_pool(file.parent, absolute=True)
    folded = fold(recipe, get_layout(layout) if layout else _layout_of(recipe, file.parent))
    for problem in folded.warnings:
        note(f"note: {problem}")
    if json_:
        print_json(folded.to_json())
        return
    print_fold(folded)


def _layout_of(recipe: Recipe, folder: Path) -> Layout:
    """The layout of the first file of the pool that is there."""
    from stockpot.checkpoints import open_checkpoint
    from stockpot.errors import Problem, RecipeError
    from stockpot.layouts import detect

    for entry in recipe.pool.values():
        path = folder / entry.file
        if path.exists():
            with open_checkpoint(path) as source:
                return detect({key: info.shape for key, info in source.tensors.items()}).layout
    raise RecipeError(
        [
            Problem(
                "no-layout",
                "blocks depend on the architecture, and no file of the pool is there to tell it",
                str(folder),
                "name it with --layout sd1, sd2 or sdxl",
            )
        ]
    )
