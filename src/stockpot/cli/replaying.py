"""``stockpot replay``: a file again, from the recipe in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.merging import Recheck, Restart, settings_of
from stockpot.cli.output import note, print_json, safe_text, shown_progress
from stockpot.cli.stopping import stoppable

__all__ = ["replay_file"]


def replay_file(
    file: Annotated[Path, typer.Argument(help="A checkpoint that Stockpot made.")],
    pool: Annotated[
        Path,
        typer.Option(help="Folder with its inputs, or theirs, under any names; searched deeply."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The new file; else FILE-replay.safetensors, here."),
    ] = None,
    memory: Annotated[
        str, typer.Option(help="Ceiling for buffers and for intermediates, such as 4GiB.")
    ] = "1GiB",
    threads: Annotated[int, typer.Option(help="Tensors worked on at once; 0: one a core.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output.")
    ] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Let NaN and infinities through.")
    ] = False,
    restart: Restart = False,
    recheck: Recheck = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a checkpoint again from the recipe that it carries.

    The inputs are found by what they hold, whatever their names are. Results of earlier steps are
    used where they are at hand, and else made again.
    """
    from stockpot.checkpoints import file_hashes, open_checkpoint
    from stockpot.engine import replay, size_text

    output = output or Path(f"{file.name.removesuffix('.safetensors')}-replay.safetensors")
    settings = settings_of(memory=memory, threads=threads, overwrite=overwrite,
                           allow_nonfinite=allow_nonfinite, restart=restart,
                           recheck=recheck)  # fmt: skip
    with open_checkpoint(file) as source, stoppable() as stop, shown_progress() as progress:
        settings = replace(settings, stop=stop)
        result = replay(source, pool, output, settings=settings, progress=progress)
    for problem in result.notes:
        note(f"note: {problem}")
    before = file_hashes(file).sha256 if file.is_file() else None
    after = file_hashes(output).sha256 if output.is_file() else None
    same = after == before if after and before else None
    if json_:
        print_json(
            {
                "path": str(output),
                "content_hash": result.content_hash,
                "sha256": after,
                "same_file": same,
            }
        )
        return
    typer.echo(
        f"{safe_text(str(output))}: {size_text(result.n_bytes)} in {result.elapsed_s:.1f} s, "
        f"content hash {str(result.content_hash)[:16]} as recorded"
    )
    if same is None:
        return
    if after is None:
        return  # of a folder the weights are recorded, and not its small files
    typer.echo(
        f"the same file, byte for byte: sha256 {after}"
        if same
        else f"{safe_text(str(file))} itself has other bytes: its metadata, or its weights, were "
        "changed since (stockpot verify)"
    )
