"""``stockpot swap``, ``extract``, ``inject``, ``prune``, ``unprune`` and ``convert``.

All are recipes: what they write says how it was made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.merging import (
    DryRun,
    Dtype,
    Json,
    Memory,
    Overwrite,
    Recheck,
    Restart,
    Threads,
    run_recipe,
    settings_of,
)

if TYPE_CHECKING:
    from stockpot.engine import Form

__all__ = ["extract_component", "inject_components", "prune_model", "swap_components",
           "unprune_model"]  # fmt: skip

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint or diffusers folder.")]
_FOREIGN = (".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
Output = Annotated[Path, typer.Option("-o", "--output", help="The new file.")]


def swap_components(
    model: Model,
    output: Output,
    unet: Annotated[Path | None, typer.Option(help="Where to take the UNet from.")] = None,
    te: Annotated[Path | None, typer.Option(help="Where to take every text encoder from.")] = None,
    te0: Annotated[
        Path | None, typer.Option(help="Where to take SDXL's text encoder 0 (CLIP-L) from.")
    ] = None,
    te1: Annotated[
        Path | None, typer.Option(help="Where to take SDXL's text encoder 1 (OpenCLIP-G) from.")
    ] = None,
    vae: Annotated[Path | None, typer.Option(help="Where to take the VAE from.")] = None,
    dtype: Dtype = None,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    restart: Restart = False,
    recheck: Recheck = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Replace components of a model by those of others.

    A donor may be a whole checkpoint, a diffusers folder, or a file of the component alone, with
    or without its prefix.
    """
    from stockpot.engine import swap

    given = {"unet": unet, "te": te, "te0": te0, "te1": te1, "vae": vae}
    donors = {component: file for component, file in given.items() if file is not None}
    if not donors:
        raise typer.BadParameter("name a donor: --unet, --te, --te0, --te1 or --vae")
    settings = settings_of(memory, threads, overwrite, restart=restart, recheck=recheck)
    run_recipe(swap(model, donors), output, Path(), dtype, settings, dry_run, json_)


def inject_components(
    model: Model,
    parts: Annotated[
        list[str], typer.Argument(metavar="COMPONENT=FILE…", help="Such as vae=better.safetensors.")
    ],
    output: Output,
    dtype: Dtype = None,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    restart: Restart = False,
    recheck: Recheck = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Put components into a model: `swap` in the words of scripts.

    A component that the model lacks is added, one that it has is replaced.
    """
    from stockpot.engine import swap

    donors: dict[str, Path] = {}
    for part in parts:
        component, equals, file = part.partition("=")
        if not equals or not file:
            raise typer.BadParameter(f"write COMPONENT=FILE, such as vae=new.safetensors: {part!r}")
        if component in donors:
            raise typer.BadParameter(f"{component} has two donors: {donors[component]} and {file}")
        donors[component] = Path(file)
    settings = settings_of(memory, threads, overwrite, restart=restart, recheck=recheck)
    run_recipe(swap(model, donors), output, Path(), dtype, settings, dry_run, json_)


def extract_component(
    model: Model,
    component: Annotated[str, typer.Argument(help="unet, te, te0, te1 or vae.")],
    output: Output,
    prefix: Annotated[
        bool,
        typer.Option("--prefix", help="Keep the names that the keys have inside a checkpoint."),
    ] = False,
    dtype: Dtype = None,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    restart: Restart = False,
    recheck: Recheck = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Write one component of a model to a file of its own.

    The keys lack the prefix that they have inside a checkpoint, as A1111 and ComfyUI want a VAE,
    and ComfyUI a text encoder or a UNet.
    """
    from stockpot.engine import extract

    settings = settings_of(memory, threads, overwrite, restart=restart, recheck=recheck)
    form: Form = "checkpoint" if prefix else "bare"
    recipe = extract(model, component)
    run_recipe(recipe, output, Path(), dtype, settings, dry_run, json_, form)


def prune_model(
    model: Model,
    output: Output,
    dtype: Dtype = None,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    restart: Restart = False,
    recheck: Recheck = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Leave out the EMA copy and keys without a meaning; with --dtype fp16 halve the rest too."""
    from stockpot.engine import prune

    settings = settings_of(memory, threads, overwrite, restart=restart, recheck=recheck)
    run_recipe(prune(model), output, Path(), dtype, settings, dry_run, json_)


def unprune_model(
    model: Model,
    output: Output,
    base: Annotated[Path, typer.Option(help="A complete checkpoint of the same architecture.")],
    dtype: Dtype = None,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    restart: Restart = False,
    recheck: Recheck = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Fill the keys that a model lacks, or whole components, from another."""
    from stockpot.engine import unprune

    settings = settings_of(memory, threads, overwrite, restart=restart, recheck=recheck)
    run_recipe(unprune(model, base), output, Path(), dtype, settings, dry_run, json_)


def convert_model(
    model: Model,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A .safetensors file, or else a new diffusers folder."),
    ],
    dtype: Dtype = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="For a folder: a diffusers folder to take tokenizers, configurations and the "
            "scheduler's file from."
        ),
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(
            help="For a folder: epsilon or v_prediction; by default what the model's marker says."
        ),
    ] = None,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    restart: Restart = False,
    recheck: Recheck = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Write a model in another type, or as a single file or a diffusers folder."""
    from stockpot.engine import Pipeline, convert

    form: Form = "checkpoint" if output.suffix == ".safetensors" else "diffusers"
    if output.suffix.lower() in _FOREIGN:
        raise typer.BadParameter(
            f"stockpot writes .safetensors files and diffusers folders, no {output.suffix}"
        )
    if form == "checkpoint" and (config is not None or prediction is not None):
        raise typer.BadParameter("--config and --prediction belong to a diffusers folder")
    if prediction not in (None, "epsilon", "v_prediction"):
        raise typer.BadParameter("--prediction must be epsilon or v_prediction")
    pipeline = Pipeline(config, prediction)
    settings = settings_of(memory, threads, overwrite, restart=restart, recheck=recheck)
    run_recipe(convert(model), output, Path(), dtype, settings, dry_run, json_, form, pipeline)
