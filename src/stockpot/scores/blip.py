"""ImageReward's network under its original names: BLIP's two encoders and an MLP.

A ViT sees the picture; a BERT reads the prompt, each of its layers attending to the picture too
(BLIP's "image-grounded text encoder"); its first place goes through five linear layers to a
number. Sources: Li et al., BLIP (2201.12086); Xu et al., ImageReward (2304.05977).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from stockpot.scores.attention import attend

__all__ = ["BlipReward", "BlipShape", "LinearHead", "UNUSED"]

UNUSED = (".position_ids", "blip.vision_proj.weight", "blip.vision_proj.bias",
          "blip.text_proj.weight", "blip.text_proj.bias")  # fmt: skip
"""What the original's file has and its score does not use."""

_HEAD_WIDTH = 64
_HEAD = (1024, 128, 64, 16)


@dataclass(frozen=True, slots=True)
class BlipShape:
    """How large the network is.

    Attributes:
        vision_width: Channels of the ViT; its heads have 64 each.
        vision_layers: Its depth.
        patch: Side of a patch in pixels.
        image: Side of the picture in pixels.
        text_width: Channels of the BERT.
        text_layers: Its depth.
        text_heads: Heads of its attention.
        text_inner: Channels inside its MLPs.
        vocabulary: Rows of its word embeddings.
        positions: Rows of its position embeddings.
        epsilon: Of its layer norms.
    """

    vision_width: int = 1024
    vision_layers: int = 24
    patch: int = 16
    image: int = 224
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_inner: int = 3072
    vocabulary: int = 30524
    positions: int = 512
    epsilon: float = 1e-12

    @classmethod
    def from_files(cls, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Self:
        """Read the size from the original's two files.

        Args:
            config: ``med_config.json``: the BERT.
            weights: ``ImageReward.pt``: the ViT shows in its shapes.

        Returns:
            The size.

        Raises:
            KeyError: The config or the weights lack what tells it.
            ValueError: The config says a number that is none.
        """
        patches = weights["blip.visual_encoder.patch_embed.proj.weight"]
        places = weights["blip.visual_encoder.pos_embed"].shape[1] - 1
        blocks = {key.split(".")[3] for key in weights if ".visual_encoder.blocks." in key}
        return cls(
            patches.shape[0],
            len(blocks),
            patches.shape[-1],
            round(places**0.5) * patches.shape[-1],
            int(config["hidden_size"]),
            int(config["num_hidden_layers"]),
            int(config["num_attention_heads"]),
            int(config["intermediate_size"]),
            int(config["vocab_size"]),
            int(config["max_position_embeddings"]),
            float(config.get("layer_norm_eps", 1e-12)),
        )


class _VisionAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.n_heads = width // _HEAD_WIDTH

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        out: torch.Tensor = self.proj(attend(query, key, value, self.n_heads))
        return out


class _VisionBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _VisionAttention(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        inner = functional.gelu(self.mlp["fc1"](self.norm2(x)))
        out: torch.Tensor = x + self.mlp["fc2"](inner)
        return out


class _Vision(nn.Module):
    def __init__(self, shape: BlipShape) -> None:
        super().__init__()
        width, n_places = shape.vision_width, (shape.image // shape.patch) ** 2 + 1
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, n_places, width))
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, width, shape.patch, stride=shape.patch)}
        )
        self.blocks = nn.ModuleList(_VisionBlock(width) for _ in range(shape.vision_layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)  # [n, patches, width]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: torch.Tensor = self.norm(x)
        return out


class _TextAttention(nn.Module):
    """BERT's attention, residual and norm with it, to itself or to the picture."""

    def __init__(self, shape: BlipShape, source_width: int) -> None:
        super().__init__()
        width = shape.text_width
        self.self = nn.ModuleDict(
            {
                "query": nn.Linear(width, width),
                "key": nn.Linear(source_width, width),
                "value": nn.Linear(source_width, width),
            }
        )
        self.output = _Output(width, width, shape.epsilon)
        self.n_heads = shape.text_heads

    def forward(
        self, x: torch.Tensor, source: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        query, key, value = (
            self.self["query"](x),
            self.self["key"](source),
            self.self["value"](source),
        )
        out: torch.Tensor = self.output(attend(query, key, value, self.n_heads, mask), x)
        return out


class _Output(nn.Module):
    def __init__(self, inputs: int, width: int, epsilon: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.LayerNorm(self.dense(x) + before)
        return out


class _TextLayer(nn.Module):
    def __init__(self, shape: BlipShape) -> None:
        super().__init__()
        width, inner = shape.text_width, shape.text_inner
        self.attention = _TextAttention(shape, width)
        self.crossattention = _TextAttention(shape, shape.vision_width)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _Output(inner, width, shape.epsilon)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        x = self.attention(x, x, mask)
        x = self.crossattention(x, picture, None)
        inner = functional.gelu(self.intermediate["dense"](x))
        out: torch.Tensor = self.output(inner, x)
        return out


class _Text(nn.Module):
    def __init__(self, shape: BlipShape) -> None:
        super().__init__()
        width = shape.text_width
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(shape.vocabulary, width),
                "position_embeddings": nn.Embedding(shape.positions, width),
                "LayerNorm": nn.LayerNorm(width, eps=shape.epsilon),
            }
        )
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(_TextLayer(shape) for _ in range(shape.text_layers))}
        )

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor, picture: torch.Tensor
    ) -> torch.Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embeddings["word_embeddings"](tokens)
        x = self.embeddings["LayerNorm"](x + self.embeddings["position_embeddings"](places))
        layers: Any = self.encoder["layer"]
        for layer in layers:
            x = layer(x, mask, picture)
        out: torch.Tensor = x
        return out


class LinearHead(nn.Module):
    """From features to a number by five linear layers, dropout between them in training only.

    ImageReward's and LAION's predictors have the same: 1024, 128, 64, 16 and 1 channels, without
    activations.

    Args:
        width: Channels of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (width, *_HEAD)
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
            layers.append(nn.Linear(inputs, outputs))
            if i < 3:
                layers.append(nn.Identity())
        self.layers = nn.Sequential(*layers, nn.Linear(_HEAD[-1], 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the number.

        Args:
            features: `[n, width]`.

        Returns:
            `[n]`.
        """
        out: torch.Tensor = self.layers(features)[:, 0]
        return out


class BlipReward(nn.Module):
    """The whole network; its state dict has the names of ``ImageReward.pt``.

    Args:
        shape: How large; the default is the published one.
    """

    def __init__(self, shape: BlipShape | None = None) -> None:
        super().__init__()
        shape = shape or BlipShape()
        self.blip = nn.ModuleDict({"visual_encoder": _Vision(shape), "text_encoder": _Text(shape)})
        self.mlp = LinearHead(shape.text_width)

    def forward(
        self, pixels: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Compute rewards as they come, not standardised.

        Args:
            pixels: `[n, 3, image, image]`.
            tokens: int64 `[n, length]`.
            mask: 1 where there is text, `[n, length]`.

        Returns:
            `[n]`.
        """
        seen = self.blip["visual_encoder"](pixels)
        states = self.blip["text_encoder"](tokens, mask.bool()[:, None, None, :], seen)
        out: torch.Tensor = self.mlp(states[:, 0])
        return out
