"""``stockpot mean`` and ``stockpot merge``: files in, one file out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.clustering import OnCluster, crew_of
from stockpot.cli.naming import parse_pool
from stockpot.cli.output import note, print_fold, print_json, safe_text, shown_progress
from stockpot.cli.recipe_files import read_any, study_metadata
from stockpot.cli.sizes import memory_bytes
from stockpot.cli.stopping import stoppable

if TYPE_CHECKING:
    from stockpot.engine import Form, MergeResult, Pipeline, Plan, Settings
    from stockpot.methods import Device as MergeDevice
    from stockpot.recipes import Recipe

__all__ = [
    "Dtype",
    "DryRun",
    "Json",
    "Memory",
    "Overwrite",
    "Recheck",
    "Restart",
    "Threads",
    "dtypes_of",
    "mean_of_files",
    "merge_recipe",
    "run_recipe",
    "settings_of",
]

Dtype = Annotated[
    list[str] | None,
    typer.Option(metavar="[COMPONENT=]TYPE",
                 help="Element type of the output: fp16, bf16, fp32, fp64, fp8_e4m3, fp8_e5m2; "
                      "of a component, as in unet=fp8_e4m3. Repeat it. By default what the "
                      "inputs share."),
]  # fmt: skip
Memory = Annotated[str, typer.Option(help="Ceiling for buffers, such as 700MB or 4GiB.")]
Threads = Annotated[int, typer.Option(help="Tensors worked on at once; 0 means one a core.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Throw away what a stopped run left, and begin anew.")
]
Recheck = Annotated[
    bool,
    typer.Option("--recheck", help="Before going on from a stopped run, read again all that it "
                                   "read and wrote."),
]  # fmt: skip
Hashes = Annotated[
    bool, typer.Option("--hash/--no-hash", help="Hash all that is read and written.")
]
Sha256 = Annotated[
    bool,
    typer.Option("--sha256", help="Also read the inputs for the hashes that A1111 knows them by."),
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
Device = Annotated[
    str,
    typer.Option(help="Where methods with much arithmetic run: cpu, cuda, cuda:1, or torch-cpu, "
                      "which does on the processor what a GPU would. Last digits may differ."),
]  # fmt: skip
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
    sha256: Sha256 = False,
    verify: Verify = True,
    allow_nonfinite: Nonfinite = False,
    chunk: Chunk = 0,
    kernel: Kernel = "auto",
    restart: Restart = False,
    recheck: Recheck = False,
    cluster: OnCluster = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Average checkpoints, each with the same weight (the uniform soup).

    The order of the files does not matter: the same files give the same bytes.
    """
    from stockpot.recipes import make_recipe, name_files

    recipe = make_recipe("mean(pool)", name_files(files))
    settings = settings_of(
        memory, threads, overwrite, hashes, sha256, verify, allow_nonfinite, chunk, kernel,
        restart, recheck,
    )  # fmt: skip
    run_recipe(recipe, output, Path(), dtype, settings, dry_run, json_, cluster=cluster)


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
    sha256: Sha256 = False,
    verify: Verify = True,
    allow_nonfinite: Nonfinite = False,
    chunk: Chunk = 0,
    kernel: Kernel = "auto",
    restart: Restart = False,
    recheck: Recheck = False,
    cluster: OnCluster = None,
    device: Device = "cpu",
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
    settings = settings_of(
        memory, threads, overwrite, hashes, sha256, verify, allow_nonfinite, chunk, kernel,
        restart, recheck, device,
    )  # fmt: skip
    run_recipe(recipe, output, folder, dtype, settings, dry_run, json_, cluster=cluster)


def dtypes_of(values: list[str] | None) -> str | dict[str, str] | None:
    """Read what was said of element types: one for all, and others for components.

    Args:
        values: ``TYPE`` or ``COMPONENT=TYPE`` each.

    Returns:
        What `stockpot.engine.merge` takes.

    Example:
        >>> dtypes_of(["fp16", "vae=fp32"])
        {'model': 'fp16', 'vae': 'fp32'}
    """
    found: dict[str, str] = {}
    for value in values or []:
        component, equals, name = value.partition("=")
        if not equals:
            component, name = "model", value
        if found.setdefault(component, name) != name:
            raise typer.BadParameter(
                f"--dtype says two types for {component}: {found[component]} and {name}"
            )
    return found["model"] if list(found) == ["model"] else found or None


def settings_of(
    memory: str = "1GiB",
    threads: int = 0,
    overwrite: bool = False,
    hashes: bool = True,
    sha256: bool = False,
    verify: bool = True,
    allow_nonfinite: bool = False,
    chunk: int = 0,
    kernel: str = "auto",
    restart: bool = False,
    recheck: bool = False,
    device: str = "cpu",
) -> Settings:
    """Turn the options of a command that merges into the engine's settings.

    Args:
        memory: Such as ``700MB``.
        threads: 0 means one a core.
        overwrite: Whether an existing output may be replaced.
        hashes: Whether all that is read and written is hashed.
        sha256: Whether the inputs' files are hashed as well.
        verify: Whether the output is read back.
        allow_nonfinite: Whether NaN and infinities pass.
        chunk: Elements read at once; 0 lets the memory decide.
        kernel: ``auto`` or ``torch``.
        restart: Whether what a stopped run left is thrown away.
        recheck: Whether it is read again before it is gone on from.
        device: Where methods with much arithmetic run.

    Returns:
        The settings; a wrong option ends the program with exit code 2.
    """
    from stockpot.engine import Settings

    if threads < 0 or chunk < 0:
        raise typer.BadParameter("--threads and --chunk must be 0 or more")
    if kernel not in ("auto", "torch"):
        raise typer.BadParameter(f"--kernel must be auto or torch, but got {kernel!r}")
    n_bytes = memory_bytes(memory)
    return Settings(
        memory=n_bytes,
        threads=threads,
        chunk_elements=chunk or None,
        hashes=hashes,
        sha256=sha256,
        verify=verify,
        allow_nonfinite=allow_nonfinite,
        overwrite=overwrite,
        compiled=kernel == "auto",
        restart=restart,
        recheck=recheck,
        device=device,
        tell=note,
    )


def run_recipe(
    recipe: Recipe,
    output: Path,
    folder: Path,
    dtypes: list[str] | None,
    settings: Settings,
    dry_run: bool,
    json_: bool,
    form: Form | None = None,
    pipeline: Pipeline | None = None,
    cluster: str | None = None,
) -> None:
    """Run a recipe, or show what it would do.

    Args:
        recipe: What to make.
        output: The new file.
        folder: Where the pool's relative paths start.
        dtypes: What the user said of element types.
        settings: How to run.
        dry_run: Check and print the plan only.
        json_: Print JSON.
        form: In which form the result is written; None: as the recipe says.
        pipeline: What a diffusers folder holds besides weights.
        cluster: Address of a Ray cluster whose nodes make the tensors; None: this process.
    """
    from stockpot.engine import Pipeline, arranged, in_form, make_plan, merge, open_pool

    dtype, pipeline = dtypes_of(dtypes), pipeline or Pipeline()
    if dry_run:
        with open_pool(recipe, folder) as sources:
            wanted = in_form(recipe, form) if form else recipe
            plan, _ = arranged(make_plan(wanted, sources, dtype), pipeline)
            _show_plan(plan, settings, json_)
        return
    with (
        crew_of(cluster, threads=settings.threads) as crew,
        stoppable() as stop,
        shown_progress() as progress,
    ):
        result = merge(
            recipe,
            output,
            folder=folder,
            dtype=dtype,
            form=form,
            pipeline=pipeline,
            settings=replace(settings, stop=stop, crew=crew),
            metadata=study_metadata(recipe),
            progress=progress,
        )
    if settings.verify and not settings.hashes:
        note("note: without hashes only the header was read back and compared")
    for problem in result.notes:
        note(f"note: {problem}")
    _show_result(result, json_)


def _show_plan(plan: Plan, settings: Settings, json_: bool) -> None:
    from stockpot.engine import device_of, estimate_plan, size_text

    device = device_of(plan, settings)
    costs = estimate_plan(
        plan,
        memory=settings.memory,
        threads=settings.n_threads,
        chunk_elements=settings.chunk_elements,
        compiled=settings.compiled,
        device=device,
    )
    facts = {
        "layout": plan.layout.name,
        "models": list(plan.sources),
        "n_tensors": len(plan.tensors),
        "read_bytes": plan.read_bytes,
        "written_bytes": plan.written_bytes,
        "passes": costs.n_passes,
        "memory_bytes": costs.n_bytes,
        "threads": costs.threads,
        "estimated_s": round(costs.seconds, 1),
        "device": device.told if device else "cpu",
        "notes": [str(problem) for problem in plan.notes],
    }
    if json_:
        print_json(facts)
        return
    for problem in plan.notes:
        note(f"note: {problem}")
    typer.echo(
        f"{plan.layout.title}: {len(plan.sources)} models, {len(plan.tensors)} tensors; "
        f"reads {size_text(plan.read_bytes)}, writes {size_text(plan.written_bytes)}, in "
        f"{'one pass' if costs.n_passes == 1 else f'{costs.n_passes} passes'}"
    )
    typer.echo(
        f"buffers take {size_text(costs.n_bytes)} of {size_text(settings.memory)}; "
        f"about {costs.seconds:.0f} s on {costs.threads} "
        f"thread{'s' if costs.threads != 1 else ''}, if the disk keeps up"
    )
    if plan.fold.calls:
        used = sorted({f"{call.function} (version {call.version})" for call in plan.fold.calls})
        typer.echo(f"methods: {', '.join(used)}")
        typer.echo(_place_text(plan, device, settings.device))
    print_fold(plan.fold, {tensor.cell.component for tensor in plan.tensors.values()})


def _place_text(plan: Plan, device: MergeDevice | None, wanted: str) -> str:
    """Where the arithmetic of a plan runs."""
    if device is None:
        spare = "; none of these methods has a form for devices" if wanted != "cpu" else ""
        return f"arithmetic: on the processor{spare}"
    from stockpot.methods import runs_on_devices

    there = [name for name in plan.methods if runs_on_devices(name)]
    return f"arithmetic: {', '.join(there)} on {device.told}; all else on the processor"


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
                "n_resumed": result.n_resumed,
                "notes": [str(problem) for problem in result.notes],
            }
        )
        return
    hash_text = f", content hash {result.content_hash[:16]}" if result.content_hash else ""
    typer.echo(
        f"{safe_text(str(result.path))}: {size_text(result.n_bytes)} from "
        f"{len(result.plan.sources)} models in {result.elapsed_s:.1f} s{hash_text}"
    )
