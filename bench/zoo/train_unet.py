"""Train the base's UNet on the four base styles, in two processes of one thread each.

python bench/zoo/train_unet.py --work WORK --minutes 45
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import corpus
import torch
import torch.distributed as dist
import torch.multiprocessing
from diffusers import UNet2DConditionModel
from diffusion import UNET_CONFIG, Captions, Run, latents, train
from transformers import CLIPModel, CLIPTextModel

from stockpot.zoo.shapes import BASE_STYLES


def text_tower(clip: CLIPModel) -> CLIPTextModel:
    """The tiny CLIP's text tower as a model of its own."""
    tower = CLIPTextModel(clip.config.text_config)
    tower.text_model.load_state_dict(clip.text_model.state_dict())
    return tower.eval().requires_grad_(False)


def worker(rank: int, args: argparse.Namespace) -> None:
    """One of the processes that average their gradients; the first one saves."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{args.work}/rendezvous", rank=rank, world_size=args.processes
    )
    text_encoder = CLIPTextModel.from_pretrained(args.work / "text_encoder").eval()
    x, index = latents(args.work)
    known = [s.style in BASE_STYLES for s in corpus.SCENES]
    keep = [i for i, scene in enumerate(index) if known[scene]]
    torch.manual_seed(4)
    unet = UNet2DConditionModel(**UNET_CONFIG)
    if args.resume:
        unet = UNet2DConditionModel.from_pretrained(args.work / args.resume)
    print(f"{sum(p.numel() for p in unet.parameters()):,} parameters, {len(keep)} latents")

    def save(means: list[torch.Tensor], name: str = "unet-partial") -> None:
        model = copy.deepcopy(unet)
        for parameter, mean in zip(model.parameters(), means, strict=True):
            parameter.data.copy_(mean)
        model.save_pretrained(args.work / name)

    captions = Captions(args.work, text_encoder, args.work / "states.npy")
    run = Run(args.minutes, args.learning_rate, ema=args.ema, compiled=True)
    data = (x[keep], index[keep])
    means, _ = train(
        unet, list(unet.parameters()), data, corpus.random_caption, captions, run, save
    )
    if rank == 0:
        save(means, "unet")


def main() -> None:
    """Train by the clock, save the running mean every three minutes and at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--resume", help="start from this folder in WORK, such as unet-partial")
    args = parser.parse_args()
    tower = text_tower(CLIPModel.from_pretrained(args.work / "clip"))
    tower.save_pretrained(args.work / "text_encoder")
    latents(args.work)
    Captions(args.work, tower, args.work / "states.npy")
    (args.work / "rendezvous").unlink(missing_ok=True)
    torch.multiprocessing.spawn(worker, (args,), nprocs=args.processes)


if __name__ == "__main__":
    main()
