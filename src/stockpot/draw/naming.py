"""Where each tensor of a checkpoint goes in the modules of diffusers and transformers.

One table for each part, made once: loading writes every tensor through it, and a mix that changes
writes only what changed. diffusers' own converters say how they call UNets and VAEs; they are
given stand-ins that take no memory and bear a number, by which each is found again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stockpot.layouts import Layout

if TYPE_CHECKING:
    import torch

__all__ = ["Place", "text_places", "unet_places", "vae_places", "write_tensor"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor, or some rows of it, is used.

    Attributes:
        parameter: Name of the parameter in its module.
        rows: First row, and one past the last; None for all.
        transposed: Whether the parameter has the axes the other way round.
    """

    parameter: str
    rows: tuple[int, int] | None = None
    transposed: bool = False


Places = dict[str, tuple[Place, ...]]


def write_tensor(
    parameters: Mapping[str, Any], places: tuple[Place, ...], value: torch.Tensor
) -> None:
    """Write a tensor of a checkpoint into a module, in place.

    Args:
        parameters: The module's, by name, of the right sizes.
        places: Where.
        value: In the checkpoint's shape.
    """
    for place in places:
        part = value if place.rows is None else value[slice(*place.rows)]
        target = parameters[place.parameter]
        target.data.copy_((part.T if place.transposed else part).reshape(target.shape))


def unet_places(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> Places:
    """List where a UNet's tensors go.

    Args:
        shapes: Of its canonical keys.
        config: The module's settings, all of them.

    Returns:
        Places by key.
    """
    from diffusers.loaders import single_file_utils

    convert: Any = single_file_utils.convert_ldm_unet_checkpoint
    return _by_number(shapes, lambda state: convert(state, dict(config)))


def vae_places(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> Places:
    """List where a VAE's tensors go.

    Args:
        shapes: Of its canonical keys.
        config: The module's settings, all of them.

    Returns:
        Places by key.
    """
    from diffusers.loaders import single_file_utils

    convert: Any = single_file_utils.convert_ldm_vae_checkpoint
    return _by_number(shapes, lambda state: convert(state, dict(config)))


def _by_number(shapes: Mapping[str, Shape], convert: Any) -> Places:
    import torch

    keys = list(shapes)
    # Numbers up to some thousands are exact in float32.
    state = {key: torch.tensor(float(i)).expand(shapes[key]) for i, key in enumerate(keys)}
    return {keys[int(found.flatten()[0])]: (Place(name),) for name, found in convert(state).items()}


_LAYER = re.compile(r"(?:transformer\.)?resblocks\.(\d+)\.(.+)")
_LAYER_NAMES = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2", "attn.out_proj": "self_attn.out_proj"}  # fmt: skip
_OPEN_NAMES = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def text_places(shapes: Mapping[str, Shape], layout: Layout, module: Any) -> Places:
    """List where a text encoder's tensors go; OpenCLIP's names are translated.

    Args:
        shapes: Of its canonical keys.
        layout: The checkpoint's layout.
        module: transformers' text model; what it has no parameter for is left out.

    Returns:
        Places by key.
    """
    known = dict(module.named_parameters())
    # transformers 5.6 took a level out of the names.
    body = "text_model." if any(name.startswith("text_model.") for name in known) else ""
    found: Places = {}
    for key, shape in shapes.items():
        name = layout.relative_key(key)
        places = _open_clip(name, shape) if "text_model." not in name else (Place(name),)
        named = tuple(
            Place(p.parameter if p.parameter == "text_projection.weight" else
                  body + p.parameter.removeprefix("text_model."), p.rows, p.transposed)
            for p in places
        )  # fmt: skip
        if all(place.parameter in known for place in named):
            found[key] = named
    return found


def _open_clip(name: str, shape: Shape) -> tuple[Place, ...]:
    if name == "text_projection":
        return (Place("text_projection.weight", transposed=True),)
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return (Place(_OPEN_NAMES.get(name, name)),)
    start, rest = f"encoder.layers.{layer.group(1)}.", layer.group(2)
    if rest.startswith("attn.in_proj_"):
        kind, n = rest.removeprefix("attn.in_proj_"), shape[0] // 3
        return tuple(
            Place(f"{start}self_attn.{letter}_proj.{kind}", (i * n, (i + 1) * n))
            for i, letter in enumerate("qkv")
        )
    stem, _, kind = rest.rpartition(".")
    return (Place(f"{start}{_LAYER_NAMES.get(stem, stem)}.{kind}"),)
