"""LoRAs out of differences: what they hold, that they come back, and that others open them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from stockpot.adapters import AdapterSource, Extraction, extract_lora, find_modules
from stockpot.adapters.extraction import factors_of
from stockpot.checkpoints import open_checkpoint
from stockpot.engine import Pipeline, merge
from stockpot.errors import CheckpointError, OutputError, OutputExistsError
from stockpot.inspect import inspect_path
from stockpot.layouts import get_layout
from stockpot.recipes import make_recipe
from stockpot.zoo import extras, member, zoo_path

ZOO = get_layout("zoo")
BASE, TUNED = member("base").path, member("style-striped").path
STRIPED = next(extra.path for extra in extras() if extra.name == "lora-striped")


def extract(path: Path, tuned: Path = TUNED, base: Path = BASE, **how: object) -> Extraction:
    with open_checkpoint(tuned) as one, open_checkpoint(base) as other:
        return extract_lora(one, other, path, **how)  # type: ignore[arg-type]


def added(path: Path) -> dict[str, np.ndarray]:
    """What a LoRA adds, by canonical key."""
    with open_checkpoint(path) as source:
        seen = AdapterSource(source, ZOO)
        return {
            key: np.frombuffer(seen.read_bytes(key)).reshape(info.shape)
            for key, info in seen.tensors.items()
        }


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7), st.integers(0, 99))
def test_factors_are_the_nearest_of_their_rank(m: int, n: int, rank: int, seed: int) -> None:
    rank = min(m, n, rank)
    delta = np.random.default_rng(seed).normal(size=(m, n))
    up, down, kept = factors_of(delta, rank)
    assert up.shape == (m, rank) and down.shape == (rank, n)
    s = np.linalg.svd(delta, compute_uv=False)
    assert np.isclose(np.linalg.norm(delta - up @ down), np.linalg.norm(s[rank:]), atol=1e-7)
    assert np.isclose(kept, np.square(s[:rank]).sum() / np.square(s).sum())
    assert np.allclose(np.linalg.norm(up, axis=0), np.linalg.norm(down, axis=1))


def test_factors_of_nothing() -> None:
    up, down, kept = factors_of(np.zeros((3, 2)), 2)
    assert not (up @ down).any() and kept == 0 and np.isfinite(up).all() and np.isfinite(down).all()


def test_full_rank_gives_the_model_back(tmp_path: Path) -> None:
    """Where the LoRA has layers; other tensors stay the base's."""
    result = extract(tmp_path / "x.safetensors", rank=9999, conv_rank=9999, dtype="fp32")
    assert result.kept == pytest.approx(1, abs=1e-9)
    pool = {"base": str(BASE), "x": str(tmp_path / "x.safetensors")}
    merge(make_recipe("base + lora(x)", pool), tmp_path / "again.safetensors")
    again, tuned, base = (load_file(p) for p in (tmp_path / "again.safetensors", TUNED, BASE))
    covered = added(tmp_path / "x.safetensors")
    assert len(covered) == len(result.layers) == 278
    n_off = n_all = 0
    for key in covered:
        # Single precision of the factors may tip a tie: a neighbour, in few elements.
        steps = again[key].view(np.int16).astype(int) - tuned[key].view(np.int16).astype(int)
        close = np.abs(again[key].astype(float) - tuned[key].astype(float)) < 1e-6
        assert (np.abs(steps) <= 1)[~close].all()
        n_off += np.count_nonzero(steps)
        n_all += steps.size
    assert n_off < 1e-4 * n_all
    assert all(again[key].tobytes() == base[key].tobytes() for key in base if key not in covered)
    changed = {key for key in base.keys() & tuned.keys() if base[key].tobytes() !=
               tuned[key].tobytes()}  # fmt: skip
    assert changed == set(covered) | set(result.left_out)


def test_a_difference_of_rank_8_is_recovered(tmp_path: Path) -> None:
    """The zoo's LoRA baked into the base, and extracted from it again."""
    pool = {"base": str(BASE), "ink": str(STRIPED)}
    merge(make_recipe("base", {"base": str(BASE)}), tmp_path / "base.safetensors", dtype="fp32")
    merge(make_recipe("base + lora(ink)", pool), tmp_path / "baked.safetensors", dtype="fp32")
    models = (tmp_path / "baked.safetensors", tmp_path / "base.safetensors")
    eight = extract(tmp_path / "8.safetensors", *models, rank=8, dtype="fp32")
    assert eight.kept > 1 - 1e-9 and not eight.left_out and eight.covered == 1
    expected, got = added(STRIPED), added(tmp_path / "8.safetensors")
    nothing = {key for key in expected if not expected[key].any()}
    assert got.keys() == expected.keys() - nothing and eight.n_same == len(nothing)
    for key, change in got.items():
        assert np.abs(change - expected[key]).max() < 1e-5 * np.abs(expected[key]).max()
    four = extract(tmp_path / "4.safetensors", *models, rank=4, dtype="fp32")
    layer = next(layer for layer in four.layers if layer.name.endswith("0_attn1_to_q"))
    (key,) = (k for k in expected if k.endswith("input_blocks.1.1.transformer_blocks.0.attn1.to_q."
                                               "weight"))  # fmt: skip
    s = np.linalg.svd(expected[key], compute_uv=False) ** 2
    assert layer.kept == pytest.approx(s[:4].sum() / s.sum(), rel=1e-4)
    assert four.kept < 0.99


def test_others_open_it(tmp_path: Path) -> None:
    """diffusers loads and fuses the file; `inspect` says what it is."""
    diffusers = Pipeline(config=zoo_path() / "config")
    recipe = make_recipe("base", {"base": str(BASE)})
    merge(recipe, tmp_path / "base", dtype="fp32", form="diffusers", pipeline=diffusers)
    result = extract(tmp_path / "ink.safetensors", rank=6, conv_rank=5, dtype="fp16")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "base")
    before = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    pipe.load_lora_weights(str(tmp_path), weight_name="ink.safetensors")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    merge(make_recipe("base + lora(ink)", {"base": str(BASE), "ink": str(result.path)}),
          tmp_path / "baked", dtype="fp32", form="diffusers", pipeline=diffusers)  # fmt: skip
    ours = StableDiffusionPipeline.from_pretrained(tmp_path / "baked").unet.state_dict()
    theirs = pipe.unet.state_dict()
    n_changed = sum(not torch.equal(theirs[key], before[key]) for key in before)
    assert n_changed == len(result.layers)
    assert all(torch.allclose(ours[key], theirs[key], rtol=1e-5, atol=1e-6) for key in before)
    seen = inspect_path(result.path)
    assert (seen.kind, seen.architecture, seen.facts["modules"]) == ("lycoris", "zoo", "278")


def test_clamping_cuts_the_largest(tmp_path: Path) -> None:
    for name, clamp in (("x", None), ("y", 0.9)):
        extract(tmp_path / f"{name}.safetensors", rank=4, clamp=clamp, dtype="fp32")
    whole, cut = (load_file(tmp_path / f"{name}.safetensors") for name in "xy")
    stem = next(key for key in whole if key.endswith("lora_up.weight")).removesuffix("up.weight")
    values = np.concatenate([np.abs(whole[f"{stem}{side}.weight"]).ravel() for side in
                             ("up", "down")])  # fmt: skip
    high = np.quantile(values, 0.9)
    assert np.allclose(cut[f"{stem}up.weight"], np.clip(whole[f"{stem}up.weight"], -high, high))


def test_what_cannot_be_extracted_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="equal in all that it may change"):
        extract(tmp_path / "x.safetensors", BASE, BASE)
    save_file({"w": np.zeros(3, np.float16)}, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match="known architecture, but this is of none"):
        extract(tmp_path / "x.safetensors", tmp_path / "odd.safetensors")
    (tmp_path / "there.safetensors").write_bytes(b"x")
    with pytest.raises(OutputExistsError):
        extract(tmp_path / "there.safetensors", rank=1)
    with pytest.raises(OutputError, match="an input is never written to"):
        extract(TUNED, rank=1, overwrite=True)
    with pytest.raises(ValueError, match="rank must be 1 or more"):
        extract(tmp_path / "x.safetensors", rank=0)
    tensors = load_file(TUNED)
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    tensors[key] = tensors[key].copy()
    tensors[key][3, 3] = np.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="values must be finite"):
        extract(tmp_path / "x.safetensors", tmp_path / "nan.safetensors")
    assert not list(tmp_path.glob("x.*"))


def test_the_same_file_comes_out_every_time(tmp_path: Path) -> None:
    for name in "xy":
        extract(tmp_path / f"{name}.safetensors", rank=2)
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    with open_checkpoint(tmp_path / "x.safetensors") as source:
        assert {module.kind for module in find_modules(source)} == {"lora"}
        assert '"rank": 2' in source.metadata["stockpot.extraction"]
