"""Mixes drawn without being saved: the same weights as a file's, and the same bits on return."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.checkpoints import MemorySource, Source
from stockpot.draw import DrawSettings, LiveMix, hold, open_live, open_painter
from stockpot.engine import merge_in_memory
from stockpot.errors import CheckpointError, PreflightError
from stockpot.recipes import Recipe, make_recipe

MakeModel = Callable[..., MemorySource]
QUICK = DrawSettings(steps=2)
POOL = {name: f"{name}.safetensors" for name in "abc"}


def mix(text: str, **parts: str) -> Recipe:
    return make_recipe({"model": text, **parts}, POOL)


@pytest.fixture(scope="module")
def pool(make_model: MakeModel) -> dict[str, Source]:
    return {name: make_model(i) for i, name in enumerate("abc")}


def weights(live: LiveMix) -> dict[str, torch.Tensor]:
    parts = live.painter.parts
    return {
        f"{part}.{key}": value.clone()
        for part in ("unet", "vae", "text_encoder")
        for key, value in getattr(parts, part).state_dict().items()
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_live_mix_is_the_merge(pool: dict[str, Source], config: Path) -> None:
    live = open_live(mix("a"), pool, config)
    for text in ("0.3*a + 0.7*b", "mean(a, b, c)", "a + b - c", "c"):
        live.show(mix(text))
        merged = open_painter(merge_in_memory(mix(text), pool), config)
        pictures = merged.sample(["a red heart"], 1, QUICK)
        assert np.array_equal(live.painter.sample(["a red heart"], 1, QUICK), pictures)


def test_switches_and_back(pool: dict[str, Source], config: Path) -> None:
    live = open_live(mix("mean(a, b)"), pool, config)
    fresh = weights(live)
    for i in range(4):
        live.show(mix(f"lerp(a, {'bc'[i % 2]}, {i / 4})"))
    assert not same(weights(live), fresh)
    live.show(mix("mean(a, b)"))
    assert same(weights(live), fresh)
    assert same(weights(open_live(mix("mean(a, b)"), pool, config)), fresh)


def test_only_what_changed_is_written(pool: dict[str, Source], config: Path) -> None:
    live = open_live(mix("a"), pool, config)
    assert live.show(mix("a")).n_changed == 0
    te = live.show(mix("a", te="b"))
    assert te.n_changed == 36 and te.n_tensors == 926
    back = live.show(mix("a", te="a"))
    assert back.n_changed == 36
    blocks = live.show(mix('lerp(a, b, blocks("supermerger", [0, 1' + ", 0" * 24 + "]))"))
    assert 0 < blocks.n_changed < 40


def test_parts_from_elsewhere_stay(
    make_model: MakeModel, pool: dict[str, Source], config: Path
) -> None:
    live = open_live(mix("a"), pool, config, vae=make_model(9))
    before = weights(live)
    live.show(mix("b"))
    after = weights(live)
    assert all(torch.equal(after[k], before[k]) for k in before if k.startswith("vae."))
    assert not torch.equal(after["unet.conv_in.weight"], before["unet.conv_in.weight"])


def test_a_pool_in_memory_is_the_pool(pool: dict[str, Source], config: Path) -> None:
    held = {name: hold(source) for name, source in pool.items()}
    one, two = open_live(mix("a"), held, config), open_live(mix("a"), pool, config)
    one.show(mix("mean(a, b)"))
    two.show(mix("mean(a, b)"))
    assert same(weights(one), weights(two))


def test_velocity_is_told_by_the_marker(make_model: MakeModel, config: Path) -> None:
    sources = {"a": make_model(0), "b": make_model(1, extra={"v_pred": b""})}
    live = open_live(mix("a"), sources, config)
    assert live.painter.prediction == "epsilon"
    live.show(mix("b"))
    assert live.painter.prediction == "v_prediction"
    live.show(mix("a"))
    assert live.painter.prediction == "epsilon"


def test_a_mix_that_lacks_something_changes_nothing(make_model: MakeModel, config: Path) -> None:
    sources = {"a": make_model(0), "b": make_model(1, without=("vae",))}
    live = open_live(mix("a"), sources, config)
    before = weights(live)
    with pytest.raises(PreflightError):
        live.show(mix("mean(a, b)"))
    with pytest.raises(PreflightError, match="lacks 204 keys that the painter draws with"):
        live.show(make_recipe({"unet": "b", "te": "b"}, POOL))
    assert same(weights(live), before)


def test_a_failed_switch_is_repaired(make_model: MakeModel, config: Path) -> None:
    key = "model.diffusion_model.out.2.bias"
    good, bad = make_model(0), make_model(1)
    tensors = {k: (info, good.read_bytes(k)) for k, info in good.tensors.items()}
    tensors[key] = (bad.tensors[key], b"\x00\x7c" * 4)  # infinities
    live = open_live(mix("a"), {"a": good, "b": MemorySource(tensors, name="bad")}, config)
    before = weights(live)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        live.show(mix("b"))
    live.show(mix("a"))
    assert same(weights(live), before)
