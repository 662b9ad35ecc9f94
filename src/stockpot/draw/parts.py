"""What a picture is made with: modules, tokenizers and the noise schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stockpot.draw.naming import Place

__all__ = ["Parts"]


@dataclass(frozen=True)
class Parts:
    """What a picture is made with.

    Attributes:
        name: The checkpoint's name, for messages.
        unet: diffusers' `UNet2DConditionModel`.
        vae: diffusers' `AutoencoderKL`.
        text_encoder: transformers' `CLIPTextModel`.
        tokenizer: transformers' `CLIPTokenizer`.
        noise: The noise schedule, as in ``scheduler_config.json``, its ``prediction_type`` set.
        layout: Name of the layout.
        text_encoder_2: SDXL's second one, a `CLIPTextModelWithProjection`; else None.
        tokenizer_2: Its tokenizer; else None.
        places: By canonical key of the checkpoint: the part that it belongs to (an attribute of
            this class), and where it goes there.
    """

    name: str
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    noise: dict[str, Any]
    layout: str = "sd1"
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    places: Mapping[str, tuple[str, tuple[Place, ...]]] = field(default_factory=dict, repr=False)
