"""Attention under the names that BLIP and OpenCLIP gave their parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["FusedAttention", "attend"]


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    n_heads: int,
    mask: torch.Tensor | None = None,
    *,
    is_causal: bool = False,
) -> torch.Tensor:
    """Attend with several heads (Vaswani et al., 1706.03762).

    Args:
        query: `[n, n_query, width]`.
        key: `[n, n_key, width]`.
        value: `[n, n_key, width]`.
        n_heads: A divisor of width.
        mask: False where nobody may look, bool, broadcast to `[n, n_heads, n_query, n_key]`.
        is_causal: Whether each place sees only those up to itself.

    Returns:
        `[n, n_query, width]`.
    """

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[:2], n_heads, -1).transpose(1, 2)  # [n, heads, places, rest]

    mixed: torch.Tensor = functional.scaled_dot_product_attention(
        split(query), split(key), split(value), attn_mask=mask, is_causal=is_causal
    )
    return mixed.transpose(1, 2).flatten(2)


class FusedAttention(nn.Module):
    """Self-attention with one matrix for query, key and value, as `torch.nn.MultiheadAttention`.

    Args:
        width: Channels.
        n_heads: A divisor of width.
        is_causal: Whether each place sees only those up to itself.
    """

    def __init__(self, width: int, n_heads: int, is_causal: bool) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.n_heads = n_heads
        self.is_causal = is_causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend.

        Args:
            x: `[n, places, width]`.

        Returns:
            `[n, places, width]`.
        """
        mixed = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = mixed.chunk(3, dim=-1)
        out: torch.Tensor = self.out_proj(
            attend(query, key, value, self.n_heads, is_causal=self.is_causal)
        )
        return out
