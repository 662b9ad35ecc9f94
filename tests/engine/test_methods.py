"""Recipes with methods, from files to a file: one answer, memory, what is refused, what is told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stockpot.checkpoints import DTYPES, GeneratedSource, TensorInfo
from stockpot.engine import (
    Settings,
    estimate_plan,
    make_plan,
    merge,
    merge_in_memory,
    open_pool,
    read_history,
)
from stockpot.errors import MemoryBudgetError, PreflightError, RecipeError
from stockpot.recipes import make_recipe

Save = Callable[..., Path]
NAMES = ("base", "a", "b", "c", "d")


@pytest.fixture
def folder(tmp_path: Path, save: Save) -> Path:
    """A base and four models near it."""
    noise = torch.Generator().manual_seed(0)
    shapes = {"w": (300, 70), "v": (500,), "s": ()}
    base = {key: 0.05 * torch.randn(shape, generator=noise) for key, shape in shapes.items()}
    save("base", {key: value.half() for key, value in base.items()})
    for name in NAMES[1:]:
        near = {key: value + 0.01 * torch.randn(value.shape, generator=noise)
                for key, value in base.items()}  # fmt: skip
        save(name, {key: value.half() for key, value in near.items()})
    return tmp_path


def merged(folder: Path, expression: str, out: str, names: tuple[str, ...] = NAMES,
           **settings: object) -> str:  # fmt: skip
    """sha256 of the whole merged file."""
    recipe = make_recipe(expression, {name: f"{name}.safetensors" for name in names})
    path = folder / f"{out}.safetensors"
    merge(recipe, path, folder=folder, settings=Settings(**settings))  # type: ignore[arg-type]
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "call",
    ["della(base, {}, p=0.3, eps=-0.1, seed={seed})", "dare(base, {}, p=0.5, seed={seed})",
     "dgmla(base, {}, p=0.2, seed={seed})"],
)  # fmt: skip
def test_masks_depend_on_the_seed_and_on_nothing_else(folder: Path, call: str) -> None:
    first = call.replace("{}", "a, b, c, d").format(seed=7)
    seen = {merged(folder, first, "one", threads=1, chunk_elements=4096)}
    other = call.replace("{}", "c, a, d, b").format(seed=7)
    order = ("d", "c", "base", "b", "a")
    seen.add(merged(folder, other, "two", order, threads=4, chunk_elements=1000))
    seen.add(merged(folder, other, "three", order, compiled=False))
    assert len(seen) == 1
    assert merged(folder, call.replace("{}", "a, b, c, d").format(seed=8), "four") not in seen


def test_equal_files_under_two_names_get_masks_of_their_own(folder: Path, save: Save) -> None:
    save("twin", load_file(folder / "a.safetensors"))
    names = ("base", "a", "twin")
    one = merged(folder, "drop(base, a, p=0.5)", "one", names)
    assert merged(folder, "drop(base, a, twin, p=0.5)", "two", names) != one
    same = merged(folder, "drop(base, twin, a, p=0.5)", "three", names)
    # The recipe in the file differs in the names' order only, which is put in order.
    assert merged(folder, "drop(base, a, twin, p=0.5)", "two again", names) == same


def test_nested_methods_stream_and_equal_their_steps(folder: Path) -> None:
    merged(folder, "dgmla(base, a, b, c, d)", "inner")
    merged(folder, "iso_z(dgmla(base, a, b, c, d), z=0.8)", "nested")
    names = ("base", "inner")
    merged(folder, "iso_z(base, inner, z=0.8)", "stepwise", names)
    nested, stepwise = (load_file(folder / f"{n}.safetensors") for n in ("nested", "stepwise"))
    for key in nested:
        # The step in a file of its own was rounded once more.
        assert torch.allclose(nested[key].float(), stepwise[key].float(), atol=2e-4, rtol=2e-3)


def test_linear_parts_of_a_recipe_keep_their_bytes(folder: Path) -> None:
    pool = {name: f"{name}.safetensors" for name in NAMES}
    with open_pool(make_recipe("mean(pool)", pool), folder) as sources:
        plan = make_plan(make_recipe("mean(pool)", pool), sources)
        assert {tensor.action for tensor in plan.tensors.values()} == {"combine"}
        plan = make_plan(make_recipe("task_arithmetic(base, a, b)", pool), sources)
        assert {tensor.action for tensor in plan.tensors.values()} == {"combine"}
        plan = make_plan(make_recipe("lerp(ties(base, a, b), mean(c, d), 0.5)", pool), sources)
        assert {tensor.action for tensor in plan.tensors.values()} == {"compute"}


def test_fills_reach_into_methods(folder: Path, save: Save) -> None:
    pruned = {k: v for k, v in load_file(folder / "b.safetensors").items() if k != "v"}
    save("b", pruned)
    with pytest.raises(PreflightError, match="lacks v"):
        merged(folder, "median(a, b, c)", "out")
    merged(folder, "median(a, b | base, c)", "inside")
    merged(folder, "median(a, b, c) | d", "outside")
    inside, outside = (load_file(folder / f"{n}.safetensors") for n in ("inside", "outside"))
    a, c, d, base = (load_file(folder / f"{n}.safetensors") for n in ("a", "c", "d", "base"))
    rows = torch.stack([a["v"], base["v"], c["v"]])
    assert torch.equal(inside["v"], rows.median(0).values)
    assert torch.equal(outside["v"], d["v"])
    assert torch.equal(inside["w"], outside["w"])


def test_the_file_tells_the_recipe(folder: Path) -> None:
    merged(folder, "dgmla(base, a, b, c, seed=3)", "out")
    with open_pool(make_recipe("out", {"out": "out.safetensors"}), folder) as sources:
        history = read_history(sources["out"].metadata)
    assert history is not None
    assert "dgmla(base, a, b, c, seed=3)" in history.last.recipe
    assert set(history.last.inputs) == {"base", "a", "b", "c"}


def generated(n_models: int, shape: tuple[int, ...]) -> dict[str, GeneratedSource]:
    """Models of one tensor that are never read: plans need headers only."""
    info = TensorInfo("w", DTYPES["F16"], shape)
    names = ["base", *(f"m{i}" for i in range(n_models))]
    return {name: GeneratedSource([info], lambda *_: None, name=name) for name in names}


def test_what_does_not_fit_is_refused_before_anything_is_read() -> None:
    sources = generated(1, (4096, 4096))
    recipe = make_recipe("iso_c(base, m0)", {name: f"{name}.ckpt" for name in sources})
    with pytest.raises(MemoryBudgetError, match="940 MB of it for what methods keep"):
        merge_in_memory(recipe, sources, settings=Settings(memory=700_000_000, threads=2))
    plan = make_plan(recipe, sources)
    costs = estimate_plan(plan, memory=2 << 30, threads=2)
    assert costs.threads == 1 or costs.n_bytes < 2 << 30
    assert costs.n_passes == 2 and costs.seconds > 1


def test_hundreds_of_models_fit_small_memory() -> None:
    sources = generated(216, (2048, 2048))
    recipe = make_recipe("dgmla(base, pool - base)", {name: f"{name}.ckpt" for name in sources})
    plan = make_plan(recipe, sources)
    costs = estimate_plan(plan, memory=1 << 30, threads=2)
    assert costs.n_passes == 4 and costs.n_bytes < 1 << 30


def test_too_deep_nesting_is_refused() -> None:
    text = "median(a, b, c)"
    let = {"x0": text}
    for i in range(1, 60):
        let[f"x{i}"] = f"median(x{i - 1}, b, c)"
    pool = {name: f"{name}.ckpt" for name in "abc"}
    info = TensorInfo("w", DTYPES["F16"], (4,))
    sources = {n: GeneratedSource([info], lambda *_: None, name=n) for n in "abc"}
    with pytest.raises(RecipeError, match="methods may nest 50 deep"):
        make_plan(make_recipe("x59", pool, let=let), sources)
