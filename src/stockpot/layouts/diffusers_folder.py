"""How a model is laid out as a diffusers folder: which file a key goes to, and the files beside.

The configurations follow from the descriptions of the components, save for what weights do not
show: numbers of heads and groups, the scale of latent images, special tokens. Those are tables
here. A tokenizer is data of its own and cannot be made from weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from stockpot.checkpoints import Place, TensorInfo
from stockpot.errors import LayoutError
from stockpot.layouts._base import Part
from stockpot.layouts._layout import Layout
from stockpot.layouts.diffusers_names import FOLDERS, Alias, diffusers_names
from stockpot.layouts.text import ClipText, OpenClipText
from stockpot.layouts.unet import UNet
from stockpot.layouts.vae import Vae

__all__ = ["SCHEDULER_FILE", "diffusers_files", "diffusers_places"]

SCHEDULER_FILE = "scheduler/scheduler_config.json"
"""Where a diffusers folder says what its UNet predicts."""

_WEIGHTS = MappingProxyType(
    {
        "unet": "diffusion_pytorch_model.safetensors",
        "vae": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
        "text_encoder_2": "model.safetensors",
    }
)


@dataclass(frozen=True, slots=True)
class _Text:
    """What the weights of a text encoder do not show."""

    heads: int
    activation: str
    kind: str = "CLIPTextModel"
    begin: int = 49406
    end: int = 49407
    padding: int = 1


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the weights of a model do not show; as published with the first model of each kind."""

    heads: int | tuple[int, ...]  # diffusers calls it attention_head_dim
    sample_size: int
    scale: float
    texts: Mapping[str, _Text]
    unet_groups: int = 32
    vae_groups: int = 32
    shrink: int = 8  # pixels for each element of a latent image


_L = _Text(12, "quick_gelu")
_FACTS: Mapping[str, _Facts] = MappingProxyType(
    {
        "sd1": _Facts(8, 64, 0.18215, {"te": _L}),
        "sd2": _Facts((5, 10, 20, 20), 96, 0.18215, {"te": _Text(16, "gelu")}),
        "sdxl": _Facts(
            (5, 10, 20),
            128,
            0.13025,
            {"te0": _L, "te1": _Text(20, "gelu", "CLIPTextModelWithProjection")},
        ),
        "zoo": _Facts(
            4,
            8,
            0.99678,
            {"te": _Text(4, "quick_gelu", begin=775, end=776, padding=776)},
            unet_groups=8,
            vae_groups=16,
            shrink=4,
        ),
    }
)

_NOISE: Mapping[str, Any] = MappingProxyType(
    {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }
)


def diffusers_places(
    layout: Layout, tensors: Mapping[str, TensorInfo]
) -> dict[str, tuple[Place, ...]]:
    """Say where each key goes in a diffusers folder.

    Args:
        layout: What the keys mean.
        tensors: Facts by canonical key, in canonical shapes.

    Returns:
        Places by key. Absent is what diffusers has no place for: position ids, the last layer of
        SD2's text encoder, projections that its pipelines do not use, EMA copies, schedules.

    Raises:
        LayoutError: The architecture is not known.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> from stockpot.layouts import get_layout
        >>> key = "first_stage_model.decoder.mid.attn_1.q.weight"
        >>> info = TensorInfo(key, DTYPES["F16"], (512, 512, 1, 1))
        >>> (place,) = diffusers_places(get_layout("sd1"), {key: info})[key]
        >>> place.file, place.shape
        ('vae/diffusion_pytorch_model.safetensors', (512, 512))
    """
    _facts(layout)
    found = {}
    for part in layout.parts:
        folder = FOLDERS[part.component.name]
        file = f"{folder}/{_WEIGHTS[folder]}"
        for alias in diffusers_names(part):
            key = part.component.prefix + alias.ours
            if key in tensors and not layout.specs[key].optional:
                found[key] = tuple(_places(file, alias, tensors[key]))
    return found


def _places(file: str, alias: Alias, info: TensorInfo) -> list[Place]:
    n, shape = len(alias.theirs), info.shape
    if alias.matrix:
        shape = shape[:2]
    if alias.transposed:
        shape = shape[::-1]
    if n > 1:
        shape = (shape[0] // n, *shape[1:])
    step = info.n_elements // n
    return [
        Place(file, name, shape, i * step, (i + 1) * step, alias.transposed)
        for i, name in enumerate(alias.theirs)
    ]


def diffusers_files(
    layout: Layout,
    tensors: Mapping[str, TensorInfo],
    *,
    prediction: str | None = None,
    zero_snr: bool = False,
) -> dict[str, bytes]:
    """Write the small files of a diffusers folder: the index, configurations, the scheduler's.

    Args:
        layout: What the keys mean.
        tensors: Facts by canonical key; components without keys have no configuration.
        prediction: What the UNet predicts: ``epsilon`` (where None) or ``v_prediction``.
        zero_snr: Whether the schedule ends at zero signal.

    Returns:
        Contents by relative path: JSON, in UTF-8. There is no tokenizer among them.

    Raises:
        LayoutError: The architecture is not known.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> layout = get_layout("sdxl")
        >>> infos = {key: TensorInfo(key, None, spec.shape) for key, spec in layout.specs.items()}
        >>> json.loads(diffusers_files(layout, infos)["unet/config.json"])["attention_head_dim"]
        [5, 10, 20]
    """
    facts = _facts(layout)
    here = {layout.cell_of(key).component for key in tensors}
    files: dict[str, Any] = {}
    for part in layout.parts:
        if part.component.name in here:
            files[f"{FOLDERS[part.component.name]}/config.json"] = _config(part, facts, tensors)
    noise = {
        **_NOISE,
        "prediction_type": prediction or "epsilon",
        "rescale_betas_zero_snr": zero_snr,
    }
    files[SCHEDULER_FILE] = noise
    files["model_index.json"] = _index(layout, facts, here)
    return {name: _json(content) for name, content in files.items()}


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _facts(layout: Layout) -> _Facts:
    if layout.name not in _FACTS:
        raise LayoutError(
            f"a diffusers folder can be written for {', '.join(_FACTS)}, but this is {layout.title}"
        )
    return _FACTS[layout.name]


def _config(part: Part, facts: _Facts, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    if isinstance(part, UNet):
        # Inpainting models and their like take more channels than the layout says.
        first = tensors.get(f"{part.component.prefix}input_blocks.0.0.weight")
        return _unet(part, facts, first.shape[1] if first else part.in_channels)
    if isinstance(part, Vae):
        return _vae(part, facts)
    assert isinstance(part, ClipText | OpenClipText)
    return _text(part, facts.texts[part.component.name])


def _unet(part: UNet, facts: _Facts, in_channels: int) -> dict[str, Any]:
    attended = [bool(depth) for depth in part.depths]
    depths = [max(1, depth) for depth in part.depths]
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": facts.sample_size,
        "in_channels": in_channels,
        "out_channels": part.out_channels,
        "block_out_channels": list(part.channels),
        "layers_per_block": part.n_residual,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attended],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attended[::-1]],
        "cross_attention_dim": part.context_width,
        "attention_head_dim": facts.heads if isinstance(facts.heads, int) else list(facts.heads),
        "norm_num_groups": facts.unet_groups,
        "use_linear_projection": part.linear,
        "transformer_layers_per_block": 1 if set(depths) == {1} else depths,
    }
    if part.label_width is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": part.label_width,
        }
    return config


def _vae(part: Vae, facts: _Facts) -> dict[str, Any]:
    n = len(part.channels)
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": facts.sample_size * facts.shrink,
        "in_channels": part.picture_channels,
        "out_channels": part.picture_channels,
        "latent_channels": part.latent_channels,
        "block_out_channels": list(part.channels),
        "layers_per_block": part.n_residual,
        "down_block_types": ["DownEncoderBlock2D"] * n,
        "up_block_types": ["UpDecoderBlock2D"] * n,
        "norm_num_groups": facts.vae_groups,
        "scaling_factor": facts.scale,
    }


def _text(part: ClipText | OpenClipText, facts: _Text) -> dict[str, Any]:
    inner = part.inner_width if isinstance(part, ClipText) else None
    # Where the pooled text is not used, drawing stops before the last layer.
    unused = isinstance(part, OpenClipText) and not part.pooled
    return {
        "architectures": [facts.kind],
        "model_type": "clip_text_model",
        "hidden_size": part.width,
        "intermediate_size": inner or 4 * part.width,
        "num_hidden_layers": part.n_layers - unused,
        "num_attention_heads": facts.heads,
        "max_position_embeddings": part.n_positions,
        "vocab_size": part.n_tokens,
        "projection_dim": part.width,
        "hidden_act": facts.activation,
        "layer_norm_eps": 1e-05,
        "bos_token_id": facts.begin,
        "eos_token_id": facts.end,
        "pad_token_id": facts.padding,
    }


def _index(layout: Layout, facts: _Facts, here: Collection[str]) -> dict[str, Any]:
    nothing = [None, None]
    pipeline = "StableDiffusionXLPipeline" if layout.name == "sdxl" else "StableDiffusionPipeline"
    index: dict[str, Any] = {
        "_class_name": pipeline,
        "scheduler": ["diffusers", _NOISE["_class_name"]],
        "unet": ["diffusers", "UNet2DConditionModel"] if "unet" in here else nothing,
        "vae": ["diffusers", "AutoencoderKL"] if "vae" in here else nothing,
        "feature_extractor": nothing,
        "image_encoder": nothing,
    }
    for name, text in facts.texts.items():
        folder = FOLDERS[name]
        is_here = name in here
        index[folder] = ["transformers", text.kind] if is_here else nothing
        tokenizer = folder.replace("text_encoder", "tokenizer")
        index[tokenizer] = ["transformers", "CLIPTokenizer"] if is_here else nothing
    if layout.name == "sdxl":
        index["force_zeros_for_empty_prompt"] = True
    else:
        index |= {"safety_checker": nothing, "requires_safety_checker": False}
    return index
