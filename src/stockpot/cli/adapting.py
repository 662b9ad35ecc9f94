"""``stockpot lora``: LoRAs into a model, and out of the difference of two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.merging import (
    DryRun,
    Dtype,
    Json,
    Memory,
    Overwrite,
    Threads,
    run_recipe,
    settings_of,
)
from stockpot.cli.output import note, print_json, safe_text, shown_progress

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Bake LoRAs into a model; extract a LoRA from what two models differ by.",
)
_SHOWN = 3


@app.command("bake")
def bake(
    model: Annotated[Path, typer.Argument(help="The checkpoint.")],
    loras: Annotated[
        list[str],
        typer.Argument(
            metavar="LORA[:STRENGTH]…",
            help="LoRA or LyCORIS files; strength 1 where nothing is said.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new file.")],
    te: Annotated[
        float | None, typer.Option(help="Other strength, times each LoRA's, in text encoders.")
    ] = None,
    dtype: Dtype = None,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Add LoRAs to a model's weights: exactly, rounded once.

    It is the recipe `model + strength*lora(name)`; block weights and mixes are written as one, with
    stockpot merge (docs/recipe.md).
    """
    from stockpot.recipes import make_recipe, name_files

    parts = [_strength(text) for text in loras]
    pool = name_files([model, *(file for file, _ in parts)])
    names = {file: name for name, file in pool.items()}
    scale = "" if te is None else f"components(unet=1, te={te!r})*"
    sums = [f"({strength})*{scale}lora({_quoted(names[file])})" for file, strength in parts]
    recipe = make_recipe(" + ".join([_quoted(names[str(model)]), *sums]), pool)
    settings = settings_of(memory, threads, overwrite)
    run_recipe(recipe, output, Path(), dtype, settings, dry_run, json_)


@app.command("extract")
def extract(
    tuned: Annotated[Path, typer.Argument(help="A checkpoint.")],
    base: Annotated[Path, typer.Argument(help="What it was trained from.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new LoRA.")],
    rank: Annotated[int, typer.Option(min=1, help="Of attention and feed-forward layers.")] = 32,
    conv_rank: Annotated[
        int, typer.Option(min=0, help="Of residual blocks and samplers (LoCon); 0 leaves them out.")
    ] = 0,
    dtype: Annotated[str, typer.Option(help="Element type: fp16, bf16, fp32.")] = "fp16",
    clamp: Annotated[
        float | None, typer.Option(help="Cut factors to this quantile of their sizes, as 0.99.")
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Write what two models differ by as a LoRA, in kohya's naming.

    A layer at a time is held in memory. Says how much of the difference the file holds.
    """
    from stockpot.adapters import extract_lora
    from stockpot.checkpoints import open_checkpoint
    from stockpot.engine import Meter

    if clamp is not None and not 0 < clamp <= 1:
        raise typer.BadParameter(f"--clamp is a quantile above 0, at most 1, but got {clamp}")
    with open_checkpoint(tuned) as one, open_checkpoint(base) as other:
        n_bytes = sum(info.n_bytes for s in (one, other) for info in s.tensors.values())
        with shown_progress() as progress:
            result = extract_lora(
                one, other, output, rank=rank, conv_rank=conv_rank, dtype=dtype, clamp=clamp,
                overwrite=overwrite, progress=Meter("reading", n_bytes, progress).add,
            )  # fmt: skip
    if json_:
        print_json(
            {
                "path": str(output),
                "layout": result.layout,
                "kept": result.kept,
                "covered": result.covered,
                "n_same": result.n_same,
                "layers": [vars(layer) for layer in result.layers],
                "left_out": dict(result.left_out),
            }
        )
        return
    largest = sorted(result.left_out, key=lambda key: -result.left_out[key])
    if result.left_out:
        shown = ", ".join(largest[:_SHOWN])
        note(f"note: {len(largest)} tensors differ and have no place in it, the most in {shown}"
             + ("" if conv_rank else "; --conv-rank takes convolutions"))  # fmt: skip
    typer.echo(
        f"{safe_text(str(output))}: {len(result.layers)} layers; it holds {result.kept:.2%} of "
        f"their difference, and they {result.covered:.2%} of all (sums of squares)"
    )


def _strength(text: str) -> tuple[str, str]:
    """A file and its strength; a colon may belong to the path."""
    file, colon, number = text.rpartition(":")
    if colon:
        try:
            float(number)
        except ValueError:
            return text, "1"
        return file, number.removeprefix("+")
    return text, "1"


def _quoted(name: str) -> str:
    from stockpot.recipes import model, print_expression

    return print_expression(model(name))
