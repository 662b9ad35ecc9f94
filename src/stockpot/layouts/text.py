"""The two kinds of text encoder: CLIP in transformers' names, and OpenCLIP in its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stockpot.layouts._base import Component, Row, norm_rows, weight_and_bias

__all__ = ["ClipText", "OpenClipText"]

_N_TOKENS = 49408
_N_POSITIONS = 77


@dataclass(frozen=True, slots=True)
class ClipText:
    """A text encoder of CLIP, as transformers names it; the defaults are those of CLIP-L.

    Attributes:
        component: The component that the table belongs to.
        width: Of the states.
        n_layers: Transformer layers.
        n_tokens: Size of the vocabulary.
        n_positions: Tokens of a prompt.
        inner_width: Of the feed-forward layers; four times `width` where None.

    Example:
        >>> text = ClipText(Component("te", "text encoder", "cond_stage_model.transformer."))
        >>> sum(1 for row in text.rows() if not row.optional)
        196
    """

    component: Component
    width: int = 768
    n_layers: int = 12
    n_tokens: int = _N_TOKENS
    n_positions: int = _N_POSITIONS
    inner_width: int | None = None

    def rows(self) -> Iterator[Row]:
        """Yield the table of keys, in the order in which data flow.

        Example:
            >>> text = ClipText(Component("te", "text encoder", "cond_stage_model.transformer."))
            >>> next(text.rows()).name
            'text_model.embeddings.position_ids'
        """
        width, n_positions = self.width, self.n_positions
        inner = self.inner_width or 4 * width
        block = "embeddings"
        yield Row(
            "text_model.embeddings.position_ids",
            block,
            (1, n_positions),
            optional=True,
            role="counter",
            alternatives=((n_positions,),),
        )
        yield Row("text_model.embeddings.token_embedding.weight", block, (self.n_tokens, width))
        yield Row("text_model.embeddings.position_embedding.weight", block, (n_positions, width))
        for layer in range(self.n_layers):
            name, block = f"text_model.encoder.layers.{layer}", f"layer{layer:02d}"
            yield from norm_rows(f"{name}.layer_norm1", block, width)
            for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield from weight_and_bias(f"{name}.self_attn.{projection}", block, (width, width))
            yield from norm_rows(f"{name}.layer_norm2", block, width)
            yield from weight_and_bias(f"{name}.mlp.fc1", block, (inner, width))
            yield from weight_and_bias(f"{name}.mlp.fc2", block, (width, inner))
        yield from norm_rows("text_model.final_layer_norm", "final", width)
        # Unused by SD; there in files that kept the head of the whole CLIP.
        yield Row("text_projection.weight", "final", (width, width), optional=True)


@dataclass(frozen=True, slots=True)
class OpenClipText:
    """A text encoder of OpenCLIP, as open_clip names it.

    Attributes:
        component: The component that the table belongs to.
        width: Of the states.
        n_layers: Transformer layers.
        pooled: Whether the pooled text is used. Where it is not (SD2 stops one layer early), the
            last layer and the projection are optional: files that went through diffusers lack
            them, and draw the same pictures.
        n_tokens: Size of the vocabulary.
        n_positions: Tokens of a prompt.

    Example:
        >>> text = OpenClipText(Component("te", "OpenCLIP-H", "cond_stage_model.model."), 1024, 24)
        >>> sum(1 for _ in text.rows())
        294
    """

    component: Component
    width: int
    n_layers: int
    pooled: bool = False
    n_tokens: int = _N_TOKENS
    n_positions: int = _N_POSITIONS

    def rows(self) -> Iterator[Row]:
        """Yield the table of keys, in the order in which data flow.

        Example:
            >>> te = Component("te", "OpenCLIP-H", "cond_stage_model.model.")
            >>> next(OpenClipText(te, 1024, 24).rows()).shape
            (49408, 1024)
        """
        width = self.width
        yield Row("token_embedding.weight", "embeddings", (self.n_tokens, width))
        yield Row("positional_embedding", "embeddings", (self.n_positions, width))
        for layer in range(self.n_layers):
            unused = layer == self.n_layers - 1 and not self.pooled
            for row in self._layer(f"transformer.resblocks.{layer}", f"layer{layer:02d}"):
                yield row._replace(optional=unused)
        yield from norm_rows("ln_final", "final", width)
        yield Row("text_projection", "final", (width, width), optional=not self.pooled)
        # The temperature of CLIP's training; nothing in drawing reads it.
        yield Row("logit_scale", "final", (), optional=True, alternatives=((1,),))

    def _layer(self, name: str, block: str) -> Iterator[Row]:
        width = self.width
        yield from norm_rows(f"{name}.ln_1", block, width)
        # Query, key and value in one tensor, on top of each other.
        yield Row(f"{name}.attn.in_proj_weight", block, (3 * width, width))
        yield Row(f"{name}.attn.in_proj_bias", block, (3 * width,))
        yield from weight_and_bias(f"{name}.attn.out_proj", block, (width, width))
        yield from norm_rows(f"{name}.ln_2", block, width)
        yield from weight_and_bias(f"{name}.mlp.c_fc", block, (4 * width, width))
        yield from weight_and_bias(f"{name}.mlp.c_proj", block, (width, 4 * width))
