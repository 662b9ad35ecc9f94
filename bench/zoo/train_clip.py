"""Train the tiny CLIP. Its text tower is the base's text encoder; the pair is the reward.

python bench/zoo/train_clip.py --work WORK --bpe-table bpe_simple_vocab_16e6.txt.gz --minutes 6
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import corpus
import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer


def new_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Text 2 x 64 (77 positions), vision 3 x 64 (patches of 4 pixels), 64 joint dimensions."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={
            **tower, **ids, "vocab_size": len(tokenizer), "num_hidden_layers": 2,
            "max_position_embeddings": corpus.MAX_LENGTH, "projection_dim": 64,
            "pad_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            **tower, "num_hidden_layers": 3, "image_size": 32, "patch_size": 4,
            "projection_dim": 64,
        },
        projection_dim=64,
    )  # fmt: skip
    torch.manual_seed(2)
    model = CLIPModel(config)
    # CLIP's own initialiser is scaled for 512 dimensions and starts this small model too quietly.
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=0.1)
    return model


def main() -> None:
    """Train by the clock; print retrieval among 128 unseen pairs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--bpe-table", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(2)
    corpus.build_tokenizer(args.bpe_table, args.work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
    pictures, index = corpus.pictures(args.work, "clip", processes=1)
    model = new_model(tokenizer)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in model.parameters()):,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98))
    captions = corpus.every_caption()
    ids = torch.from_numpy(corpus.tokenize(tokenizer, captions))
    row = {text: i for i, text in enumerate(captions)}
    ends = ids.eq(tokenizer.eos_token_id).int().argmax(dim=1)
    start = last = time.time()
    step = 0
    while (done := (time.time() - start) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, step / 200) * max(0.02, 1 - done)
        chosen = rng.integers(len(pictures), size=args.batch)
        x = torch.from_numpy(pictures[chosen].transpose(0, 3, 1, 2)).float() / 127.5 - 1
        texts = [corpus.random_caption(corpus.SCENES[index[i]], rng) for i in chosen]
        rows = torch.tensor([row[t] for t in texts])
        # Attention is causal and the pooled state stands at the end token: padding can go.
        length = int(ends[rows].max()) + 1
        out = model(input_ids=ids[rows, :length], pixel_values=x)
        logits = out.logits_per_text
        # Pairs whose captions are the same words are no mistake of each other.
        same = torch.tensor(np.array(texts)[:, None] == np.array(texts)[None, :])
        logits = logits.masked_fill(same & ~torch.eye(len(texts), dtype=torch.bool), -1e4)
        target = torch.arange(len(texts))
        cross_entropy = torch.nn.functional.cross_entropy
        loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            right = (logits.argmax(1) == target).float().mean()
            print(
                f"{time.time() - start:4.0f}s step {step} loss {loss:.3f} {right:.2f}", flush=True
            )
        if time.time() - last > 90:
            model.save_pretrained(args.work / "clip-partial")
            last = time.time()
        step += 1
    model.eval()
    model.save_pretrained(args.work / "clip")
    print(f"done: {step} steps, loss {loss:.3f}, retrieval in {args.batch} {right:.3f}", flush=True)


if __name__ == "__main__":
    main()
