"""Pictures whose edges meet: rolling the noise rolls the picture, and nothing else changes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from stockpot.checkpoints import MemorySource
from stockpot.draw import DrawSettings, Hires, Painter, edges_meet, open_painter, save_memory

MakeModel = Callable[..., MemorySource]
HOW = DrawSettings(steps=2, cfg=5.0, sampler="Euler", width=64, height=64)


def rolled(x: torch.Tensor, by: int) -> torch.Tensor:
    return torch.roll(x, (by, by), (-2, -1))


def test_no_place_is_an_edge(painter: Painter) -> None:
    """Eight latents are one step of the UNet's coarsest level: only edges tell places apart."""
    unet, vae = painter.parts.unet, painter.parts.vae
    width = unet.config.cross_attention_dim
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 16, 16, generator=generator)
    context = torch.randn(1, 77, width, generator=generator)

    def far(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().max())

    with torch.no_grad():
        plain = far(
            unet(rolled(x, 8), 500, context).sample, rolled(unet(x, 500, context).sample, 8)
        )
        seam = far(vae.decode(rolled(x, 8)).sample, rolled(vae.decode(x).sample, 32))
        assert plain > 1e-2 and seam > 1e-2
        with edges_meet(painter.parts):
            there = unet(rolled(x, 8), 500, context).sample
            assert far(there, rolled(unet(x, 500, context).sample, 8)) < 1e-4
            assert far(vae.decode(rolled(x, 8)).sample, rolled(vae.decode(x).sample, 32)) < 1e-4


def test_only_that_picture_changes(painter: Painter) -> None:
    plain = painter.sample(["a red heart"], 3, HOW)
    tiled = painter.sample(["a red heart"], 3, dataclasses.replace(HOW, tiling=True))
    assert np.abs(tiled - plain).max() > 1e-3
    assert np.array_equal(painter.sample(["a red heart"], 3, HOW), plain)
    with edges_meet(painter.parts):
        assert np.array_equal(painter.sample(["a red heart"], 3, HOW), tiled)
    hires = dataclasses.replace(HOW, width=32, height=32, hires=Hires(2))
    both = [painter.sample(["a heart"], 3, dataclasses.replace(hires, tiling=t)) for t in (0, 1)]
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_saving_memory_does_not_part_the_edges(make_model: MakeModel, config: Path) -> None:
    saving, how = open_painter(make_model(), config), dataclasses.replace(HOW, tiling=True)
    before = saving.sample(["a red heart"], 3, how)
    save_memory(saving.parts, "medium")
    assert np.abs(saving.sample(["a red heart"], 3, how) - before).max() < 1e-5
    assert saving.parts.vae.use_tiling
    assert all(layer.padding_mode == "zeros" for layer in saving.parts.unet.modules()
               if isinstance(layer, torch.nn.Conv2d))  # fmt: skip
