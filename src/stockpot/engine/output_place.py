"""Whether an output can be where it is wanted: the folder, the room, and what stands there."""

from __future__ import annotations

from pathlib import Path

from stockpot.checkpoints import free_bytes
from stockpot.engine.budget import size_text
from stockpot.engine.plan import Plan
from stockpot.errors import OutputError, PreflightError, Problem

__all__ = ["check_output"]


def check_output(plan: Plan, path: Path, n_bytes: int) -> None:
    """Find all that is wrong with the place of an output before anything is done.

    Args:
        plan: What will be written.
        path: Under which name.
        n_bytes: How much that takes.

    Raises:
        PreflightError: There is no folder, no room, or an input stands there.
    """
    if not path.name:
        raise OutputError(f"{path}: the output must be a file, but this names none")
    problems = []
    folder = path.parent
    if not folder.is_dir():
        problems.append(
            Problem("no-folder", "the output's folder must exist", str(folder), "make it first")
        )
    else:
        free = free_bytes(folder) + _n_bytes_at(path.with_name(path.name + ".partial"))
        if free < n_bytes:
            problems.append(
                Problem(
                    "disk-full",
                    f"the output takes {size_text(n_bytes)}, "
                    f"but the disk has room for {size_text(free)}",
                    str(path),
                    "free some room, or write to another disk",
                )
            )
    # The name under which it grows is taken over too, whatever stands there.
    written = (path, path.with_name(path.name + ".partial"))
    for name, source in plan.sources.items():
        if any(_is_same(file, other) for file in source.files for other in written):
            problems.append(
                Problem(
                    "output-is-input",
                    "an input is never written to",
                    f"{source.name} (pool: {name})",
                    "choose another name for the output",
                )
            )
    if problems:
        raise PreflightError(problems)


def _n_bytes_at(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _is_same(file: Path, other: Path) -> bool:
    try:
        return file.samefile(other)  # sees through links and through upper and lower case
    except OSError:
        return False
