"""The parts that training the base and training a fine-tune share: data, objective, loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import corpus
import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from stockpot.zoo.shapes import Scene

UNET_CONFIG = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (24, 40, 56, 56),
    "layers_per_block": 2,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}
EMPTY_SHARE = 0.1
SNR_CEILING = 5.0


def latents(work: Path) -> tuple[torch.Tensor, np.ndarray]:
    """The VAE's scaled mean latents of the UNet's own draws, encoded once and kept in `work`.

    Returns:
        float32 `[n, 4, 8, 8]`, and indices into `corpus.SCENES` `[n]`.
    """
    file = work / "latents.npy"
    if not file.exists():
        pictures, _ = corpus.pictures(work, "unet")
        vae = AutoencoderKL.from_pretrained(work / "vae").eval()
        parts = []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for start in range(0, len(pictures), 256):
                x = torch.from_numpy(pictures[start : start + 256].transpose(0, 3, 1, 2))
                mean = vae.encode(x.float() / 127.5 - 1).latent_dist.mean.float()
                parts.append(mean * vae.config.scaling_factor)
        np.save(file, torch.cat(parts).numpy().astype(np.float16))
    return torch.from_numpy(np.load(file)).float(), corpus.scene_indices("unet")


class Captions:
    """Token ids of every caption, and their hidden states while the text encoder is frozen.

    Args:
        work: Where the tokenizer lies.
        text_encoder: Frozen or not.
        cached: File for the hidden states of all captions, made where it is absent; None
            computes each batch's anew, as a text encoder that is being trained needs.
    """

    def __init__(self, work: Path, text_encoder: CLIPTextModel, cached: Path | None) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        texts = ["", *corpus.every_caption()]
        self.row = {text: i for i, text in enumerate(texts)}
        self.ids = torch.from_numpy(corpus.tokenize(self.tokenizer, texts))
        self.text_encoder = text_encoder
        self.states = None
        if cached is not None:
            if not cached.exists():
                with torch.no_grad():
                    chunks = self.ids.split(512)
                    states = [text_encoder(ids).last_hidden_state.half() for ids in chunks]
                np.save(cached, torch.cat(states).numpy())
            self.states = np.load(cached, mmap_mode="r")

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Hidden states `[n, 77, 64]`, with gradients to the text encoder where it is trained."""
        rows = [self.row[text] for text in texts]
        if self.states is not None:
            return torch.from_numpy(self.states[rows]).float()
        return self.text_encoder(self.ids[rows]).last_hidden_state


@dataclass(frozen=True)
class Run:
    """How long and how hard to train.

    Attributes:
        minutes: Wall clock; the learning rate falls linearly to nothing over it.
        learning_rate: Peak.
        batch: Pictures a step.
        v_prediction: Train for velocity instead of noise.
        ema: Decay of the running mean of the weights, which is what is kept.
        seed: Of draws and noise.
        compiled: Let torch.compile fuse the UNet: worth it from a few minutes on.
    """

    minutes: float
    learning_rate: float
    batch: int = 64
    v_prediction: bool = False
    ema: float = 0.995
    seed: int = 4
    compiled: bool = False


def train(
    unet: UNet2DConditionModel,
    parameters: Sequence[torch.nn.Parameter],
    data: tuple[torch.Tensor, np.ndarray],
    words: Callable[[Scene, np.random.Generator], str],
    captions: Captions,
    run: Run,
    save: Callable[[list[torch.Tensor]], None] | None = None,
) -> tuple[list[torch.Tensor], int]:
    """Train `parameters` by the clock.

    Args:
        unet: The model that denoises.
        parameters: What is trained, of the UNet, the text encoder, or an adapter.
        data: Latents and scene indices.
        words: A caption for a scene.
        captions: From texts to hidden states.
        run: How long and how hard.
        save: Called every three minutes with the running means.

    Returns:
        The running means of `parameters`, in order, and the number of steps.
    """
    x_all, index = data
    rank = dist.get_rank() if dist.is_initialized() else 0
    rng = np.random.default_rng([run.seed, rank])
    torch.manual_seed(run.seed + 1000 * rank)
    # One shape, one graph: fused kernels for the small maps that eager mode is slow at.
    denoise = torch.compile(unet) if run.compiled else unet
    scheduler = DDPMScheduler(**SCHEDULE)
    alphas = scheduler.alphas_cumprod
    snr = alphas / (1 - alphas)
    # Min-SNR weights (Hang et al. 2023): steps with almost no noise would else take the most.
    divisor = snr + 1 if run.v_prediction else snr
    weights = snr.clamp(max=SNR_CEILING) / divisor
    parameters = list(parameters)
    means = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(
        parameters, lr=run.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3, foreach=True
    )
    start = last = time.time()
    step, done, recent = 0, 0.0, []
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = run.learning_rate * min(1, (step + 1) / 50) * max(0.01, 1 - done)
        chosen = rng.integers(len(x_all), size=run.batch)
        x = x_all[chosen]
        empty = rng.random(run.batch) < EMPTY_SHARE
        texts = [
            "" if e else words(corpus.SCENES[index[i]], rng)
            for i, e in zip(chosen, empty, strict=True)
        ]
        noise = torch.randn_like(x)
        t = torch.from_numpy(rng.integers(1000, size=run.batch))
        noisy = scheduler.add_noise(x, noise, t)
        target = scheduler.get_velocity(x, noise, t) if run.v_prediction else noise
        out = denoise(noisy, t, captions(texts), return_dict=False)[0]
        loss = (weights[t] * ((out - target) ** 2).mean(dim=(1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            start = time.time()  # compiling is not training
        done = average(parameters, (time.time() - start) / (60 * run.minutes))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        step += 1
        decay = min(run.ema, step / (step + 10))
        torch._foreach_lerp_(means, [p.detach() for p in parameters], 1 - decay)
        recent.append(loss.item())
        if step % 200 == 0:
            took = time.time() - start
            rate = step * run.batch / took  # of this process
            print(
                f"{took:6.0f}s step {step} loss {np.mean(recent[-200:]):.4f} {rate:.0f} images/s",
                flush=True,
            )
        if save is not None and rank == 0 and time.time() - last > 180:
            save(means)
            last = time.time()
    print(f"{step} steps, {step * run.batch / (time.time() - start):.0f} images/s", flush=True)
    return means, step


def average(parameters: Sequence[torch.nn.Parameter], number: float) -> float:
    """Average gradients, and one number beside them, over the processes that train together."""
    if not dist.is_initialized():
        return number
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor([number])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat[:-1].split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return float(flat[-1])
