"""From prompts to what the UNet attends to."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["CutPromptWarning", "encode_prompts"]

_BATCH = 64


class CutPromptWarning(UserWarning):
    """A prompt is longer than the text encoder reads; the message names what was left out."""


def encode_prompts(
    prompts: Iterable[str], tokenizer: Any, text_encoder: Any
) -> dict[str, torch.Tensor]:
    """Encode each distinct prompt once.

    The states are those of the last layer after the final normalisation, with the end token as
    padding: what Stable Diffusion 1 was trained with.

    Args:
        prompts: Texts, taken as they stand: emphasis and other web UI grammar mean nothing here.
        tokenizer: A `CLIPTokenizer`.
        text_encoder: A `CLIPTextModel`, in evaluation mode.

    Returns:
        By prompt, float states `[n_positions, width]` on the encoder's device.

    Warns:
        CutPromptWarning: A prompt has more tokens than fit.
    """
    import torch

    distinct = list(dict.fromkeys(prompts))
    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    for prompt in distinct:
        _warn_if_cut(prompt, tokenizer, length)
    states: dict[str, torch.Tensor] = {}
    for start in range(0, len(distinct), _BATCH):
        some = distinct[start : start + _BATCH]
        tokens = tokenizer(
            some, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        with torch.inference_mode():
            ids = tokens.input_ids.to(text_encoder.device)
            hidden = text_encoder(ids)[0]
        states.update(zip(some, hidden, strict=True))
    return states


def _warn_if_cut(prompt: str, tokenizer: Any, length: int) -> None:
    # The tokenizer logs a warning of its own about lengths unless it is told to be silent.
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    kept = length - 2  # BOS and EOS
    if len(ids) > kept:
        cut = tokenizer.decode(ids[kept:])
        warnings.warn(
            f"a prompt may have at most {kept} tokens, but got {len(ids)}; left out: {cut!r}",
            CutPromptWarning,
            stacklevel=4,
        )
