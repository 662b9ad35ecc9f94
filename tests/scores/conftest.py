"""A folder of scorers with small random networks, in the layouts of the original files.

Each network is built from transformers' own parts and saved under the original's names, so that
the same weights can be run by both. Sizes are small, proportions (heads of 64 and of 80 channels)
are the originals'.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "star",
              "on", "white", "background", "##s", ",", "flat", "art", "large"]  # fmt: skip
CLIP_LENGTH = 32
PATCH = 14

Pixels = Callable[[list[np.ndarray]], Any]


@dataclass(frozen=True)
class Originals:
    """The folder of scorers, and the networks whose weights are in it, by name."""

    folder: Path
    networks: dict[str, Any]


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    folder = tmp_path_factory.mktemp("scorers")
    torch.manual_seed(11)
    networks: dict[str, Any] = {}
    save_tokenizers(folder)
    networks["imagereward"] = save_imagereward(folder, BlipSizes())
    networks["hpsv2"] = save_hpsv2(folder, ClipSizes(vision=160))
    networks["pickscore"] = _clip(folder / "pickscore", 1)
    networks["clipscore"] = _clip(folder / "clip", 2)
    networks["aesthetic"] = _aesthetic(folder)
    networks["cafe"] = _cafe(folder)
    return Originals(folder, networks)


def save_tokenizers(folder: Path) -> None:
    """Save a vocabulary of BERT's and a CLIP tokenizer that spells."""
    from transformers import CLIPTokenizer

    (folder / "bert-base-uncased").mkdir()
    vocabulary = "\n".join(BERT_WORDS) + "\n"
    (folder / "bert-base-uncased" / "vocab.txt").write_text(vocabulary, encoding="utf-8")
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    numbers = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=numbers, merges=[], model_max_length=77).save_pretrained(
        folder / "clip-tokenizer"
    )


def _strong(module: Any) -> Any:
    """Make random weights so large that different pictures get clearly different scores."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in module.named_parameters():
            fan_in = value[0].numel() if value.ndim > 1 else 1
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                value.copy_(noise * (1.4 / fan_in**0.5))
            elif name.endswith("bias"):
                value.copy_(noise * 0.1)
            else:
                value.copy_(1 + 0.1 * noise)
    return module.eval()


def _head(width: int) -> Any:
    sizes = [width, 1024, 128, 64, 16, 1]
    layers: list[Any] = []
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layers += [torch.nn.Linear(inputs, outputs), *([torch.nn.Dropout()] if i < 3 else [])]
    return _strong(torch.nn.Sequential(*layers))


@dataclass(frozen=True)
class BlipSizes:
    """Sizes of an ImageReward; heads of its vision have 64 channels."""

    vision: int = 128
    layers: int = 2
    image: int = 64
    text: int = 64
    text_layers: int = 2
    heads: int = 4
    inner: int = 96
    words: int = len(BERT_WORDS) + 2
    positions: int = 40


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of a CLIP; the head's width of its vision is 80 in ViT-H-14."""

    vision: int = 128
    layers: int = 2
    heads: int = 2
    side: int = 4
    text: int = 128
    text_layers: int = 2
    words: int = 514
    length: int = CLIP_LENGTH
    joint: int = 48


def save_imagereward(folder: Path, sizes: BlipSizes) -> Any:
    """Save random weights as the original file has them; returns transformers' modules."""
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    seen = BlipVisionConfig(
        hidden_size=sizes.vision, intermediate_size=4 * sizes.vision, hidden_act="gelu",
        num_hidden_layers=sizes.layers, num_attention_heads=sizes.vision // 64,
        image_size=sizes.image, patch_size=16, layer_norm_eps=1e-6,
    )  # fmt: skip
    config = {
        "architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": sizes.text,
        "intermediate_size": sizes.inner, "layer_norm_eps": 1e-12,
        "max_position_embeddings": sizes.positions, "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.text_layers, "pad_token_id": 0, "vocab_size": sizes.words,
    }  # fmt: skip
    read = BlipTextConfig(**config, encoder_hidden_size=sizes.vision, is_decoder=True,
                          hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # fmt: skip
    vision = _strong(BlipVisionModel(seen))
    text = _strong(BlipTextModel(read, add_pooling_layer=False))
    head = _head(sizes.text)
    names = {
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding": "patch_embed.proj",
        "encoder.layers": "blocks",
        "self_attn.qkv": "attn.qkv",
        "self_attn.projection": "attn.proj",
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "post_layernorm": "norm",
    }
    state = {}
    for key, value in vision.state_dict().items():
        for theirs, original in names.items():
            key = key.replace(theirs, original)
        state[f"blip.visual_encoder.{key}"] = value
    state |= {f"blip.text_encoder.{key}": value for key, value in text.state_dict().items()}
    # What the file has besides, and the score does not use.
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(sizes.positions)[None]
    for side, width in (("vision", sizes.vision), ("text", sizes.text)):
        state[f"blip.{side}_proj.weight"] = torch.randn(256, width)
        state[f"blip.{side}_proj.bias"] = torch.randn(256)
    state |= {f"mlp.layers.{key}": value for key, value in head.state_dict().items()}
    (folder / "imagereward").mkdir()
    torch.save(state, folder / "imagereward" / "ImageReward.pt")
    # The width of the picture's encoder in the file is that of another model, and not used.
    config |= {"model_type": "bert", "encoder_width": 768, "add_cross_attention": True}
    (folder / "imagereward" / "med_config.json").write_text(json.dumps(config), encoding="utf-8")
    return vision, text, head


def clip_config(act: str, sizes: ClipSizes) -> Any:
    from transformers import CLIPConfig

    return CLIPConfig(
        text_config={
            "hidden_size": sizes.text, "intermediate_size": 4 * sizes.text, "hidden_act": act,
            "num_hidden_layers": sizes.text_layers, "num_attention_heads": sizes.text // 64,
            "vocab_size": sizes.words, "max_position_embeddings": sizes.length,
            "bos_token_id": 512, "eos_token_id": 513,
        },
        vision_config={
            "hidden_size": sizes.vision, "intermediate_size": 4 * sizes.vision,
            "hidden_act": act, "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads, "image_size": sizes.side * PATCH,
            "patch_size": PATCH,
        },
        projection_dim=sizes.joint,
    )  # fmt: skip


def _clip(folder: Path, seed: int) -> Any:
    from transformers import CLIPImageProcessorPil, CLIPModel

    model = _strong(CLIPModel(clip_config("quick_gelu" if seed > 1 else "gelu", ClipSizes())))
    with torch.no_grad():
        model.logit_scale.fill_(3.0 + seed)
    model.save_pretrained(folder)
    side = 4 * PATCH
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side).save_pretrained(folder)
    return model


def save_hpsv2(folder: Path, sizes: ClipSizes) -> Any:
    """Save random weights as the original file has them; returns transformers' model."""
    from transformers import CLIPModel

    model = _strong(CLIPModel(clip_config("gelu", sizes)))
    state: dict[str, Any] = {}
    theirs = model.state_dict()
    for prefix, original, depth in (
        ("vision_model", "visual.", sizes.layers),
        ("text_model", "", sizes.text_layers),
    ):
        for i in range(depth):
            old = f"{prefix}.encoder.layers.{i}"
            new = f"{original}transformer.resblocks.{i}"
            for kind in ("weight", "bias"):
                state[f"{new}.attn.in_proj_{kind}"] = torch.cat(
                    [theirs[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                )
                for a, b in (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"),
                             ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"),
                             ("mlp.fc2", "mlp.c_proj")):  # fmt: skip
                    state[f"{new}.{b}.{kind}"] = theirs[f"{old}.{a}.{kind}"]
    for kind in ("weight", "bias"):
        state[f"visual.ln_pre.{kind}"] = theirs[f"vision_model.pre_layrnorm.{kind}"]
        state[f"visual.ln_post.{kind}"] = theirs[f"vision_model.post_layernorm.{kind}"]
        state[f"ln_final.{kind}"] = theirs[f"text_model.final_layer_norm.{kind}"]
    seen, read = "vision_model.embeddings", "text_model.embeddings"
    state |= {
        "visual.class_embedding": theirs[f"{seen}.class_embedding"],
        "visual.positional_embedding": theirs[f"{seen}.position_embedding.weight"],
        "visual.conv1.weight": theirs[f"{seen}.patch_embedding.weight"],
        "visual.proj": theirs["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": theirs[f"{read}.token_embedding.weight"],
        "positional_embedding": theirs[f"{read}.position_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T.contiguous(),
        "logit_scale": theirs["logit_scale"],
    }
    (folder / "hpsv2").mkdir()
    whole = {"epoch": 1, "name": "hps", "state_dict": state}
    torch.save(whole, folder / "hpsv2" / "HPS_v2.1_compressed.pt")
    return model


def _aesthetic(folder: Path) -> Any:
    model = _clip(folder / "clip-vit-large-patch14", 3)
    head = _head(48)
    state = {f"layers.{key}": value for key, value in head.state_dict().items()}
    (folder / "aesthetic").mkdir()
    torch.save(state, folder / "aesthetic" / "sac+logos+ava1-l14-linearMSE.pth")
    return model, head


def _cafe(folder: Path) -> Any:
    from transformers import BeitConfig, BeitForImageClassification, BeitImageProcessorPil

    config = BeitConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                        num_attention_heads=2, image_size=64, patch_size=16,
                        use_relative_position_bias=True, layer_scale_init_value=0.1,
                        id2label={0: "not_aesthetic", 1: "aesthetic"},
                        label2id={"not_aesthetic": 0, "aesthetic": 1})  # fmt: skip
    model = _strong(BeitForImageClassification(config))
    model.save_pretrained(folder / "cafe-aesthetic")
    BeitImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False, resample=2,
                          image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(
        folder / "cafe-aesthetic"
    )  # fmt: skip
    return model


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Five pictures of different sizes, with structure."""
    rng = np.random.default_rng(3)
    found = []
    for height, width in ((64, 64), (90, 160), (160, 90), (75, 101), (40, 40)):
        coarse = rng.integers(0, 256, (5, 7, 3))
        rows = np.arange(height) * 5 // height
        columns = np.arange(width) * 7 // width
        noise = rng.integers(-20, 21, (height, width, 3))
        found.append(np.clip(coarse[rows][:, columns] + noise, 0, 255).astype(np.uint8))
    return found


PROMPTS = ["a red circle on white background", "a blue star", "large red stars, flat art",
           "a blue circle on white background", "a red circle on white background"]  # fmt: skip


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """What the pictures were asked to show; every scorer of the zoo finds words in them."""
    return list(PROMPTS)
