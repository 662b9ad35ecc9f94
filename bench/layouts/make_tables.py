"""Write the tables that the tests of `stockpot.layouts` compare with.

Stockpot makes its tables of keys from a few numbers (`stockpot/layouts/architectures.py`). This
script makes them another way: it builds each network with diffusers or transformers, without
memory (the meta device), and renames its parameters to those of the original code. One text file
a component, one line a key: name after the component's prefix, then the shape.

    python bench/layouts/make_tables.py [DIRECTORY]

Needs torch, diffusers and transformers (the extra ``draw``); no network.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Table = dict[str, tuple[int, ...]]
Rules = tuple[tuple[str, str], ...]

_RESIDUAL: Rules = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)


def unet_table(**config: Any) -> Table:
    """Build a UNet and rename its parameters."""
    with torch.device("meta"):
        model = UNet2DConditionModel(**config)
    n_residual = int(config.get("layers_per_block", 2))
    table = {}
    for name, value in model.state_dict().items():
        table[_unet_name(name, n_residual, config["up_block_types"])] = tuple(value.shape)
    return table


def _unet_name(name: str, n_residual: int, up_block_types: tuple[str, ...]) -> str:
    for old, new in (
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
    ):
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
    parts = name.split(".")
    if parts[0] == "mid_block":
        slot = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[".".join(parts[1:3])]
        place, rest = f"middle_block.{slot}", parts[3:]
        kind = parts[1]
    else:
        level, kind, index = int(parts[1]), parts[2], int(parts[3])
        rest = parts[4:]
        slot = {"resnets": 0, "attentions": 1}.get(kind, 0)
        if parts[0] == "down_blocks":
            if kind == "downsamplers":
                index, rest = n_residual, ["op", *rest[1:]]
            place = f"input_blocks.{1 + (n_residual + 1) * level + index}.{slot}"
        else:
            if kind == "upsamplers":
                index, slot = n_residual, 2 if "Attn" in up_block_types[level] else 1
            place = f"output_blocks.{(n_residual + 1) * level + index}.{slot}"
    tail = "." + ".".join(rest)
    if kind == "resnets":
        for pattern, new in _RESIDUAL:
            tail = re.sub(pattern, new, tail)
    return place + tail


def vae_table(**config: Any) -> Table:
    """Build an autoencoder and rename its parameters."""
    with torch.device("meta"):
        model = AutoencoderKL(**config)
    n_levels = len(config["block_out_channels"])
    table = {}
    for name, value in model.state_dict().items():
        shape = tuple(value.shape)
        for pattern, new in (
            (r"mid_block\.resnets\.0", "mid.block_1"),
            (r"mid_block\.resnets\.1", "mid.block_2"),
            (r"mid_block\.attentions\.0", "mid.attn_1"),
            (r"attn_1\.group_norm", "attn_1.norm"),
            (r"attn_1\.to_([qkv])\.", r"attn_1.\1."),
            (r"attn_1\.to_out\.0", "attn_1.proj_out"),
            (r"conv_norm_out", "norm_out"),
            (r"conv_shortcut", "nin_shortcut"),
            (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
            (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
        ):
            name = re.sub(pattern, new, name)
        # diffusers counts the decoder's levels from inside, the original code from outside.
        if found := re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers\.0)(.*)", name):
            level = n_levels - 1 - int(found[1])
            part = "block" if found[2] == "resnets" else "upsample"
            name = f"decoder.up.{level}.{part}{found[3]}"
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
            shape = (*shape, 1, 1)
        table[name] = shape
    return table


def _text_state(model: torch.nn.Module) -> Table:
    state = {}
    for name, value in model.state_dict().items():
        # transformers 5 keeps the inner names bare for the model without a projection.
        if not name.startswith(("text_model.", "text_projection.")):
            name = f"text_model.{name}"
        state[name] = tuple(value.shape)
    state.pop("text_model.embeddings.position_ids", None)
    return state


def clip_table(**config: Any) -> Table:
    """Build a CLIP text encoder; its names are the original's already."""
    with torch.device("meta"):
        return _text_state(CLIPTextModel(CLIPTextConfig(**config)))


def open_clip_table(**config: Any) -> Table:
    """Build an OpenCLIP text encoder and rename its parameters; q, k and v become one tensor."""
    with torch.device("meta"):
        state = _text_state(CLIPTextModelWithProjection(CLIPTextConfig(**config)))
    table: Table = {"logit_scale": ()}
    for name, shape in state.items():
        if re.search(r"\.[kv]_proj\.", name):
            continue
        if found := re.match(r"(.*)\.self_attn\.q_proj\.(weight|bias)", name):
            name, shape = f"{found[1]}.attn.in_proj_{found[2]}", (3 * shape[0], *shape[1:])
        for old, new in (
            ("text_model.embeddings.token_embedding", "token_embedding"),
            ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
            ("text_model.encoder.layers", "transformer.resblocks"),
            ("text_model.final_layer_norm", "ln_final"),
            ("text_projection.weight", "text_projection"),
            ("layer_norm", "ln_"),
            ("self_attn.out_proj", "attn.out_proj"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ):
            name = name.replace(old, new)
        table[name] = shape
    return table


def make_tables() -> dict[str, Table]:
    """Build every component; the numbers are those of the published configurations."""
    four_levels = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
    }
    vae_levels = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
    }
    return {
        "sd1-unet": unet_table(**four_levels, cross_attention_dim=768, attention_head_dim=8),
        "sd2-unet": unet_table(
            **four_levels,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ),
        "sdxl-unet": unet_table(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        "vae": vae_table(**vae_levels),
        "clip-l": clip_table(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
        ),
        "openclip-h": open_clip_table(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            projection_dim=1024,
        ),
        "openclip-g": open_clip_table(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
        ),
    }


def main() -> None:
    """Write one file a component."""
    here = Path(__file__).resolve().parents[2]
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "tests" / "layouts" / "tables"
    target.mkdir(parents=True, exist_ok=True)
    for name, table in make_tables().items():
        lines = [f"{key} {','.join(map(str, table[key])) or '-'}" for key in sorted(table)]
        (target / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(table)} keys", file=sys.stderr)


if __name__ == "__main__":
    main()
