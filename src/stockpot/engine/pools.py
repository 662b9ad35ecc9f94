"""The files of a recipe's pool, opened together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stockpot.checkpoints import Source, open_checkpoint
from stockpot.errors import CheckpointError, PreflightError, Problem
from stockpot.recipes import Recipe, models_below

__all__ = ["open_pool"]


@contextmanager
def open_pool(recipe: Recipe, folder: str | os.PathLike[str] = ".") -> Iterator[dict[str, Source]]:
    """Open every file of a recipe's pool, and close them at the end.

    Args:
        recipe: Its globs resolved.
        folder: Where relative paths start.

    Yields:
        Open checkpoints by name.

    Raises:
        PreflightError: Files that cannot be opened, all of them at once.
    """
    problems = []
    read = models_below(recipe)
    with ExitStack() as stack:
        sources: dict[str, Source] = {}
        for name, entry in recipe.pool.items():
            # What is rejected is listed only; folding refuses a mix that reads it.
            if entry.status == "rejected" or (entry.is_hole and name not in read):
                continue
            if entry.is_hole:
                problems.append(
                    Problem("hole", f"nobody knows which file this is ({entry.unknown})",
                            f"pool: {name}", "give it a `file`, once you know it")
                )  # fmt: skip
                continue
            try:
                sources[name] = stack.enter_context(open_checkpoint(Path(folder) / entry.file))
            except CheckpointError as error:
                problems.append(Problem("unreadable", str(error), f"pool: {name}"))
        if problems:
            raise PreflightError(problems)
        yield sources
