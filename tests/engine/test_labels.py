"""What other programs read of our files: A1111's two strings, and ModelSpec's fields."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from stockpot.engine import Settings, merge, read_history, read_labels
from stockpot.errors import CheckpointError, PreflightError
from stockpot.recipes import PoolEntry, Recipe, make_recipe
from stockpot.recipes.importers import import_metadata

OLD = "c" * 64
THEIRS = {
    "type": "webui", "primary_model_hash": OLD, "secondary_model_hash": "d" * 64,
    "tertiary_model_hash": None, "interp_method": "Weighted sum", "multiplier": 0.3,
    "custom_name": "E:\\models\\mine",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Raw models a, b, c and d; A1111 made a from two others."""
    theirs = {OLD: {"name": "anime\\old.safetensors", "legacy_hash": "0123abcd",
                    "sd_merge_recipe": None}}  # fmt: skip
    told = {"a": {"sd_merge_recipe": json.dumps(THEIRS), "sd_merge_models": json.dumps(theirs)}}
    for seed, name in enumerate("abcd"):
        weights = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float16)
        save_file({"w": weights}, tmp_path / f"{name}.safetensors", told.get(name))
    return tmp_path


def labels_of(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Read a file as A1111 does: strings, and JSON where they begin with a brace."""
    with safe_open(path, "np") as file:
        metadata = dict(file.metadata())
    assert metadata["sd_merge_recipe"][0] == metadata["sd_merge_models"][0] == "{"
    top, models = (json.loads(metadata[key]) for key in ("sd_merge_recipe", "sd_merge_models"))
    return top, models, metadata


def recipe_of(mix: str | dict[str, str], *names: str, **let: str) -> Recipe:
    return make_recipe(mix, {name: f"{name}.safetensors" for name in names}, let=let)


def made(folder: Path, recipe: Recipe, output: str = "out", **settings: Any) -> Path:
    path = folder / f"{output}.safetensors"
    merge(recipe, path, folder=folder, settings=Settings(threads=1, **settings))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("mix", "method", "models", "multiplier"),
    [
        ("b", "No interpolation", "b", 0),
        ("1/2*b + c/2", "Weighted sum", "bc", 0.5),
        ("lerp(b, c, 0.3)", "Weighted sum", "bc", 0.3),
        ("lerp(b, c, 0.7)", "Weighted sum", "bc", 0.7),
        ("weighted_sum(x, x, 0.2)", "Weighted sum", "cb", 0.25),
        ("mean(c, b)", "Weighted sum", "bc", 0.5),
        ("b + 0.75*(c - d)", "Add difference", "bcd", 0.75),
        ("mean(b, c, d)", "recipe", "", None),
        ("lerp(b, c, 2)", "Weighted sum", "bc", 2),
    ],
)
def test_a_step_that_a1111_knows_is_told_in_its_words(
    folder: Path, mix: str, method: str, models: str, multiplier: float | None
) -> None:
    let = {"x": "b/4 + 3*c/4"} if "x" in mix else {}
    names = sorted(set(re.findall(r"\b[bcd]\b", mix + let.get("x", ""))))
    top, known, _ = labels_of(made(folder, recipe_of(mix, *names, **let), sha256=True))
    assert (top["type"], top["interp_method"], top["multiplier"]) == (
        "stockpot", method, multiplier,
    )  # fmt: skip
    hashes = [top[f"{role}_model_hash"] for role in ("primary", "secondary", "tertiary")]
    wanted = [sha256(folder / f"{name}.safetensors") for name in models]
    assert hashes == wanted + [None] * (3 - len(wanted))
    assert top["model_hashes"] == {n: sha256(folder / f"{n}.safetensors") for n in names}
    assert {entry["name"] for entry in known.values()} == set(names)


def test_parents_maps_are_carried_on_without_folders(folder: Path) -> None:
    made(folder, recipe_of("mean(a, b)", "a", "b"), "ab", sha256=True)
    top, models, _ = labels_of(made(folder, recipe_of("mean(ab, c)", "ab", "c"), sha256=True))
    files = {name: sha256(folder / f"{name}.safetensors") for name in ("a", "b", "c", "ab")}
    assert set(models) == {OLD, *files.values()}
    assert models[files["a"]]["sd_merge_recipe"] == THEIRS | {"custom_name": "mine"}
    assert models[OLD] == {
        "name": "old.safetensors", "legacy_hash": "0123abcd", "sd_merge_recipe": None,
    }  # fmt: skip
    inner = models[files["ab"]]["sd_merge_recipe"]
    assert inner["primary_model_hash"] in (files["a"], files["b"])
    assert top["model_hashes"]["ab"] == files["ab"]


def test_what_we_write_imports_without_holes(folder: Path) -> None:
    made(folder, recipe_of("lerp(b, c, 0.25)", "b", "c"), "bc", sha256=True)
    path = made(folder, recipe_of("lerp(bc, d, 0.5)", "bc", "d"), sha256=True)
    _, _, metadata = labels_of(path)
    imported = import_metadata(metadata)
    assert (imported.facts.n_models, imported.facts.n_steps, imported.facts.n_holes) == (3, 2, 0)
    assert {str(value) for value in imported.recipe.let.values()} == {"weighted_sum(b, c, 0.25)"}


def test_steps_of_ours_within_a_merge_of_a1111_import_with_their_models(folder: Path) -> None:
    made(folder, recipe_of("b/2 + c/4 + d/4", "b", "c", "d"), "x")
    made(folder, recipe_of("mean(pool)", "b", "c", "d"), "y")
    entries, roles = {}, {}
    for role, name in (("primary", "x"), ("secondary", "y")):
        top, models, _ = labels_of(folder / f"{name}.safetensors")
        roles[f"{role}_model_hash"] = name * 64
        entries |= {
            name * 64: {"name": name, "legacy_hash": None, "sd_merge_recipe": top},
            **models,
        }
    told = {"sd_merge_recipe": json.dumps(THEIRS | roles), "sd_merge_models": json.dumps(entries)}
    imported = import_metadata(told)
    assert (imported.facts.n_models, imported.facts.n_holes) == (3, 0)
    assert {name: str(value) for name, value in imported.recipe.let.items()} == {
        "x": "b/2 + c/4 + d/4", "y": 'foreign("stockpot: recipe", b, c, d)',
    }  # fmt: skip


def test_without_sha256_models_are_known_by_content(folder: Path) -> None:
    """So that copies with other metadata, under any name and in any order, give the same file."""
    path = made(folder, recipe_of("mean(b, c)", "b", "c"))
    top, models, _ = labels_of(path)
    assert set(models) == set(top["model_hashes"].values())
    assert all(key.startswith("blake3:") for key in models)
    save_file(load_file(folder / "b.safetensors"), folder / "b.safetensors", {"note": "again"})
    again = made(folder, recipe_of("mean(c, b)", "c", "b"), "again")
    assert sha256(path) == sha256(again)


def test_without_any_hashes_a1111s_are_null(folder: Path) -> None:
    top, models, _ = labels_of(made(folder, recipe_of("b", "b"), hashes=False))
    assert top["primary_model_hash"] is None and models == {}


def test_sha256_belongs_to_the_recipe_and_must_be_true(folder: Path) -> None:
    path = made(folder, recipe_of("mean(b, c)", "b", "c"), sha256=True)
    text = labels_of(path)[2]["stockpot.recipe"]
    assert sha256(folder / "b.safetensors") in text
    pool = {"b": PoolEntry("b.safetensors", sha256="0" * 64)}
    with pytest.raises(PreflightError, match="b.safetensors .pool: b.: the recipe wants the file"):
        made(folder, make_recipe("b", pool), "never", sha256=True)
    assert not (folder / "never.safetensors").exists()


def test_changed_weights_do_not_keep_the_words_of_others(folder: Path) -> None:
    ab = made(folder, recipe_of("mean(a, b)", "a", "b"), "ab")
    weights = {key: value + np.float16(1) for key, value in load_file(ab).items()}
    save_file(weights, ab, labels_of(ab)[2])
    _, models, metadata = labels_of(made(folder, recipe_of("mean(ab, c)", "ab", "c")))
    assert OLD not in models and {entry["name"] for entry in models.values()} == {"ab", "c"}
    history = read_history(metadata)
    assert history is not None and not history.earlier


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("{", "is not JSON"),
        ('{"a": NaN}', "NaN stands where a number must"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "must be a mapping"),
        (json.dumps({str(i): {} for i in range(10_001)}), "may have 10000 models"),
        (" " * (9 << 20), "larger than any real record"),
    ],
)
def test_hostile_maps_are_left_out_with_a_note(folder: Path, models: str, message: str) -> None:
    with pytest.raises(CheckpointError, match="sd_merge_models"):
        read_labels({"sd_merge_models": models})
    path = folder / "b.safetensors"
    save_file(load_file(path), path, {"sd_merge_models": models})
    output = folder / "out.safetensors"
    result = merge(recipe_of("mean(b, c)", "b", "c"), output, folder=folder)
    (note,) = [note for note in result.notes if note.code == "history"]
    assert message in str(note) and "b.safetensors" in str(note)
    assert len(labels_of(output)[1]) == 2


def test_entries_keep_only_what_a1111_has_in_them() -> None:
    text = json.dumps({"k": {"name": 7, "legacy_hash": "x", "more": [1], "sd_merge_recipe": "s"},
                       "l": 5, "m" * 500: {}})  # fmt: skip
    found = read_labels({"sd_merge_models": text})
    assert found.models == {"k": {"name": None, "legacy_hash": None, "sd_merge_recipe": None}}


def test_modelspec_says_what_is_known(folder: Path) -> None:
    _, _, metadata = labels_of(made(folder, recipe_of("mean(b, c)", "b", "c")))
    fields = {k: v for k, v in metadata.items() if k.startswith("modelspec.")}
    assert fields["modelspec.merged_from"] == "b, c"
    assert fields["modelspec.title"] == "Stockpot merge of 2 models"
    assert not {"modelspec.date", "modelspec.hash_sha256", "modelspec.prediction_type"} & set(
        fields
    )
    for name in "bc":
        path = folder / f"{name}.safetensors"
        save_file(load_file(path), path, {"modelspec.prediction_type": "v"})
    _, _, metadata = labels_of(made(folder, recipe_of("mean(b, c)", "b", "c"), "v"))
    assert metadata["modelspec.prediction_type"] == "v"
    _, _, metadata = labels_of(made(folder, recipe_of("mean(b, d)", "b", "d"), "mixed"))
    assert "modelspec.prediction_type" not in metadata
