"""How fast a folder is inspected, and how fast values are: against reading and hashing.

    python bench/inspect_speed.py --work DIR [--file BIG.safetensors]

Makes a folder of 250 files: checkpoints of SD1, SD2 and SDXL shape (sparse: a header and a hole),
hard links to them, LoRAs and embeddings of their own content. `stockpot inspect FOLDER` runs as a
process of its own, first with an empty cache, then with what that run left. The interpreter's own
start is measured by `python -c pass`.

Then a checkpoint of 2 GB, which stands in the page cache, is read and hashed (BLAKE3, the content
hash; and sha256, the file's), and inspected with --deep, in turns.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stockpot.checkpoints import DTYPES, TensorInfo, encode_header, hash_tensors, open_checkpoint
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


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def program(*arguments: str, cache: Path) -> float:
    """Wall time of a process."""
    environment = {**os.environ, "STOCKPOT_CACHE": str(cache)}
    command = [sys.executable, *arguments]
    return seconds(
        lambda: subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    )


def folder_times(work: Path) -> bool:
    """Print the times of a folder; whether they are kept."""
    folder, cache = work / "folder", work / "cache"
    make_folder(folder)
    start = statistics.median(program("-c", "pass", cache=cache) for _ in range(5))
    first, again = [], []
    for _ in range(3):
        shutil.rmtree(cache, ignore_errors=True)
        first.append(program("-m", "stockpot", "inspect", str(folder), cache=cache))
        again.append(program("-m", "stockpot", "inspect", str(folder), cache=cache))
    bare = [program("-m", "stockpot", "inspect", str(folder), "--no-cache", cache=cache)
            for _ in range(3)]  # fmt: skip
    print(f"{len(list(folder.iterdir()))} files; medians of 3")
    print(f"  the interpreter's start     {start:6.2f} s")
    print(f"  first pass, cache written   {statistics.median(first):6.2f} s (below {FIRST_S:g})")
    print(f"  first pass, --no-cache      {statistics.median(bare):6.2f} s")
    beyond = statistics.median(again) - start
    print(f"  second pass, from the cache {statistics.median(again):6.2f} s")
    print(f"  … beyond the start          {beyond:6.2f} s (below {CACHED_S:g})")
    shutil.rmtree(folder)
    return statistics.median(first) < FIRST_S and beyond < CACHED_S


def read_and_sha256(path: Path) -> None:
    """What any tool does that knows files by their sha256."""
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(BUFFER)
        while n_bytes := file.readinto(buffer):
            hasher.update(memoryview(buffer)[:n_bytes])


def deep_times(path: Path, rounds: int) -> bool:
    """Print the speed of --deep against reading and hashing; whether it is kept."""
    n_bytes = path.stat().st_size
    times: dict[str, list[float]] = {}
    with open_checkpoint(path) as source:
        actions: dict[str, Callable[[], object]] = {
            "read + BLAKE3": lambda: hash_tensors(source),
            "read + sha256": lambda: read_and_sha256(path),
            "deep": lambda: inspect_checkpoint(source, Wanted(deep=True)),
            "toolkit": lambda: inspect_checkpoint(source, Wanted(toolkit=True)),
        }
        hash_tensors(source)  # into the page cache
        for _ in range(rounds):
            for name, action in actions.items():
                times.setdefault(name, []).append(seconds(action))
    rates = {name: n_bytes / statistics.median(many) / 1e9 for name, many in times.items()}
    share = rates["deep"] / rates["read + BLAKE3"]
    print(f"{path.name}: {n_bytes / 1e9:.2f} GB, in turns, medians of {rounds}")
    for name, rate in rates.items():
        print(f"  {name:<15} {rate:5.2f} GB/s")
    print(f"  deep runs at {share:.0%} of read + BLAKE3 (at least {DEEP_SHARE:.0%}) and "
          f"{rates['deep'] / rates['read + sha256']:.0%} of read + sha256")  # fmt: skip
    return share >= DEEP_SHARE


def big_file(work: Path) -> Path:
    """A checkpoint of SD1's shape with random values."""
    path = work / "sd1.safetensors"
    if not path.exists():
        infos = shaped("sd1")
        block = (np.random.default_rng(0).standard_normal(1 << 20) * 0.03).astype("<f2").tobytes()
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
    kept = folder_times(options.work)
    kept &= deep_times(options.file or big_file(options.work), options.rounds)
    print("all budgets are kept" if kept else "a budget is NOT kept")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
