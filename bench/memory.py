"""Peak anonymous memory of a merge of generated models, against ``--memory``.

The sources make their values when asked, so no disk is needed for the inputs. Each run is a process
of its own, whose memory after its imports is the base line.

    python bench/memory.py --arch sdxl --models 3 --memory 1GiB
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from merge_speed import anonymous_bytes, infos_of

from stockpot.checkpoints import GeneratedSource, TensorInfo, free_bytes
from stockpot.engine import Settings, merge, parse_size, size_text
from stockpot.recipes import make_recipe

MARK = "--inside"


def source(arch: str, number: int) -> GeneratedSource:
    """A model of cheap values that differ from place to place and from model to model."""
    block = (np.random.default_rng(number).standard_normal(1 << 16) * 0.03).astype(np.float16)
    data = memoryview(np.tile(block, 4)).cast("B")
    counter = np.arange(77, dtype=np.int64).tobytes()

    def generate(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        if info.dtype.name == "I64":
            out[:] = counter[8 * start : 8 * stop]
            return
        done = 0
        while done < out.nbytes:
            at = (2 * start + done) % (2 << 16)
            piece = data[at : at + min(out.nbytes - done, data.nbytes - at)]
            out[done : done + piece.nbytes] = piece
            done += piece.nbytes

    infos = list(infos_of(arch, False).values())
    return GeneratedSource(infos, generate, name=f"generated {number}")


def inside(options: argparse.Namespace) -> None:
    """Merge, in a process of its own."""
    recipe = make_recipe("mean(pool)", {f"m{i}": f"m{i}" for i in range(options.models)})
    base, peak, ended = anonymous_bytes(os.getpid()), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, anonymous_bytes(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    sources = {f"m{i}": source(options.arch, i) for i in range(options.models)}
    start = time.perf_counter()
    settings = Settings(memory=parse_size(options.memory), threads=options.threads)
    result = merge(recipe, options.output, sources=sources, settings=settings)
    ended.set()
    watcher.join()
    used, allowed = peak - base, settings.memory
    print(
        f"{options.models} × {options.arch}, {settings.n_threads} threads wanted, "
        f"{result.chunking.threads} used, chunks of {result.chunking.chunk_elements}: "
        f"{size_text(result.n_bytes)} in {time.perf_counter() - start:.1f} s; "
        f"peak {size_text(peak)}, {size_text(used)} above the base of {size_text(base)}; "
        f"allowed {size_text(allowed)}"
    )
    if used > allowed:
        sys.exit("MISS: more memory than allowed")


def main() -> None:
    """Start the merge in a process of its own and remove its output."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", choices=("sd1", "sd2", "sdxl"), default="sdxl")
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument(MARK, dest="output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.output is not None:
        inside(options)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    print(f"free: {size_text(free_bytes(options.work))}")
    output = options.work / "memory.safetensors"
    output.unlink(missing_ok=True)
    try:
        run = subprocess.run([sys.executable, __file__, *sys.argv[1:], MARK, output])
    finally:
        output.unlink(missing_ok=True)
    sys.exit(run.returncode)


if __name__ == "__main__":
    main()
