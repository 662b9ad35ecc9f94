"""Write the distribution's data folder: checkpoints, configuration, scorers, index.

python bench/zoo/assemble.py --work WORK --out zoo/src/stockpot_zoo/data
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusion import SCHEDULE
from export import (
    Arrays,
    ema_arrays,
    schedule_arrays,
    text_arrays,
    unet_arrays,
    vae_arrays,
    write,
)
from family import BASE, MEMBERS, Spec
from finetune import folder, load
from safetensors.numpy import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer

LIMIT_BYTES = 95_000_000


def arrays_of(work: Path, spec: Spec) -> Arrays:
    """All tensors of one member's file."""
    unet, text_encoder = load(work, spec.name)
    where = folder(work, spec.name)
    arrays = unet_arrays(unet.state_dict())
    if not spec.pruned:
        vae = where / "vae" if (where / "vae").exists() else work / "vae"
        arrays |= vae_arrays(AutoencoderKL.from_pretrained(vae).state_dict())
    arrays |= text_arrays(text_encoder.state_dict(), position_ids=spec.position_ids)
    if spec.schedule:
        arrays |= schedule_arrays()
    if spec.ema:
        ema = UNet2DConditionModel.from_pretrained(where / "unet-ema")
        arrays |= ema_arrays(
            ema.state_dict(), **json.loads((where / "ema.json").read_text("utf-8"))
        )
    if spec.v_prediction:
        arrays["v_pred"] = np.zeros(1, dtype=np.float16)
    return arrays


def entry(spec: Spec, file: Path, arrays: Arrays) -> dict[str, object]:
    """What the index says of one member."""
    return {
        "name": spec.name,
        "file": file.name,
        "role": spec.role,
        "parent": None if spec.name == "base" else spec.parent,
        "about": spec.about,
        "subset": {name: list(words) for name, words in spec.subset.items()},
        "trained": ["unet", "te", "vae"] if spec.name == "base" else sorted(spec.trained),
        "prediction": "v" if spec.v_prediction else "epsilon",
        "has_vae": not spec.pruned,
        "has_ema": spec.ema,
        "has_position_ids": spec.position_ids,
        "has_schedule": spec.schedule,
        "n_keys": len(arrays),
    }


def write_config(work: Path, out: Path) -> None:
    """A pipeline folder without weights, for `from_single_file(config=...)`."""
    unet, text_encoder = load(work, "base")
    vae = AutoencoderKL.from_pretrained(work / "vae")
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE, steps_offset=1, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(out, ignore_errors=True)
    pipeline.save_pretrained(out)
    for weights in out.rglob("*.safetensors"):
        weights.unlink()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(work / "tokenizer" / name, out / "tokenizer" / name)
    for config in out.rglob("*.json"):
        values = json.loads(config.read_text("utf-8"))
        if isinstance(values, dict) and values.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def write_scorers(work: Path, out: Path) -> None:
    """The tiny CLIP in fp16 with its tokenizer, and the judge."""
    shutil.rmtree(out / "clip", ignore_errors=True)
    CLIPModel.from_pretrained(work / "clip").half().save_pretrained(out / "clip")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.json"):
        shutil.copy(work / "tokenizer" / name, out / "clip" / name)
    judge = dict(sorted(load_file(work / "judge.safetensors").items()))
    save_file(judge, out / "judge.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Write everything that has been trained so far."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    entries = []
    for spec in (BASE, *MEMBERS):
        if not (folder(args.work, spec.name) / "text_encoder").exists():
            print(f"{spec.name}: not trained yet")
            continue
        arrays = arrays_of(args.work, spec)
        file = args.out / f"{spec.name}.safetensors"
        write(file, arrays, f"Stockpot zoo: {spec.name}")
        entries.append(entry(spec, file, arrays))
        print(f"{file.name}: {len(arrays)} keys, {file.stat().st_size:,} bytes")
    write_config(args.work, args.out / "config")
    write_scorers(args.work, args.out)
    extras = args.work / "extras.json"
    index = {
        "format": 1,
        "members": entries,
        "extras": json.loads(extras.read_text("utf-8")) if extras.exists() else [],
    }
    (args.out / "index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    for kind in ("lora", "embeddings"):
        if (args.work / kind).exists():
            shutil.copytree(args.work / kind, args.out / kind, dirs_exist_ok=True)
    for file in args.out.rglob("*.safetensors"):
        file.chmod(0o644)
    total = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"together {total:,} bytes")
    assert total <= LIMIT_BYTES


if __name__ == "__main__":
    main()
