"""How fast a folder is inspected, and how fast values are: against reading and hashing.

    python bench/inspect_speed.py --work DIR [--file BIG.safetensors]

Makes a folder of 250 files: checkpoints of SD1, SD2 and SDXL shape (sparse: a header and a hole),
hard links to them, LoRAs and embeddings of their own content. `stockpot inspect FOLDER` runs as a
process of its own, first with an empty cache, then with what that run left. The interpreter's own
start is measured by `python -c pass`.

Then a checkpoint of 2 GB, which stands in the page cache, is read and hashed (BLAKE3, the content
hash; and sha256, the file's), and inspected with --deep, in turns. The same with a file of fp32
values that all fit fp16: the case in which most has to be looked at.

Times are wall times; CPU seconds stand beside them, for machines that are not idle.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stockpot.checkpoints import (
    DTYPES,
    Source,
    TensorInfo,
    encode_header,
    hash_tensors,
    open_checkpoint,
)
from stockpot.inspect import Wanted, inspect_checkpoint
from stockpot.layouts import get_layout

N_FILES = 250
N_LINKS = 100
FIRST_S, CACHED_S, DEEP_SHARE = 3.0, 1.0, 0.6
BUFFER = 4 << 20


def sparse(path: Path, infos: dict[str, TensorInfo], note: str) -> None:
    """A checkpoint whose values are a hole: its size costs no disk."""
    header = encode_header(infos, {"note": note})
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(info.n_bytes for info in infos.values()))


def shaped(name: str) -> dict[str, TensorInfo]:
    """Every required tensor of an architecture, in fp16."""
    half = DTYPES["F16"]
    return {
        key: TensorInfo(key, half, spec.shape)
        for key, spec in get_layout(name).specs.items()
        if not spec.optional
    }


def small(path: Path, number: int) -> None:
    """A LoRA or an embedding with values of its own."""
    rng = np.random.default_rng(number)
    half = DTYPES["F16"]
    infos = {}
    if number % 5 == 0:
        infos["emb_params"] = TensorInfo("emb_params", half, (4, 768))
    for layer in range(0 if infos else 96):
        module = f"lora_unet_down_blocks_{layer}_transformer_blocks_0_attn2_to_k"
        for name, shape in (("lora_down", (8, 768)), ("lora_up", (320, 8))):
            key = f"{module}.{name}.weight"
            infos[key] = TensorInfo(key, half, shape)
    n_bytes = sum(info.n_bytes for info in infos.values())
    metadata = {"ss_network_dim": "8", "ss_tag_frequency": f'{{"a": {{"tag": {number}}}}}'}
    path.write_bytes(encode_header(infos, metadata) + rng.bytes(n_bytes))


def make_folder(folder: Path) -> None:
    """The 250 files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    originals = []
    for number, name in enumerate(["sd1"] * 30 + ["sd2"] * 10 + ["sdxl"] * 10):
        path = folder / f"{name}-{number:03d}.safetensors"
        sparse(path, shaped(name), str(number))
        originals.append(path)
    for number in range(N_LINKS):
        os.link(originals[number % len(originals)], folder / f"link-{number:03d}.safetensors")
    for number in range(N_FILES - len(originals) - N_LINKS):
        small(folder / f"small-{number:03d}.safetensors", number)


def program(*arguments: str, cache: Path) -> tuple[float, float]:
    """Wall and CPU time of a process."""
    environment = {**os.environ, "STOCKPOT_CACHE": str(cache)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def folder_times(work: Path, rounds: int) -> bool:
    """Print the times of a folder; whether they are kept."""
    folder, cache = work / "folder", work / "cache"
    make_folder(folder)
    inspect = ("-m", "stockpot", "inspect", str(folder))
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        for name, arguments in {
            "the interpreter's start": ("-c", "pass"),
            "first pass, cache written": inspect,
            "second pass, from the cache": inspect,
            "--no-cache": (*inspect, "--no-cache"),
        }.items():
            times.setdefault(name, []).append(program(*arguments, cache=cache))
    wall = {name: statistics.median(w for w, _ in many) for name, many in times.items()}
    print(f"{len(list(folder.iterdir()))} files; medians of {rounds}")
    for name, many in times.items():
        cpu = statistics.median(c for _, c in many)
        print(f"  {name:<28} {wall[name]:5.2f} s  (CPU {cpu:.2f} s)")
    first = wall["first pass, cache written"]
    beyond = wall["second pass, from the cache"] - wall["the interpreter's start"]
    print(f"  first pass {first:.2f} s (below {FIRST_S:g}), second {beyond:.2f} s beyond the "
          f"start (below {CACHED_S:g})")  # fmt: skip
    shutil.rmtree(folder)
    return first < FIRST_S and beyond < CACHED_S


def read_and_sha256(path: Path) -> None:
    """What any tool does that knows files by their sha256."""
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(BUFFER)
        while n_bytes := file.readinto(buffer):
            hasher.update(memoryview(buffer)[:n_bytes])


def deep_times(path: Path, rounds: int) -> bool:
    """Print the speed of --deep against reading and hashing; whether it is kept."""
    with open_checkpoint(path) as source:
        return _deep_times(source, path, rounds)


def _deep_times(source: Source, path: Path, rounds: int) -> bool:
    n_bytes = path.stat().st_size
    actions: dict[str, Callable[[], object]] = {
        "read + BLAKE3": lambda: hash_tensors(source),
        "deep": lambda: inspect_checkpoint(source, Wanted(deep=True)),
        "read + sha256": lambda: read_and_sha256(path),
        "toolkit": lambda: inspect_checkpoint(source, Wanted(toolkit=True)),
    }
    hash_tensors(source)  # into the page cache
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, action in actions.items():
            start, cpu = time.perf_counter(), time.process_time()
            action()
            pair = time.perf_counter() - start, time.process_time() - cpu
            times.setdefault(name, []).append(pair)
    print(f"{path.name}: {n_bytes / 1e9:.2f} GB, in turns, medians of {rounds}")
    wall = {name: statistics.median(w for w, _ in many) for name, many in times.items()}
    cpus = {name: statistics.median(c for _, c in many) for name, many in times.items()}
    for name in actions:
        rate = n_bytes / wall[name] / 1e9
        print(f"  {name:<15} {rate:5.2f} GB/s  (CPU {cpus[name]:.2f} s)")
    share = wall["read + BLAKE3"] / wall["deep"]
    print(f"  deep runs at {share:.0%} of read + BLAKE3 (at least {DEEP_SHARE:.0%}), "
          f"at {wall['read + sha256'] / wall['deep']:.0%} of read + sha256")  # fmt: skip
    return share >= DEEP_SHARE


def big_file(path: Path, dtype: str) -> Path:
    """A checkpoint of SD1's shape with random values of fp16, as such or as fp32."""
    if not path.exists():
        infos = shaped("sd1")
        if dtype == "F32":
            # Without the UNet: a gigabyte is enough to measure.
            infos = {key: TensorInfo(key, DTYPES[dtype], info.shape)
                     for key, info in infos.items() if not key.startswith("model.")}  # fmt: skip
        noise = (np.random.default_rng(0).standard_normal(1 << 20) * 0.03).astype("<f2")
        block = noise.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes()
        n_bytes = sum(info.n_bytes for info in infos.values())
        with path.open("wb") as file:
            file.write(encode_header(infos, {}))
            for start in range(0, n_bytes, len(block)):
                file.write(block[: n_bytes - start])
    return path


def main() -> None:
    """Measure, and say which budgets are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--file", type=Path, help="a large checkpoint; made where none is given")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    kept = folder_times(options.work, options.rounds)
    path = options.file or big_file(options.work / "sd1.safetensors", "F16")
    kept &= deep_times(path, options.rounds)
    kept &= deep_times(big_file(options.work / "wide.safetensors", "F32"), options.rounds)
    print("all budgets are kept" if kept else "a budget is NOT kept")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
