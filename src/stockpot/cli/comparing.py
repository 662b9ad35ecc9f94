"""``stockpot compare``, ``explain`` and ``convergence``: what is in a pool, and in a mix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.clustering import OnCluster, crew_of
from stockpot.cli.merging import Restart
from stockpot.cli.naming import free_name
from stockpot.cli.output import note, print_json, print_table, safe_text, shown_progress
from stockpot.cli.sizes import memory_bytes
from stockpot.cli.stopping import stoppable
from stockpot.errors import (
    CheckpointError,
    MissingExtraError,
    OutputExistsError,
    PreflightError,
    Problem,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from stockpot.compare import Comparison, Stage

__all__ = ["compare_files"]

FILE_NAME = "comparison.safetensors"

Files = Annotated[
    list[Path], typer.Argument(help="Checkpoints: files, sharded indexes, diffusers folders.")
]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")]
Base = Annotated[
    Path | None, typer.Option(help="The model that the others come from; joins the pool.")
]
By = Annotated[str, typer.Option(help="How fine to keep the sums: component, block or tensor.")]
Memory = Annotated[str, typer.Option(help="Ceiling for buffers, such as 700MB or 4GiB.")]
Threads = Annotated[int, typer.Option(help="Tensors worked on at once; 0 means one a core.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def compare_files(
    files: Files,
    output: Folder,
    base: Base = None,
    by: By = "block",
    recipe: Annotated[
        Path | None,
        typer.Option(help="Put the intermediates of this recipe on the maps, without making them."),
    ] = None,
    level: Annotated[
        int, typer.Option(help="Leave out intermediates below this level of the recipe.")
    ] = 1,
    add: Annotated[
        bool, typer.Option("--add", help="Add the files to the comparison in the folder.")
    ] = False,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="Write the page, its pictures and tables.")
    ] = True,
    memory: Memory = "1GiB",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    restart: Restart = False,
    cluster: OnCluster = None,
    json_: Json = False,
) -> None:
    """Read every file once, and tell how the models lie: distances, families, maps.

    The folder gets comparison.safetensors: naming that file in place of checkpoints makes the page
    anew without them, and `--add` goes on from it.
    """
    from stockpot.compare import add_mixes, load_comparison, save_comparison, study

    kept, sums = output / FILE_NAME, output / (FILE_NAME + ".sums.partial")
    results = [kept, output / "comparison.html", output / "figures"] if page else [kept]
    _check_extras(page)
    stages = [] if recipe is None else _stages(recipe, level)
    if not (overwrite or add):
        for result in results:
            if result.exists() and not (result == kept and files == [kept]):
                raise OutputExistsError(
                    f"{result}: there is a result already; allow replacing it with --overwrite, or "
                    "add models to it with --add"
                )
    if add:
        found = load_comparison(kept)
        from stockpot.recipes import name_files

        paths = _old_paths(found)
        for name, path in name_files(files).items():
            paths[free_name(name, paths)] = path
        base_name = None if found.base is None else found.names[found.base]
        if base is not None:
            raise typer.BadParameter("--base cannot change with --add; compare all files again")
        known = {model.name: model.content for model in found.models}
        found = read_pool(paths, base_name, found.by, memory, threads, sums, restart, cluster)
        _check_unchanged(found, known)
    elif len(files) == 1 and _is_comparison(files[0]):
        found = load_comparison(files[0])
    else:
        paths, base_name = _paths(files, base)
        found = read_pool(paths, base_name, by, memory, threads, sums, restart, cluster)
    output.mkdir(parents=True, exist_ok=True)
    if not (len(files) == 1 and files[0] == kept and not add):
        save_comparison(found, kept, overwrite=overwrite or add)
        sums.unlink(missing_ok=True)
    shown = found
    if stages:
        called = _called(found, stages)
        shown = add_mixes(found, stages, called)
        ours = {theirs: name for name, theirs in called.items()}
        stages = [
            replace(stage, reads=tuple(ours.get(read, read) for read in stage.reads))
            for stage in stages
        ]
        placed = set(shown.names) - set(found.names)
        for stage in stages:
            if stage.name not in placed:
                note(
                    f"note: {stage.name} is not placed: it reads models that were not compared, "
                    "or is not linear"
                )
    told = study(found)
    if page:
        from stockpot.cli.comparison_page import write_comparison

        write_comparison(told, shown, stages, output, overwrite=overwrite or add)
    if json_:
        print_json(_plain(found, told.sentences))
    else:
        _print(found, told.sentences)
        if page:
            typer.echo(f"\nsee {safe_text(str(output / 'comparison.html'))}")


def read_pool(
    paths: dict[str, str],
    base: str | None,
    by: str,
    memory: str,
    threads: int,
    sums: Path | None = None,
    restart: bool = False,
    cluster: str | None = None,
) -> Comparison:
    """Walk over files with progress on stderr.

    Args:
        paths: Files by name.
        base: Name of the base, or none.
        by: How fine to keep the sums.
        memory: Ceiling as people write it.
        threads: Tensors at once.
        sums: Where to keep sums on the way, so that a walk that is stopped can go on.
        restart: Throw away those that are there.
        cluster: Address of a Ray cluster whose nodes read and sum; None: this process.

    Returns:
        What was found.

    Raises:
        PreflightError: Files cannot be opened; all of them at once.
    """
    from stockpot.checkpoints import open_checkpoint
    from stockpot.compare import compare

    if by not in ("component", "block", "tensor"):
        raise typer.BadParameter(f"--by must be component, block or tensor, but got {by!r}")
    if threads < 0:
        raise typer.BadParameter("--threads must be 0 or more")
    n_bytes = memory_bytes(memory)
    problems = []
    with ExitStack() as stack:
        sources = {}
        for name, path in paths.items():
            try:
                sources[name] = stack.enter_context(open_checkpoint(path))
            except CheckpointError as error:
                problems.append(Problem("unreadable", str(error)))
        if problems:
            raise PreflightError(problems)
        if sums is not None:
            stack.enter_context(_folder_of(sums))
        crew = stack.enter_context(crew_of(cluster, threads=threads))
        stop = stack.enter_context(stoppable())
        progress = stack.enter_context(shown_progress())
        return compare(
            sources, base=base, by=by, memory=n_bytes, threads=threads, progress=progress,  # type: ignore[arg-type]
            journal=sums, restart=restart, stop=stop, tell=note,
            crew=crew,
        )  # fmt: skip


@contextmanager
def _folder_of(file: Path) -> Iterator[None]:
    """Make a file's folder, and take it away again where nothing came into it."""
    folder = file.parent
    there = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not there and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _check_extras(page: bool) -> None:
    """Say what is not installed before minutes are spent on reading."""
    needed = ["scipy", *(["jinja2", "matplotlib", "plotly"] if page else [])]
    if any(find_spec(name) is None for name in needed):
        raise MissingExtraError("comparing models", "compare")


def _stages(recipe: Path, level: int) -> list[Stage]:
    from stockpot.cli.recipe_files import read_any
    from stockpot.compare import list_stages

    resolved = read_any(recipe).recipe.resolve_pool(recipe.parent, absolute=True)
    return [stage for stage in list_stages(resolved) if stage.level >= level]


def _called(found: Comparison, stages: list[Stage]) -> dict[str, str]:
    """What the recipe calls models that were compared under their files' names."""
    from stockpot.recipes import name_of_file

    called = {}
    for name, entry in stages[0].recipe.pool.items():
        if name not in found.names and entry.file:
            stem = name_of_file(entry.file)
            if stem in found.names:
                called[stem] = name
    return called


def _paths(files: list[Path], base: Path | None) -> tuple[dict[str, str], str | None]:
    """Files by name, the base first; it may also be among the files."""
    from stockpot.recipes import name_files

    if base is None:
        return name_files(files), None
    others = [file for file in files if os.path.abspath(file) != os.path.abspath(base)]
    paths = name_files([base])
    name = next(iter(paths))
    for other, path in name_files(others).items():
        paths[free_name(other, paths)] = path
    return paths, name


def _is_comparison(file: Path) -> bool:
    from stockpot.checkpoints import open_checkpoint

    with open_checkpoint(file) as source:
        return "stockpot.comparison" in source.metadata


def _old_paths(found: Comparison) -> dict[str, str]:
    lost = [model.name for model in found.models if not model.path]
    if lost:
        raise CheckpointError(
            f"the comparison does not say where {lost[0]} is; compare all files again"
        )
    return {model.name: model.path for model in found.models}


def _check_unchanged(found: Comparison, known: dict[str, str]) -> None:
    changed = [
        Problem(
            "changed",
            "the file is not what it was when the comparison was made",
            model.path,
            "compare all files again",
        )
        for model in found.models
        if model.name in known and known[model.name] != model.content
    ]
    if changed:
        raise PreflightError(changed)


def _print(found: Comparison, sentences: tuple[str, ...]) -> None:
    from stockpot.compare import WEIGHTS, Place

    for sentence in sentences:
        typer.echo(safe_text(sentence))
    for component in found.components:
        if component not in WEIGHTS or len(found.models) > 24:
            continue
        pairs = found.pairs(Place(component))
        distances, coverage = pairs.distances(), pairs.coverage()
        print_table(
            ["", *(f">{i + 1}" for i in range(len(found.models)))],
            (
                [f"{i + 1} {name}", *(
                    _cell(distances[i, j], coverage[i, j]) for j in range(len(found.models))
                )]
                for i, name in enumerate(found.names)
            ),
            f"{component}: distances ({found.layout}; * over a part of the keys, – nothing shared)",
        )  # fmt: skip


def _cell(distance: float, coverage: float) -> str:
    if distance != distance:
        return "–"
    return f"{distance:.4g}" + ("*" if coverage < 1 else "")


def _plain(found: Comparison, sentences: tuple[str, ...]) -> dict[str, object]:
    from stockpot.compare import Place

    def rows(matrix: npt.NDArray[np.float64]) -> list[list[float | None]]:
        return [[None if x != x else float(x) for x in row] for row in matrix]

    components = {}
    for name in found.components:
        pairs = found.pairs(Place(name))
        components[name] = {
            "l2": rows(pairs.distances()),
            "cosine": rows(pairs.cosines()),
            "compared_elements": pairs.compared.tolist(),
            "elements": pairs.sizes.tolist(),
        }
    return {
        "models": [
            {
                "name": model.name,
                "layout": model.layout,
                "content": model.content,
                "components": dict(model.components),
            }
            for model in found.models
        ],
        "base": None if found.base is None else found.names[found.base],
        "components": components,
        "not_compared": [
            {
                "model": found.names[e.model],
                "component": e.component,
                "reason": e.reason,
                "n_keys": e.n_keys,
                "n_elements": e.n_elements,
                "keys": list(e.keys),
            }
            for e in found.exclusions
        ],
        "findings": list(sentences),
    }
