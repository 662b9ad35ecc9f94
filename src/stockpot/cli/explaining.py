"""``stockpot explain``: which models, at which ratios, a checkpoint is made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.comparing import Base, Json, Memory, Overwrite, Threads, read_pool
from stockpot.cli.explanation_words import remarks, verdict
from stockpot.cli.naming import free_name, parse_pool
from stockpot.cli.output import note, print_json, print_table, safe_text
from stockpot.cli.recipe_files import path_for
from stockpot.errors import OutputExistsError

if TYPE_CHECKING:
    from stockpot.compare import Comparison, Explanation, Part

__all__ = ["explain_mix"]


def explain_mix(
    mix: Annotated[str, typer.Argument(help="The checkpoint to explain.")],
    more: Annotated[
        list[str] | None, typer.Argument(help="More of the pool.", metavar="[FILE]...")
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(help="Possible parents: FILE, or NAME=FILE. More files may follow."),
    ] = None,
    base: Base = None,
    comparison: Annotated[
        Path | None,
        typer.Option(help="A comparison that was saved; MIX is then a name in it."),
    ] = None,
    free: Annotated[
        bool, typer.Option("--free", help="Let shares sum to anything; not with --base.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the page, its figures, and recipe.yaml."),
    ] = None,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Find which models, at which ratios, a checkpoint is made of: by component and block."""
    from stockpot.compare import explain, load_comparison, recover_recipe

    entries = [*(pool or []), *(more or [])]
    if output is not None and not overwrite:
        for name in ("explanation.html", "recipe.yaml"):
            if (output / name).exists():
                raise OutputExistsError(
                    f"{output / name}: the file is there already; allow --overwrite"
                )
    if comparison is not None:
        found = load_comparison(comparison)
        names = entries or None
        base_name = str(base) if base is not None else None
        if base_name is None and found.base is not None and found.names[found.base] != mix:
            base_name = found.names[found.base]
        mix_name = mix
    else:
        paths, mix_name, base_name = _paths(mix, entries, base)
        names = None
        found = read_pool(paths, base_name, "block", memory, threads)
    if free and base_name is not None:
        raise typer.BadParameter("--free and --base cannot go together: with a base, shares are "
                                 "of differences to it")  # fmt: skip
    told = explain(found, mix_name, pool=names, base=base_name, sum_to_one=not free)
    layout = found.models[found.index(mix_name)].layout
    folder = output or Path()
    files = {
        model.name: path_for(model.path, folder) if model.path else f"{model.name}.safetensors"
        for model in found.models
    }
    recipe = recover_recipe(told, files, layout)
    if output is not None:
        from stockpot.cli.explanation_page import write_explanation

        output.mkdir(parents=True, exist_ok=True)
        write_explanation(told, recipe.to_yaml(), output, overwrite=overwrite)
    if json_:
        print_json(told.to_json() | {"recipe": recipe.to_yaml()})
        return
    _print(told, found)
    typer.echo(f"\nas a recipe:\n\n{recipe.to_yaml()}", nl=False)
    if output is not None:
        typer.echo(f"\nsee {safe_text(str(output / 'explanation.html'))}")


def _paths(
    mix: str, entries: list[str], base: Path | None
) -> tuple[dict[str, str], str, str | None]:
    """Files by name: the pool's, and the mix under a name that no other has."""
    from stockpot.recipes import name_of_file

    named = parse_pool(entries)
    same = {os.path.abspath(path): name for name, path in named.items()}
    base_name = None
    if base is not None:
        base_name = same.get(os.path.abspath(base))
        if base_name is None:
            base_name = free_name(name_of_file(base), named)
            named = {base_name: str(base), **named}
    if not named:
        raise typer.BadParameter("say what the mix may be made of, with --pool FILE …")
    mix_name = free_name(name_of_file(mix), named)
    return {**named, mix_name: mix}, mix_name, base_name


def _print(told: Explanation, found: Comparison) -> None:
    names = [
        name
        for name in told.pool
        if any(part.ratios.get(name) for part in _parts(told))
    ]  # fmt: skip
    rows = []
    for component, part in told.components.items():
        rows.append(_row(component, part, names, verdict(told, part)))
        blocks = told.blocks.get(component, {})
        if len(blocks) > 1 and (told.is_by_block(component) or not part.is_explained):
            rows += [
                _row(f"  {block}", inner, names, verdict(told, inner))
                for block, inner in blocks.items()
            ]
    print_table(
        ["", *(f">{name}" for name in names), ">residual", ">rounding", "verdict"],
        rows,
        f"{told.mix}: shares, and how far each may be off",
    )
    for sentence in remarks(told):
        note(sentence)


def _parts(told: Explanation) -> list[Part]:
    inner = [part for parts in told.blocks.values() for part in parts.values()]
    return [*told.components.values(), *inner]


def _row(label: str, part: Part, names: list[str], words: str) -> list[str]:
    cells = []
    for name in names:
        ratio, bound = part.ratios.get(name), part.confidence.get(name, 0.0)
        cells.append("" if not ratio else f"{ratio:.4f} ± {bound:.2g}")
    return [label, *cells, f"{part.residual:.4g}", f"{part.noise:.4g}", words]
