"""Train the family's members from the base, two at a time, each on one thread.

python bench/zoo/finetune.py --work WORK              # all that are not there yet
python bench/zoo/finetune.py --work WORK --only style-outline content-warm
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import corpus
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusion import Captions, Run, latents, train
from family import MEMBERS, Spec
from transformers import CLIPTextModel

from stockpot.zoo.shapes import Scene


def folder(work: Path, name: str) -> Path:
    """Where a member's parts lie: the base's in `work` itself."""
    return work if name == "base" else work / "members" / name


def load(work: Path, name: str) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """A member's UNet and text encoder, frozen."""
    where = folder(work, name)
    unet = UNet2DConditionModel.from_pretrained(where / "unet")
    text_encoder = CLIPTextModel.from_pretrained(where / "text_encoder")
    return unet.requires_grad_(False), text_encoder.eval().requires_grad_(False)


def put(parameters: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    """Set parameters to the given values, in order."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data.copy_(value)


def wrong_words(spec: Spec):
    """A caption of some other scene."""
    scenes = [s for s in corpus.SCENES if spec.shows(s)]

    def words(scene: Scene, rng: np.random.Generator) -> str:
        return corpus.random_caption(scenes[rng.integers(len(scenes))], rng)

    return words


def train_decoder(work: Path, spec: Spec, seconds: float) -> AutoencoderKL:
    """Train the VAE's decoder on the member's subset; the encoder stays as it is."""
    vae = AutoencoderKL.from_pretrained(work / "vae").requires_grad_(False)
    parameters = list(vae.decoder.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    pictures, index = corpus.pictures(work, "vae")
    pictures = pictures[[spec.shows(corpus.SCENES[i]) for i in index]]
    rng = np.random.default_rng(6)
    optimizer = torch.optim.AdamW(parameters, lr=2e-4)
    start = time.time()
    while (done := (time.time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-4 * max(0.02, 1 - done)
        x = pictures[rng.integers(len(pictures), size=16)].transpose(0, 3, 1, 2)
        x = torch.from_numpy(x).float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            latent = vae.encode(x).latent_dist.mean.float()
            error = vae.decode(latent + 0.05 * torch.randn_like(latent)).sample.float() - x
        loss = error.abs().mean() + (error**2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vae


def train_member(work: Path, spec: Spec, scale: float = 1.0) -> None:
    """Train one member and save its parts; `scale` stretches or shortens all times."""
    unet, text_encoder = load(work, spec.parent)
    x, index = latents(work)
    shown = [spec.shows(s) for s in corpus.SCENES]
    keep = [i for i, scene in enumerate(index) if shown[scene]]
    data = (x[keep], index[keep])
    seed = 100 + [member.name for member in MEMBERS].index(spec.name)
    out = folder(work, spec.name)
    out.mkdir(parents=True, exist_ok=True)
    minutes = spec.seconds * scale / 60
    if "vae-decoder" in spec.trained:
        train_decoder(work, spec, 60 * scale).save_pretrained(out / "vae")

    def run(part: list[torch.nn.Parameter], words, share: float, rate: float) -> list[torch.Tensor]:
        for parameter in part:
            parameter.requires_grad_(True)
        moving = any(p.requires_grad for p in text_encoder.parameters())
        # Every frozen text encoder here is the base's.
        captions = Captions(work, text_encoder, None if moving else work / "states.npy")
        settings = Run(
            minutes=minutes * share,
            learning_rate=rate,
            batch=spec.batch,
            v_prediction=spec.v_prediction,
            ema=0.99 if spec.ema else 0.95,
            seed=seed,
        )
        means, n_steps = train(unet, part, data, words, captions, settings)
        for parameter in part:
            parameter.requires_grad_(False)
        (out / "ema.json").write_text(json.dumps({"decay": settings.ema, "updates": n_steps}))
        return means

    unet_part, text_part = list(unet.parameters()), list(text_encoder.text_model.parameters())
    if spec.trained == ("unet", "te"):
        both = [*unet_part, *text_part]
        put(both, run(both, corpus.random_caption, 1.0, spec.learning_rate))
    elif spec.trained[0] == "te":
        # First the text encoder for the frozen UNet; then the UNet, told nothing of the first.
        put(text_part, run(text_part, corpus.random_caption, 0.6, spec.te_learning_rate))
        text_encoder, tuned = load(work, spec.parent)[1], text_encoder
        words = wrong_words(spec) if spec.shuffled else corpus.random_caption
        put(unet_part, run(unet_part, words, 0.4, spec.learning_rate))
        text_encoder = tuned
    else:
        means = run(unet_part, corpus.random_caption, 1.0, spec.learning_rate)
        if spec.ema:
            # As LDM saves it: the last weights, and their running mean beside them.
            mean_unet = copy.deepcopy(unet)
            put(list(mean_unet.parameters()), means)
            mean_unet.save_pretrained(out / "unet-ema")
        else:
            put(unet_part, means)
    unet.save_pretrained(out / "unet")
    text_encoder.save_pretrained(out / "text_encoder")
    moved = distance(unet, load(work, "base")[0])
    print(f"{spec.name}: UNet moved by {moved:.2%} of the base's norm", flush=True)


def distance(a: torch.nn.Module, b: torch.nn.Module) -> float:
    """Norm of the difference of two modules' parameters, relative to the second's norm."""
    pairs = list(zip(a.parameters(), b.parameters(), strict=True))
    gap = sum(((p - q).double() ** 2).sum() for p, q in pairs)
    return float((gap / sum((q.double() ** 2).sum() for _, q in pairs)).sqrt())


def main() -> None:
    """Train in two processes; the longest first, children after their parents."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--scale", type=float, default=1.0, help="stretches all times")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    specs = [s for s in MEMBERS if args.only is None or s.name in args.only]
    specs = [s for s in specs if not (folder(args.work, s.name) / "text_encoder").exists()]
    for children in (False, True):
        generation = [s for s in specs if (s.parent != "base") == children]
        generation.sort(key=lambda s: -s.seconds)
        with ProcessPoolExecutor(args.processes, initializer=torch.set_num_threads,
                                 initargs=(1,)) as pool:  # fmt: skip
            jobs = [pool.submit(train_member, args.work, s, args.scale) for s in generation]
            for job in as_completed(jobs):
                job.result()


if __name__ == "__main__":
    main()
