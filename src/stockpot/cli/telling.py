"""``stockpot recipe of`` and ``stockpot verify``: what a file says of itself, and if it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.output import print_json, safe_text
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


def verify_file(file: File, json_: Json = False) -> None:
    """Read a checkpoint and say whether its bytes are those that its recipe made."""
    from stockpot.checkpoints import open_checkpoint
    from stockpot.compare import inspect_checkpoint
    from stockpot.engine import read_history

    with open_checkpoint(file) as source:
        history = read_history(source.metadata, source.name)
        found = inspect_checkpoint(source, hashes=True)
    recorded = history.last.components if history is not None else {}
    actual = {name: facts.hash for name, facts in found.components.items()}
    wrong = sorted(name for name in recorded if actual.get(name) != recorded[name])
    foreign = sorted(name for name in actual if name not in recorded) if recorded else []
    verdict = "no recipe" if not recorded else "differs" if wrong or foreign else "agrees"
    if json_:
        print_json({"path": str(file), "verdict": verdict, "differs": wrong, "added": foreign})
    else:
        typer.echo(f"{safe_text(str(file))}: {_SENTENCES[verdict]}")
        for name in wrong:
            now = (actual.get(name) or "nothing")[:16]
            typer.echo(f"  {name}: recorded {recorded[name][:16]}, found {now}")
        for name in foreign:
            typer.echo(f"  {name}: not in the recipe")
    if verdict == "differs":
        raise typer.Exit(1)


_SENTENCES = {
    "agrees": "every component is what its recipe made",
    "differs": "the weights are not those that its recipe made",
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
