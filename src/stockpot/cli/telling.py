"""``stockpot recipe of`` and ``stockpot verify``: what a file says of itself, and if it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.output import note, print_json, safe_text, shown_progress
from stockpot.cli.stopping import stoppable
from stockpot.errors import CheckpointError

if TYPE_CHECKING:
    from stockpot.engine import History, Settings, Step

__all__ = ["recipe_of_file", "verify_file"]

_SHOWN = 20

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
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Write a copy in which the damaged tensors are made again."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="That copy; else FILE-repaired.safetensors beside it."),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the copy; with -o FILE, the damaged file."),
    ] = False,
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

    settings = settings_of(memory=memory, threads=threads, overwrite=overwrite)
    if repair:
        if pool is None:
            raise typer.BadParameter("--repair needs the inputs: say where they are, with --pool")
        output = output or file.with_name(f"{file.name.removesuffix('.safetensors')}-repaired"
                                          ".safetensors")  # fmt: skip
        _repair(file, pool, output, settings, json_)
        return
    if output is not None or overwrite:
        raise typer.BadParameter("-o and --overwrite belong to --repair")
    with open_checkpoint(file) as source, stoppable() as stop, shown_progress() as progress:
        settings = replace(settings, stop=stop)
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
                "damaged": list(found.damaged),
            }
        )
    else:
        typer.echo(f"{safe_text(str(file))}: {_SENTENCES[found.answer]}")
        for problem in found.problems:
            typer.echo(f"  {safe_text(str(problem))}")
        _print_damage(found.damaged)
        for model in found.inputs:
            typer.echo(f"  {safe_text(model.name)}: {model.state} {safe_text(model.path)}".rstrip())
        if found.recomputed and found.answer == "agrees":
            typer.echo("  the recipe was run again in full, and makes these weights")
    if found.answer not in ("agrees", "no recipe"):
        raise typer.Exit(1)


def _repair(file: Path, pool: Path, output: Path, settings: Settings, json_: bool) -> None:
    from stockpot.checkpoints import SafetensorsFile, open_checkpoint
    from stockpot.engine import remake

    with open_checkpoint(file) as source, stoppable() as stop, shown_progress() as progress:
        if not isinstance(source, SafetensorsFile):
            raise CheckpointError(
                f"{file}: only a single .safetensors file is repaired tensor by tensor; "
                "`stockpot replay` makes folders again"
            )
        settings = replace(settings, stop=stop)
        done = remake(source, pool, output, settings=settings, progress=progress)
    if json_:
        print_json(
            {
                "path": str(done.path),
                "content_hash": done.content_hash,
                "remade": list(done.remade),
                "n_tensors": done.n_tensors,
            }
        )
        return
    _print_damage(done.remade)
    typer.echo(
        f"{safe_text(str(done.path))}: {len(done.remade)} of {done.n_tensors} tensors made again, "
        f"content hash {done.content_hash[:16]} as recorded"
    )


def _print_damage(keys: Sequence[str]) -> None:
    for key in keys[:_SHOWN]:
        typer.echo(f"  damaged: {safe_text(key)}")
    if len(keys) > _SHOWN:
        typer.echo(f"  damaged: and {len(keys) - _SHOWN} more")


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
