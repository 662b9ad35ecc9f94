"""Names for files that are given on the command line."""

from __future__ import annotations

from collections.abc import Container

from stockpot.errors import Problem, RecipeError

__all__ = ["free_name", "parse_pool"]


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
    from stockpot.recipes import name_of_file

    pool: dict[str, str] = {}
    problems = []
    for entry in entries:
        name, equals, file = entry.partition("=")
        if not equals:
            name, file = name_of_file(entry), entry
        if name in pool:
            problems.append(
                Problem("repeated", "a name may stand for one file only", f"--pool {entry}")
            )
        pool[name] = file
    if problems:
        raise RecipeError(problems)
    return pool
