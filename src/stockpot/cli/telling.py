"""``stockpot recipe of`` and ``stockpot verify``: what a file says of itself, and if it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.output import note, print_json, safe_text, shown_progress
from stockpot.errors import CheckpointError

if TYPE_CHECKING:
    from stockpot.engine import History, Step

__all__ = ["recipe_of_file", "verify_file"]

File = Annotated[Path, typer.Argument(help="A checkpoint.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def recipe_of_file(file: File, json_: Json = False) -> None:
    """Print how a checkpoint was made: the tree of recipes, down to the raw models."""
    from stockpot.checkpoints import open_checkpoint
    from stockpot.engine import read_history

    with open_checkpoint(file) as source:
        history = read_history(source.metadata, source.name)
    if history is None:
        raise CheckpointError(f"{file}: there is no recipe in it; another program wrote the file")
    if not history.intact:
        note("note: the recipe, or the record beside it, was changed after the merge")
    if json_:
        print_json(
            [
                {
                    "depth": depth,
                    "name": name,
                    "recipe": step and step.recipe,
                    "content": step and step.content,
                    "components": dict(record.components) if record else None,
                }
                for depth, name, record, step in history.walk()
            ]
        )
        return
    _print_tree(str(file), history)


def verify_file(
    file: File,
    pool: Annotated[
        Path | None,
        typer.Option(help="Folder with its inputs: check them too, and run the recipe again."),
    ] = None,
    memory: Annotated[str, typer.Option(help="Ceiling for that run, such as 4GiB.")] = "1GiB",
    threads: Annotated[int, typer.Option(help="Tensors worked on at once; 0: one a core.")] = 0,
    json_: Json = False,
) -> None:
    """Read a checkpoint and say whether bytes, recipe and inputs agree.

    The exit code is 1 where they do not; a file without a recipe has nothing to disagree with.
    """
    from stockpot.checkpoints import open_checkpoint
    from stockpot.cli.merging import settings_of
    from stockpot.engine import verify

    settings = settings_of(memory=memory, threads=threads)
    with open_checkpoint(file) as source, shown_progress() as progress:
        found = verify(source, pool, settings=settings, progress=progress)
    if json_:
        wrong = [n for n, value in found.recorded.items() if found.actual.get(n) != value]
        print_json(
            {
                "path": str(file),
                "verdict": found.answer,
                "differs": sorted(wrong),
                "added": sorted(found.actual.keys() - found.recorded.keys()),
                "problems": [
                    {"code": p.code, "where": p.where, "message": p.message} for p in found.problems
                ],
                "inputs": [
                    {"name": i.name, "state": i.state, "path": i.path or None} for i in found.inputs
                ],
                "recomputed": found.recomputed,
            }
        )
    else:
        typer.echo(f"{safe_text(str(file))}: {_SENTENCES[found.answer]}")
        for problem in found.problems:
            typer.echo(f"  {safe_text(str(problem))}")
        for model in found.inputs:
            typer.echo(f"  {safe_text(model.name)}: {model.state} {safe_text(model.path)}".rstrip())
        if found.recomputed and found.answer == "agrees":
            typer.echo("  the recipe was run again in full, and makes these weights")
    if found.answer not in ("agrees", "no recipe"):
        raise typer.Exit(1)


_SENTENCES = {
    "agrees": "every component is what its recipe made",
    "differs": "the weights are not those that its recipe made",
    "edited": "the weights are those recorded, but the recipe was edited",
    "inputs": "its inputs are not those that were merged",
    "recipe": "its recipe makes other weights",
    "no recipe": "no recipe, or one without hashes, is in it: nothing to compare with",
}


def _print_tree(title: str, history: History) -> None:
    told: set[str] = set()
    for depth, name, record, step in history.walk():
        margin = "    " * depth
        label = safe_text(name or title)
        if step is None:
            hashes = ", ".join(
                f"{component} {value[:12] if value else '?'}"
                for component, value in (record.components if record else {}).items()
            )
            typer.echo(f"{margin}{label}  ({hashes})")
        elif record is not None and step.content in told:
            typer.echo(f"{margin}{label}  (made above, {str(step.content)[:12]})")
        else:
            if step.content is not None and record is not None:
                told.add(step.content)
            _print_step(margin, label, step)


def _print_step(margin: str, label: str, step: Step) -> None:
    from stockpot.errors import RecipeError
    from stockpot.recipes import parse_recipe

    content = f"content {step.content[:12]}, " if step.content else ""
    typer.echo(f"{margin}{label}  ({content}stockpot {safe_text(step.version)})")
    try:
        recipe = parse_recipe(step.recipe)
        lines = [f"{part} = {text}" for part, text in (*recipe.let.items(), *recipe.mix.items())]
    except RecipeError:
        lines = step.recipe.splitlines()
    for line in lines:
        typer.echo(f"{margin}  : {safe_text(line)}")
