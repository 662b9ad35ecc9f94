"""What other programs read in a file: A1111's record of merges, and ModelSpec's fields.

They are a view of our own record, made of the recipe, the hashes of inputs, and what the inputs'
own metadata say in the same terms; nothing here is computed from weights. A1111 knows a file by the
sha256 of all its bytes. Where a recipe has none for a model, its place is taken by a content hash
that says so, ``blake3:…``, so that records still refer to each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from blake3 import blake3

from stockpot.checkpoints import Source, file_hashes
from stockpot.engine.history import InputRecord
from stockpot.errors import CheckpointError, PreflightError, Problem, RecipeError
from stockpot.recipes import (
    Call,
    Expr,
    Fold,
    Name,
    Number,
    Recipe,
    canonical,
    export_recipe,
    models_below,
)

__all__ = [
    "MODELS_LABEL",
    "PREDICTION_LABEL",
    "RECIPE_LABEL",
    "Labels",
    "a1111_labels",
    "model_key",
    "modelspec_labels",
    "read_labels",
    "step_label",
    "with_sha256",
]

RECIPE_LABEL, MODELS_LABEL = "sd_merge_recipe", "sd_merge_models"
PREDICTION_LABEL = "modelspec.prediction_type"

_MOST_CHARACTERS = 8 << 20
_MOST_MODELS = 10_000
_MOST_RECORD = 100_000
_MOST_NAME = 200
_LISTED = 2_000

_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2",
    "sdxl": "stable-diffusion-xl-v1-base",
}
# Whose names the keys have: the code base that first used them.
_IMPLEMENTATIONS = {"sd1": "ldm", "sd2": "ldm", "sdxl": "sgm", "zoo": "ldm"}


@dataclass(frozen=True, slots=True)
class Labels:
    """What a file's metadata say of it in other programs' terms; claims, and nothing more.

    Attributes:
        recipe: A1111's record of the merge that made it.
        models: A1111's records of all that went into it, by sha256.
        prediction: What ModelSpec says that it predicts.
    """

    recipe: Mapping[str, Any] | None = None
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prediction: str | None = None


def read_labels(metadata: Mapping[str, str], name: str = "metadata") -> Labels:
    """Read what a file says of itself in A1111's and ModelSpec's terms.

    Args:
        metadata: Of the file; untrusted.
        name: What to call it in messages.

    Returns:
        Its labels; empty where it carries none.

    Raises:
        CheckpointError: A1111's strings are not what A1111 writes, or are larger than any real
            ones.

    Example:
        >>> read_labels({"sd_merge_recipe": '{"type": "webui"}'}).recipe
        {'type': 'webui'}
    """
    found: dict[str, dict[str, Any]] = {}
    for label in (RECIPE_LABEL, MODELS_LABEL):
        text = metadata.get(label)
        if text is None or text == "null":
            continue
        if len(text) > _MOST_CHARACTERS:
            raise CheckpointError(f"{name}: {label} is larger than any real record of merges")
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{name}: {label} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{name}: {label} must be a mapping")
        found[label] = value
    entries = found.get(MODELS_LABEL, {})
    if len(entries) > _MOST_MODELS:
        raise CheckpointError(
            f"{name}: {MODELS_LABEL} may have {_MOST_MODELS} models, but has {len(entries)}"
        )
    models = {
        key: _entry(entry.get("name"), entry.get("legacy_hash"), entry.get(RECIPE_LABEL))
        for key, entry in entries.items()
        if len(key) <= _MOST_NAME and isinstance(entry, dict)
    }
    prediction = metadata.get(PREDICTION_LABEL)
    return Labels(
        _record(found.get(RECIPE_LABEL)),
        models,
        prediction if prediction in ("epsilon", "v") else None,
    )


def model_key(sha256: str | None, record: InputRecord) -> str | None:
    """Say by what name A1111's record knows a model.

    Args:
        sha256: Of its file, where the recipe has it.
        record: What was read of it.

    Returns:
        The sha256; else ``blake3:`` with the content hash, or with the hash of the list of what
        was read where the model was not made here; None where nothing was hashed.

    Example:
        >>> model_key(None, InputRecord({"unet": None})), model_key("ab" * 32, InputRecord({}))[:4]
        (None, 'abab')
    """
    if sha256 is not None:
        return sha256
    if record.made is not None:
        return f"blake3:{record.made}"
    if None in record.components.values():
        return None
    listed = "".join(f"{name}\0{value}\n" for name, value in sorted(record.components.items()))
    return f"blake3:{blake3(listed.encode()).hexdigest()}"


def step_label(fold: Fold, keys: Mapping[str, str | None]) -> dict[str, Any]:
    """Say a step as A1111's record of a merge does.

    Args:
        fold: Of the step's recipe.
        keys: `model_key` of each model that it reads.

    Returns:
        A1111's fields, of the type ``stockpot``. A step that A1111's three methods can say has
        its hashes and multiplier; any other has its expressions in ``mix`` and ``let``. Both have
        the hashes of all models in ``model_hashes``.
    """
    recipe = canonical(fold.recipe)
    pool = {name: replace(recipe.pool[name], sha256=keys.get(name)) for name in fold.models}
    more: dict[str, Any] = {"type": "stockpot", "model_hashes": {n: keys.get(n) for n in pool}}
    # As it is written where that can be said; else what it comes to.
    as_written = recipe.mix if models_below(recipe) == set(pool) and not recipe.let else None
    for mix in (as_written, _as_one_of_three(fold)):
        if mix is None:
            continue
        # Without the file to save and the origin: they name files of whoever wrote the recipe.
        bare = Recipe(pool, mix, save=replace(recipe.save, file=None))
        try:
            told = json.loads(export_recipe(bare, "a1111"))
        except RecipeError:
            continue
        return {**told["__metadata__"][RECIPE_LABEL], **more}
    none: dict[str, Any] = dict.fromkeys(
        ("primary_model_hash", "secondary_model_hash", "tertiary_model_hash")
    )
    return {
        **none,
        "interp_method": "recipe",
        "multiplier": None,
        "save_as_half": recipe.save.dtype == "fp16",
        "mix": {name: str(value) for name, value in recipe.mix.items()},
        "let": {name: str(value) for name, value in recipe.let.items()},
        **more,
    }


def a1111_labels(
    step: Mapping[str, Any], keys: Mapping[str, str | None], inputs: Mapping[str, Labels]
) -> dict[str, str]:
    """Write the two strings that A1111 reads.

    Args:
        step: What `step_label` gave.
        keys: `model_key` of each model that the step reads.
        inputs: Labels of those models that have any.

    Returns:
        ``sd_merge_recipe`` and ``sd_merge_models``: JSON, sorted, every ancestor in one flat map.
        What a parent records of a model goes before what is known of it here, as in A1111.
    """
    models: dict[str, Mapping[str, Any]] = {}
    for name in sorted(keys):
        key = keys[name]
        if key is not None:
            made = inputs[name].recipe if name in inputs else None
            _add(models, key, _entry(name, None, made))
    carried: dict[str, Mapping[str, Any]] = {}
    for _, labels in sorted(inputs.items()):
        for key, entry in labels.models.items():
            _add(carried, key, entry)
    return {RECIPE_LABEL: _dump(step), MODELS_LABEL: _dump(models | carried)}


def modelspec_labels(
    layout: str, names: list[str], predicts_v: bool, inputs: Mapping[str, Labels]
) -> dict[str, str]:
    """Write ModelSpec's fields, as far as they are known for sure.

    A date would make two files of one merge, and a file cannot hold its own hash: neither is
    written.

    Args:
        layout: Name of the layout.
        names: Of the models that were read.
        predicts_v: Whether the output carries a marker of v-prediction.
        inputs: Labels of those models that have any.

    Returns:
        Strings by key.

    Example:
        >>> found = modelspec_labels("sd1", ["a", "b"], False, {})
        >>> found["modelspec.merged_from"], "modelspec.prediction_type" in found
        ('a, b', False)
    """
    told = {inputs[name].prediction if name in inputs else None for name in names}
    prediction = "v" if predicts_v else told.pop() if len(told) == 1 else None
    architecture = _ARCHITECTURES.get(layout, layout)
    if architecture == "stable-diffusion-v2" and prediction == "v":
        architecture = "stable-diffusion-v2-768-v"
    listed = ", ".join(map(_base_name, names))
    plural = "model" if len(names) == 1 else "models"
    found = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture,
        "modelspec.implementation": _IMPLEMENTATIONS.get(layout, "stockpot"),
        "modelspec.title": f"Stockpot merge of {len(names)} {plural}",
        "modelspec.merged_from": listed if len(listed) <= _LISTED else listed[:_LISTED] + "…",
    }
    return found | ({PREDICTION_LABEL: prediction} if prediction else {})


def with_sha256(
    recipe: Recipe,
    sources: Mapping[str, Source],
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> Recipe:
    """Fill in the sha256 of the files that a recipe reads: how A1111 and model sites know them.

    Args:
        recipe: Any recipe.
        sources: Open checkpoints by name; those of more than one file have no sha256.
        progress: Called with the bytes that were just read.

    Returns:
        The recipe with the hashes in its pool.

    Raises:
        PreflightError: The recipe has another sha256 for a file.
        CheckpointError: A file cannot be read.
    """
    pool, problems = dict(recipe.pool), []
    for name in sorted(models_below(recipe) & sources.keys()):
        source = sources[name]
        if len(source.files) != 1:
            continue
        sha256 = file_hashes(source.files[0], progress).sha256
        said = pool[name].sha256
        if said not in (None, sha256):
            problems.append(
                Problem("sha256", f"the recipe wants the file {said}, but this one is {sha256}",
                        f"{source.name} (pool: {name})", "get that file, or correct the recipe")
            )  # fmt: skip
        pool[name] = replace(pool[name], sha256=sha256)
    if problems:
        raise PreflightError(problems)
    return replace(recipe, pool=pool)


def _as_one_of_three(fold: Fold) -> dict[str, Expr] | None:
    """The mix in A1111's words, where its table has the same few shares in every block."""
    rows = list(fold.rows.values())
    if not rows or any(row != rows[0] for row in rows) or set(rows[0]) != set(fold.models):
        return None
    # The largest share first; by name where two are equal, so that the pool's order has no say.
    named = [(name, share) for name, share in rows[0].items() if isinstance(name, str)]
    shares = sorted(named, key=lambda item: (-item[1], item[0]))
    names, values = [Name(name) for name, _ in shares], [value for _, value in shares]
    one = Fraction(1)
    if values == [one]:
        return {"model": names[0]}
    if len(values) == 2 and sum(values) == one:
        return {"model": Call("weighted_sum", (*names, Number(values[1])))}
    if len(values) == 3 and values[0] == one and sum(values) == one:
        return {"model": Call("add_difference", (*names, Number(values[1])))}
    return None


def _add(models: dict[str, Mapping[str, Any]], key: str, entry: Mapping[str, Any]) -> None:
    """Of two records of one model keep the one that says more, whatever their order."""
    rank = [(e[RECIPE_LABEL] is not None, e["legacy_hash"] is not None, _dump(e))
            for e in (models.get(key, entry), entry)]  # fmt: skip
    models[key] = entry if rank[1] >= rank[0] else models[key]


def _entry(name: object, legacy: object, made: object) -> dict[str, Any]:
    legacy = legacy if isinstance(legacy, str) and re.fullmatch("[0-9a-fA-F]{8}", legacy) else None
    return {
        "name": _base_name(name) if isinstance(name, str) else None,
        "legacy_hash": legacy,
        RECIPE_LABEL: _record(made),
    }


def _record(made: object) -> dict[str, Any] | None:
    """A record of a merge as it came, but for folders of the disk where it was made."""
    if not isinstance(made, dict) or len(_dump(made)) > _MOST_RECORD:
        return None
    title = made.get("custom_name")
    return {**made, "custom_name": _base_name(title)} if isinstance(title, str) else made


def _base_name(name: str) -> str:
    return re.split(r"[/\\]+", name)[-1][:_MOST_NAME]


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} stands where a number must")
