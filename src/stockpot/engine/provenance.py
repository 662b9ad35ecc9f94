"""What a merged file says of itself: the recipe, hashes of what was read, and what came before.

The metadata depend on the recipe and on contents alone: no date, no path, no order of arguments,
so that the same merge gives the same file. `history` has the form in which steps are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import stockpot
from stockpot.checkpoints import content_hash, hash_tensors
from stockpot.engine.history import (
    PROVENANCE_KEY,
    RECIPE_KEY,
    History,
    InputRecord,
    Step,
    read_history,
)
from stockpot.engine.plan import Plan
from stockpot.engine.running import Digests
from stockpot.errors import CheckpointError, Problem
from stockpot.recipes import PoolEntry, Recipe, canonical

__all__ = [
    "Ancestry",
    "component_hashes",
    "describe",
    "hash_the_rest",
    "stand_in",
    "trace",
    "untold",
]

_NO_HASH = "0" * 64
# What a merge does not read of a component that it reads, such as position ids, is hashed too
# while it is this small, so that the hash is the component's own.
_SMALL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ancestry:
    """What is known of a plan's inputs before they are read.

    Attributes:
        histories: How inputs say that they were made, by name; those that say nothing are absent.
        reads: By model and component: the keys whose hash is recorded, and whether these are all
            keys that the model has of the component.
        notes: Histories that could not be read.
    """

    histories: Mapping[str, History]
    reads: Mapping[str, Mapping[str, tuple[tuple[str, ...], bool]]]
    notes: tuple[Problem, ...]


def trace(plan: Plan) -> Ancestry:
    """Look up what the inputs of a plan say of themselves; reads metadata only.

    Args:
        plan: What will be done.

    Returns:
        Their histories, and which hashes will be recorded.
    """
    histories, notes = {}, []
    for name, source in plan.sources.items():
        try:
            history = read_history(source.metadata, source.name)
        except CheckpointError as error:
            notes.append(Problem("history", str(error), remedy="it is not carried on"))
            continue
        if history is not None and history.last.content is not None:
            histories[name] = history
    return Ancestry(histories, _reads(plan), tuple(notes))


def hash_the_rest(plan: Plan, ancestry: Ancestry, digests: Digests) -> None:
    """Hash the small tensors that belong to what was read and that no row needed.

    Args:
        plan: What was done.
        ancestry: Of the plan.
        digests: Hashes of all that was read; completed in place.
    """
    for name, components in ancestry.reads.items():
        for keys, _ in components.values():
            rest = [key for key in keys if (name, key) not in digests.inputs]
            hashes = hash_tensors(plan.sources[name], rest)
            digests.inputs.update({(name, key): value for key, value in hashes.items()})


def describe(plan: Plan, ancestry: Ancestry, digests: Digests) -> dict[str, str]:
    """Metadata for the output.

    Args:
        plan: What was done.
        ancestry: Of the plan.
        digests: Hashes of all tensors; empty where hashing was off, and then no hash is claimed
            and no history is carried on.

    Returns:
        Strings only: ``format``, ``stockpot.*`` and ModelSpec fields.
    """
    known = bool(digests.outputs)
    records = {}
    earlier: dict[str, Step] = {}
    for name in sorted(plan.sources):
        hashes: dict[str, str | None] = {}
        for component, (keys, _) in ancestry.reads[name].items():
            infos = {key: plan.sources[name].tensors[key] for key in keys}
            inputs = {key: digests.inputs[name, key] for key in keys} if known else {}
            hashes[component] = (
                content_hash(infos, inputs, plan.layout.relative_key) if known else None
            )
        history = ancestry.histories.get(name)
        made = None
        if known and history is not None and _agrees(history.last, ancestry.reads[name], hashes):
            made = history.last.content
            assert made is not None  # `trace` keeps no others
            earlier |= {made: history.last, **history.earlier}
        records[name] = InputRecord(hashes, made)
    recipe = _portable(plan.fold.recipe).to_yaml()
    last = Step(
        recipe,
        stockpot.__version__,
        plan.layout.name,
        records,
        component_hashes(plan, digests) if known else {},
        content_hash(plan.infos, digests.outputs) if known else None,
    )
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _ARCHITECTURES.get(plan.layout.name, plan.layout.name),
        "modelspec.title": f"Stockpot merge of {len(plan.sources)} models",
        "modelspec.implementation": "stockpot",
        RECIPE_KEY: recipe,
        PROVENANCE_KEY: History(last, earlier).to_json(),
    }


def stand_in(plan: Plan, ancestry: Ancestry, hashes: bool) -> dict[str, str]:
    """Metadata of at least the length that `describe` will give, to reserve room with.

    Args:
        plan: What will be done.
        ancestry: Of the plan.
        hashes: Whether hashes will be computed.

    Returns:
        Strings only.
    """
    if not hashes:
        return describe(plan, ancestry, Digests({}, {}))
    outputs = dict.fromkeys(plan.tensors, _NO_HASH)
    inputs = {
        (name, key): _NO_HASH
        for name, components in ancestry.reads.items()
        for keys, _ in components.values()
        for key in keys
    }
    # Whether a history holds is known only when its model was read: the longest case counts.
    hopeful = {
        name: replace(history, last=replace(history.last, components={}))
        for name, history in ancestry.histories.items()
    }
    told = describe(plan, replace(ancestry, histories=hopeful), Digests(outputs, inputs))
    room = sum(len(history.to_json()) for history in ancestry.histories.values())
    return {**told, PROVENANCE_KEY: told[PROVENANCE_KEY] + " " * room}


def untold(plan: Plan, ancestry: Ancestry, metadata: Mapping[str, str]) -> tuple[Problem, ...]:
    """Name the inputs whose history was not carried on, because they are not what it says.

    Args:
        plan: What was done.
        ancestry: Of the plan.
        metadata: What `describe` gave.

    Returns:
        A note for each of them.
    """
    written = read_history(metadata)
    if written is None or written.last.content is None:
        return ()
    return tuple(
        Problem(
            "changed-since",
            "its weights are not those that its recipe made: another program changed them, "
            "and its history is not carried on",
            plan.sources[name].name,
        )
        for name in ancestry.histories
        if written.last.inputs[name].made is None
    )


def component_hashes(plan: Plan, digests: Digests) -> dict[str, str]:
    """Content hash of each component of the output, with the components' prefixes taken off.

    Args:
        plan: What was done.
        digests: Hashes of all tensors.

    Returns:
        Hash by component, in the layout's order.
    """
    found = {}
    for component in plan.layout.components:
        infos = {
            key: tensor.info
            for key, tensor in plan.tensors.items()
            if tensor.cell.component == component.name
        }
        if infos:
            found[component.name] = content_hash(infos, digests.outputs, plan.layout.relative_key)
    return found


def _agrees(
    step: Step,
    reads: Mapping[str, tuple[tuple[str, ...], bool]],
    hashes: Mapping[str, str | None],
) -> bool:
    """Whether what was read is what a step made; parts of components cannot be compared."""
    return all(
        step.components.get(component, hashes[component]) == hashes[component]
        for component, (_, whole) in reads.items()
        if whole
    )


def _reads(plan: Plan) -> dict[str, dict[str, tuple[tuple[str, ...], bool]]]:
    read: dict[str, dict[str, set[str]]] = {name: {} for name in plan.sources}
    for tensor in plan.tensors.values():
        for term in tensor.terms:
            read[term.model].setdefault(tensor.cell.component, set()).add(term.key)
    found: dict[str, dict[str, tuple[tuple[str, ...], bool]]] = {}
    for name, components in read.items():
        source = plan.sources[name]
        held: dict[str, list[str]] = {component: [] for component in components}
        for key in source.tensors:
            component = plan.layout.cell_of(key).component
            if component in held:
                held[component].append(key)
        found[name] = {}
        for component, keys in sorted(components.items()):
            rest = [source.tensors[key].n_bytes for key in held[component] if key not in keys]
            whole = sum(rest) <= _SMALL_BYTES
            chosen = held[component] if whole else keys
            found[name][component] = (tuple(sorted(chosen)), whole)
    return found


def _portable(recipe: Recipe) -> Recipe:
    """The recipe without paths; entries keep their names, which the expressions use."""
    recipe = canonical(recipe)
    pool = {name: PoolEntry(f"{name}.safetensors", recipe.pool[name].hash) for name in recipe.pool}
    return replace(recipe, pool=pool, save=replace(recipe.save, file=None))


_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
}
