"""List names and shapes of the tensors in the original files of ImageReward and HPSv2.

The classes of the published packages are built where tensors take no memory; what these packages
import besides torch and transformers is replaced by stand-ins, since it is not needed for names.
Unpack the wheels of image-reward 1.5 and hpsv2 1.2.0 into a folder each, then:

    python bench/scores/original_layouts.py FOLDER_OF_BOTH tests/scores/layouts
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterable
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest.mock import MagicMock, patch

import torch
from torch import nn

MED_CONFIG = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "vocab_size": 30524, "max_position_embeddings": 512,
    "add_cross_attention": True, "encoder_width": 768, "pad_token_id": 0,
    "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
}  # fmt: skip


class PatchEmbed(nn.Module):
    """timm's module of this name: one convolution."""

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.num_patches = (img_size // patch_size) ** 2
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)


class StandIn(types.ModuleType):
    """A module that has whatever is asked of it."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return {"PatchEmbed": PatchEmbed, "DropPath": lambda p: nn.Identity(),
                "trunc_normal_": lambda *a, **k: None}.get(name) or MagicMock()  # fmt: skip


class Finder:
    """Finds stand-ins for everything below some names."""

    def __init__(self, roots: Iterable[str]) -> None:
        self.roots = set(roots)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.split(".")[0] in self.roots else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is in it."""


def imagereward(folder: Path) -> dict[str, torch.Tensor]:
    """State dict of ImageReward-v1.0, without memory."""
    sys.path.insert(0, str(folder))
    import transformers.modeling_utils as modeling

    for name in ("apply_chunking_to_forward", "find_pruneable_heads_and_indices",
                 "prune_linear_layer"):  # fmt: skip
        if not hasattr(modeling, name):
            setattr(modeling, name, MagicMock())
    import transformers

    package = types.ModuleType("ImageReward")
    package.__path__ = [str(folder / "ImageReward")]
    sys.modules["ImageReward"] = package
    models = types.ModuleType("ImageReward.models")
    models.__path__ = [str(folder / "ImageReward" / "models")]
    sys.modules["ImageReward.models"] = models
    from ImageReward.models.BLIP import blip, blip_pretrain  # type: ignore[import-not-found]

    blip_pretrain.init_tokenizer = lambda: None
    blip_pretrain.BertConfig = MagicMock()
    config = transformers.BertConfig(**MED_CONFIG)
    blip_pretrain.BertConfig.from_json_file.return_value = config
    # Weights are not wanted: neither its initialisation nor the library's.
    blip_pretrain.BertModel.init_weights = lambda self: None
    blip_pretrain.BertModel.post_init = lambda self: None
    assert blip is not None
    from ImageReward.ImageReward import ImageReward  # type: ignore[import-not-found]

    # The rates of stochastic depth are read as numbers, which tensors without memory have not.
    rates = partial(torch.linspace, device="cpu")
    with patch.object(torch, "linspace", rates), torch.device("meta"):
        return ImageReward(med_config="").state_dict()


def hpsv2(folder: Path) -> dict[str, torch.Tensor]:
    """State dict of HPSv2's ViT-H-14, without memory."""
    import json

    sys.path.insert(0, str(folder))
    package = types.ModuleType("hpsv2")
    package.__path__ = [str(folder / "hpsv2")]
    sys.modules["hpsv2"] = package
    clip = types.ModuleType("hpsv2.src.open_clip")
    clip.__path__ = [str(folder / "hpsv2" / "src" / "open_clip")]
    source = types.ModuleType("hpsv2.src")
    source.__path__ = [str(folder / "hpsv2" / "src")]
    sys.modules["hpsv2.src"], sys.modules["hpsv2.src.open_clip"] = source, clip
    from hpsv2.src.open_clip.model import CLIP  # type: ignore[import-not-found]

    said = json.loads((Path(clip.__path__[0]) / "model_configs" / "ViT-H-14.json").read_text())
    with torch.device("meta"):
        return CLIP(**said).state_dict()


def folded(state: dict[str, torch.Tensor]) -> list[str]:
    """One line for all layers of a name: ``blocks.{0-23}.norm1.weight 1024``."""
    rows: dict[tuple[str, str], list[int]] = {}
    for key, value in state.items():
        found = re.search(r"\.(\d+)\.(?=.*\.)", key) if "layers." not in key else None
        shape = "x".join(map(str, value.shape)) or "scalar"
        if found:
            key = f"{key[: found.start(1)]}{{}}{key[found.end(1) :]}"
            rows.setdefault((key, shape), []).append(int(found.group(1)))
        else:
            rows.setdefault((key, shape), [])
    lines = []
    for (key, shape), numbers in rows.items():
        if numbers:
            assert numbers == list(range(len(numbers))), (key, numbers)
            key = key.replace("{}", f"{{0-{len(numbers) - 1}}}")
        lines.append(f"{key} {shape}")
    return lines


def main() -> None:
    """Write both listings."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    sys.meta_path.append(
        Finder(("timm", "fairscale", "torchvision", "clip", "ftfy", "clint", "braceexpand"))
    )
    for name, folder, build in (
        ("imagereward", "image_reward", imagereward),
        ("hpsv2", "hpsv2", hpsv2),
    ):
        state = build(source / folder)
        lines = folded(state)
        (target / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        total = sum(value.numel() for key, value in state.items() if "position_ids" not in key)
        print(f"{name}: {len(state)} tensors, {total:,} parameters, {len(lines)} lines")


if __name__ == "__main__":
    main()
