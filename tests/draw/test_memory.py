"""Drawing with little memory: what each level may change, what needs a graphics card, the peak."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.checkpoints import MemorySource, open_checkpoint
from stockpot.draw import (
    DrawSettings,
    Painter,
    Vram,
    check_device,
    open_painter,
    peak_bytes,
    reset_peak,
    save_memory,
)
from stockpot.errors import DeviceMemoryError, RequestError

MakeModel = Callable[..., MemorySource]
HOW = DrawSettings(steps=2, cfg=5.0, sampler="Euler", negative="dull")
PROMPTS = ["a red heart", "a blue star"]


def arranged(make_model: MakeModel, config: Path, vram: Vram) -> Painter:
    painter = open_painter(make_model(), config)
    save_memory(painter.parts, vram)
    return painter


@pytest.mark.parametrize("vram", ["medium", "low"])
def test_pictures_of_one_tile_differ_in_rounding(
    make_model: MakeModel, config: Path, vram: Vram
) -> None:
    plain = arranged(make_model, config, "high").sample(PROMPTS, 3, HOW)
    painter = arranged(make_model, config, vram)
    assert painter.parts.vae.use_tiling and painter.parts.vae.use_slicing
    got = painter.sample(PROMPTS, 3, HOW)
    assert np.abs(got - plain).max() < 1e-5
    names = {type(p).__name__ for p in painter.parts.unet.attn_processors.values()}
    assert (names == {"SlicedAttnProcessor"}) == (vram == "low")


def test_attention_in_slices_is_the_same(make_model: MakeModel, config: Path) -> None:
    whole, sliced = (arranged(make_model, config, v) for v in ("high", "low"))  # type: ignore[arg-type]
    x, context = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 64)
    width = whole.parts.unet.config.cross_attention_dim
    with torch.no_grad():
        a, b = (p.parts.unet(x, 500, context[..., :width]).sample for p in (whole, sliced))
    assert torch.allclose(a, b, atol=1e-5) and a.std() > 1e-3


def test_no_memory_is_told_with_what_to_do(
    make_model: MakeModel, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painter = open_painter(make_model(), config)

    def enormous(*arguments: object, **options: object) -> torch.Tensor:
        return torch.empty(1 << 62, dtype=torch.uint8)

    monkeypatch.setattr(painter.parts.unet, "forward", enormous)
    with pytest.raises(DeviceMemoryError, match=r"^cpu draws 2 of 32 x 32 at once: .* draw fewer"):
        painter.sample(PROMPTS, 3, HOW)


@pytest.fixture(scope="module")
def zoo() -> Iterator[Callable[[], Painter]]:
    from stockpot.zoo import member

    def make() -> Painter:
        with open_checkpoint(member("base").path) as source:
            return open_painter(source)

    yield make


def test_larger_pictures_are_decoded_in_tiles(zoo: Callable[[], Painter]) -> None:
    painter, saving = zoo(), zoo()
    save_memory(saving.parts, "medium")
    asked: list[int] = []
    saving.parts.vae.decoder.register_forward_hook(lambda _, z, __: asked.append(z[0].shape[-1]))
    large = dataclasses.replace(HOW, width=64, height=64, steps=8, cfg=4.0)
    prompt = ["flat art, a large red heart on white background"]
    a, b = painter.sample(prompt, 3, large), saving.sample(prompt, 3, large)
    side = saving.parts.vae.tile_latent_min_size
    assert len(asked) > 1 and max(asked) <= side < 16
    # A tile takes its own mean and spread, and sees no further: the same picture in other shades.
    assert np.abs(a - b).mean() < 0.12 and np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.85
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_draws_about_the_same(
    make_model: MakeModel, config: Path, dtype: str
) -> None:
    plain = open_painter(make_model(), config).sample(PROMPTS, 3, HOW)
    half = open_painter(make_model(), config, dtype=dtype)
    assert half.parts.unet.dtype == getattr(torch, dtype) and half.parts.vae.dtype == torch.float32
    assert np.abs(half.sample(PROMPTS, 3, HOW) - plain).mean() < 0.02


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "gpu", "xpu", ""])
def test_a_device_that_is_not_there_is_refused(
    make_model: MakeModel, config: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    message = f"--device: this machine has no device '{device}' .*; use one of cpu"
    with pytest.raises(RequestError, match=message):
        open_painter(make_model(), config, device=device)


def test_devices_that_are_there_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        check_device(device)
    with pytest.raises(RequestError, match="'cuda:2' .* use one of cpu, cuda:0, cuda:1"):
        check_device("cuda:2")


def test_the_peak_is_of_the_process() -> None:
    reset_peak("cpu")
    before = peak_bytes("cpu")
    assert before > 1 << 20
    block = np.ones(peak_bytes("cpu") // 8 + (1 << 23))
    assert peak_bytes("cpu") >= before + block.nbytes // 4
