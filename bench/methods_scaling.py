"""How do time and memory grow with the number of models?

Merges generated models, a base plus counter-based noise in the shapes of Stable Diffusion 1.5 at a
stated width, with DGMLA, for several numbers of models. Nothing is on the disk. See
bench/README.md.

    python bench/methods_scaling.py --counts 4,8,20,64,216 --memory 4GiB
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
from merge_speed import anonymous_bytes

from stockpot.checkpoints import DTYPES, GeneratedSource, TensorInfo
from stockpot.engine import Settings, make_plan, merge_in_memory, parse_size, size_text
from stockpot.layouts import get_layout
from stockpot.methods.randomness import random_bits
from stockpot.recipes import make_recipe

HALF = DTYPES["F16"]


def infos_of(width: Fraction) -> list[TensorInfo]:
    """SD1.5's UNet with every channel count multiplied by the width; kernels and inputs stay."""
    found = []
    for key, spec in get_layout("sd1").specs.items():
        if spec.cell.component == "unet" and not spec.optional and spec.role == "weight":
            shape = tuple(max(1, int(n * width)) if n > 4 else n for n in spec.shape)
            found.append(TensorInfo(key, HALF, shape))
    return found


def model(infos: list[TensorInfo], number: int) -> GeneratedSource:
    """The base, or the base plus noise of its own: sums of two uniform numbers."""
    places = {info.key: i for i, info in enumerate(infos)}

    def generate(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        values = np.zeros(stop - start)
        for who, size in ((0, 0.03), (number, 0.003)):
            if who == number or number:
                bits = random_bits((who, places[info.key]), start, stop - start)
                values += size * (bits * 2.0**-52 - 1)
        np.frombuffer(out, np.float16)[:] = values

    return GeneratedSource(infos, generate, name=f"m{number}" if number else "base")


def run(n_models: int, width: Fraction, memory: int, threads: int) -> None:
    """One merge in this process; prints seconds, elements and the peak above the start."""
    infos = infos_of(width)
    sources = {f"m{i}" if i else "base": model(infos, i) for i in range(n_models + 1)}
    recipe = make_recipe("dgmla(base, pool - base)", {name: f"{name}.ckpt" for name in sources})
    make_plan(recipe, sources)  # what is loaded once is loaded
    before = peak = anonymous_bytes(os.getpid())
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, anonymous_bytes(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    result = merge_in_memory(recipe, sources, settings=Settings(memory=memory, threads=threads))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ended.set()
    watcher.join()
    n_elements = sum(info.n_elements for info in result.tensors.values())
    # The result itself is in memory here, and no buffer.
    print(wall, cpu, n_elements, peak - before - 2 * n_elements)


def main() -> None:
    """Run every count as a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="4,8,20,64,216")
    parser.add_argument("--width", default="1/8", help="of SD1.5's channels")
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    width, memory = Fraction(args.width), parse_size(args.memory)
    if args.one:
        run(args.one, width, memory, args.threads or os.cpu_count() or 1)
        return
    print(f"DGMLA, SD1.5's UNet at width {args.width}, fp16, --memory {args.memory}")
    print(f"{'models':>8s}{'wall s':>9s}{'CPU s':>9s}{'ns/element/model':>18s}{'peak':>10s}")
    cost, kept = {}, True
    for count in map(int, args.counts.split(",")):
        command = [sys.executable, Path(__file__), "--one", str(count), "--width", args.width,
                   "--memory", args.memory, "--threads", str(args.threads)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        wall, cpu, n_elements, peak = map(float, done.stdout.split())
        cost[count] = cpu / n_elements / count * 1e9
        kept &= peak <= memory
        print(f"{count:8d}{wall:9.1f}{cpu:9.1f}{cost[count]:18.1f}{size_text(int(peak)):>10s}",
              flush=True)  # fmt: skip
    if 20 in cost:
        worst = max(cost.values()) if len(cost) == 1 else cost[max(cost)] / cost[20]
        kept &= worst <= 2
        print(f"{max(cost)} models cost {worst:.2f} x as much per model and element as 20")
    print("memory within the ceiling, and time within 2 x:", "kept" if kept else "NOT KEPT")


if __name__ == "__main__":
    main()
