"""``stockpot mean`` and ``stockpot merge``: files in, one file out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.naming import name_files, parse_pool
from stockpot.cli.output import note, print_fold, print_json, safe_text, shown_progress
from stockpot.cli.recipe_files import read_any

if TYPE_CHECKING:
    from stockpot.engine import MergeResult, Plan, Settings
    from stockpot.recipes import Recipe

__all__ = ["mean_of_files", "merge_recipe"]

Dtype = Annotated[
    str | None,
    typer.Option(help="Element type of the output: fp16, bf16, fp32, fp64, fp8_e4m3, fp8_e5m2. "
                      "By default what the inputs share."),
]  # fmt: skip
Memory = Annotated[str, typer.Option(help="Ceiling for buffers, such as 700MB or 4GiB.")]
Threads = Annotated[int, typer.Option(help="Tensors worked on at once; 0 means one a core.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Hashes = Annotated[
    bool, typer.Option("--hash/--no-hash", help="Hash all that is read and written.")
]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Read the output back before it is named.")
]
Nonfinite = Annotated[
    bool, typer.Option("--allow-nonfinite", help="Let NaN and infinities through.")
]
Chunk = Annotated[int, typer.Option(help="Elements read at once; 0 lets the memory decide.")]
Kernel = Annotated[
    str, typer.Option(help="auto: compiled where it was built; torch: never. Same bytes.")
]
Outside = Annotated[
    bool, typer.Option("--outside", help="Let the recipe's paths leave its folder.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and print the plan only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def mean_of_files(
    files: Annotated[list[Path], typer.Argument(help="Checkpoints of one architecture.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new file.")],
    dtype: Dtype = None,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    hashes: Hashes = True,
    verify: Verify = True,
    allow_nonfinite: Nonfinite = False,
    chunk: Chunk = 0,
    kernel: Kernel = "auto",
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Average checkpoints, each with the same weight (the uniform soup).

    The order of the files does not matter: the same files give the same bytes.
    """
    from stockpot.recipes import make_recipe

    recipe = make_recipe("mean(pool)", name_files(files))
    settings = _settings(memory, threads, overwrite, hashes, verify, allow_nonfinite, chunk, kernel)
    _run(recipe, output, Path(), dtype, settings, dry_run, json_)


def merge_recipe(
    recipe_file: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE.yaml]", help="A recipe (docs/recipe.md).")
    ] = None,
    expression: Annotated[
        str | None, typer.Option("-e", "--expression", help="What to make of the whole model.")
    ] = None,
    unet: Annotated[str | None, typer.Option(help="Expression for the UNet alone.")] = None,
    te: Annotated[str | None, typer.Option(help="Expression for the text encoders.")] = None,
    vae: Annotated[str | None, typer.Option(help="Expression for the VAE alone.")] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(help="A model for -e: NAME=FILE, or FILE, named by its stem. Repeat it."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The new file; else the recipe says.")
    ] = None,
    dtype: Dtype = None,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    hashes: Hashes = True,
    verify: Verify = True,
    allow_nonfinite: Nonfinite = False,
    chunk: Chunk = 0,
    kernel: Kernel = "auto",
    outside: Outside = False,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Merge what a recipe, or an expression over a pool, says."""
    from stockpot.recipes import make_recipe

    mix = {
        component: text
        for component, text in {"model": expression, "unet": unet, "te": te, "vae": vae}.items()
        if text is not None
    }
    if (recipe_file is None) == (not mix):
        raise typer.BadParameter("give either a recipe file, or -e with --pool")
    if recipe_file is not None:
        if pool:
            raise typer.BadParameter("--pool belongs to -e; a recipe file has its own pool")
        folder = recipe_file.parent
        recipe = read_any(recipe_file).recipe
        recipe = recipe.resolve_pool(folder, absolute=True, outside=outside)
    else:
        folder = Path()
        recipe = make_recipe(mix, parse_pool(pool or []))
    if output is None:
        if recipe.save.file is None:
            raise typer.BadParameter("say where the result goes, with -o or in the recipe's save")
        output = folder / recipe.save.file
    settings = _settings(memory, threads, overwrite, hashes, verify, allow_nonfinite, chunk, kernel)
    _run(recipe, output, folder, dtype, settings, dry_run, json_)


def _settings(
    memory: str,
    threads: int,
    overwrite: bool,
    hashes: bool,
    verify: bool,
    allow_nonfinite: bool,
    chunk: int,
    kernel: str,
) -> Settings:
    from stockpot.engine import Settings, parse_size

    if threads < 0 or chunk < 0:
        raise typer.BadParameter("--threads and --chunk must be 0 or more")
    if kernel not in ("auto", "torch"):
        raise typer.BadParameter(f"--kernel must be auto or torch, but got {kernel!r}")
    try:
        n_bytes = parse_size(memory)
    except ValueError as error:
        raise typer.BadParameter(f"--memory: {error}") from error
    return Settings(
        memory=n_bytes,
        threads=threads,
        chunk_elements=chunk or None,
        hashes=hashes,
        verify=verify,
        allow_nonfinite=allow_nonfinite,
        overwrite=overwrite,
        compiled=kernel == "auto",
    )


def _run(
    recipe: Recipe,
    output: Path,
    folder: Path,
    dtype: str | None,
    settings: Settings,
    dry_run: bool,
    json_: bool,
) -> None:
    from stockpot.engine import make_plan, merge, open_pool

    if dry_run:
        with open_pool(recipe, folder) as sources:
            _show_plan(make_plan(recipe, sources, dtype), json_)
        return
    with shown_progress() as progress:
        result = merge(
            recipe, output, folder=folder, dtype=dtype, settings=settings, progress=progress
        )
    if settings.verify and not settings.hashes:
        note("note: without hashes only the header was read back and compared")
    for problem in result.notes:
        note(f"note: {problem}")
    _show_result(result, json_)


def _show_plan(plan: Plan, json_: bool) -> None:
    from stockpot.engine import size_text

    facts = {
        "layout": plan.layout.name,
        "models": list(plan.sources),
        "n_tensors": len(plan.tensors),
        "read_bytes": plan.read_bytes,
        "written_bytes": plan.written_bytes,
        "notes": [str(problem) for problem in plan.notes],
    }
    if json_:
        print_json(facts)
        return
    for problem in plan.notes:
        note(f"note: {problem}")
    typer.echo(
        f"{plan.layout.title}: {len(plan.sources)} models, {len(plan.tensors)} tensors; "
        f"reads {size_text(plan.read_bytes)}, writes {size_text(plan.written_bytes)}, in one pass"
    )
    print_fold(plan.fold, {tensor.cell.component for tensor in plan.tensors.values()})


def _show_result(result: MergeResult, json_: bool) -> None:
    from stockpot.engine import size_text

    if json_:
        print_json(
            {
                "path": str(result.path),
                "content_hash": result.content_hash,
                "components": dict(result.components),
                "n_bytes": result.n_bytes,
                "elapsed_s": round(result.elapsed_s, 3),
                "notes": [str(problem) for problem in result.notes],
            }
        )
        return
    hash_text = f", content hash {result.content_hash[:16]}" if result.content_hash else ""
    typer.echo(
        f"{safe_text(str(result.path))}: {size_text(result.n_bytes)} from "
        f"{len(result.plan.sources)} models in {result.elapsed_s:.1f} s{hash_text}"
    )
