"""What a merged file says of itself: the recipe, hashes of what was read, and who made it.

The metadata depend on the recipe and on contents alone: no date, no path, no order of arguments,
so that the same merge gives the same file.
"""

from __future__ import annotations

import json
from dataclasses import replace

import stockpot
from stockpot.checkpoints import content_hash
from stockpot.engine.plan import Plan
from stockpot.engine.running import Digests
from stockpot.recipes import PoolEntry, Recipe, Save, canonical

__all__ = ["component_hashes", "describe", "stand_in"]

_NO_HASH = "0" * 64


def describe(plan: Plan, digests: Digests) -> dict[str, str]:
    """Metadata for the output.

    Args:
        plan: What was done.
        digests: Hashes of all tensors; empty where hashing was off, and then no hash is claimed.

    Returns:
        Strings only: ``format``, ``stockpot.*`` and ModelSpec fields.
    """
    known = bool(digests.outputs)
    read = _read_keys(plan)
    inputs = {
        name: {
            component: _input_hash(plan, digests, name, keys) if known else None
            for component, keys in read[name].items()
        }
        for name in sorted(plan.sources)
    }
    provenance = {
        "version": stockpot.__version__,
        "layout": plan.layout.name,
        "inputs": inputs,
        "components": component_hashes(plan, digests) if known else None,
        "content": content_hash(plan.infos, digests.outputs) if known else None,
    }
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _ARCHITECTURES.get(plan.layout.name, plan.layout.name),
        "modelspec.title": f"Stockpot merge of {len(plan.sources)} models",
        "modelspec.implementation": "stockpot",
        "stockpot.recipe": _portable(plan.fold.recipe).to_yaml(),
        "stockpot.provenance": json.dumps(provenance, sort_keys=True, separators=(",", ":")),
    }


def stand_in(plan: Plan, hashes: bool) -> dict[str, str]:
    """Metadata of exactly the length that `describe` will give, to reserve room with.

    Args:
        plan: What will be done.
        hashes: Whether hashes will be computed.

    Returns:
        Strings only.
    """
    if not hashes:
        return describe(plan, Digests({}, {}))
    outputs = dict.fromkeys(plan.tensors, _NO_HASH)
    inputs = {
        (term.model, term.key): _NO_HASH
        for tensor in plan.tensors.values()
        for term in tensor.terms
    }
    return describe(plan, Digests(outputs, inputs))


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


def _read_keys(plan: Plan) -> dict[str, dict[str, list[str]]]:
    """The keys that are read, by model and component."""
    found: dict[str, dict[str, list[str]]] = {name: {} for name in plan.sources}
    for tensor in plan.tensors.values():
        for term in tensor.terms:
            found[term.model].setdefault(tensor.cell.component, []).append(term.key)
    return found


def _input_hash(plan: Plan, digests: Digests, model: str, keys: list[str]) -> str:
    """Hash of what was read of a component; the component's own hash where all of it was read."""
    infos = {key: plan.sources[model].tensors[key] for key in keys}
    hashes = {key: digests.inputs[model, key] for key in keys}
    return content_hash(infos, hashes, plan.layout.relative_key)


def _portable(recipe: Recipe) -> Recipe:
    """The recipe without paths; entries keep their names, which the expressions use."""
    recipe = canonical(recipe)
    pool = {name: PoolEntry(f"{name}.safetensors", recipe.pool[name].hash) for name in recipe.pool}
    return replace(recipe, pool=pool, save=Save(None, recipe.save.dtype))


_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
}
