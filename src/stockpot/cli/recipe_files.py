"""What the commands about recipes share: reading any format, and finding the layout."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.cli.output import note
from stockpot.errors import Problem, RecipeError

if TYPE_CHECKING:
    from stockpot.engine import History
    from stockpot.layouts import Layout
    from stockpot.recipes import Fold, Recipe
    from stockpot.recipes.importers import Imported

__all__ = [
    "STUDY_KEY",
    "TUNED",
    "find_layout",
    "fold_any",
    "history_in",
    "path_for",
    "placed",
    "predictions_of",
    "read_any",
    "study_metadata",
    "uses_of",
    "write_text",
]

#: Origin of a recipe that `stockpot tune` wrote, and the key of the same in a file's metadata.
TUNED, STUDY_KEY = "stockpot-tune", "stockpot.study"


def read_any(path: Path, make: str | None = None) -> Imported:
    """Read a recipe of any format, the one inside a checkpoint, or those of a folder.

    Args:
        path: What the user named.
        make: For a folder: which of the results to make.

    Returns:
        The recipe; what it was read as is said on stderr, unless it is Stockpot's own.
    """
    from stockpot.recipes.importers import import_file, import_folder

    if path.is_dir():
        imported = import_folder(path, make)
    elif path.suffix.lower() == ".safetensors":
        imported = _inside(path)
    else:
        imported = import_file(path)
    if imported.facts.dialect != "stockpot":
        note(f"{path}: read as {imported.facts}")
    return imported


def _inside(path: Path) -> Imported:
    from stockpot.checkpoints import open_checkpoint
    from stockpot.recipes.importers import import_metadata, import_text

    with open_checkpoint(path) as source:
        metadata = dict(source.metadata)
    if "stockpot.recipe" in metadata:
        return import_text(metadata["stockpot.recipe"], f"{path}: stockpot.recipe")
    return import_metadata(metadata, str(path))


def history_in(path: Path) -> History | None:
    """Read how a checkpoint was made, if it says so with hashes.

    Args:
        path: What the user named; a recipe has no history.
    """
    from stockpot.checkpoints import open_checkpoint
    from stockpot.engine import read_history

    is_pipeline = path.is_dir() and (path / "model_index.json").exists()
    if path.suffix.lower() != ".safetensors" and not is_pipeline:
        return None
    with open_checkpoint(path) as source:
        history = read_history(source.metadata, source.name)
    return history if history is not None and history.last.content is not None else None


def find_layout(imported: Imported, folder: Path, name: str | None, *, strict: bool) -> Layout:
    """Find the architecture: named, or of the pool's files, or what the recipe tells.

    Args:
        imported: The recipe.
        folder: Where its paths start.
        name: What the user said.
        strict: Whether to refuse where nothing tells it; else it is taken to be ``sd1``, and said.
    """
    from stockpot.checkpoints import open_checkpoint
    from stockpot.errors import CheckpointError
    from stockpot.layouts import as_checkpoint, detect, get_layout
    from stockpot.recipes import likely_layout

    if name:
        return get_layout(name)
    for entry in imported.recipe.pool.values():
        path = folder / entry.file
        if not entry.is_hole and path.exists():
            try:
                with open_checkpoint(path) as source:
                    tensors = as_checkpoint(source).tensors
                    return detect({k: info.shape for k, info in tensors.items()}).layout
            except CheckpointError as error:
                note(f"note: {error}")
    told = imported.facts.layout or likely_layout(imported.recipe)
    if told:
        return get_layout(told)
    if strict:
        raise RecipeError(
            [
                Problem(
                    "no-layout",
                    "blocks depend on the architecture, and no file of the pool is there to tell "
                    "it",
                    str(folder),
                    "name it with --layout sd1, sd2 or sdxl",
                )
            ]
        )
    note("note: nothing tells the architecture, so blocks are called as in sd1; see --layout")
    return get_layout("sd1")


def predictions_of(imported: Imported, folder: Path) -> dict[str, str]:
    """Look at the files of a pool that are at hand for what they predict; headers only.

    Args:
        imported: The recipe.
        folder: Where its paths start.

    Returns:
        ``v`` or ``eps`` by name: from the marker that v-prediction models carry, or from
        ModelSpec's field. A file with neither tells nothing, unless another of the pool has the
        marker: markers are what programs go by.
    """
    from stockpot.checkpoints import open_checkpoint
    from stockpot.engine import read_labels
    from stockpot.errors import CheckpointError

    told: dict[str, str] = {}
    silent: list[str] = []
    for name, entry in imported.recipe.pool.items():
        path = folder / entry.file
        if entry.is_hole or not path.exists():
            continue
        try:
            with open_checkpoint(path) as source:
                marked = "v_pred" in source.tensors
                said = "v" if marked else read_labels(source.metadata, source.name).prediction
        except CheckpointError as error:
            note(f"note: {error}")
            continue
        if said is None:
            silent.append(name)
        else:
            told[name] = "v" if said == "v" else "eps"
    return told | dict.fromkeys(silent, "eps") if "v" in told.values() else told


def fold_any(path: Path, layout: str | None, *, strict: bool = False) -> tuple[Imported, Fold]:
    """Read a recipe of any format, and fold it.

    Args:
        path: What the user named.
        layout: What the user said of the architecture.
        strict: As for `find_layout`.
    """
    from stockpot.recipes import fold

    imported = read_any(path)
    folder = path if path.is_dir() else path.parent
    recipe = imported.recipe.resolve_pool(folder, absolute=True)
    imported = replace(imported, recipe=recipe)
    return imported, fold(recipe, find_layout(imported, folder, layout, strict=strict))


def write_text(path: Path, text: str, overwrite: bool) -> None:
    """Write a text file, whole or not at all, and never over another unasked.

    Args:
        path: Where to.
        text: What.
        overwrite: Whether an existing file may be replaced.
    """
    from stockpot.checkpoints import write_whole
    from stockpot.errors import OutputExistsError

    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} is there already; use another name, or --overwrite")
    write_whole(path, text.encode())


def path_for(path: str | Path, folder: Path) -> str:
    """A file's path as a recipe in some folder may write it: inside of it as it is, else whole.

    Args:
        path: Of the file, from here.
        folder: The recipe's.
    """
    whole, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else str(whole)


def placed(recipe: Recipe, start: Path, folder: Path) -> Recipe:
    """A recipe whose paths lead to the same files from another folder.

    Args:
        recipe: Any recipe, its pool without patterns.
        start: Where its paths start.
        folder: Where it is to be written.
    """
    if os.path.abspath(start) == os.path.abspath(folder):
        return recipe
    pool = {
        name: replace(entry, file=path_for(start / entry.file, folder)) if entry.file else entry
        for name, entry in recipe.pool.items()
    }
    return replace(recipe, pool=pool)


def study_metadata(recipe: Recipe) -> dict[str, str]:
    """What a file made from a tuned recipe says of the study that chose its numbers.

    Args:
        recipe: Any recipe; `stockpot tune` notes its evidence in the origin.
    """
    if recipe.origin is None or recipe.origin.format != TUNED:
        return {}
    return {STUDY_KEY: recipe.origin.records.get("study", "")}


def uses_of(recipe: Recipe, folded: Fold | None) -> dict[str, tuple[bool, bool]]:
    """Say of each model whether the UNet and whether a text encoder of it is used.

    Args:
        recipe: Any recipe.
        folded: Its table; without one, what the expressions read counts as used.
    """
    from stockpot.recipes import models_below

    found = {}
    for name in recipe.pool:
        if folded is not None:
            parts = {cell.component for cell in folded.rows if name in folded.reads(cell)}
        else:
            parts = {key for key in recipe.mix if name in models_below(recipe, key)}
            parts |= {"unet", "te"} if "model" in parts else set()
        found[name] = ("unet" in parts, any(part.startswith("te") for part in parts))
    return found
