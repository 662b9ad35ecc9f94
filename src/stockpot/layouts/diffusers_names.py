"""What diffusers and transformers call the keys of each component, derived from its description.

Most names are renamed module by module. Three things are more than names: OpenCLIP keeps query,
key and value in one tensor where transformers has three; its text projection is the transpose of
transformers'; and the attention of a VAE is a 1×1 convolution here and a matrix there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from stockpot.layouts._base import Part
from stockpot.layouts.text import ClipText, OpenClipText
from stockpot.layouts.unet import UNet
from stockpot.layouts.vae import Vae

__all__ = ["FOLDERS", "Alias", "diffusers_names"]

FOLDERS: Mapping[str, str] = MappingProxyType(
    {
        "unet": "unet",
        "te": "text_encoder",
        "te0": "text_encoder",
        "te1": "text_encoder_2",
        "vae": "vae",
    }
)
"""The folder that a component has in a diffusers pipeline."""


@dataclass(frozen=True, slots=True)
class Alias:
    """What diffusers calls one key.

    Attributes:
        ours: The key without its component's prefix.
        theirs: Its name there; several where one tensor of ours is theirs on top of each other.
        transposed: Whether theirs has rows where ours has columns.
        matrix: Whether theirs is ``[m, n]`` where ours is ``[m, n, 1, 1]``.
        earlier: Names that earlier versions wrote in place of `theirs`.

    Example:
        >>> Alias("text_projection", ("text_projection.weight",), transposed=True).theirs
        ('text_projection.weight',)
    """

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False
    matrix: bool = False
    earlier: tuple[str, ...] = ()


def diffusers_names(part: Part) -> Iterator[Alias]:
    """Name every key of a component as diffusers (or transformers) does.

    Args:
        part: The component's description.

    Returns:
        One alias for each row of the component's table that has a name there, in its order.

    Example:
        >>> from stockpot.layouts.vae import Vae
        >>> names = {alias.ours: alias.theirs for alias in diffusers_names(Vae())}
        >>> names["decoder.up.3.block.0.norm1.weight"]
        ('decoder.up_blocks.0.resnets.0.norm1.weight',)
    """
    return _NAMERS[type(part)](part)


_RESIDUAL = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)


def _unet(part: UNet) -> Iterator[Alias]:
    modules = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
        "middle_block.1": "mid_block.attentions.0",
    }

    def residual(ours: str, theirs: str) -> None:
        modules.update({f"{ours}.{a}": f"{theirs}.{b}" for a, b in _RESIDUAL})

    residual("middle_block.0", "mid_block.resnets.0")
    residual("middle_block.2", "mid_block.resnets.1")
    last, n_in, n_out = len(part.channels) - 1, 1, 0
    for level, depth in enumerate(part.depths):
        for i in range(part.n_residual):
            residual(f"input_blocks.{n_in}.0", f"down_blocks.{level}.resnets.{i}")
            if depth:
                modules[f"input_blocks.{n_in}.1"] = f"down_blocks.{level}.attentions.{i}"
            n_in += 1
        if level < last:
            modules[f"input_blocks.{n_in}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            n_in += 1
    for step, depth in enumerate(reversed(part.depths)):
        for i in range(part.n_residual + 1):
            residual(f"output_blocks.{n_out}.0", f"up_blocks.{step}.resnets.{i}")
            if depth:
                modules[f"output_blocks.{n_out}.1"] = f"up_blocks.{step}.attentions.{i}"
            if step < last and i == part.n_residual:
                slot = 2 if depth else 1
                modules[f"output_blocks.{n_out}.{slot}.conv"] = (
                    f"up_blocks.{step}.upsamplers.0.conv"
                )
            n_out += 1
    for row in part.rows():
        yield Alias(row.name, (_renamed(row.name, modules),))


_ATTENTION = (
    ("norm", "group_norm", "group_norm"),
    ("q", "to_q", "query"),
    ("k", "to_k", "key"),
    ("v", "to_v", "value"),
    ("proj_out", "to_out.0", "proj_attn"),
)


def _vae(part: Vae) -> Iterator[Alias]:
    modules: dict[str, str] = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    earlier: dict[str, str] = {}

    def residual(ours: str, theirs: str) -> None:
        for name in ("norm1", "conv1", "norm2", "conv2"):
            modules[f"{ours}.{name}"] = f"{theirs}.{name}"
        modules[f"{ours}.nin_shortcut"] = f"{theirs}.conv_shortcut"

    for half in ("encoder", "decoder"):
        modules[f"{half}.conv_in"] = f"{half}.conv_in"
        modules[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        modules[f"{half}.conv_out"] = f"{half}.conv_out"
        for i in range(2):
            residual(f"{half}.mid.block_{i + 1}", f"{half}.mid_block.resnets.{i}")
        for ours, theirs, old in _ATTENTION:
            name = f"{half}.mid.attn_1.{ours}"
            modules[name] = f"{half}.mid_block.attentions.0.{theirs}"
            earlier[name] = f"{half}.mid_block.attentions.0.{old}"
    last = len(part.channels) - 1
    for level in range(last + 1):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{last - level}"
        for i in range(part.n_residual + 1):
            residual(f"encoder.down.{level}.block.{i}", f"{down}.resnets.{i}")
            residual(f"decoder.up.{level}.block.{i}", f"{up}.resnets.{i}")
        modules[f"encoder.down.{level}.downsample.conv"] = f"{down}.downsamplers.0.conv"
        modules[f"decoder.up.{level}.upsample.conv"] = f"{up}.upsamplers.0.conv"
    for row in part.rows():
        name = _renamed(row.name, modules)
        old = _renamed(row.name, modules | earlier)
        attention = ".attn_1." in row.name and len(row.shape) == 4
        yield Alias(row.name, (name,), matrix=attention, earlier=(old,) if old != name else ())


def _clip(part: ClipText) -> Iterator[Alias]:
    for row in part.rows():
        yield Alias(row.name, (row.name,))


_OPEN_CLIP = MappingProxyType(
    {
        "token_embedding": "text_model.embeddings.token_embedding",
        "ln_final": "text_model.final_layer_norm",
    }
)
_OPEN_CLIP_LAYER = MappingProxyType(
    {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
)


def _open_clip(part: OpenClipText) -> Iterator[Alias]:
    modules = dict(_OPEN_CLIP)
    for layer in range(part.n_layers):
        ours, theirs = f"transformer.resblocks.{layer}", f"text_model.encoder.layers.{layer}"
        modules |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in _OPEN_CLIP_LAYER.items()}
    for row in part.rows():
        if row.name == "positional_embedding":
            yield Alias(row.name, ("text_model.embeddings.position_embedding.weight",))
        elif row.name == "text_projection":
            yield Alias(row.name, ("text_projection.weight",), transposed=True)
        elif row.name == "logit_scale":
            yield Alias(row.name, (row.name,))
        elif ".attn.in_proj_" in row.name:
            block, _, kind = row.name.partition(".attn.in_proj_")
            number = block.rpartition(".")[2]
            names = (f"text_model.encoder.layers.{number}.self_attn.{x}_proj.{kind}" for x in "qkv")
            yield Alias(row.name, tuple(names))
        else:
            yield Alias(row.name, (_renamed(row.name, modules),))


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    """Rename the module that a key belongs to: the longest beginning that has a name there."""
    head = name
    while head:
        head = head.rpartition(".")[0]
        if head in modules:
            return modules[head] + name[len(head) :]
    raise AssertionError(f"{name} belongs to no module that has a name in diffusers")


_NAMERS: Mapping[type, Callable[[Any], Iterator[Alias]]] = MappingProxyType(
    {UNet: _unet, Vae: _vae, ClipText: _clip, OpenClipText: _open_clip}
)
