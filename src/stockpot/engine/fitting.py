"""Which of a model's components a recipe reads, and how models are seen so that these fit.

A recipe may take a VAE from an SD1 checkpoint for an SDXL model, or a text encoder from a file of
its own: what is read of a model must fit, and the rest of it has no say.
"""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.adapters import AdapterSource
from stockpot.checkpoints import Source
from stockpot.engine.retelling import original
from stockpot.errors import CheckpointError, PreflightError, Problem, UnknownNameError
from stockpot.layouts import Detection, Layout, detect, moved, restricted
from stockpot.recipes import Recipe, models_below

__all__ = ["adapted", "components_read", "deciding", "fitted"]


def adapted(
    sources: Mapping[str, Source], names: frozenset[str], layout: Layout
) -> dict[str, Source]:
    """See adapters as checkpoints of differences.

    Args:
        sources: Open files by name.
        names: Those that a recipe calls adapters.
        layout: Of its output.

    Returns:
        The adapters.

    Raises:
        PreflightError: Files that are no adapters, or were made for another architecture.
    """
    found: dict[str, Source] = {}
    problems = []
    for name in sources.keys() & names:
        source = sources[name]
        if isinstance(original(source), AdapterSource):
            found[name] = source
            continue
        try:
            found[name] = AdapterSource(source, layout)
        except CheckpointError as error:
            problems.append(Problem("adapter", str(error), f"pool: {name}"))
    if problems:
        raise PreflightError(sorted(problems, key=lambda problem: problem.where))
    return found


def components_read(recipe: Recipe, layout: Layout) -> dict[str, set[str]]:
    """Say which components a recipe reads of each model.

    Args:
        recipe: Any recipe.
        layout: Of its output.

    Returns:
        Names of components by name in the pool; models that nothing reads are absent.
    """
    owner: dict[str, str] = {}
    # The general first, so that the particular replaces it.
    for key in sorted(recipe.mix, key=lambda key: {"model": 0, "te": 1}.get(key, 2)):
        try:
            owner.update(dict.fromkeys(layout.component_names(key), key))
        except UnknownNameError:
            continue  # folding says so
    found: dict[str, set[str]] = {}
    for key in set(owner.values()):
        components = {name for name, by in owner.items() if by == key}
        for model in models_below(recipe, key):
            found.setdefault(model, set()).update(components)
    return found


def deciding(recipe: Recipe, detections: Mapping[str, Detection]) -> Mapping[str, Detection]:
    """Choose the models whose architecture is the output's: those that the UNet is made of.

    Args:
        recipe: Any recipe.
        detections: Of the models of its pool.

    Returns:
        Theirs; all where the recipe makes no UNet or reads it from no model.
    """
    key = next((key for key in ("unet", "model") if key in recipe.mix), None)
    names = models_below(recipe, key) if key is not None else set()
    return {name: found for name, found in detections.items() if name in names} or detections


def fitted(
    recipe: Recipe,
    layout: Layout,
    sources: Mapping[str, Source],
    detections: Mapping[str, Detection],
) -> tuple[dict[str, Source], dict[str, Detection]]:
    """See models so that the components that a recipe reads of them stand where they belong.

    Args:
        recipe: Which is planned.
        layout: Of its output.
        sources: Models under the names of checkpoints.
        detections: What they are.

    Returns:
        The models and what they are now. A component of another architecture is seen under this
        layout's names where both have the same one. A component that no reader of it has is hidden
        in models that are read for others, so that it counts as absent.
    """
    seen, found = dict(sources), dict(detections)
    if not layout.parts:
        return seen, found
    read = components_read(recipe, layout)
    for name, components in read.items():
        if name in seen and found[name].layout.name != layout.name:
            view = moved(seen[name], found[name].layout, layout, components)
            if view is not None:
                seen[name] = view
                found[name] = detect({key: info.shape for key, info in view.tensors.items()})
    holders = {
        name: set(layout.n_required) - set(found[name].fit.missing_components)
        for name in read
        if name in seen and found[name].layout.name == layout.name
    }
    for component in layout.n_required:
        if any(component in held and component in read[name] for name, held in holders.items()):
            continue
        for name, held in holders.items():
            if component in held:
                seen[name] = restricted(seen[name], layout, read[name])
    return seen, found
