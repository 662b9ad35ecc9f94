"""Where scorers' files are, and what is said when they are not there.

Nothing is ever downloaded: a missing file is an error that tells where to get it and where it
belongs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from stockpot.errors import MissingWeightsError, UnknownNameError
from stockpot.scores._base import Need

__all__ = ["VARIABLE", "find_needs", "is_there", "scorers_folder"]

VARIABLE = "STOCKPOT_SCORERS"
"""Environment variable that names the folder of scorers."""


def scorers_folder(folder: str | Path | None = None) -> Path:
    """Say where scorers look for their files.

    Args:
        folder: What somebody asked for; it wins.

    Returns:
        That folder, else the one that the environment variable `VARIABLE` names, else
        ``.stockpot/scorers`` in the user's home. It need not exist.
    """
    if folder is not None:
        return Path(folder)
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path.home() / ".stockpot" / "scorers"


def find_needs(
    name: str,
    needs: Sequence[Need],
    folder: str | Path | None = None,
    files: Mapping[str, str | Path] | None = None,
) -> dict[str, Path]:
    """Find everything that a scorer needs on disk.

    Args:
        name: The scorer's name, for messages.
        needs: What it needs.
        folder: See `scorers_folder`.
        files: Other places, by `Need.key`.

    Returns:
        The path of each need, by key.

    Raises:
        MissingWeightsError: Something is not there; the message names all that is missing, where
            to get it and where to put it.
        UnknownNameError: A key of `files` is not among the needs.
    """
    found: dict[str, Path] = {}
    keys = [need.key for need in needs]
    for key in files or {}:
        if key not in keys:
            raise UnknownNameError(f"file of {name}", key, keys)
    missing = []
    for need in needs:
        given = (files or {}).get(need.key)
        path = scorers_folder(folder) / need.path if given is None else Path(given)
        lacking = _lacking(path, need)
        if lacking:
            missing.append(f"  {path}: {lacking}; it is {need.what}: get it from {need.source}")
        found[need.key] = path
    if missing:
        hint = f"  (another folder: --files, or the environment variable {VARIABLE})"
        raise MissingWeightsError(
            "\n".join([f"{name} needs files that are not there:", *missing, hint])
        )
    return found


def is_there(need: Need, folder: str | Path | None = None) -> bool:
    """Say whether a need is met.

    Args:
        need: One thing that a scorer needs.
        folder: See `scorers_folder`.

    Returns:
        Whether it stands in its place; nothing is opened.
    """
    return not _lacking(scorers_folder(folder) / need.path, need)


def _lacking(path: Path, need: Need) -> str:
    """What is wrong with a place; empty when nothing is."""
    if not need.contains:
        return "" if path.is_file() else "no such file"
    if not path.is_dir():
        return "no such folder"
    for names in need.contains:
        if not any((path / name).is_file() for name in names.split("|")):
            return f"the folder has no {names.replace('|', ' or ')}"
    return ""
