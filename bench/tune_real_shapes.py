"""Tune a pair of SD 1.5's shapes with random weights: the path of real files, and its memory.

    python bench/tune_real_shapes.py A.safetensors B.safetensors [--trials 3] [--memory 12GiB]

A and B may be any two SD1 files; `bench/memory.py` says how files of random numbers are made.
Each picture has 64 pixels and 2 steps. Prints the peak memory of the whole process (Linux counts
pages of files that are mapped, too) and what the search found, which means nothing here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

CHILD = """
import sys, json
from stockpot.cli import main
from stockpot.draw import peak_bytes
sys.argv = ["stockpot", *json.loads(sys.argv[1])]
try:
    main()
finally:
    print("peak", peak_bytes("cpu"), file=sys.stderr)
"""


def main() -> None:
    from real_shapes import tokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs=2, type=Path)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--memory", default="12GiB")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = ", ".join(["search(0, 1, 0.05)"] * 27)
        names = [json.dumps(str(file.resolve())) for file in options.files]
        (folder / "recipe.yaml").write_text(
            f"stockpot: 1\npool:\n  a: {names[0]}\n  b: {names[1]}\nlet:\n"
            f'  w: blocks("autombw", [{weights}])\nmix:\n  model: lerp(a, b, w)\n'
        )
        (folder / "payload.json").write_text(json.dumps({
            "prompt": "a cat", "seed": 1, "steps": 2, "width": 64, "height": 64,
            "sampler_name": "Euler", "cfg_scale": 7, "batch_size": 2,
        }))  # fmt: skip
        words = ["tune", str(folder / "recipe.yaml"), "--payloads", str(folder / "payload.json"),
                 "--score", "detail", "--study", str(folder / "study.db"), "--trials",
                 str(options.trials), "--memory", options.memory, "--dtype", options.dtype,
                 "--tokenizer", str(tokenizer(folder / "tokenizer")), "--json"]  # fmt: skip
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", CHILD, json.dumps(words)],
                              capture_output=True, text=True)  # fmt: skip
        print(done.stderr, file=sys.stderr)
        if done.returncode:
            raise SystemExit(done.returncode)
        peak = int(done.stderr.rsplit("peak", 1)[1])
        standings = json.loads(done.stdout)["standings"]
        print(json.dumps({
            "evaluations": options.trials + sum(one["baseline"] for one in standings),
            "seconds": round(time.monotonic() - start, 1), "peak_gb": round(peak / 1e9, 2),
            "memory": options.memory, "dtype": options.dtype,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
