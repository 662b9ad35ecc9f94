"""Patterns with `*`, over names and over the files of a folder.

Only ``*`` is special: community files are called things like ``[Lah] Mysterious.safetensors``.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["expand", "matches", "stem_of"]


def matches(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern, in time linear in both for each star.

    Args:
        pattern: Text in which ``*`` is any run of characters, none included.
        name: What to compare.

    Example:
        >>> matches("anime-*", "anime-v1"), matches("[x]*", "x1"), matches("*a*b", "aab")
        (True, False, True)
    """
    first, *middle = pattern.split("*")
    if not middle:
        return name == pattern
    *middle, last = middle
    end = len(name) - len(last)
    if not name.startswith(first) or not name.endswith(last) or end < len(first):
        return False
    # The leftmost place for each part leaves the most room for the rest; no backtracking.
    position = len(first)
    for part in middle:
        position = name.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True


def stem_of(file: str) -> str:
    """The name of a file without folders and without its last extension.

    Args:
        file: A path with ``/``.

    Example:
        >>> stem_of("finetunes/dreamshaper_8.1.safetensors")
        'dreamshaper_8.1'
    """
    return Path(file).stem


def expand(folder: Path, pattern: str) -> list[str]:
    """List the files of a folder that fit a pattern, sorted by path.

    Args:
        folder: Where the pattern starts.
        pattern: Relative path with ``/``; ``*`` stays within one part of it.

    Returns:
        Paths relative to the folder, with ``/`` on every platform.

    Raises:
        ValueError: The pattern is absolute or leaves the folder.

    Example:
        >>> expand(Path("."), "no-such-folder/*.safetensors")
        []
    """
    parts = pattern.replace("\\", "/").split("/")
    if pattern.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise ValueError(f"a pattern must stay within the pool's folder, but got {pattern!r}")
    found = [""]
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        found = [
            f"{parent}{name}" if last else f"{parent}{name}/"
            for parent in found
            for name in _children(folder / parent, part, files=last)
        ]
    return sorted(found)


def _children(folder: Path, part: str, *, files: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [
                entry.name
                for entry in entries
                if matches(part, entry.name)
                and (entry.is_file() if files else entry.is_dir())
                and not (entry.name.startswith(".") and part.startswith("*"))
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
