"""Pictures whose edges meet: the right one goes on at the left, the bottom at the top."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stockpot.draw.parts import Parts

__all__ = ["edges_meet"]


@contextmanager
def edges_meet(parts: Parts, on: bool = True) -> Iterator[None]:
    """Let every convolution of UNet and VAE see the opposite edge beyond an edge, as web UIs do.

    A picture then repeats without a seam. Meanwhile the VAE works in one piece, whatever
    `stockpot.draw.save_memory` arranged: a tile of it would meet itself.

    Args:
        parts: The model.
        on: Whether at all.

    Yields:
        Nothing.
    """
    if not on:
        yield
        return
    import torch

    layers = [layer for part in (parts.unet, parts.vae) for layer in part.modules()
              if isinstance(layer, torch.nn.Conv2d)]  # fmt: skip
    modes = [layer.padding_mode for layer in layers]
    in_tiles = parts.vae.use_tiling
    parts.vae.use_tiling = False
    for layer in layers:
        layer.padding_mode = "circular"
    try:
        yield
    finally:
        parts.vae.use_tiling = in_tiles
        for layer, mode in zip(layers, modes, strict=True):
            layer.padding_mode = mode
