"""How fast and how large are robust merges, against sd-mecha's?

Makes a base and models near it with a stratified subset of Stable Diffusion 1.5's UNet tensors in
half precision, and runs DGMLA and the geometric median with Stockpot and with sd-mecha (in a
virtual environment of its own, with its own defaults), each as a process of its own. Then compares
the results where both define the same thing. See bench/README.md.

    python bench/methods_speed.py --work /big/disk/bench
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
from merge_speed import Measure, as_program, peer_python, read_all

from stockpot.checkpoints import DTYPES, TensorInfo, encode_header, in_file_order, open_checkpoint
from stockpot.layouts import get_layout

SD_MECHA = """
import sys, sd_mecha
from sd_mecha.extensions.builtin.merge_methods.linear import add_difference
method, output, base, *paths = sys.argv[1:]
# The subset has not all keys of its architecture, which is meant.
config = "sd1-ldm"
base = sd_mecha.model(base, config)
models = [sd_mecha.model(path, config) for path in paths]
deltas = [sd_mecha.subtract(model, base) for model in models]
if method == "geometric_median":
    recipe = sd_mecha.geometric_median(*models)
else:
    recipe = add_difference(base, sd_mecha.ties_sum_with_dropout(
        *deltas, probability=0.1, della_eps=-0.1, rescale=False, k=1.0, vote_sgn=False,
        apply_stock=False, apply_median=True, seed=7), 1.0)
sd_mecha.merge(recipe, output=output, check_extra_keys=False)
"""
STOCKPOT = {
    "geometric_median": "geometric_median(pool - base)",
    "dgmla": 'dgmla(base, pool - base, p=0.1, eps=-0.1, elect="count", seed=7)',
}
BUDGETS = {"wall": 10.0, "memory": 20.0}
SEED = 20


def subset(most_elements: int, most_a_tensor: int) -> dict[str, TensorInfo]:
    """Every k-th tensor of the UNet, so that all blocks and kinds are there: as many as fit."""
    fitting = {
        key: TensorInfo(key, DTYPES["F16"], spec.shape)
        for key, spec in get_layout("sd1").specs.items()
        if spec.cell.component == "unet" and not spec.optional and spec.role == "weight"
    }
    fitting = {key: info for key, info in fitting.items() if info.n_elements <= most_a_tensor}
    ways = [
        dict(list(fitting.items())[first::step]) for step in range(1, 41) for first in range(step)
    ]
    sizes = [sum(info.n_elements for info in chosen.values()) for chosen in ways]
    _, best = max((size, -way) for way, size in enumerate(sizes) if size <= most_elements)
    return in_file_order(ways[-best])


def make_models(work: Path, infos: dict[str, TensorInfo], n_models: int) -> list[Path]:
    """The base and models near it: values ~N(0, 0.03), deltas ~N(0, d), d from 0.0005 to 0.01.

    As in real pools, some went far and some stayed near, and models come in families, whose
    members share four fifths of their deltas' variance: fine-tunes of one fine-tune.
    """
    size = sum(info.n_elements for info in infos.values())
    names = ["base", *map(str, range(n_models))]
    paths = [work / f"unet-{size}-{name}.safetensors" for name in names]
    sizes = 0.0005 * 20 ** (np.arange(n_models) / max(1, n_models - 1))
    header = encode_header(infos, {"format": "pt"})
    for number, path in enumerate(paths):
        if path.exists() and path.stat().st_size == len(header) + 2 * size:
            continue
        print(f"making {path.name}", file=sys.stderr)
        with path.open("wb") as file:
            file.write(header)
            for i, info in enumerate(infos.values()):
                rng = np.random.default_rng([SEED, i])
                values = rng.standard_normal(info.n_elements, np.float32) * np.float32(0.03)
                if number:
                    # Members of a family have numbers next to each other; their sizes differ.
                    family = int(np.sqrt(2 * number))
                    far = np.float32(sizes[(7 * number) % n_models])
                    for share, key in ((0.8, [SEED, i, 1000 + family]), (0.2, [SEED, i, number])):
                        noise = np.random.default_rng(key)
                        part = noise.standard_normal(info.n_elements, np.float32)
                        values += far * np.float32(share**0.5) * part
                file.write(values.astype(np.float16).tobytes())
    return paths


def difference(one: Path, other: Path, infos: dict[str, TensorInfo]) -> tuple[float, float]:
    """Largest and root mean square difference of two results."""
    largest, total, count = 0.0, 0.0, 0
    with open_checkpoint(one) as a, open_checkpoint(other) as b:
        for key in infos:
            x, y = (np.frombuffer(s.read_bytes(key), np.float16).astype(float) for s in (a, b))
            off = np.abs(x - y)
            largest, total, count = max(largest, off.max()), total + off @ off, count + len(off)
    return largest, (total / count) ** 0.5


def main() -> None:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for models and results")
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--elements", type=int, default=60_000_000)
    parser.add_argument("--largest", type=int, default=4_000_000, help="elements of a tensor")
    parser.add_argument("--methods", default="geometric_median,dgmla")
    parser.add_argument("--programs", default="stockpot,sd-mecha", help="one of them: no judgement")
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--repeats", type=int, default=3, help="in turns; medians are judged")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    # What pip installs has its bytecode, sd-mecha too; the dry run makes a checkout's.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    infos = subset(args.elements, args.largest)
    size = sum(info.n_elements for info in infos.values())
    paths = make_models(args.work, infos, args.models)
    programs = args.programs.split(",")
    python = peer_python(args.work) if "sd-mecha" in programs else Path()
    print(f"{len(infos)} tensors of SD1.5's UNet, {size / 1e6:.1f} M parameters, fp16, "
          f"{args.models} models and a base")  # fmt: skip
    print(f"{'':18s}{'':10s}{'wall s':>9s}{'CPU s':>9s}{'anon MB':>9s}")
    kept, numbers = [], {}
    for method in args.methods.split(","):
        turns: dict[str, list[Measure]] = {program: [] for program in programs}
        outputs = {name: args.work / f"{method}-{name}.safetensors" for name in programs}
        for program in [*programs] * args.repeats:
            output = outputs[program]
            output.unlink(missing_ok=True)
            read_all(paths)
            if program == "stockpot":
                entries = [f"base={paths[0]}", *(f"m{i}={p}" for i, p in enumerate(paths[1:]))]
                command = [sys.executable, "-m", "stockpot", "merge", "-e", STOCKPOT[method],
                           "-o", output, "--memory", args.memory]  # fmt: skip
                command += [word for entry in entries for word in ("--pool", entry)]
                told = subprocess.run([*command, "--dry-run"], capture_output=True, text=True)
                guess = re.search(r"about (.*) on \d+ threads?", told.stdout + told.stderr)
                if not turns[program]:
                    print(f"{method}: the dry run guesses {guess[1] if guess else 'nothing'}")
            else:
                command = [python, "-c", SD_MECHA, method, output, *paths]
            turns[program].append(as_program(command))
            run = turns[program][-1]
            print(f"{method:18s}{program:10s}{run.wall_s:9.2f}{run.cpu_s:9.2f}"
                  f"{run.anonymous_mb:9.0f}", flush=True)  # fmt: skip
        if len(programs) < 2:
            continue
        wall, processor, memory = (
            median(getattr(run, field) for run in turns["sd-mecha"])
            / median(getattr(run, field) for run in turns["stockpot"])
            for field in ("wall_s", "cpu_s", "anonymous_mb")
        )
        largest, rms = difference(*outputs.values(), infos)
        print(f"{method}: {wall:.1f} x less time, {processor:.1f} x less processor time, "
              f"{memory:.1f} x less memory; results differ by "
              f"{largest:.2g} at most, {rms:.2g} root mean square")  # fmt: skip
        kept += [wall >= BUDGETS["wall"], memory >= BUDGETS["memory"]]
        numbers[method] = {"wall": wall, "cpu": processor, "memory": memory,
                           "largest": largest, "rms": rms}  # fmt: skip
    if len(programs) > 1:
        print("budgets (10 x time, 20 x memory):", "kept" if all(kept) else "NOT KEPT")
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
