"""Examine candidates of real shape within a memory ceiling, on the processor.

    python bench/examine_real_shapes.py [sd1|sd2|sdxl] [--models 2] [--memory 8GiB] [--dtype …]

A pool of random weights that is generated while it is read. Three candidates (two weights, a
swapped text encoder) take two tasks of 64 pixels and two steps each; the first one comes back at
the end and must get the same marks. Memory is the process's highest, less what it had before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

from real_shapes import generated, tokenizer

from stockpot.draw import DrawSettings, Request
from stockpot.engine import parse_size
from stockpot.recipes import make_recipe
from stockpot.scores import make_scorer
from stockpot.tune import Exam, Task, open_examiner


class Peak(threading.Thread):
    """The most anonymous memory that was seen, every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = self.first = self.now()

    def now(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    def run(self) -> None:
        while True:
            self.most = max(self.most, self.now())
            time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layout", nargs="?", default="sd1")
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--memory", default="8GiB")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    names = [f"m{i}" for i in range(options.models)]
    sources = {name: generated(options.layout, i) for i, name in enumerate(names)}
    size = sum(info.n_bytes for info in sources["m0"].tensors.values())
    settings = DrawSettings(steps=2, width=64, height=64, sampler="Euler")
    exam = Exam(tuple(Task(f"cat#{i}", "cat", Request("a cat", i, settings)) for i in range(2)))
    pool = {name: f"{name}.safetensors" for name in names}
    rest = " + ".join(names[1:])
    te = "te1" if options.layout == "sdxl" else "te"
    mixes = {
        "uniform": {"model": f"mean({', '.join(names)})"},
        "blocks": {"model": f"lerp(m0, mean({rest.replace(' + ', ', ')}), 0.3)"},
        "text encoder": {"model": "m0", te: "m1"},
        "uniform again": {"model": f"mean({', '.join(names)})"},
    }
    peak = Peak()
    peak.start()
    found, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        words = tokenizer(Path(folder))
        with open_examiner(
            sources, {"contrast": make_scorer("contrast")}, memory=parse_size(options.memory),
            dtype=options.dtype, tokenizer=words, threads=2,
        ) as examiner:  # fmt: skip
            for name, mix in mixes.items():
                start = time.monotonic()
                marks = examiner.examine(make_recipe(mix, pool), exam.tasks)
                found[name] = [mark.scores["contrast"] for mark in marks]
                seconds[name] = round(time.monotonic() - start, 1)
    print(json.dumps({
        "layout": options.layout, "models": options.models, "dtype": options.dtype,
        "model_GB": round(size / 1e9, 2), "memory": options.memory,
        "peak_GB": round((peak.most - peak.first) / 1e9, 2),
        "seconds": seconds, "same_marks_again": found["uniform"] == found["uniform again"],
        "candidates_differ": len({tuple(v) for v in found.values()}) == 3,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
