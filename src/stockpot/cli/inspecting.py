"""``stockpot inspect``: what files are and hold."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.output import note, print_json

if TYPE_CHECKING:
    from stockpot.inspect import Inspection

__all__ = ["inspect_files"]

_EVERY_S = 0.1


def inspect_files(
    files: Annotated[
        list[Path],
        typer.Argument(help="Files, sharded indexes, diffusers folders, or folders of these."),
    ],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look into folders of folders too.")
    ] = False,
    hash_: Annotated[
        bool, typer.Option("--hash", help="Read everything and print hashes too.")
    ] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Look at the values: NaN, overflow, zeros, wasted width."),
    ] = False,
    toolkit: Annotated[
        bool, typer.Option("--toolkit", help="The model toolkit's UNET/VAE/CLIP numbers.")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(help="Say which components are this model's; reads everything."),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", "-d", help="Everything about each of several files.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with all of it.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that page.")] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Use what was read before, and keep it.")
    ] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object a file.")] = (
        False
    ),
) -> None:
    """Say what files are: architecture, components, precision, problems.

    Headers are read, and findings of earlier runs are used; --hash, --deep, --toolkit and --base
    read all of a file. docs/inspect.md explains what comes out.
    """
    from stockpot.errors import OutputExistsError
    from stockpot.inspect import (
        Cache,
        Wanted,
        cache_folder,
        find_checkpoints,
        inspect_path,
        inspect_paths,
        shared_components,
    )

    if html is not None and html.exists() and not overwrite:
        raise OutputExistsError(f"{html}: the file is there already; --overwrite replaces it")
    paths = find_checkpoints(files, recursive=recursive)
    if not paths:
        note("there is no checkpoint in the folder; -r looks into folders of folders too")
    folder = cache_folder() if cache else None
    kept = Cache(folder) if folder is not None else None
    wanted = Wanted(hash_ or base is not None, hash_, deep, toolkit)
    with _progress() as show:
        reference = None
        if base is not None:
            reference = inspect_path(base, Wanted(components=True), cache=kept)
        found = inspect_paths(paths, wanted, cache=kept, progress=show)
    shared = shared_components(found, reference)
    if json_:
        print_json([_plain(one, shared[one.path]) for one in found])
    else:
        from stockpot.cli.inspecting_view import print_details, print_overview

        if len(found) > 1:
            print_overview(found, shared, reference)
        if len(found) == 1 or details:
            for one in found:
                print_details(one, shared[one.path], reference)
    if html is not None:
        from stockpot.cli.inspecting_page import inspection_page
        from stockpot.report import write_page

        write_page(inspection_page(found, shared, reference), html, overwrite=overwrite)
        note(f"{html}: written")
    if reference is not None and reference.kind == "unreadable":
        note(f"error: --base {base}: {reference.problems[0]}")
        raise typer.Exit(1)
    if any(one.kind == "unreadable" for one in found):
        if not json_:
            for one in found:
                if one.kind == "unreadable":
                    note(f"error: {one.path}: {one.problems[0]}")
        raise typer.Exit(1)


def _plain(found: Inspection, shared: dict[str, list[str]]) -> dict[str, Any]:
    from stockpot.inspect import metadata_tree

    return {
        **found.to_json(),
        "shared": shared,
        "tree": [node.to_json() for node in metadata_tree(found.metadata)],
    }


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A counter on stderr where somebody looks; headers are read too fast to need one."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(
        "reading", BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("reading", total=None, visible=False)
        last = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _EVERY_S:
                last = now
                bar.update(task, completed=done, total=total, visible=True)

        yield show
