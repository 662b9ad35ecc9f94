"""Adapters in recipes: what is baked, what stays as it is, and what the file says of it."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.numpy import load_file, save_file

from stockpot.adapters import AdapterSource
from stockpot.checkpoints import open_checkpoint
from stockpot.engine import Pipeline, Settings, merge, read_history, replay, verify
from stockpot.errors import PreflightError, RecipeError
from stockpot.layouts import get_layout
from stockpot.recipes import fold, make_recipe
from stockpot.zoo import extras, member, zoo_path

ZOO = get_layout("zoo")
LORAS = {extra.name: extra.path for extra in extras() if extra.kind == "lora"}
STRIPED, NAVY = LORAS["lora-striped"], LORAS["lora-navy"]
POOL = {"base": str(member("base").path), "striped": str(STRIPED), "navy": str(NAVY)}
BLOCKS = ", ".join(str(number / 27) for number in range(27))
QUERY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def bake(path: Path, mix: str, **pool: str) -> dict[str, np.ndarray]:
    names = pool or {name: file for name, file in POOL.items() if name in mix}
    merge(make_recipe(mix, names), path)
    return load_file(path)


def delta(file: Path) -> dict[str, np.ndarray]:
    """What a LoRA of the zoo adds, multiplied out by numpy, by kohya's names."""
    stored = {key: value.astype(np.float64) for key, value in load_file(file).items()}
    found = {}
    for ends in ((".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight")):
        for key, down in stored.items():
            if key.endswith(ends[0]):
                stem = key.removesuffix(ends[0])
                up = stored[stem + ends[1]]
                scale = stored.get(f"{stem}.alpha", len(down)) / len(down)
                product = scale * (up.reshape(len(up), -1) @ down.reshape(len(down), -1))
                flat = stem.replace("unet.", "lora_unet_").replace("text_encoder.", "lora_te_")
                found[flat.replace(".", "_")] = product
    return found


def test_a_bake_is_the_exact_sum_rounded_once(tmp_path: Path) -> None:
    baked, base = bake(tmp_path / "x.safetensors", "base + 0.8*lora(striped)"), load_file(
        POOL["base"])  # fmt: skip
    change = delta(STRIPED)["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"]
    for old, new, added in zip(
        base[QUERY].flat, baked[QUERY].flat, change.flat, strict=True
    ):  # fmt: skip
        exact = Fraction(float(old)) + Fraction(4, 5) * Fraction(float(added))
        near = np.array([new, np.nextafter(new, np.float16(-9)), np.nextafter(new, np.float16(9))])
        distances = [abs(Fraction(float(one)) - exact) for one in near]
        assert distances[0] == min(distances)
    touched = [key for key in base if baked[key].tobytes() != base[key].tobytes()]
    with open_checkpoint(STRIPED) as source:
        adapted = AdapterSource(source, ZOO)
        assert touched and set(touched) <= set(adapted.tensors)
    assert {key: value.dtype for key, value in baked.items()} == {
        key: value.dtype for key, value in base.items()
    }


def test_a_bake_is_what_diffusers_fuses(tmp_path: Path) -> None:
    """Both LoRAs at once, in text encoder and UNet, against `fuse_lora` in single precision."""
    diffusers = Pipeline(config=zoo_path() / "config")
    folder, baked = tmp_path / "base", tmp_path / "baked"
    plain_recipe = make_recipe("base", {"base": POOL["base"]})
    merge(plain_recipe, folder, dtype="fp32", form="diffusers", pipeline=diffusers)
    mix = "base + 0.8*lora(striped) - 0.5*lora(navy)"
    merge(make_recipe(mix, POOL), baked, dtype="fp32", form="diffusers", pipeline=diffusers)
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    for file, strength in ((STRIPED, 0.8), (NAVY, -0.5)):
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="one")
        pipe.fuse_lora(lora_scale=strength)
        pipe.unload_lora_weights()
    ours = StableDiffusionPipeline.from_pretrained(baked)
    n_changed = 0
    plain = StableDiffusionPipeline.from_pretrained(folder)
    for part in ("unet", "text_encoder"):
        theirs = getattr(pipe, part).state_dict()
        before = getattr(plain, part).state_dict()
        for key, value in getattr(ours, part).state_dict().items():
            assert torch.allclose(value, theirs[key], rtol=1e-5, atol=1e-6), key
            n_changed += not torch.equal(value, before[key])
    both = [*delta(STRIPED).items(), *delta(NAVY).items()]
    assert n_changed == len({name for name, change in both if change.any()}) > 100


@pytest.mark.parametrize("mix", [
    "base + 0.8*lora(striped)",
    f'base + blocks("autombw", [{BLOCKS}])*lora(striped) + lora(navy)/3',
    "base + kept_mean(elected(lora(striped), lora(navy)))",
])  # fmt: skip
def test_threads_chunks_and_the_kernel_do_not_show(tmp_path: Path, mix: str) -> None:
    names = {name: file for name, file in POOL.items() if name in mix}
    ways = (
        Settings(threads=1),
        Settings(threads=3, chunk_elements=1024),
        Settings(threads=2, compiled=False, chunk_elements=4096),
    )
    found = set()
    for number, settings in enumerate(ways):
        path = tmp_path / f"{number}.safetensors"
        merge(make_recipe(mix, names), path, settings=settings)
        found.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(found) == 1


def test_block_weights_and_methods_apply(tmp_path: Path) -> None:
    base = load_file(POOL["base"])
    part = bake(tmp_path / "part.safetensors", "base + components(te=1)*lora(striped)")
    assert any(part[key].tobytes() != base[key].tobytes() for key in base)
    assert all(part[k].tobytes() == base[k].tobytes() for k in base if "diffusion_model" in k)
    # Where only one of two LoRAs has a layer, the other adds zero.
    mean = bake(tmp_path / "mean.safetensors", "base + kept_mean(lora(striped), lora(navy))")
    one, other = delta(STRIPED), delta(NAVY)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    both = np.stack([one[stem], other[stem]]) if stem in other else one[stem][None]
    expected = base[QUERY] + both.sum(0) / np.maximum(1, (both != 0).sum(0))
    assert np.abs(mean[QUERY] - expected).max() < 1e-3 * np.abs(expected).max()


def test_a_lora_folds_to_shares_and_a_set_of_them_is_averaged() -> None:
    pool = {"a": "a.safetensors", "ink-1": "1.safetensors", "ink-2": "2.safetensors"}
    table = fold(make_recipe('a + 0.5*mean(lora(glob("ink-*")))', pool), ZOO)
    row = next(iter(table.rows.values()))
    assert {str(k): str(v) for k, v in row.items()} == {"a": "1", "ink-1": "1/4", "ink-2": "1/4"}
    assert table.adapters == {"ink-1", "ink-2"} and not table.warnings


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("a + lora(a)", "'a' stands for a model and, in `lora.a.`, for an adapter"),
        ("mean(pool) + lora(ink)", "and `pool - ink` for the others"),
        ("a + lora(2*a)", "`lora` takes an entry of the pool"),
        ("a + lora(0.5)", "but got a number"),
        ("a + lora(a, ink, 0.8)", "`lora` takes 1 arguments, but got 3"),
        ("mean(a, lora(ink))", "models, or differences of models"),
    ],
)
def test_misuse_is_said(mix: str, message: str) -> None:
    pool = {"a": "a.safetensors", "ink": "ink.safetensors"}
    with pytest.raises(RecipeError, match=message):
        fold(make_recipe(mix, pool), ZOO)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="write lora.striped.: the difference that it adds"):
        bake(tmp_path / "x.safetensors", "mean(base, striped)")
    with pytest.raises(PreflightError, match="pool: base2: .* and nothing else, but this file has"):
        bake(tmp_path / "x.safetensors", "base + lora(base2)", base=POOL["base"],
             base2=POOL["base"])  # fmt: skip
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    wide = {f"{stem}.lora_down.weight": np.ones((4, 320), np.float16),
            f"{stem}.lora_up.weight": np.ones((320, 4), np.float16)}  # fmt: skip
    save_file(wide, tmp_path / "sd1.safetensors")
    with pytest.raises(PreflightError, match=r"would change as \[320, 320\], but is \[24, 24\]"):
        bake(tmp_path / "x.safetensors", "base + lora(sd1)", base=POOL["base"],
             sd1=str(tmp_path / "sd1.safetensors"))  # fmt: skip
    assert not list(tmp_path.glob("x.*"))


def test_a_baked_file_says_so_and_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "renamed.safetensors").write_bytes(STRIPED.read_bytes())
    (folder / "model.safetensors").write_bytes(Path(POOL["base"]).read_bytes())
    path = tmp_path / "baked.safetensors"
    recipe = make_recipe("base + 0.8*lora(striped)", POOL)
    merge(recipe, path, settings=Settings(sha256=True))
    with open_checkpoint(path) as source:
        history = read_history(source.metadata)
        assert history is not None
        assert set(history.last.inputs["striped"].components) == {"unet", "te"}
        assert "lora(striped)" in history.last.recipe
        digest = hashlib.sha256(STRIPED.read_bytes()).hexdigest()
        assert digest in history.last.recipe
        verdict = verify(source, folder)
        assert (verdict.answer, verdict.recomputed) == ("agrees", True)
        replay(source, folder, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
