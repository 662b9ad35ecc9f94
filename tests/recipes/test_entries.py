"""Entries of the pool: holes, hashes, what authors say of models, and where paths may lead."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stockpot.engine import merge
from stockpot.errors import PreflightError, RecipeError
from stockpot.layouts import get_layout
from stockpot.recipes import (
    Origin,
    PoolEntry,
    canonical,
    compare_folds,
    fold,
    make_recipe,
    parse_recipe,
)

SD1 = get_layout("sd1")
SHA = "0123456789abcdef" * 4


def test_all_fields_survive_the_text() -> None:
    entry = PoolEntry(
        "a.ckpt", "blake", SHA, "A: the # model", "https://x.org/a?b=1", "CC0", "in review", "n, o"
    )
    origin = Origin("a1111", {"a": '{"x": "y: \\u00e9"}', "mix": "{}"})
    pool = {"a": entry, "b": PoolEntry("", unknown="parent of a")}
    recipe = make_recipe("mean(a, b)", pool, origin=origin)
    assert parse_recipe(recipe.to_yaml()) == recipe
    assert parse_recipe(canonical(recipe).to_yaml()) == canonical(recipe)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{status: rejected}", "must have `file`, or `unknown`"),
        ("{file: a, unknown: b}", "has a file or is unknown, but got both"),
        ("{file: a, status: good}", "unknown status 'good'"),
        ("{file: a, sha256: abc}", "a sha256 has 64 small hexadecimal digits"),
        ("{file: a, url: 'javascript:x'}", "a url must start with https"),
        ("{file: a, license: CC0}", "did you mean 'licence'"),
    ],
)
def test_what_is_wrong_with_an_entry(entry: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(f"stockpot: 1\npool: {{a: {entry}}}\nmix: {{model: a}}\n")


def test_files_are_known_by_sha256_across_names() -> None:
    first = fold(make_recipe("a", {"a": PoolEntry("a.ckpt", sha256=SHA)}), SD1)
    second = fold(make_recipe("b", {"b": PoolEntry("b.ckpt", sha256=SHA)}), SD1)
    other = fold(make_recipe("a", {"a": PoolEntry("a.ckpt", sha256=SHA[::-1])}), SD1)
    assert first.same(second) and not first.same(other)
    assert not compare_folds(first, second) and compare_folds(first, other)


def test_rejected_models_are_listed_and_not_merged() -> None:
    pool = {
        "a": PoolEntry("a.ckpt"),
        "b": PoolEntry("b.ckpt", status="rejected", note="no licence"),
    }
    assert fold(make_recipe("a", pool), SD1).models == ("a",)
    assert not fold(make_recipe("a", pool), SD1).warnings
    with pytest.raises(RecipeError, match=r"pool.b: a rejected model .* \(no licence\)"):
        fold(make_recipe("mean(a, b)", pool), SD1)


def test_holes_fold_and_do_not_merge(tmp_path: Path) -> None:
    save_file({"w": np.ones((2, 2), np.float16)}, tmp_path / "a.safetensors")
    pool = {"a": PoolEntry("a.safetensors"), "b": PoolEntry("", unknown="parent of x"),
            "c": PoolEntry("none.ckpt", status="rejected")}  # fmt: skip
    assert fold(make_recipe("mean(a, b)", pool), SD1).models == ("a", "b")
    with pytest.raises(PreflightError, match=r"nobody knows which file this is \(parent of x\)"):
        merge(make_recipe("mean(a, b)", pool), tmp_path / "m.safetensors", folder=tmp_path)
    merge(make_recipe("a", pool), tmp_path / "m.safetensors", folder=tmp_path)
    assert (tmp_path / "m.safetensors").exists()


OUTSIDE = ["../a.ckpt", "x/../../a.ckpt", "..\\a.ckpt", "~/a.ckpt", "//host/share/a.ckpt",
           "\\\\host\\share\\a.ckpt", "/dev/zero", "/proc/self/mem"]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_that_leave_the_folder_are_refused(path: str, tmp_path: Path) -> None:
    start = time.process_time()
    recipe = make_recipe("a", {"a": path})
    for absolute in (False, True):
        with pytest.raises(RecipeError, match="must stay within the recipe's folder"):
            recipe.resolve_pool(tmp_path, absolute=absolute)
    assert time.process_time() - start < 1
    assert recipe.resolve_pool(tmp_path, outside=True) == recipe


@pytest.mark.parametrize("path", ["/models/a.ckpt", "C:\\models\\a.ckpt", "c:/a.ckpt"])
def test_absolute_paths_need_leave_and_outputs_never_have_it(path: str, tmp_path: Path) -> None:
    from stockpot.recipes import Save

    recipe = make_recipe("a", {"a": path})
    with pytest.raises(RecipeError, match="it is absolute"):
        recipe.resolve_pool(tmp_path)
    assert recipe.resolve_pool(tmp_path, absolute=True) == recipe
    recipe = make_recipe("a", {"a": "a.ckpt"}, save=Save(path))
    with pytest.raises(RecipeError, match="save.file: a path must stay"):
        recipe.resolve_pool(tmp_path, absolute=True)
    with pytest.raises(RecipeError):
        make_recipe("mean(pool)", {"*": "../*.ckpt"}).resolve_pool(tmp_path)


def test_components_are_numbers_by_component() -> None:
    pool = {"a": "a.ckpt", "b": "b.ckpt"}
    xl = get_layout("sdxl")
    text = "lerp(a, b, components(te=0.5, te1=1, unet=1/4))"
    rows = {r.cells[0].component: r.coefficients for r in fold(make_recipe(text, pool), xl).table()}
    assert [str(rows[c].get("b", 0)) for c in ("unet", "te0", "te1", "vae")] == [
        "1/4", "1/2", "1", "0",
    ]  # fmt: skip
    for wrong, message in [
        ("components()", "needs a number"),
        ("components(1)", "by name"),
        ("components(uent=1)", "did you mean 'unet'"),
        ("components(unet=a)", "must be a number"),
    ]:
        with pytest.raises(RecipeError, match=message):
            fold(make_recipe(f"lerp(a, b, {wrong})", pool), xl)
    with pytest.raises(RecipeError, match="unknown component"):
        fold(make_recipe("lerp(a, b, components(te1=1))", pool), SD1)
