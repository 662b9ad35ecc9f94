"""What other programs read of our recipes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stockpot.errors import RecipeError, UnknownNameError
from stockpot.recipes import Origin, PoolEntry, Save, export_recipe, make_recipe, parse_expression
from stockpot.recipes.importers import import_text

A, B = "a" * 64, "b" * 64
POOL = {"a": PoolEntry("a.ckpt", sha256=A), "b": PoolEntry("b.ckpt", sha256=B),
        "c": PoolEntry("", unknown="parent")}  # fmt: skip


def test_a_recipe_written_here_reads_as_a1111() -> None:
    recipe = make_recipe("weighted_sum(a, b, 0.25)", POOL, save=Save("m.safetensors", "fp16"))
    data = json.loads(export_recipe(recipe, "a1111"))["__metadata__"]
    top = data["sd_merge_recipe"]
    assert (top["primary_model_hash"], top["secondary_model_hash"]) == (A, B)
    assert (top["multiplier"], top["custom_name"], top["save_as_half"]) == (0.25, "m", True)
    assert set(data["sd_merge_models"]) == {A, B}
    again = import_text(json.dumps(data)).recipe
    assert again.mix == recipe.mix and again.pool["a"].sha256 == A


@pytest.mark.parametrize(
    ("mix", "method", "hashes"),
    [
        ("a", "No interpolation", (A, None, None)),
        ("lerp(a, c, 1/2)", "Weighted sum", (A, None, None)),
        ("add_difference(a, b, c, 1)", "Add difference", (A, B, None)),
    ],
)
def test_methods(mix: str, method: str, hashes: tuple[str | None, ...]) -> None:
    top = json.loads(export_recipe(make_recipe(mix, POOL), "a1111"))["__metadata__"][
        "sd_merge_recipe"
    ]
    assert top["interp_method"] == method
    roles = ("primary", "secondary", "tertiary")
    assert tuple(top[f"{role}_model_hash"] for role in roles) == hashes


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"unet": "a"}, "A1111 merges whole models, but mix has unet"),
        ({"model": "mean(a, b)"}, "got `mean`"),
        ({"model": "lerp(lerp(a, b, 0.5), c, 0.5)"}, "not the results of steps"),
        ({"model": "lerp(a, b, components(unet=1))"}, "multiplier is a plain number"),
        ({"model": "lerp(x, b, 0.5)"}, "'x' has none"),
    ],
)
def test_what_a1111_cannot_say(mix: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        export_recipe(make_recipe(mix, POOL, let={"x": "lerp(a, b, 0.5)"}), "a1111")


def test_an_edited_import_does_not_claim_the_old_record() -> None:
    top = {"type": "webui", "primary_model_hash": A, "secondary_model_hash": B, "multiplier": 0.5,
           "interp_method": "Weighted sum", "custom_name": "m"}  # fmt: skip
    models = {A: {"name": "x.ckpt", "legacy_hash": "1", "sd_merge_recipe": None},
              B: {"name": "y.ckpt", "legacy_hash": "2", "sd_merge_recipe": None}}  # fmt: skip
    recipe = import_text(json.dumps({"sd_merge_recipe": top, "sd_merge_models": models})).recipe
    edited = replace(recipe, mix={"model": parse_expression("weighted_sum(x, y, 0.75)")})
    data = json.loads(export_recipe(edited, "a1111"))["__metadata__"]
    assert data["sd_merge_recipe"]["multiplier"] == 0.75
    assert data["sd_merge_models"] == models


def test_broken_records_and_unknown_forms() -> None:
    recipe = make_recipe("a", POOL, origin=Origin("a1111", {"mix": "{"}))
    with pytest.raises(RecipeError, match="records of A1111 in `origin` cannot be read"):
        export_recipe(recipe, "a1111")
    with pytest.raises(UnknownNameError, match="did you mean 'yaml'"):
        export_recipe(recipe, "yamls")
