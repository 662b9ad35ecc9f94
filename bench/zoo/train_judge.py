"""Train the judge: a classifier of the five attributes, from pictures alone.

It sees its own draws, blurred and noised at random so that soft pictures of a VAE are not foreign
to it, and never a caption.

    python bench/zoo/train_judge.py --work WORK --minutes 4
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import corpus
import numpy as np
import torch
from safetensors.torch import save_file

from stockpot.scores.attributes import judge_network
from stockpot.zoo.shapes import ATTRIBUTES


def roughen(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Soften a part of the batch, mottle a part, add a little noise: `[n, 3, 32, 32]` in and out.

    Painters that do not know a style paint mottled shapes; the judge must not take just any
    texture for stripes.
    """

    def some(share: float, most: float) -> torch.Tensor:
        chosen = rng.random(len(x)) < share
        return torch.from_numpy(rng.uniform(0, most, len(x)) * chosen).float()[:, None, None, None]

    interpolate = torch.nn.functional.interpolate
    soft = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1
    )
    x = x + (soft - x) * some(0.6, 0.8)
    for cells in (8, 13):
        grey = torch.randn(len(x), 1, cells, cells) + 0.4 * torch.randn(len(x), 3, cells, cells)
        spots = interpolate(grey, (32, 32), mode="bicubic")
        # Mottle what differs from the corner, which is background, more than the background.
        inside = (x - x[:, :, :1, :1]).abs().amax(dim=1, keepdim=True).clamp(max=1)
        x = x + spots * some(0.45, 0.45) * (0.15 + 0.85 * inside)
    return (x + some(0.7, 0.12) * torch.randn_like(x)).clamp(-1, 1)


def main() -> None:
    """Train by the clock; print the accuracy on draws that nothing was trained on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    pictures, index = corpus.pictures(args.work, "judge", processes=1)
    labels = torch.tensor(
        [[words.index(getattr(s, n)) for n, words in ATTRIBUTES.items()] for s in corpus.SCENES]
    )
    network = judge_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    start, step = time.time(), 0
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 100) * max(0.02, 1 - done)
        chosen = rng.integers(len(pictures), size=96)
        x = torch.from_numpy(pictures[chosen].transpose(0, 3, 1, 2)).float() / 127.5 - 1
        features = network["trunk"](roughen(x, rng))
        y = labels[index[chosen]]
        loss = sum(
            torch.nn.functional.cross_entropy(head(features), y[:, i], label_smoothing=0.02)
            for i, head in enumerate(network["heads"].values())
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"{time.time() - start:6.0f}s step {step} loss {loss:.3f}", flush=True)
        step += 1
    network.eval()
    weights = {k: v.half().contiguous() for k, v in sorted(network.state_dict().items())}
    save_file(weights, args.work / "judge.safetensors", metadata={"format": "pt"})
    held, index = corpus.pictures(args.work, "held-out", processes=1)
    with torch.no_grad():
        x = torch.from_numpy(held.transpose(0, 3, 1, 2)).float() / 127.5 - 1
        features = network["trunk"](x)
        for i, (name, head) in enumerate(network["heads"].items()):
            right = (head(features).argmax(1) == labels[index, i]).float().mean()
            print(f"{name}: {right:.4f}", flush=True)


if __name__ == "__main__":
    main()
