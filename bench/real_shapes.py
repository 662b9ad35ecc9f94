"""Draw with checkpoints of real shape and random weights, on the processor.

    python bench/real_shapes.py [sd1 sd2 sd2-v sdxl] [--dtype bfloat16] [-o FOLDER]

SD 1.5, SD 2.1 (noise and velocity) and SDXL are generated while they are read, so they need no
disk. Each is loaded, gets the text encoder of a second model, takes two steps at 64 pixels and
writes a PNG: the code path of real files.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from stockpot.checkpoints import DTYPES, GeneratedSource, TensorInfo
from stockpot.draw import DrawSettings, Request, draw_request, open_painter, peak_bytes
from stockpot.layouts import get_layout


def generated(layout: str, seed: int) -> GeneratedSource:
    """A checkpoint of a layout's shapes: small random numbers, scales near 1."""
    infos = [
        TensorInfo(key, DTYPES["F16"], spec.shape)
        for key, spec in get_layout(layout).specs.items()
        if not spec.optional and spec.cell.component != "ema"
    ]
    noise = np.random.default_rng(seed).standard_normal(1 << 20).astype(np.float16)

    def fill(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        values = np.frombuffer(out, np.float16)  # a view: what is written arrives
        at = (zlib.crc32(info.key.encode()) + start) % len(noise)
        picked = np.take(noise, np.arange(at, at + stop - start), mode="wrap")
        if len(info.shape) == 1 and info.key.endswith("weight"):
            values[:] = 1 + picked * np.float16(0.02)
        else:
            fan_in = max(1, int(np.prod(info.shape[1:])))
            values[:] = picked * np.float16(0.5 / fan_in**0.5)

    return GeneratedSource(infos, fill, name=f"{layout}-{seed}")


def tokenizer(folder: Path) -> Path:
    """CLIP's special tokens at their places, and bytes instead of words."""
    from transformers import CLIPTokenizer

    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    vocabulary |= {f"<unused{i}>": i for i in range(len(tokens), 49406)}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    return folder


def draw(kind: str, dtype: str, words: Path, output: Path) -> dict[str, object]:
    """Load, swap the text encoder, draw, write."""
    layout, _, velocity = kind.partition("-")
    start = time.perf_counter()
    painter = open_painter(
        generated(layout, 1),
        te=generated(layout, 2),
        prediction="v_prediction" if velocity else None,
        dtype=dtype,
        tokenizer=words,
    )
    loaded = time.perf_counter()
    request = Request(
        "a (cat:1.2)", 3, DrawSettings(steps=2, width=64, height=64, sampler="Euler", negative="x")
    )
    (one,), _ = draw_request(painter, request)
    (output / f"{kind}.png").write_bytes(one.png)
    return {
        "model": kind,
        "prediction": painter.prediction,
        "load_s": round(loaded - start, 1),
        "draw_s": round(time.perf_counter() - loaded, 1),
        "spread": round(float(one.picture.std()), 1),
        "peak_gb": round(peak_bytes("cpu") / 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["sd1", "sd2", "sd2-v", "sdxl"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("-o", "--output", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        words = tokenizer(Path(scratch) / "tokenizer")
        output = options.output or Path(scratch)
        output.mkdir(exist_ok=True)
        for kind in options.kinds:
            print(json.dumps(draw(kind, options.dtype, words, output)), flush=True)


if __name__ == "__main__":
    main()
