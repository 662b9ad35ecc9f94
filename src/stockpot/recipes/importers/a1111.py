"""A1111: the recipe and the ancestors that the checkpoint merger writes into its files.

Read from a JSON file, decoded or not, or from the two strings in a checkpoint's metadata. Every
ancestor's record is kept under `origin`, so that `stockpot.recipes.exporters` can write the same
JSON again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from stockpot.errors import RecipeError

from ..errors import one_problem
from ..expressions import Call, Expr, Name, Number, Text
from ..grammar import parse_expression
from ..renaming import names_in, renamed
from ._base import MAX_STEPS, Builder, Imported, short_name
from .supermerger import is_supermerger, supermerger_step

__all__ = ["import_a1111", "import_metadata", "load_json"]

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_MAX_NESTED = 100_000


def load_json(text: str, source: str) -> Any:
    """Read JSON from an untrusted text.

    Args:
        text: All of it.
        source: What to call it in messages.

    Raises:
        RecipeError: It is no JSON, or nests too deep.

    Example:
        >>> load_json('{"a": [1]}', "x.json")
        {'a': [1]}
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "it nests too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise one_problem("json", f"this is no JSON of a recipe: {what}", source) from error


def import_a1111(text: str, source: str = "<a1111>") -> Imported:
    """Read a recipe of A1111's checkpoint merger.

    Args:
        text: JSON with ``sd_merge_recipe`` and ``sd_merge_models``, perhaps in ``__metadata__``,
            each decoded or a string.
        source: What to call it in messages.

    Raises:
        RecipeError: It is no such JSON, or its records go in a circle.

    Example:
        >>> text = '{"sd_merge_recipe": {"interp_method": "Weighted sum", "multiplier": 0.5}}'
        >>> imported = import_a1111(text)
        >>> imported.facts.n_holes, list(imported.recipe.pool)
        (2, ['unknown primary', 'unknown secondary'])
    """
    data = load_json(text, source)
    if isinstance(data, dict) and isinstance(data.get("__metadata__"), dict):
        data = data["__metadata__"]
    if not isinstance(data, dict):
        raise one_problem("type", "a recipe in JSON must be a mapping", source)
    return import_metadata(data, source)


def import_metadata(metadata: Mapping[str, Any], source: str = "<metadata>") -> Imported:
    """Read the recipe from a checkpoint's metadata.

    Args:
        metadata: Of a header: strings; decoded values do as well.
        source: What to call it in messages.

    Raises:
        RecipeError: There is no recipe in it, or it contradicts itself.

    Example:
        >>> import_metadata({"format": "pt"})
        Traceback (most recent call last):
        ...
        stockpot.errors.RecipeError: <metadata>: there is no `sd_merge_recipe` in the metadata; ...
    """
    parts = {}
    for key in ("sd_merge_recipe", "sd_merge_models"):
        value = metadata.get(key)
        if isinstance(value, str):
            value = load_json(value, f"{source}: {key}")
        if value is not None and not isinstance(value, dict):
            raise one_problem("type", f"`{key}` must be a mapping", source)
        parts[key] = value
    if not parts["sd_merge_recipe"]:
        raise one_problem("no-recipe", "there is no `sd_merge_recipe` in the metadata", source,
                          "the tool that wrote the file left it out")  # fmt: skip
    other = {k: v for k, v in metadata.items() if k not in parts and isinstance(v, str | int)}
    return _Ancestry(parts["sd_merge_models"] or {}, source).recipe(
        parts["sd_merge_recipe"], other, "sd_merge_models" in metadata
    )


class _Ancestry:
    """The flat map of ancestors, turned into a pool and steps."""

    def __init__(self, models: dict[str, Any], source: str) -> None:
        self.builder = Builder(source, "a1111")
        self.models = models
        if len(models) > MAX_STEPS:
            self.builder.refuse("too-large", f"a recipe may have {MAX_STEPS} models, but this has "
                                f"{len(models)}")  # fmt: skip
        self.names: dict[str, Name] = {}
        self.read: set[str] = set()
        # Short hashes and names of files, as supermerger may call its parents.
        self.known: dict[str, str] = {}

    def recipe(self, top: dict[str, Any], other: dict[str, Any], has_models: bool) -> Imported:
        builder = self.builder
        # Names first: records refer to each other in any order.
        for digest, entry in self.models.items():
            if not isinstance(entry, dict):
                builder.refuse("type", "an entry of `sd_merge_models` must be a mapping",
                               digest[:12])  # fmt: skip
            name = entry.get("name")
            wish = name if isinstance(name, str) and name else f"model {digest[:10]}"
            if isinstance(entry.get("sd_merge_recipe"), dict):
                self.names[digest] = Name(builder.name(wish))
            else:
                sha256 = digest.lower() if _SHA256.fullmatch(digest) else None
                self.names[digest] = builder.model(digest, wish, sha256=sha256)
            for short in (short_name(wish), digest[:10]):
                self.known.setdefault(short, digest)
            record = {"sha256": digest, **entry}
            builder.records[self.names[digest].name] = _dump(record)
        for digest, entry in self.models.items():
            if isinstance(entry.get("sd_merge_recipe"), dict):
                name = self.names[digest].name
                builder.lets[name] = self.step(entry["sd_merge_recipe"], name)
        title = str(top.get("custom_name") or "")
        mix = self.step(top, "")
        free = [
            name.name for digest, name in self.names.items()
            if digest not in self.read and name.name in builder.pool
        ]  # fmt: skip
        builder.infer(free)
        for digest, name in self.names.items():
            if digest not in self.read:
                builder.note("unread-record", "the source lists it and no merge reads it",
                             name.name)  # fmt: skip
        if other:
            builder.records["metadata"] = _dump(other)
        builder.records["mix"] = _dump(top)
        builder.records["lists-models"] = "yes" if has_models else "no"
        builder.note("presence", "A1111 keeps keys that only the primary model has, and drops "
                     "those that only the others have; this recipe wants every key everywhere",
                     "", "where files differ write (…) | a")  # fmt: skip
        return builder.finish({"model": mix}, title, records=True)

    def parent(self, record: dict[str, Any], role: str, name: str) -> Name:
        """The model in a role; a hole where the hash is null or its record is missing."""
        self.builder.n_edges += 1
        digest = record.get(f"{role}_model_hash")
        short = short_name(name or str(record.get("custom_name") or ""))
        of = f" of {short}" if short else ""
        if isinstance(digest, str) and digest in self.names:
            self.read.add(digest)
            return self.names[digest]
        if isinstance(digest, str) and digest:
            sha256 = digest.lower() if _SHA256.fullmatch(digest) else None
            self.builder.note("missing-parent", f"the {role} parent{of} has a hash and no record",
                              digest[:12])  # fmt: skip
            found = self.builder.model(digest, f"model {digest[:10]}", sha256=sha256)
            self.names[digest] = found
            self.read.add(digest)
            return found
        return self.builder.hole(f"unknown {role}{of}", f"{role} parent{of}")

    def step(self, record: dict[str, Any], name: str) -> Expr:
        builder = self.builder
        builder.n_steps += 1
        if is_supermerger(record):
            return supermerger_step(builder, record, name, self._any_parent)
        method = record.get("interp_method")
        if record.get("type") == "stockpot" and method == "recipe":
            return self.own_step(record, name)
        ratio = self.ratio(record, name)
        a = self.parent(record, "primary", name)
        merged: Expr
        if method == "No interpolation":
            merged = a
        elif method == "Weighted sum":
            merged = Call("weighted_sum", (a, self.parent(record, "secondary", name), ratio))
        elif method == "Add difference":
            b, c = (self.parent(record, role, name) for role in ("secondary", "tertiary"))
            merged = Call("add_difference", (a, b, c, ratio))
        else:
            builder.note("unknown-method", f"{str(method)[:60]!r} is kept as it was written",
                         name or "mix")  # fmt: skip
            given = [r for r in ("secondary", "tertiary") if record.get(f"{r}_model_hash")]
            others = tuple(self.parent(record, role, name) for role in given)
            merged = Call("foreign", (Text(f"a1111: {str(method)[:60]}"), a, *others, ratio))
        vae = record.get("bake_in_vae")
        if isinstance(vae, str) and vae not in ("", "None"):
            baked = builder.model(f"vae {vae}", vae)
            only_vae = Call("components", (), (("vae", Number(1)),))
            merged = Call("lerp", (merged, baked, only_vae))
        for key in ("discard_weights", "is_inpainting", "is_instruct_pix2pix"):
            if record.get(key):
                builder.note("not-expressed", f"`{key}` is {str(record[key])[:80]!r}; it is kept "
                             "in `origin` and has no effect here", name or "mix")  # fmt: skip
        return merged

    def own_step(self, record: dict[str, Any], name: str) -> Expr:
        """A step of ours that A1111 has no word for: its expression, where it is a single one."""
        hashes, mix = record.get("model_hashes"), record.get("mix")
        named = hashes if isinstance(hashes, dict) else {}
        parents = {
            own: self.parent({"primary_model_hash": digest, "custom_name": name}, "primary", name)
            for own, digest in named.items()
        }
        if isinstance(mix, dict) and list(mix) == ["model"] and not record.get("let"):
            try:
                merged = parse_expression(str(mix["model"]))
            except RecipeError:
                merged = None
            # Sets of the pool meant the pool of that step.
            if merged is not None and set(names_in(merged)) <= set(parents):
                return renamed(merged, {own: model.name for own, model in parents.items()})
        self.builder.note("unknown-method", "a step of Stockpot is kept with its models; its own "
                          "expressions stand in `origin`", name or "mix")  # fmt: skip
        return Call("foreign", (Text("stockpot: recipe"), *parents.values()))

    def ratio(self, record: dict[str, Any], name: str) -> Number:
        value = record.get("multiplier")
        if value is None and record.get("interp_method") == "No interpolation":
            return Number(0)
        try:
            if value is None or isinstance(value, bool):
                raise ValueError(f"it is {value}")
            return Number(value)
        except (TypeError, ValueError) as error:
            self.builder.refuse("number", f"`multiplier` must be a number, but {error}",
                                name or "mix")  # fmt: skip

    def _any_parent(self, value: object, role: str, name: str) -> Name:
        """A parent as supermerger names it: by hash, or by the name of its file."""
        known = isinstance(value, str) and (value in self.names or _SHA256.fullmatch(value))
        if isinstance(value, str) and value and not known:
            short = re.sub(r"\s*\[[0-9a-f]{6,}\]$", "", value)
            found = self.known.get(value.lower()[:10]) or self.known.get(short_name(short))
            if found is None:
                self.builder.n_edges += 1
                return self.builder.model(f"name {short}", short)
            value = found
        return self.parent({f"{role}_model_hash": value}, role, name)


def _dump(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, separators=(", ", ": "))
    if len(text) > _MAX_NESTED:
        raise one_problem("too-large", "a record of the source is too long")
    return text
