"""Sizes in options, such as ``--memory 4GiB``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["WEIGHTS_HELP", "CeilingForModels", "memory_bytes"]

WEIGHTS_HELP = (
    "Ceiling for weights, such as 8GiB: the model that draws, the first mix while it is loaded, "
    "merging, and models of the pool that are kept at hand. Libraries (some 500 MB), scorers and "
    "the drawing of a picture come on top."
)

CeilingForModels = Annotated[str, typer.Option("--memory", help=WEIGHTS_HELP)]


def memory_bytes(text: str) -> int:
    """Read what ``--memory`` says.

    Args:
        text: Such as ``700MB`` or ``4GiB``; another text ends the program with exit code 2.

    Returns:
        Bytes.

    Example:
        >>> memory_bytes("4GiB")
        4294967296
    """
    from stockpot.engine import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(f"--memory: {error}") from error
