"""The autoencoder between pictures and latent images, in the names of the original code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stockpot.layouts._base import Component, Row, norm_rows, weight_and_bias

__all__ = ["Vae"]


@dataclass(frozen=True, slots=True)
class Vae:
    """The architecture of one autoencoder; the defaults are those of SD1, SD2 and SDXL.

    Attributes:
        channels: Width of each level, outermost first; each level but the last halves the picture.
        n_residual: Residual blocks of each level of the encoder; the decoder has one more.
        latent_channels: Of the latent image.
        attention: Whether the middle blocks have an attention layer.
        picture_channels: Of the picture.
        component: The component that the table belongs to.

    Example:
        >>> sum(1 for row in Vae().rows() if row.block == "decoder")
        140
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    n_residual: int = 2
    latent_channels: int = 4
    attention: bool = True
    picture_channels: int = 3
    component: Component = Component("vae", "VAE", "first_stage_model.")

    def rows(self) -> Iterator[Row]:
        """Yield the table of keys: encoder, then decoder.

        Example:
            >>> [row.name for row in Vae().rows()][-2:]
            ['decoder.conv_out.weight', 'decoder.conv_out.bias']
        """
        latent = self.latent_channels
        yield from self._encoder("encoder")
        # Mean and variance: twice as many channels as a latent image has.
        yield from weight_and_bias("quant_conv", "encoder", (2 * latent, 2 * latent, 1, 1))
        yield from weight_and_bias("post_quant_conv", "decoder", (latent, latent, 1, 1))
        yield from self._decoder("decoder")

    def _encoder(self, block: str) -> Iterator[Row]:
        width = self.channels[0]
        yield from weight_and_bias("encoder.conv_in", block, (width, self.picture_channels, 3, 3))
        for level, level_width in enumerate(self.channels):
            for index in range(self.n_residual):
                name = f"encoder.down.{level}.block.{index}"
                yield from _residual(name, block, width, level_width)
                width = level_width
            if level < len(self.channels) - 1:
                name = f"encoder.down.{level}.downsample.conv"
                yield from weight_and_bias(name, block, (width, width, 3, 3))
        yield from self._middle("encoder.mid", block, width)
        yield from norm_rows("encoder.norm_out", block, width)
        yield from weight_and_bias(
            "encoder.conv_out", block, (2 * self.latent_channels, width, 3, 3)
        )

    def _decoder(self, block: str) -> Iterator[Row]:
        width = self.channels[-1]
        yield from weight_and_bias("decoder.conv_in", block, (width, self.latent_channels, 3, 3))
        yield from self._middle("decoder.mid", block, width)
        for level in range(len(self.channels) - 1, -1, -1):
            level_width = self.channels[level]
            for index in range(self.n_residual + 1):
                name = f"decoder.up.{level}.block.{index}"
                yield from _residual(name, block, width, level_width)
                width = level_width
            if level:
                name = f"decoder.up.{level}.upsample.conv"
                yield from weight_and_bias(name, block, (width, width, 3, 3))
        yield from norm_rows("decoder.norm_out", block, width)
        yield from weight_and_bias("decoder.conv_out", block, (self.picture_channels, width, 3, 3))

    def _middle(self, name: str, block: str, width: int) -> Iterator[Row]:
        yield from _residual(f"{name}.block_1", block, width, width)
        if self.attention:
            yield from norm_rows(f"{name}.attn_1.norm", block, width)
            for layer in ("q", "k", "v", "proj_out"):
                # Files that went through diffusers have matrices here.
                yield from weight_and_bias(
                    f"{name}.attn_1.{layer}", block, (width, width, 1, 1), ((width, width),)
                )
        yield from _residual(f"{name}.block_2", block, width, width)


def _residual(name: str, block: str, before: int, after: int) -> Iterator[Row]:
    yield from norm_rows(f"{name}.norm1", block, before)
    yield from weight_and_bias(f"{name}.conv1", block, (after, before, 3, 3))
    yield from norm_rows(f"{name}.norm2", block, after)
    yield from weight_and_bias(f"{name}.conv2", block, (after, after, 3, 3))
    if before != after:
        yield from weight_and_bias(f"{name}.nin_shortcut", block, (after, before, 1, 1))
