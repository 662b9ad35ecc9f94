"""Names for the files that people type."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .functions import RESERVED

__all__ = ["name_files", "name_of_file"]

_FILES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
_ENDINGS = (*(f"{ending}.index.json" for ending in _FILES), *_FILES)


def name_of_file(file: str | Path) -> str:
    """Name a checkpoint by its file: without folders and without its ending.

    Args:
        file: A path; of ``.`` the folder's name counts.

    Example:
        >>> name_of_file("models/dreamshaper_8.1.safetensors")
        'dreamshaper_8.1'
    """
    path = Path(file)
    if not path.name:
        path = path.resolve()
    for ending in _ENDINGS:
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    return path.name


def name_files(files: Iterable[str | Path]) -> dict[str, str]:
    """Name files by their stems; equal stems get numbers, in the order of the whole paths.

    Args:
        files: In any order.

    Returns:
        A pool: file by name.

    Example:
        >>> name_files(["y/a.safetensors", "b.safetensors", "x/a.safetensors"])
        {'b': 'b.safetensors', 'a': 'x/a.safetensors', 'a (2)': 'y/a.safetensors'}
    """
    pool: dict[str, str] = {}
    for file in sorted(map(str, files)):
        stem = name_of_file(file)
        name, number = stem, 2
        while name in pool or name in RESERVED or not name or "*" in name:
            name, number = f"{stem.replace('*', '')} ({number})", number + 1
        pool[name] = file
    return pool
