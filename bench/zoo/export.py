"""From diffusers' names to the names of the original Stable Diffusion 1 files, and to disk.

A checkpoint here is a dict of numpy arrays in LDM naming. Everything that the original files
carry beside weights (position ids, schedule buffers, EMA copies, markers) is made here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusion import SCHEDULE
from safetensors.numpy import save_file

Arrays = dict[str, np.ndarray]

LEVELS = 4
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_key(name: str) -> str:
    """LDM's name of a UNet parameter, without `model.diffusion_model.`.

    A level of the way down is two resnets and a downsampler, so block `3 * level + j + 1`; a
    level of the way up is three resnets, the upsampler sharing the last one's block.
    """
    module, _, leaf = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{leaf}"
    down = re.fullmatch(r"down_blocks\.(\d)\.(resnets|attentions|downsamplers)\.(\d)\.(.*)", module)
    up = re.fullmatch(r"up_blocks\.(\d)\.(resnets|attentions|upsamplers)\.(\d)\.(.*)", module)
    middle = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", module)
    if down:
        level, kind, j, rest = int(down[1]), down[2], int(down[3]), down[4]
        if kind == "downsamplers":
            return f"input_blocks.{3 * level + 3}.0.op.{leaf}"
        block = f"input_blocks.{3 * level + j + 1}"
    elif up:
        level, kind, j, rest = int(up[1]), up[2], int(up[3]), up[4]
        if kind == "upsamplers":
            # The first level has no attention to stand between resnet and upsampler.
            return f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.conv.{leaf}"
        block = f"output_blocks.{3 * level + j}"
    else:
        assert middle, name
        kind, j, rest = middle[1], int(middle[2]), middle[3]
        place = 1 if kind == "attentions" else 2 * j
        inner = RESNET[rest] if kind == "resnets" else rest
        return f"middle_block.{place}.{inner}.{leaf}"
    return f"{block}.0.{RESNET[rest]}.{leaf}" if kind == "resnets" else f"{block}.1.{rest}.{leaf}"


def vae_key(name: str, levels: int = 3) -> str:
    """LDM's name of a VAE parameter, without `first_stage_model.`."""
    name = re.sub(
        r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", name
    )  # LDM counts the way up from the finest level
    for old, new in (
        (r"down_blocks\.", "down."),
        (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"resnets\.", "block."),
        (r"(down|up)samplers\.0", r"\1sample"),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"group_norm", "norm"),
        (r"to_out\.0", "proj_out"),
        (r"to_([qkv])\.", r"\1."),
    ):
        name = re.sub(old, new, name)
    return name


def half(tensor: torch.Tensor | np.ndarray) -> np.ndarray:
    """float16 copy as a contiguous array."""
    return np.ascontiguousarray(np.asarray(tensor).astype(np.float16))


def unet_arrays(state: Mapping[str, torch.Tensor]) -> Arrays:
    """UNet weights under `model.diffusion_model.`."""
    return {f"model.diffusion_model.{unet_key(k)}": half(v) for k, v in state.items()}


def vae_arrays(state: Mapping[str, torch.Tensor]) -> Arrays:
    """VAE weights under `first_stage_model.`, attention as 1x1 convolutions as in SD1's files."""
    arrays = {f"first_stage_model.{vae_key(k)}": half(v) for k, v in state.items()}
    for key, value in arrays.items():
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", key):
            arrays[key] = value.reshape(*value.shape, 1, 1)
    return arrays


def text_arrays(state: Mapping[str, torch.Tensor], *, position_ids: bool) -> Arrays:
    """Text encoder weights under `cond_stage_model.transformer.`, maybe with position ids."""
    prefix = "cond_stage_model.transformer."
    arrays = {prefix + k: half(v) for k, v in state.items() if "position_ids" not in k}
    if position_ids:
        key = prefix + "text_model.embeddings.position_ids"
        arrays[key] = np.arange(77, dtype=np.int64)[None]
    return arrays


def schedule_arrays() -> Arrays:
    """The twelve float32 `[1000]` buffers that the original training code stored in its files."""
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod.double().numpy()
    previous = np.append(1.0, alphas[:-1])
    betas = 1 - alphas / previous
    variance = betas * (1 - previous) / (1 - alphas)
    buffers = {
        "betas": betas,
        "alphas_cumprod": alphas,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(alphas),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - alphas),
        "log_one_minus_alphas_cumprod": np.log(1 - alphas),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / alphas),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / alphas - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - alphas),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - alphas),
    }
    return {key: value.astype(np.float32) for key, value in buffers.items()}


def ema_arrays(state: Mapping[str, torch.Tensor], decay: float, updates: int) -> Arrays:
    """An EMA copy of the UNet as LDM stores it: all dots inside the name removed."""
    arrays = {
        "model_ema." + f"diffusion_model.{unet_key(k)}".replace(".", ""): half(v)
        for k, v in state.items()
    }
    # LDM's own names keep the dot between `model_ema` and the rest only.
    arrays["model_ema.decay"] = np.array(decay, dtype=np.float32)
    arrays["model_ema.num_updates"] = np.array(updates, dtype=np.int32)
    return arrays


def write(file: Path, arrays: Arrays, title: str) -> None:
    """Save a checkpoint with sorted keys."""
    metadata = {
        "format": "pt",
        "modelspec.title": title,
        "modelspec.architecture": "stable-diffusion-v1/stockpot-zoo",
    }
    save_file(dict(sorted(arrays.items())), file, metadata=metadata)
