"""How the known architectures are built, in the words of diffusers and transformers.

What files say in their keys and shapes is the layouts' business; this is the rest: heads, norms,
activations, the noise schedule. A folder in diffusers' form describes any other model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.errors import CheckpointError, LayoutError

__all__ = ["Description", "describe", "read_description"]


@dataclass(frozen=True)
class Description:
    """What is needed besides weights.

    Attributes:
        origin: Where it comes from, for messages: a folder, or an architecture's name.
        unet: As in ``unet/config.json``.
        vae: As in ``vae/config.json``.
        text_encoders: As in ``text_encoder/config.json``; a second one in SDXL.
        noise: As in ``scheduler/scheduler_config.json``.
        tokenizers: Folders, one for each text encoder; None where it must be found elsewhere.
    """

    origin: str
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoders: tuple[Mapping[str, Any], ...]
    noise: Mapping[str, Any]
    tokenizers: tuple[Path | None, ...]

    def where(self, part: str) -> str:
        """Name the place that describes a part, for messages.

        Args:
            part: Such as ``unet``.

        Returns:
            A file's path, or a name.
        """
        if not Path(self.origin).is_dir():
            return self.origin
        return str(Path(self.origin) / part / "config.json")


_CROSS_DOWN, _CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
_UNET_1 = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [_CROSS_DOWN] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + [_CROSS_UP] * 3,
}
_UNET_2 = {
    **_UNET_1,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
_UNET_XL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", _CROSS_DOWN, _CROSS_DOWN],
    "up_block_types": [_CROSS_UP, _CROSS_UP, "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
_CLIP = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406,
         "eos_token_id": 49407, "pad_token_id": 49407}  # fmt: skip
_CLIP_L = {**_CLIP, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
           "num_hidden_layers": 12, "hidden_act": "quick_gelu"}  # fmt: skip
# The last of the file's 24 layers is never used.
_CLIP_H = {**_CLIP, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
           "num_hidden_layers": 23, "hidden_act": "gelu"}  # fmt: skip
_CLIP_G = {**_CLIP, "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20,
           "num_hidden_layers": 32, "hidden_act": "gelu", "projection_dim": 1280}  # fmt: skip
_NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}

_KNOWN = {
    "sd1": Description("Stable Diffusion 1", _UNET_1, _VAE, (_CLIP_L,), _NOISE, (None,)),
    "sd2": Description("Stable Diffusion 2", _UNET_2, _VAE, (_CLIP_H,), _NOISE, (None,)),
    "sdxl": Description(
        "Stable Diffusion XL",
        _UNET_XL,
        {**_VAE, "scaling_factor": 0.13025, "sample_size": 1024},
        (_CLIP_L, _CLIP_G),
        _NOISE,
        (None, None),
    ),
}


def describe(layout: str) -> Description:
    """Describe a known architecture.

    Args:
        layout: Its name: ``sd1``, ``sd2``, ``sdxl``, or ``zoo`` where that is installed.

    Returns:
        The description; without tokenizers, except for the zoo's.

    Raises:
        LayoutError: Nothing is known of it.

    Example:
        >>> describe("sdxl").vae["scaling_factor"]
        0.13025
    """
    if layout == "zoo":
        from stockpot.zoo import zoo_path

        return read_description(zoo_path() / "config")
    if layout not in _KNOWN:
        raise LayoutError(
            f"drawing knows the layouts {', '.join(_KNOWN)} and zoo, but this is {layout}; "
            "describe it with a folder in diffusers' form"
        )
    return _KNOWN[layout]


def read_description(folder: Path) -> Description:
    """Read a description from a folder in diffusers' form.

    Args:
        folder: With ``unet``, ``vae``, ``text_encoder``, ``tokenizer``, ``scheduler``, and
            ``text_encoder_2``, ``tokenizer_2`` for SDXL; weights in it are not read.

    Returns:
        The description.

    Raises:
        CheckpointError: A file is missing or no JSON.
    """
    seconds = [
        "text_encoder",
        *(["text_encoder_2"] if (folder / "text_encoder_2").is_dir() else []),
    ]
    return Description(
        str(folder),
        _json(folder / "unet" / "config.json"),
        _json(folder / "vae" / "config.json"),
        tuple(_json(folder / name / "config.json") for name in seconds),
        _json(folder / "scheduler" / "scheduler_config.json"),
        tuple(folder / name.replace("text_encoder", "tokenizer") for name in seconds),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: a diffusers folder has this file, but it cannot be read: {error}"
        ) from error
    return found
