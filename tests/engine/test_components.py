"""Swap, extract, prune and un-prune: recipes like any other, whatever form a donor has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stockpot.checkpoints import (
    DTYPES,
    GeneratedSource,
    Source,
    TensorInfo,
    open_checkpoint,
)
from stockpot.engine import extract, make_plan, merge, prune, read_history, swap, unprune
from stockpot.errors import LayoutError, PreflightError, UnknownNameError
from stockpot.layouts import get_layout, part_of
from stockpot.recipes import make_recipe, mean
from stockpot.recipes import model as named

Save = Callable[..., Path]
Model = Callable[..., dict[str, torch.Tensor]]
Hashes = Callable[[Path], dict[str, str]]
PREFIX = {
    "unet": "model.diffusion_model.",
    "te": "cond_stage_model.transformer.",
    "vae": "first_stage_model.",
}


@pytest.fixture
def whole(save: Save, model: Model) -> Callable[[str, int], Path]:
    """Save a whole checkpoint of the zoo's shape."""
    return lambda name, seed: save(name, model("unet", "te", "vae", seed=seed))


@pytest.mark.parametrize("component", ["unet", "te", "vae"])
def test_a_component_has_one_hash_wherever_it_is(
    component: str, whole: Callable[[str, int], Path], tmp_path: Path, hashes_of: Hashes
) -> None:
    a, b = whole("a", 0), whole("b", 1)
    alone = merge(extract(b, component), tmp_path / "alone.safetensors", form="bare").path
    kept = merge(extract(b, component), tmp_path / "kept.safetensors").path
    prefix = PREFIX[component]
    assert load_file(alone).keys() == {
        key.removeprefix(prefix) for key in load_file(b) if key.startswith(prefix)
    }
    assert load_file(kept).keys() == {key for key in load_file(b) if key.startswith(prefix)}
    assert hashes_of(alone) == hashes_of(kept) == {component: hashes_of(b)[component]}
    outputs = [
        merge(swap(a, {component: donor}), tmp_path / f"{donor.stem}-in-a.safetensors")
        for donor in (b, alone, kept)
    ]
    assert len({output.content_hash for output in outputs}) == 1
    expected = {**hashes_of(a), component: hashes_of(b)[component]}
    assert all(hashes_of(output.path) == expected for output in outputs)


def test_a_swap_tells_what_came_before(whole: Callable[[str, int], Path], tmp_path: Path) -> None:
    a, b = whole("a", 0), whole("b", 1)
    alone = merge(extract(b, "vae"), tmp_path / "nice-vae.safetensors", form="bare")
    result = merge(swap(a, {"vae": alone.path}), tmp_path / "out.safetensors")
    with open_checkpoint(result.path) as source:
        history = read_history(source.metadata)
    assert history is not None
    tree = [(depth, name, step is not None) for depth, name, _, step in history.walk()]
    assert tree == [(0, "", True), (1, "a", False), (1, "nice-vae", True), (2, "b", False)]


def test_a_new_unet_brings_its_marker_and_the_old_average_goes(
    save: Save, model: Model, tmp_path: Path
) -> None:
    old, new = model("unet", "te", "vae", seed=0), model("unet", "te", "vae", seed=1)
    old["model_ema.diffusion_modelout2bias"] = torch.ones(4)
    old["betas"] = torch.zeros(1000)
    new["v_pred"] = torch.zeros(0)
    recipe = swap(save("old", old), {"unet": save("new", new)})
    result = load_file(merge(recipe, tmp_path / "out.safetensors").path)
    assert "v_pred" in result
    assert "model_ema.diffusion_modelout2bias" not in result
    # A UNet alone cannot tell what it predicts: the model's own schedule stays.
    bare = {k.removeprefix(PREFIX["unet"]): v for k, v in new.items() if k.startswith("model.")}
    recipe = swap(tmp_path / "old.safetensors", {"unet": save("bare", bare)})
    assert "betas" in load_file(merge(recipe, tmp_path / "out2.safetensors").path)


def test_a_donor_may_have_what_the_model_lacks(
    save: Save, model: Model, tmp_path: Path, hashes_of: Hashes
) -> None:
    pruned, donor = (
        save("pruned", model("unet", "te", seed=0)),
        save("d", model("te", "vae", seed=1)),
    )
    swapped = merge(swap(pruned, {"te": donor}), tmp_path / "te.safetensors")
    assert set(hashes_of(swapped.path)) == {"unet", "te"}
    filled = merge(swap(pruned, {"vae": donor}), tmp_path / "vae.safetensors")
    assert set(hashes_of(filled.path)) == {"unet", "te", "vae"}


def test_prune_leaves_out_averages_and_strange_keys(
    save: Save, model: Model, tmp_path: Path
) -> None:
    tensors = model("unet", "te", "vae")
    extra = {
        "model_ema.diffusion_modelout2bias": torch.ones(4),
        "loss.logvar": torch.ones(1),
        "betas": torch.zeros(1000),
    }
    result = merge(prune(save("fat", tensors | extra)), tmp_path / "thin.safetensors", dtype="bf16")
    found = load_file(result.path)
    assert found.keys() == tensors.keys() | {"betas"}
    assert found["betas"].dtype == torch.float32  # a schedule is copied, not rounded
    assert all(torch.equal(found[key], tensors[key].bfloat16()) for key in tensors)


def test_unprune_fills_keys_and_components(save: Save, model: Model, tmp_path: Path) -> None:
    full, base = model("unet", "te", "vae", seed=0), model("unet", "te", "vae", seed=1)
    lost = [key for i, key in enumerate(full) if i % 7 == 0 or key.startswith(PREFIX["vae"])]
    thin = {key: value for key, value in full.items() if key not in lost}
    result = merge(unprune(save("thin", thin), save("base", base)), tmp_path / "out.safetensors")
    found = load_file(result.path)
    assert found.keys() == full.keys()
    assert all(torch.equal(found[key], (base if key in lost else full)[key]) for key in full)


def test_a_type_for_each_component(whole: Callable[[str, int], Path], tmp_path: Path) -> None:
    a = whole("a", 0)
    wanted = {"model": "bf16", "unet": "fp8_e4m3", "vae": "fp32"}
    result = merge(prune(a), tmp_path / "out.safetensors", dtype=wanted)
    kinds = {"unet": torch.float8_e4m3fn, "te": torch.bfloat16, "vae": torch.float32}
    before = load_file(a)
    for key, tensor in load_file(result.path).items():
        component = str(get_layout("zoo").cell_of(key).component)
        assert tensor.dtype == kinds[component]
        # torch's own conversion of single values rounds to nearest, ties to even.
        expected = before[key].float().to(kinds[component])
        assert torch.equal(tensor.float(), expected.float())


@pytest.mark.parametrize("kind", ["fp8_e4m3", "fp8_e5m2"])
def test_every_half_that_fits_becomes_the_fp8_that_torch_makes(
    kind: str, save: Save, tmp_path: Path
) -> None:
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    halves = bits.view(torch.float16)
    target = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}[kind]
    # Beyond these the nearest value is past the largest one.
    largest = {"fp8_e4m3": 464.0, "fp8_e5m2": 61440.0}[kind]
    inside = {"fp8_e4m3": halves.abs() <= largest, "fp8_e5m2": halves.abs() < largest}[kind]
    path = save("h", {"w": halves[inside].contiguous()})
    out = tmp_path / "o.safetensors"
    result = merge(make_recipe("h", {"h": str(path)}), out, dtype=kind)
    made = load_file(result.path)["w"]
    assert made.view(torch.uint8).equal(halves[inside].to(target).view(torch.uint8))


def test_resetting_before_or_after_a_mean_is_the_same(
    whole: Callable[[str, int], Path], tmp_path: Path, hashes_of: Hashes
) -> None:
    base, a, b = whole("base", 0), whole("a", 1), whole("b", 2)

    def mean_of(x: Path, y: Path, output: str) -> Path:
        recipe = make_recipe(mean(named("x"), named("y")), {"x": str(x), "y": str(y)})
        return merge(recipe, tmp_path / f"{output}.safetensors").path

    def reset(path: Path) -> Path:
        return merge(swap(path, {"te": base}), tmp_path / f"{path.stem}-reset.safetensors").path

    after = reset(mean_of(a, b, "ab"))
    before = mean_of(reset(a), reset(b), "before")
    assert hashes_of(after) == hashes_of(before)


def test_refusals_name_file_and_remedy(
    save: Save, model: Model, whole: Callable[[str, int], Path], tmp_path: Path
) -> None:
    a = whole("a", 0)
    with pytest.raises(UnknownNameError, match="'te1'"):
        swap(a, {"te1": a})
    with pytest.raises(PreflightError, match="only unet, te, te0, te1, vae can be swapped"):
        swap(a, {"ema": a})
    with pytest.raises(PreflightError, match="swap needs a donor"):
        swap(a, {})
    strange = save("strange")
    with pytest.raises(LayoutError, match=r"strange.*architecture must be known"):
        prune(strange)
    with pytest.raises(PreflightError, match=r"strange.*donor must have a vae"):
        swap(a, {"vae": strange})
    pruned = save("pruned", model("unet", "te"))
    with pytest.raises(PreflightError, match=r"pruned.*there is no vae in it"):
        extract(pruned, "vae")
    with pytest.raises(PreflightError, match=r"pruned.*there is no vae in it"):
        merge(swap(a, {"vae": pruned}), tmp_path / "x.safetensors")
    with pytest.raises(PreflightError, match="holds one component"):
        merge(make_recipe("a", {"a": str(a)}), tmp_path / "x.safetensors", form="bare")
    with pytest.raises(PreflightError, match="must be of the model's architecture"):
        unprune(a, strange)
    assert not (tmp_path / "x.safetensors").exists()


def headers(*parts: tuple[str, str], bare: bool = False) -> Source:
    """A checkpoint of which only the header is there: components of layouts."""

    def refuse(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        raise AssertionError("a plan reads headers only")

    infos = []
    for layout, component in parts:
        part = part_of(get_layout(layout), component)
        assert part is not None
        for row in part.rows():
            key = row.name if bare else part.component.prefix + row.name
            if row.role == "weight":
                infos.append(TensorInfo(key, DTYPES["F16"], row.shape))
    return GeneratedSource(infos, refuse)


def test_sdxl_takes_its_parts_from_other_architectures_and_from_files_of_their_own() -> None:
    sources = {
        "a": headers(("sd1", "unet"), ("sd1", "te"), ("sd1", "vae")),
        "g": headers(("sdxl", "te1"), bare=True),
        "v": headers(("sd2", "vae"), bare=True),
        "xl": headers(("sdxl", "unet"), ("sdxl", "te0"), ("sdxl", "te1"), ("sdxl", "vae")),
    }
    pool = {name: f"{name}.safetensors" for name in sources}
    mix = {"model": "xl", "te0": "a", "te1": "g", "vae": "v"}
    plan = make_plan(make_recipe(mix, pool), sources)
    assert plan.layout.name == "sdxl"
    taken = {(t.cell.component, t.terms[0].model) for t in plan.tensors.values()}
    assert taken == {("unet", "xl"), ("te0", "a"), ("te1", "g"), ("vae", "v")}
    assert not get_layout("sdxl").fit({k: i.shape for k, i in plan.infos.items()}).missing
    wrong = {"model": "xl", "te": "a"}
    with pytest.raises(PreflightError, match="must be of one architecture"):
        make_plan(make_recipe(wrong, pool), sources)
