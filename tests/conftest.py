"""A checkpoint of the zoo's shape with random weights, and a diffusers folder that describes it.

Nothing here needs the zoo to be installed: drawing must work for any checkpoint of a layout.
Fixtures are used by the tests of drawing and of the demo; libraries are loaded when asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo
from stockpot.layouts import KeySpec, get_layout

ZOO = get_layout("zoo")
MakeModel = Callable[..., MemorySource]


def spec(key: str) -> KeySpec:
    return ZOO.specs[key]


def widths(pattern: str, places: list[int | str]) -> list[int]:
    return [spec(pattern.format(place)).shape[0] for place in places]


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder without weights, its widths read from the layout's shapes."""
    folder = tmp_path_factory.mktemp("config")
    unet = "model.diffusion_model.input_blocks.{}.0.out_layers.3.bias"
    vae = "first_stage_model.decoder.up.{}.block.0.conv1.bias"
    tokens = spec("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight")
    inner = spec("cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.bias").shape[0]
    n_layers = sum("layer_norm1.bias" in key for key in ZOO.specs)
    width = tokens.shape[1]
    write = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.36.0",
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 8,
            "layers_per_block": 2,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "block_out_channels": widths(unet, [1, 4, 7, 10]),
            "cross_attention_dim": width,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "block_out_channels": widths(vae, [0, 1, 2]),
            "layers_per_block": 2,
            "norm_num_groups": 8,
            "sample_size": 32,
            "scaling_factor": 0.9,
        },
        "text_encoder/config.json": {
            "model_type": "clip_text_model",
            "architectures": ["CLIPTextModel"],
            "vocab_size": tokens.shape[0],
            "hidden_size": width,
            "intermediate_size": inner,
            "num_attention_heads": 4,
            "num_hidden_layers": n_layers,
            "bos_token_id": 512,
            "eos_token_id": 513,
            "pad_token_id": 513,
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "DDIMScheduler",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "clip_sample": False,
            "steps_offset": 1,
        },
    }
    for name, content in write.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer(vocab=vocabulary(), merges=[], model_max_length=77)
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def vocabulary() -> dict[str, int]:
    """CLIP's byte tokens, inside and at the end of words, and the two special ones."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    return {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Make a checkpoint of the zoo's shape in memory, with random fp16 weights."""

    def make(seed: int = 0, without: tuple[str, ...] = (), extra: dict[str, bytes] | None = None,
             rename: Callable[[str], str] = str) -> MemorySource:  # fmt: skip
        tensors = {}
        for number, (key, item) in enumerate(ZOO.specs.items()):
            if item.optional or item.cell.component in without:
                continue
            rng = np.random.default_rng([seed, number])
            fan_in = math.prod(item.shape[1:]) if len(item.shape) > 1 else 1
            is_scale = len(item.shape) == 1 and key.endswith("weight")
            noise = rng.standard_normal(item.shape)
            values = 1 + 0.1 * noise if is_scale else noise * (0.7 / max(1, fan_in) ** 0.5)
            if len(item.shape) == 1 and not is_scale:
                values = 0.05 * noise
            name = rename(key)
            tensors[name] = (
                TensorInfo(name, DTYPES["F16"], item.shape),
                values.astype(np.float16).tobytes(),
            )
        for name, data in (extra or {}).items():
            tensors[name] = (TensorInfo(name, DTYPES["U8"], (len(data),)), data)
        return MemorySource(tensors, {"format": "pt"}, f"random{seed}")

    return make


@pytest.fixture(scope="session")
def make_place(make_model: MakeModel) -> Callable[..., Path]:
    """Put models with random weights, two small payloads and a recipe into a folder."""

    def make(folder: Path, names: str, mix: str = "") -> Path:
        """Write the files.

        Args:
            folder: An empty one.
            names: A letter for each model, such as ``ab``: ``a.safetensors`` …
            mix: What ``recipe.yaml`` says after its pool; empty for no recipe.
        """
        from stockpot.checkpoints import FileSink

        for i, name in enumerate(names):
            source = make_model(i)
            sink = FileSink(folder / f"{name}.safetensors", dict(source.tensors), {"format": "pt"})
            for key in source.tensors:
                sink.write(key, 0, memoryview(source.read_bytes(key)))
                sink.tensor_done(key, None)
            sink.commit({"format": "pt"})
        if mix:
            pool = ", ".join(f"{name}: {name}.safetensors" for name in names)
            (folder / "recipe.yaml").write_text(f"stockpot: 1\npool: {{{pool}}}\n{mix}")
        (folder / "payloads").mkdir()
        for i, prompt in enumerate(("cat", "dog")):
            payload = {"prompt": prompt, "seed": i, "steps": 1, "sampler_name": "Euler",
                       "width": 32, "height": 32, "cfg_scale": 2}  # fmt: skip
            (folder / "payloads" / f"{prompt}.json").write_text(json.dumps(payload))
        return folder

    return make
