"""Names for files that are given on the command line."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from stockpot.errors import Problem, RecipeError

__all__ = ["free_name", "name_files", "parse_pool"]


def name_files(files: list[Path]) -> dict[str, str]:
    """Name files by their stems; equal stems get numbers, in the order of the whole paths.

    Args:
        files: Paths of checkpoints.

    Returns:
        Paths by name.

    Example:
        >>> name_files([Path("x/a.safetensors"), Path("b.safetensors")])
        {'b': 'b.safetensors', 'a': 'x/a.safetensors'}
    """
    from stockpot.recipes import RESERVED

    pool: dict[str, str] = {}
    for file in sorted(files, key=str):
        stem = _stem(file)
        name, number = stem, 2
        while name in pool or name in RESERVED or not name or "*" in name:
            name, number = f"{stem.replace('*', '')} ({number})", number + 1
        pool[name] = str(file)
    return pool


def _stem(file: Path) -> str:
    if not file.name:
        file = file.resolve()
    for suffix in (".safetensors.index.json", ".safetensors"):
        if file.name.endswith(suffix):
            return file.name.removesuffix(suffix)
    return file.name


def free_name(name: str, taken: Container[str]) -> str:
    """Give a name that nothing else has, with a number behind it where it must.

    Args:
        name: The one wanted.
        taken: Those that are not free.

    Returns:
        The name.

    Example:
        >>> free_name("a", {"a", "a (2)"})
        'a (3)'
    """
    free, number = name, 2
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free


def parse_pool(entries: list[str]) -> dict[str, str]:
    """Read what ``--pool`` options say.

    Args:
        entries: Each ``NAME=FILE``, or ``FILE``, named by its stem.

    Returns:
        Paths by name.

    Raises:
        RecipeError: A name stands for two files.

    Example:
        >>> parse_pool(["a=x.safetensors", "b.safetensors"])
        {'a': 'x.safetensors', 'b': 'b.safetensors'}
    """
    pool: dict[str, str] = {}
    problems = []
    for entry in entries:
        name, equals, file = entry.partition("=")
        if not equals:
            name, file = _stem(Path(entry)), entry
        if name in pool:
            problems.append(
                Problem("repeated", "a name may stand for one file only", f"--pool {entry}")
            )
        pool[name] = file
    if problems:
        raise RecipeError(problems)
    return pool
