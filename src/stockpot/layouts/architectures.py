"""The table of architectures: a few numbers each, from which every key and shape follows.

To add one, describe its components with `UNet`, `Vae`, `ClipText`, `OpenClipText` (or a class of
your own with the two members of `Part`), and add a line to `LAYOUTS`; or add it from a package of
your own, as docs/adding-an-architecture.md shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stockpot.layouts._base import Component, Row
from stockpot.layouts._layout import Layout
from stockpot.layouts.text import ClipText, OpenClipText
from stockpot.layouts.unet import UNet
from stockpot.layouts.vae import Vae

__all__ = ["LAYOUTS"]

# What training code leaves in a checkpoint: tables of the noise schedule, one number a step.
_SCHEDULE = tuple(
    Row(name, "all", (1000,), optional=True, role="buffer")
    for name in (
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "denoiser.sigmas",
    )
)

_NUMBERS = tuple(
    Row(name, "all", (), optional=True, role="buffer", alternatives=((1,),))
    for name in ("scale_factor", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
)

# Empty tensors by convention; that they are there tells a sampler how to use the model.
_MARKERS = tuple(
    Row(name, "all", (0,), optional=True, role="marker") for name in ("v_pred", "ztsnr")
)

_EXTRAS = (*_SCHEDULE, *_NUMBERS, *_MARKERS)

# A learned number of CLIP's training that some savers keep beside the text encoder.
_TEMPERATURES = tuple(
    Row(name, "all", (), optional=True, role="buffer", alternatives=((1,),))
    for name in ("cond_stage_model.logit_scale", "conditioner.embedders.0.logit_scale")
)

_TO_K = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"

_TE = Component("te", "text encoder (CLIP-L)", "cond_stage_model.transformer.")

_SD1 = Layout(
    "sd1",
    "Stable Diffusion 1",
    parts=(
        UNet((320, 640, 1280, 1280), (1, 1, 1, 0), middle_depth=1, context_width=768),
        ClipText(_TE),
        Vae(),
    ),
    extras=(*_EXTRAS, _TEMPERATURES[0]),
    telltales=(
        _TO_K,
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.bias",
    ),
)

_SD2 = Layout(
    "sd2",
    "Stable Diffusion 2",
    parts=(
        UNet((320, 640, 1280, 1280), (1, 1, 1, 0), middle_depth=1, context_width=1024, linear=True),
        OpenClipText(
            Component("te", "text encoder (OpenCLIP-H)", "cond_stage_model.model."), 1024, 24
        ),
        Vae(),
    ),
    extras=(*_EXTRAS, _TEMPERATURES[0]),
    telltales=(
        _TO_K,
        "cond_stage_model.model.transformer.resblocks.9.mlp.c_proj.bias",
    ),
)

_SDXL = Layout(
    "sdxl",
    "Stable Diffusion XL",
    parts=(
        UNet(
            (320, 640, 1280),
            (0, 2, 10),
            middle_depth=10,
            context_width=2048,
            linear=True,
            label_width=2816,
        ),
        ClipText(
            Component("te0", "text encoder 0 (CLIP-L)", "conditioner.embedders.0.transformer.")
        ),
        OpenClipText(
            Component("te1", "text encoder 1 (OpenCLIP-G)", "conditioner.embedders.1.model."),
            1280,
            32,
            pooled=True,
        ),
        Vae(),
    ),
    extras=(*_EXTRAS, _TEMPERATURES[1]),
    telltales=(
        "model.diffusion_model.label_emb.0.0.weight",
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias",
    ),
)

_ZOO = Layout(
    "zoo",
    "Stockpot's zoo (a small Stable Diffusion 1)",
    parts=(
        UNet((24, 40, 56, 56), (1, 1, 1, 0), middle_depth=1, context_width=64),
        ClipText(
            Component("te", "text encoder (small CLIP)", "cond_stage_model.transformer."),
            width=64,
            n_layers=2,
            n_tokens=777,
        ),
        Vae((16, 32, 64)),
    ),
    extras=(*_EXTRAS, _TEMPERATURES[0]),
    telltales=(
        _TO_K,
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    ),
)

_GENERIC = Layout("generic", "unknown layout")

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {layout.name: layout for layout in (_SD1, _SD2, _SDXL, _ZOO, _GENERIC)}
)
"""Every layout that Stockpot brings, by name, in the order in which `detect` names them."""
