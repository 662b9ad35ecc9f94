"""Component work as recipes: swap, extract, prune, un-prune, convert.

Each function looks at headers and gives a recipe; `merge` runs it like any other, so the result
says how it was made, and folds with what came before.

Example:
    >>> from stockpot.engine import extract, merge
    >>> merge(extract("model.safetensors", "vae"), "vae.safetensors", form="bare")
    Traceback (most recent call last):
    ...
    stockpot.errors.CheckpointError: model.safetensors: the file cannot be opened: No such ...
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import LayoutError, PreflightError, Problem
from stockpot.layouts import Detection, Layout, as_checkpoint, detect
from stockpot.recipes import Expr, Recipe, make_recipe, model, name_files

__all__ = ["SWAPPABLE", "convert", "extract", "prune", "swap", "unprune"]

SWAPPABLE = ("unet", "te", "te0", "te1", "vae")
"""The components that are swapped, taken out and put in."""

Name = str | os.PathLike[str]


@dataclass(frozen=True)
class _Looked:
    """What a header tells of a model."""

    name: str
    detection: Detection
    components: frozenset[str]
    has_ema: bool

    @property
    def layout(self) -> Layout:
        return self.detection.layout


def swap(target: Name, donors: Mapping[str, Name]) -> Recipe:
    """Put components of other models into a model.

    The schedule and the markers (such as ``v_pred``) belong to the UNet and come with it, where
    its donor is a whole checkpoint; the old UNet's EMA copy goes.

    Args:
        target: A checkpoint.
        donors: Files by component: ``unet``, ``te``, ``te0``, ``te1``, ``vae``. A donor may be a
            whole checkpoint, also of another architecture that has the same component, or a file
            of the component alone, with or without its prefix.

    Returns:
        The recipe.

    Raises:
        PreflightError: The model has no such component, or a donor lacks it; all at once.
        LayoutError: Nobody knows which keys of the model are which component.
        CheckpointError: A file cannot be read.
    """
    looked = _look_known(target)
    if not donors:
        raise PreflightError(
            [Problem("no-donor", "a swap needs a donor", looked.name, "name one, such as --vae")]
        )
    problems = []
    given = {}
    for component, file in donors.items():
        names = looked.layout.component_names(component)
        donor = _look(file)
        given[component] = donor
        if not any(name in SWAPPABLE for name in names):
            problems.append(
                Problem("component", f"only {', '.join(SWAPPABLE)} can be swapped, but got "
                        f"{component!r}")
            )  # fmt: skip
        if not donor.components:
            problems.append(
                Problem("donor", f"the donor must have a {component}, but nothing in it is known: "
                        + "; ".join(donor.detection.evidence), donor.name)
            )  # fmt: skip
    if problems:
        raise PreflightError(problems)
    pool = name_files({str(target), *map(str, donors.values())})
    names_of = {file: name for name, file in pool.items()}
    mix: dict[str, Expr] = {"model": model(names_of[str(target)])}
    mix |= {component: model(names_of[str(file)]) for component, file in donors.items()}
    if "unet" in donors:
        if looked.has_ema or given["unet"].has_ema:
            mix["ema"] = mix["unet"]
        if len(given["unet"].components) > 1:
            mix["other"] = mix["unet"]
    return make_recipe(mix, pool)


def extract(source: Name, component: str) -> Recipe:
    """Take one component out of a model.

    Args:
        source: A checkpoint or a diffusers folder.
        component: ``unet``, ``te``, ``te0``, ``te1`` or ``vae``.

    Returns:
        The recipe.

    Raises:
        UnknownNameError: The model's architecture has no such component.
        PreflightError: The model lacks it.
        LayoutError: Nobody knows which keys of the model are which component.
        CheckpointError: The file cannot be read.
    """
    looked = _look_known(source)
    names = looked.layout.component_names(component)
    absent = [name for name in names if name not in looked.components]
    if absent:
        raise PreflightError(
            [
                Problem(
                    "missing-component",
                    f"there is no {', '.join(absent)} in it, but {', '.join(looked.components)}",
                    looked.name,
                )
            ]
        )
    ((name, file),) = name_files([str(source)]).items()
    return make_recipe({component: model(name)}, {name: file})


def prune(source: Name) -> Recipe:
    """Leave out what drawing does not need: the EMA copy and keys without a meaning.

    Args:
        source: A checkpoint; of a known architecture, since of another nobody knows what it needs.

    Returns:
        The recipe.

    Raises:
        LayoutError: The architecture is not known.
        CheckpointError: The file cannot be read.
    """
    looked = _look_known(source)
    ((name, file),) = name_files([str(source)]).items()
    kept = [part.component.name for part in looked.layout.parts]
    mix = {part: model(name) for part in kept if part in looked.components}
    return make_recipe({**mix, "other": model(name)}, {name: file})


def unprune(source: Name, base: Name) -> Recipe:
    """Fill the keys that a model lacks from another.

    Args:
        source: A checkpoint that lacks keys or whole components.
        base: A complete checkpoint of the same architecture.

    Returns:
        The recipe ``source | base``.

    Raises:
        PreflightError: The two are of different architectures.
        CheckpointError: A file cannot be read.
    """
    first, second = _look(source), _look(base)
    if first.layout.name != second.layout.name and not first.detection.also:
        raise PreflightError(
            [
                Problem(
                    "architecture",
                    f"the base must be of the model's architecture, {first.layout.title}, but is "
                    f"{second.layout.title}",
                    second.name,
                    "choose another base",
                )
            ]
        )
    pool = name_files({str(source), str(base)})
    names = {file: name for name, file in pool.items()}
    return make_recipe(model(names[str(source)]) | model(names[str(base)]), pool)


def convert(source: Name) -> Recipe:
    """Keep a model as it is, to write it in another type or another form.

    Args:
        source: A checkpoint or a diffusers folder.

    Returns:
        The recipe.
    """
    ((name, file),) = name_files([str(source)]).items()
    return make_recipe({"model": model(name)}, {name: file})


def _look(file: Name) -> _Looked:
    with open_checkpoint(file) as source:
        viewed = as_checkpoint(source)
        detection = detect({key: info.shape for key, info in viewed.tensors.items()})
        layout = detection.layout
        absent = set(detection.fit.missing_components)
        held = frozenset(set(layout.n_required) - absent)
        has_ema = any(key.startswith("model_ema.") for key in viewed.tensors)
        return _Looked(source.name, detection, held, has_ema)


def _look_known(file: Name) -> _Looked:
    looked = _look(file)
    if not looked.layout.parts:
        raise LayoutError(
            f"{looked.name}: the architecture must be known, so that its components are, but "
            + "; ".join(looked.detection.evidence)
        )
    return looked
