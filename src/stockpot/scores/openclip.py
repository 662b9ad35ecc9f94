"""CLIP under OpenCLIP's names, as HPSv2's files have them.

Source: Radford et al. (2103.00020); names and details from ``open_clip``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from stockpot.scores.attention import FusedAttention

__all__ = ["OpenClip", "OpenClipShape", "UNUSED"]

UNUSED = ("attn_mask",)
"""What old files have and nobody needs."""

_TEXT_HEAD_WIDTH = 64


@dataclass(frozen=True, slots=True)
class OpenClipShape:
    """How large the network is.

    Attributes:
        vision_width: Channels of the picture's tower.
        vision_layers: Its depth.
        vision_head_width: Channels of one of its heads: 80 in ViT-H-14. No file tells it.
        patch: Side of a patch in pixels.
        image: Side of the picture in pixels.
        text_width: Channels of the text's tower; its heads have 64 each.
        text_layers: Its depth.
        vocabulary: Rows of its word embeddings.
        length: Tokens that it reads.
        joint_width: Channels of what both towers give.
    """

    vision_width: int = 1280
    vision_layers: int = 32
    vision_head_width: int = 80
    patch: int = 14
    image: int = 224
    text_width: int = 1024
    text_layers: int = 24
    vocabulary: int = 49408
    length: int = 77
    joint_width: int = 1024

    @classmethod
    def from_weights(cls, weights: Mapping[str, torch.Tensor]) -> Self:
        """Read the size from the shapes of weights.

        Args:
            weights: Of a ViT of ViT-H-14's kind, with heads of 80 and 64 channels.

        Returns:
            The size.

        Raises:
            KeyError: The weights lack what tells it.
        """
        patches = weights["visual.conv1.weight"]
        places = weights["visual.positional_embedding"].shape[0] - 1
        return cls(
            patches.shape[0],
            _count(weights, "visual.transformer.resblocks."),
            80,
            patches.shape[-1],
            round(places**0.5) * patches.shape[-1],
            weights["token_embedding.weight"].shape[1],
            _count(weights, "transformer.resblocks."),
            weights["token_embedding.weight"].shape[0],
            weights["positional_embedding"].shape[0],
            weights["text_projection"].shape[1],
        )


def _count(weights: Mapping[str, torch.Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in weights if key.startswith(prefix)})


class _Block(nn.Module):
    def __init__(self, width: int, n_heads: int, is_causal: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = FusedAttention(width, n_heads, is_causal)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        inner = functional.gelu(self.mlp["c_fc"](self.ln_2(x)))
        out: torch.Tensor = x + self.mlp["c_proj"](inner)
        return out


def _transformer(width: int, n_layers: int, n_heads: int, is_causal: bool) -> nn.ModuleDict:
    blocks = (_Block(width, n_heads, is_causal) for _ in range(n_layers))
    return nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})


def _through(transformer: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    blocks: Any = transformer["resblocks"]
    for block in blocks:
        x = block(x)
    return x


class _Visual(nn.Module):
    def __init__(self, shape: OpenClipShape) -> None:
        super().__init__()
        width, n_places = shape.vision_width, (shape.image // shape.patch) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(n_places, width))
        self.proj = nn.Parameter(torch.empty(width, shape.joint_width))
        self.conv1 = nn.Conv2d(3, width, shape.patch, stride=shape.patch, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        n_heads = width // shape.vision_head_width
        self.transformer = _transformer(width, shape.vision_layers, n_heads, False)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)  # [n, patches, width]
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding)
        x = _through(self.transformer, x)
        out: torch.Tensor = self.ln_post(x[:, 0]) @ self.proj
        return out


class OpenClip(nn.Module):
    """The whole network; its state dict has OpenCLIP's names.

    Args:
        shape: How large; the default is ViT-H-14.
    """

    def __init__(self, shape: OpenClipShape | None = None) -> None:
        super().__init__()
        shape = shape or OpenClipShape()
        width = shape.text_width
        self.positional_embedding = nn.Parameter(torch.empty(shape.length, width))
        self.text_projection = nn.Parameter(torch.empty(width, shape.joint_width))
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.visual = _Visual(shape)
        self.transformer = _transformer(width, shape.text_layers, width // _TEXT_HEAD_WIDTH, True)
        self.token_embedding = nn.Embedding(shape.vocabulary, width)
        self.ln_final = nn.LayerNorm(width)

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pictures.

        Args:
            pixels: `[n, 3, image, image]`.

        Returns:
            `[n, joint_width]`, of length 1.
        """
        return functional.normalize(self.visual(pixels), dim=-1)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed texts.

        Args:
            tokens: int64 `[n, length]`; the end token has the highest number of all.

        Returns:
            `[n, joint_width]`, of length 1.
        """
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.ln_final(_through(self.transformer, x))
        ends = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
        return functional.normalize(ends @ self.text_projection, dim=-1)
