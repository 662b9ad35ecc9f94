"""The UNet of latent diffusion, in the names of the original (LDM, sgm) code.

Levels go down (``IN``), through the middle (``M``) and up again (``OUT``); each output block takes
the result of the input block opposite to it, which is why the widths are kept on a stack here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stockpot.layouts._base import Component, Row, norm_rows, weight_and_bias

__all__ = ["UNet"]


@dataclass(frozen=True, slots=True)
class UNet:
    """The architecture of one UNet.

    Attributes:
        channels: Width of each level, outermost first.
        depths: Transformer layers of each level; 0 for a level without attention.
        middle_depth: Transformer layers of the middle block.
        context_width: Width of the text encoder's states (``attn2.to_k``).
        linear: Whether transformers are entered by a linear layer; otherwise by a 1×1
            convolution. Both hold the same numbers, so the other's shape is an alternative.
        label_width: Width of the vector of size and pooled text (SDXL); None without.
        n_residual: Residual blocks of each level on the way down; one more on the way up.
        in_channels: Of the latent image.
        out_channels: Of the prediction.
        component: The component that the table belongs to.

    Example:
        >>> unet = UNet((320, 640, 1280, 1280), (1, 1, 1, 0), 1, 768)
        >>> sum(1 for _ in unet.rows())
        686
    """

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    context_width: int
    linear: bool = False
    label_width: int | None = None
    n_residual: int = 2
    in_channels: int = 4
    out_channels: int = 4
    component: Component = Component("unet", "UNet", "model.diffusion_model.")

    def rows(self) -> Iterator[Row]:
        """Yield the table of keys, in the order in which data flow.

        Example:
            >>> unet = UNet((320, 640, 1280, 1280), (1, 1, 1, 0), 1, 768)
            >>> next(unet.rows())
            Row(name='time_embed.0.weight', block='time_embed', shape=(1280, 320), optional=False, \
role='weight', alternatives=())
        """
        width = self.channels[0]
        embedded = 4 * width
        yield from weight_and_bias("time_embed.0", "time_embed", (embedded, width))
        yield from weight_and_bias("time_embed.2", "time_embed", (embedded, embedded))
        if self.label_width is not None:
            yield from weight_and_bias("label_emb.0.0", "label_emb", (embedded, self.label_width))
            yield from weight_and_bias("label_emb.0.2", "label_emb", (embedded, embedded))

        yield from weight_and_bias("input_blocks.0.0", "IN00", (width, self.in_channels, 3, 3))
        skipped = [width]
        last = len(self.channels) - 1
        for level, (level_width, depth) in enumerate(zip(self.channels, self.depths, strict=True)):
            for _ in range(self.n_residual):
                name, block = f"input_blocks.{len(skipped)}", f"IN{len(skipped):02d}"
                yield from self._residual(f"{name}.0", block, width, level_width)
                if depth:
                    yield from self._transformer(f"{name}.1", block, level_width, depth)
                width = level_width
                skipped.append(width)
            if level < last:
                name, block = f"input_blocks.{len(skipped)}.0.op", f"IN{len(skipped):02d}"
                yield from weight_and_bias(name, block, (width, width, 3, 3))
                skipped.append(width)

        yield from self._residual("middle_block.0", "M00", width, width)
        yield from self._transformer("middle_block.1", "M00", width, self.middle_depth)
        yield from self._residual("middle_block.2", "M00", width, width)

        n_out = 0
        for level in range(last, -1, -1):
            level_width, depth = self.channels[level], self.depths[level]
            for index in range(self.n_residual + 1):
                name, block = f"output_blocks.{n_out}", f"OUT{n_out:02d}"
                yield from self._residual(f"{name}.0", block, width + skipped.pop(), level_width)
                width = level_width
                if depth:
                    yield from self._transformer(f"{name}.1", block, width, depth)
                if level and index == self.n_residual:
                    # The upsampler comes after the transformer, and takes its place if none.
                    upsampler = f"{name}.{2 if depth else 1}.conv"
                    yield from weight_and_bias(upsampler, block, (width, width, 3, 3))
                n_out += 1

        yield from norm_rows("out.0", "out", width)
        yield from weight_and_bias("out.2", "out", (self.out_channels, width, 3, 3))

    def _residual(self, name: str, block: str, before: int, after: int) -> Iterator[Row]:
        yield from norm_rows(f"{name}.in_layers.0", block, before)
        yield from weight_and_bias(f"{name}.in_layers.2", block, (after, before, 3, 3))
        yield from weight_and_bias(f"{name}.emb_layers.1", block, (after, 4 * self.channels[0]))
        yield from norm_rows(f"{name}.out_layers.0", block, after)
        yield from weight_and_bias(f"{name}.out_layers.3", block, (after, after, 3, 3))
        if before != after:
            yield from weight_and_bias(f"{name}.skip_connection", block, (after, before, 1, 1))

    def _transformer(self, name: str, block: str, width: int, depth: int) -> Iterator[Row]:
        matrix, convolution = (width, width), (width, width, 1, 1)
        shape, other = (matrix, convolution) if self.linear else (convolution, matrix)
        yield from norm_rows(f"{name}.norm", block, width)
        yield from weight_and_bias(f"{name}.proj_in", block, shape, (other,))
        for layer in range(depth):
            inner = f"{name}.transformer_blocks.{layer}"
            for attention, context in (("attn1", width), ("attn2", self.context_width)):
                yield Row(f"{inner}.{attention}.to_q.weight", block, matrix)
                yield Row(f"{inner}.{attention}.to_k.weight", block, (width, context))
                yield Row(f"{inner}.{attention}.to_v.weight", block, (width, context))
                yield from weight_and_bias(f"{inner}.{attention}.to_out.0", block, matrix)
            # Gated: the first layer makes values and gates, each four times as wide.
            yield from weight_and_bias(f"{inner}.ff.net.0.proj", block, (8 * width, width))
            yield from weight_and_bias(f"{inner}.ff.net.2", block, (width, 4 * width))
            for norm in ("norm1", "norm2", "norm3"):
                yield from norm_rows(f"{inner}.{norm}", block, width)
        yield from weight_and_bias(f"{name}.proj_out", block, shape, (other,))
