"""``stockpot demo``: the whole way once, on the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.output import note

__all__ = ["demo"]


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the page and all that it shows.")
    ] = Path("demo"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier demo left there.")
    ] = False,
) -> None:
    """Merge the zoo's fine-tunes, draw them all, and write one page about it."""
    from stockpot.cli.demo import run_demo

    result = run_demo(output, overwrite=overwrite, echo=note)
    typer.echo(str(result.page))
