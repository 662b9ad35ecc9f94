"""Recipes as other programs write them: A1111's JSON, Python, our YAML."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from stockpot.errors import RecipeError, UnknownNameError

from .document import Recipe, Save
from .errors import one_problem
from .expressions import Call, Expr, Name, Number
from .printing import print_expression

__all__ = ["EXPORTERS", "export_a1111", "export_python", "export_recipe"]

_ROLES = ("primary", "secondary", "tertiary")
_METHODS = {"weighted_sum": "Weighted sum", "lerp": "Weighted sum",
            "add_difference": "Add difference"}  # fmt: skip
_OTHER_RECORDS = ("mix", "metadata", "lists-models")


def export_recipe(recipe: Recipe, target: str) -> str:
    """Write a recipe in the form of another program.

    Args:
        recipe: Any recipe.
        target: A name of `EXPORTERS`.

    Raises:
        UnknownNameError: There is no such form.
        RecipeError: The form cannot say what the recipe says.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> print(export_recipe(make_recipe("a", {"a": "a.ckpt"}), "yaml").splitlines()[0])
        stockpot: 1
    """
    if target not in EXPORTERS:
        raise UnknownNameError("form", target, EXPORTERS)
    return EXPORTERS[target](recipe)


def export_python(recipe: Recipe) -> str:
    """Write a recipe as a program that makes it.

    Args:
        recipe: Any recipe.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> code = export_python(make_recipe("mean(pool)", {"a": "a.ckpt"}))
        >>> space = {}
        >>> exec(code, space)
        >>> space["recipe"].mix["model"]
        <mean(pool)>
    """
    names = ["PoolEntry", "make_recipe"]
    pool = []
    for name, entry in recipe.pool.items():
        facts = entry.facts()
        file = facts.pop("file", "")
        rest = "".join(f", {key}={value!r}" for key, value in facts.items())
        pool.append(f"    {name!r}: PoolEntry({file!r}{rest}),")
    lines = ["pool = {", *pool, "}"]
    for room, values in (("let", recipe.let), ("mix", recipe.mix)):
        body = [f"    {name!r}: {print_expression(e)!r}," for name, e in values.items()]
        lines += [f"{room} = {{", *body, "}"]
    arguments = "mix, pool, let=let"
    if recipe.save != Save():
        names.append("Save")
        dtype = recipe.save.dtype
        shown = dict(dtype) if isinstance(dtype, Mapping) else dtype
        form = f", {recipe.save.form!r}" if recipe.save.form else ""
        arguments += f", save=Save({recipe.save.file!r}, {shown!r}{form})"
    if recipe.origin is not None:
        names.append("Origin")
        records = dict(recipe.origin.records)
        arguments += f", origin=Origin({recipe.origin.format!r}, {records!r})"
    head = f"from stockpot.recipes import {', '.join(sorted(names, key=str.lower))}"
    return "\n".join([head, "", *lines, f"recipe = make_recipe({arguments})", ""])


def export_a1111(recipe: Recipe) -> str:
    """Write the JSON that A1111's checkpoint merger would have written.

    What came from A1111 and was not changed is given back as it was. A step has a place in that
    format only under the sha256 of the file that it made, so others than the last one need one.

    Args:
        recipe: Of one whole model.

    Raises:
        RecipeError: The format cannot say what the recipe says.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> text = export_a1111(make_recipe("weighted_sum(a, b, 0.3)", {"a": "a", "b": "b"}))
        >>> json.loads(text)["__metadata__"]["sd_merge_recipe"]["multiplier"]
        0.3
    """
    if list(recipe.mix) != ["model"]:
        raise _cannot("A1111 merges whole models", f"mix has {', '.join(recipe.mix)}", "mix")
    original, before = _original(recipe)
    if original is not None and before is not None and _same_steps(recipe, before):
        return _text(original)
    writer = _Writer(recipe, before)
    top = writer.record("mix", recipe.mix["model"])
    models = {}
    for name in (*recipe.let, *recipe.pool):
        digest = writer.digests.get(name)
        if digest is not None:
            models[digest] = writer.entry(name)
    rest = json.loads(writer.records.get("metadata", "{}"))
    return _text(
        {
            "__metadata__": {
                "sd_merge_recipe": top,
                "sd_merge_models": models,
                "format": "pt",
                **rest,
            }
        }
    )


def _original(recipe: Recipe) -> tuple[dict[str, Any] | None, Recipe | None]:
    """The JSON that the recipe came from, and what that says."""
    from .importers import import_a1111  # not loaded by those who only merge

    if recipe.origin is None or recipe.origin.format != "a1111":
        return None, None
    records = recipe.origin.records
    models = {}
    try:
        for name, text in records.items():
            if name not in _OTHER_RECORDS:
                record = json.loads(text)
                models[str(record.pop("sha256"))] = record
        metadata: dict[str, Any] = {"sd_merge_recipe": json.loads(records["mix"])}
        if records.get("lists-models", "yes") == "yes":
            metadata["sd_merge_models"] = models
        metadata |= json.loads(records.get("metadata", "{}"))
        original = {"__metadata__": metadata}
        return original, import_a1111(json.dumps(original)).recipe
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        if isinstance(error, RecipeError):
            raise
        raise one_problem("origin", "the records of A1111 in `origin` cannot be read",
                          "origin") from error  # fmt: skip


def _same_steps(recipe: Recipe, before: Recipe) -> bool:
    def known_by(other: Recipe) -> dict[str, str | None]:
        return {name: entry.sha256 for name, entry in other.pool.items()}

    return (
        recipe.let == before.let
        and recipe.mix == before.mix
        and known_by(recipe) == known_by(before)
    )


class _Writer:
    def __init__(self, recipe: Recipe, before: Recipe | None) -> None:
        self.recipe, self.before = recipe, before
        self.records = recipe.origin.records if before and recipe.origin else {}
        self.digests: dict[str, str | None] = {
            name: entry.sha256 for name, entry in recipe.pool.items()
        }
        for name, value in recipe.let.items():
            kept = before is not None and before.let.get(name) == value and name in self.records
            # A changed step made another file, so the old sha256 is not its own.
            self.digests[name] = json.loads(self.records[name])["sha256"] if kept else None

    def entry(self, name: str) -> dict[str, Any]:
        if name in self.records:
            kept: dict[str, Any] = json.loads(self.records[name])
            kept.pop("sha256", None)
            return kept
        entry = self.recipe.pool[name]
        return {"name": entry.file, "legacy_hash": None, "sd_merge_recipe": None}

    def record(self, name: str, expression: Expr) -> dict[str, Any]:
        ratio, names = Number(0), [expression]
        method = "No interpolation"
        if isinstance(expression, Call):
            if expression.function not in _METHODS or expression.options:
                raise _cannot("A1111 knows `weighted_sum` and `add_difference` of models only",
                              f"got `{expression.function}`", name)  # fmt: skip
            method = _METHODS[expression.function]
            last = expression.args[-1]
            if not isinstance(last, Number):
                raise _cannot("A1111's multiplier is a plain number", "got another", name)
            ratio, names = last, list(expression.args[:-1])
        hashes: list[str | None] = []
        for part in names:
            if not isinstance(part, Name):
                raise _cannot("A1111 merges files, not the results of steps", "got a nested step",
                              name)  # fmt: skip
            if part.name in self.recipe.let and self.digests[part.name] is None:
                raise _cannot("A1111 knows the result of a step by the sha256 of its file",
                              f"{part.name!r} has none", name)  # fmt: skip
            hashes.append(self.digests.get(part.name))
        hashes += [None] * (3 - len(hashes))
        value = int(ratio.value) if ratio.value.denominator == 1 else float(ratio.value)
        return {
            "type": "webui",
            **{f"{role}_model_hash": h for role, h in zip(_ROLES, hashes, strict=True)},
            "interp_method": method,
            "multiplier": value,
            "save_as_half": self.recipe.save.dtype == "fp16",
            "custom_name": (self.recipe.save.file or "").removesuffix(".safetensors"),
            "config_source": 0,
            "bake_in_vae": "None",
            "discard_weights": "",
            "is_inpainting": False,
            "is_instruct_pix2pix": False,
        }


def _text(value: object) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False) + "\n"


def _cannot(rule: str, got: str, where: str) -> RecipeError:
    return one_problem("not-expressible", f"{rule}, but {got}", where,
                       "export it as yaml or python")  # fmt: skip


#: Ways of writing a recipe, by name.
EXPORTERS: Mapping[str, Callable[[Recipe], str]] = MappingProxyType(
    {"a1111": export_a1111, "yaml": Recipe.to_yaml, "python": export_python}
)
