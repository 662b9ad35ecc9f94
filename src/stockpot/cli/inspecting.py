"""``stockpot inspect``: what files are and hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.output import note, print_json, print_table, safe_text

if TYPE_CHECKING:
    from stockpot.compare import Inspection

__all__ = ["inspect_files"]


def inspect_files(
    files: Annotated[
        list[Path], typer.Argument(help="Checkpoints: files, sharded indexes, diffusers folders.")
    ],
    hash_: Annotated[
        bool, typer.Option("--hash", help="Read everything and print hashes too.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object a file.")] = (
        False
    ),
) -> None:
    """Say what checkpoints are: architecture, components, precision, problems."""
    from stockpot.checkpoints import open_checkpoint
    from stockpot.compare import inspect_checkpoint
    from stockpot.errors import CheckpointError

    found: list[Inspection] = []
    failures: list[tuple[Path, CheckpointError]] = []
    for file in files:
        try:
            with open_checkpoint(file) as source:
                found.append(inspect_checkpoint(source, hashes=hash_))
        except CheckpointError as error:
            failures.append((file, error))
    if json_:
        print_json(
            [one.to_json() for one in found]
            + [
                {
                    "path": str(file),
                    "architecture": None,
                    "components": {},
                    "problems": [{"code": "unreadable", "key": "", "message": str(failure)}],
                    "hashes": {},
                }
                for file, failure in failures
            ]
        )
    else:
        for one in found:
            _print(one)
        for _, failure in failures:
            note(f"error: {failure}")
    if failures:
        raise typer.Exit(1)


def _print(found: Inspection) -> None:
    from stockpot.engine import size_text

    layout = found.detection.layout
    typer.echo(f"{safe_text(found.path)}: {layout.title} ({layout.name})")
    for sentence in found.detection.evidence:
        typer.echo(f"  {safe_text(sentence)}")
    print_table(
        ["component", ">tensors", ">parameters", ">size", "types", "content hash"],
        (
            [
                facts.name,
                str(facts.n_keys),
                f"{facts.n_params:,}",
                size_text(facts.n_bytes),
                ", ".join(facts.dtypes),
                facts.hash or "(ask with --hash)",
            ]
            for facts in found.components.values()
        ),
    )
    if found.content_hash:
        typer.echo(f"  content hash  {found.content_hash}")
    if found.file_hashes:
        typer.echo(f"  sha256        {found.file_hashes.sha256}")
        typer.echo(f"  AutoV2        {found.file_hashes.autov2}")
        typer.echo(f"  AutoV3        {found.file_hashes.autov3}")
        typer.echo(f"  legacy        {found.file_hashes.legacy}")
    for problem in found.problems:
        typer.echo(f"  {problem.code}: {safe_text(str(problem))}")
    typer.echo("")
