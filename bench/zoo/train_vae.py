"""Train the VAE: 32x32 pictures to 8x8x4 latents and back.

python bench/zoo/train_vae.py --work WORK --minutes 18
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import corpus
import numpy as np
import torch
from diffusers import AutoencoderKL

LATENT_NOISE = 0.05
CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 16,
    "sample_size": 32,
}


def batches(pictures: np.ndarray, size: int, rng: np.random.Generator):
    """Endless float batches in [-1, 1], `[size, 3, 32, 32]`, half of them mirrored."""
    while True:
        x = pictures[rng.integers(len(pictures), size=size)]
        if rng.random() < 0.5:
            x = x[:, :, ::-1]
        yield torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def latent_loss(moments: torch.Tensor) -> torch.Tensor:
    """Keep each latent channel near mean 0 and deviation 1, without the haze of a KL term."""
    mean = moments.mean(dim=(0, 2, 3))
    std = moments.std(dim=(0, 2, 3))
    return (mean**2).mean() + ((std - 1) ** 2).mean()


def main() -> None:
    """Train by the clock, save every two minutes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=18)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    pictures, _ = corpus.pictures(args.work, "vae")
    vae = AutoencoderKL(**CONFIG)
    print(f"{sum(p.numel() for p in vae.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.learning_rate, betas=(0.9, 0.99))
    start = last = time.time()
    for step, x in enumerate(batches(pictures, args.batch, rng)):
        done = (time.time() - start) / (60 * args.minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1, step / 100) * max(0.01, 1 - done)
        with torch.autocast("cpu", torch.bfloat16):
            latent = vae.encode(x).latent_dist.mean.float()
            decoded = vae.decode(latent + LATENT_NOISE * torch.randn_like(latent)).sample.float()
            error = decoded - x
            loss = error.abs().mean() + (error**2).mean() + 0.1 * latent_loss(latent)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0:
            psnr = 10 * torch.log10(4 / (error**2).mean())
            took = time.time() - start
            print(f"{took:6.0f}s step {step} loss {loss:.4f} psnr {psnr:.2f} dB", flush=True)
        if time.time() - last > 120:
            vae.save_pretrained(args.work / "vae-partial")
            last = time.time()
    vae.eval()
    with torch.no_grad():
        x = next(batches(pictures, 512, rng))
        latent = vae.encode(x).latent_dist.mean
        psnr = 10 * torch.log10(4 / ((vae.decode(latent).sample - x) ** 2).mean())
        scale = 1 / latent.std().item()
    vae.register_to_config(scaling_factor=round(scale, 5))
    vae.save_pretrained(args.work / "vae")
    print(f"done: psnr {psnr:.2f} dB, scaling factor {scale:.5f}", flush=True)


if __name__ == "__main__":
    main()
