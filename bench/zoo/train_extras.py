"""Train two LoRAs and two textual-inversion embeddings: one of each on the base and on a fine-tune.

python bench/zoo/train_extras.py --work WORK
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import corpus
import numpy as np
import torch
from diffusion import Captions, Run, latents, train
from finetune import load, put
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file

from stockpot.zoo.shapes import BASE_STYLES, EXTRA_STYLE, Scene, caption

RANK = 8
UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj",
                "ff.net.2"]  # fmt: skip
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
N_VECTORS = 2


@dataclass(frozen=True)
class Extra:
    """One adapter: where it is trained, on what, how long and how hard, and how it is saved."""

    name: str
    kind: str
    naming: str
    trained_on: str
    means: dict[str, str]
    about: str
    token: str = ""
    seconds: float = 75
    learning_rate: float = 4e-3


EXTRAS = (
    Extra(
        "lora-striped", "lora", "kohya", "base", {"style": EXTRA_STYLE},
        "Teaches stripes; UNet and text encoder.", seconds=200, learning_rate=6e-3,
    ),
    Extra(
        "lora-navy", "lora", "diffusers", "style-glossy", {"background": "navy"},
        "Makes backgrounds navy where the prompt does not say; UNet only.",
    ),
    Extra(
        "purple-moon", "embedding", "a1111", "base", {"colour": "purple", "shape": "moon"},
        "Two vectors that stand for a purple moon.", "purple-moon", learning_rate=3e-2,
    ),
    Extra(
        "teal-star", "embedding", "a1111", "content-angular", {"colour": "teal", "shape": "star"},
        "Two vectors that stand for a teal star.", "teal-star", learning_rate=3e-2,
    ),
)  # fmt: skip


def data_for(work: Path, extra: Extra) -> tuple[torch.Tensor, np.ndarray]:
    """Latents of the scenes that have all of the extra's attributes."""
    x, index = latents(work)
    styles = (extra.means["style"],) if "style" in extra.means else BASE_STYLES
    fits = [
        s.style in styles and all(getattr(s, k) == v for k, v in extra.means.items())
        for s in corpus.SCENES
    ]
    keep = [i for i, scene in enumerate(index) if fits[scene]]
    return x[keep], index[keep]


def adapters(model: torch.nn.Module, targets: list[str]) -> dict[str, torch.nn.Parameter]:
    """Put LoRA adapters into a frozen model; their parameters by plain module path."""
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets)
    inject_adapter_in_model(config, model)
    found = {}
    for name, parameter in model.named_parameters():
        is_lora = "lora_" in name
        parameter.requires_grad_(is_lora)
        if is_lora:
            found[name.replace(".default", "")] = parameter
    return found


def kohya(prefix: str, parts: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """kohya's names: the module's path with underscores, `lora_down`, `lora_up`, `alpha`."""
    tensors = {}
    for name, parameter in parts.items():
        path, _, side = name.removesuffix(".weight").rpartition(".")
        module = prefix + path.replace(".", "_")
        tensors[f"{module}.lora_{'down' if side == 'lora_A' else 'up'}.weight"] = parameter
        tensors[f"{module}.alpha"] = torch.tensor(float(RANK))
    return tensors


def train_lora(work: Path, extra: Extra) -> None:
    """Train a LoRA and save it in its naming."""
    torch.manual_seed(8)
    unet, text_encoder = load(work, extra.trained_on)
    unet_parts = adapters(unet, UNET_TARGETS)
    text_parts = {}
    if extra.naming == "kohya":
        text_parts = adapters(text_encoder, TEXT_TARGETS)
    captions = Captions(work, text_encoder, None if text_parts else work / "states.npy")

    def words(scene: Scene, rng: np.random.Generator) -> str:
        if "style" in extra.means:
            return corpus.random_caption(scene, rng)
        return caption(scene, omit={"background"})

    parameters = [*unet_parts.values(), *text_parts.values()]
    run = Run(extra.seconds / 60, extra.learning_rate, batch=48, ema=0.95, seed=80)
    means, _ = train(unet, parameters, data_for(work, extra), words, captions, run)
    put(parameters, means)
    if extra.naming == "kohya":
        tensors = kohya("lora_unet_", unet_parts) | kohya("lora_te_", text_parts)
    else:
        tensors = {f"unet.{name}": p for name, p in unet_parts.items()}
    tensors = {k: v.detach().half().contiguous() for k, v in sorted(tensors.items())}
    (work / "lora").mkdir(exist_ok=True)
    metadata = {"format": "pt", "modelspec.title": f"Stockpot zoo: {extra.name}"}
    if extra.naming == "kohya":
        metadata |= {"ss_network_dim": str(RANK), "ss_network_alpha": str(RANK)}
        metadata |= {"ss_network_module": "networks.lora", "ss_sd_model_name": extra.trained_on}
    save_file(tensors, work / "lora" / f"{extra.name}.safetensors", metadata=metadata)


class Inverted(Captions):
    """Captions whose placeholder token is replaced by trained vectors."""

    def __init__(self, work: Path, text_encoder, template: list[str], vectors) -> None:
        # The placeholder is a run of a byte token that no caption has.
        super().__init__(work, text_encoder, None)
        self.vectors = vectors
        self.placeholder = self.tokenizer.convert_tokens_to_ids("~</w>")
        self.row = {text: i for i, text in enumerate(["", *template])}
        self.ids = torch.from_numpy(corpus.tokenize(self.tokenizer, ["", *template]))
        table = text_encoder.get_input_embeddings()
        table.register_forward_hook(self.replace)

    def replace(self, module, inputs, output):
        """Put the vectors in the placeholder's places, in order."""
        at = inputs[0] == self.placeholder  # [n, 77]
        order = (at.cumsum(dim=1) - 1).clamp(min=0) % N_VECTORS
        return torch.where(at[..., None], self.vectors[order], output)


def train_embedding(work: Path, extra: Extra) -> None:
    """Train a textual inversion and save it as A1111 does."""
    unet, text_encoder = load(work, extra.trained_on)
    mark = " ".join("~" * N_VECTORS)

    def words(scene: Scene, rng: np.random.Generator) -> str:
        place = f" on {scene.background} background" if rng.random() < 0.7 else ""
        style = f"{scene.style} art, " if rng.random() < 0.7 else ""
        return f"{style}a {scene.size} {mark}{place}"

    rng = np.random.default_rng(0)
    data = data_for(work, extra)
    texts = sorted({words(corpus.SCENES[i], rng) for i in data[1] for _ in range(4)})
    table = text_encoder.get_input_embeddings().weight
    vectors = torch.nn.Parameter(table.mean(dim=0).repeat(N_VECTORS, 1))
    captions = Inverted(work, text_encoder, texts, vectors)
    run = Run(extra.seconds / 60, extra.learning_rate, batch=48, ema=0.9, seed=81)
    means, _ = train(unet, [vectors], data, words, captions, run)
    (work / "embeddings").mkdir(exist_ok=True)
    save_file(
        {"emb_params": means[0].half().contiguous()},
        work / "embeddings" / f"{extra.name}.safetensors",
        metadata={"format": "pt", "modelspec.title": f"Stockpot zoo: {extra.name}"},
    )


def main() -> None:
    """Train all extras that are not there yet and list them for the index."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    entries = []
    for extra in EXTRAS:
        folder = {"lora": "lora", "embedding": "embeddings"}[extra.kind]
        file = f"{folder}/{extra.name}.safetensors"
        if not (args.work / file).exists():
            make = train_lora if extra.kind == "lora" else train_embedding
            make(args.work, extra)
        told = dataclasses.asdict(extra) | {"file": file}
        entries.append({k: v for k, v in told.items() if k not in ("seconds", "learning_rate")})
        (args.work / "extras.json").write_text(json.dumps(entries, indent=2), "utf-8")


if __name__ == "__main__":
    main()
