"""How fast is a comparison, against reading the files and against a loop over pairs?

Measures, side by side in one run: reading every file once; ``stockpot compare`` (all inner
products by block, in double precision, with hashes); and a straightforward loop that loads both
files of each pair, subtracts, and takes the norm. Files are UNet-only fp16 ones with the exact
keys and shapes of Stable Diffusion 1.5; counts above ``--files`` are reached by hard links, which
are read as files of their own. See bench/README.md.

    python bench/compare_speed.py --work /big/disk/bench --files 8 --counts 4,8,20,64
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from merge_speed import Measure, as_program, in_process, make_files, read_all

MEMORY_MIB = 2048
LEAST_GAIN = 10.0
MOST_READS = 1.5

PAIRS = """
import sys, torch
from safetensors import safe_open
n_pairs, *files = sys.argv[1:]
pairs = [(a, b) for i, a in enumerate(files) for b in files[:i]]
step = max(1, len(pairs) // int(n_pairs))
for a, b in pairs[::step][: int(n_pairs)]:
    total = 0.0
    with safe_open(a, "pt") as one, safe_open(b, "pt") as other:
        for key in one.keys():
            gap = one.get_tensor(key).float() - other.get_tensor(key).float()
            total += float(torch.linalg.vector_norm(gap)) ** 2
    print(a, b, total ** 0.5)
"""


def link_files(paths: list[Path], folder: Path, count: int) -> list[Path]:
    """Names for `count` files, the ones beyond those there are as hard links."""
    folder.mkdir(parents=True, exist_ok=True)
    linked = []
    for number in range(count):
        link = folder / f"{number:03}.safetensors"
        target = paths[number % len(paths)]
        if not (link.exists() and link.samefile(target)):
            link.unlink(missing_ok=True)
            os.link(target, link)
        linked.append(link)
    return linked


def measure(paths: list[Path], work: Path, n_pairs: int) -> dict[str, Measure]:
    """One count: read, compare, a part of the pairs."""
    output = work / "compared"
    command = [
        sys.executable, "-m", "stockpot", "compare", *paths, "-o", output,
        "--no-page", "--overwrite", "--restart", "--memory", f"{MEMORY_MIB}MiB", "--json",
    ]  # fmt: skip
    results = {"read": in_process(lambda: read_all(paths)), "compare": as_program(command)}
    if n_pairs:
        results["pairs"] = as_program([sys.executable, "-c", PAIRS, str(n_pairs), *paths])
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="where files are made and kept")
    parser.add_argument("--source", type=Path, help="where sd1-unet-*.safetensors are already")
    parser.add_argument("--files", type=int, default=8, help="distinct files")
    parser.add_argument("--counts", default="4,8,20,64")
    parser.add_argument("--pairs", type=int, default=40,
                        help="pairs that the loop does; its time is scaled to all")  # fmt: skip
    parser.add_argument("--pairs-at", type=int, default=20, help="the count at which it runs")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.source:
        files = sorted(arguments.source.glob("sd1-unet-*.safetensors"))[: arguments.files]
    else:
        files = make_files(arguments.work, "sd1", True, arguments.files)
    rows, kept = [], True
    print("| n | read s | compare s | × read | compare CPU s | memory MB | pairs s | gain |")
    print("|---|---|---|---|---|---|---|---|")
    for count in map(int, arguments.counts.split(",")):
        paths = link_files(files, arguments.work / "links", count)
        all_pairs = count * (count - 1) // 2
        n_pairs = min(arguments.pairs, all_pairs) if count == arguments.pairs_at else 0
        found = measure(paths, arguments.work, n_pairs)
        read, compare = found["read"], found["compare"]
        ratio = compare.wall_s / read.wall_s
        loop = found["pairs"].wall_s * all_pairs / n_pairs if n_pairs else None
        gain = loop / compare.wall_s if loop else None
        print(
            f"| {count} | {read.wall_s:.1f} | {compare.wall_s:.1f} | {ratio:.2f} | "
            f"{compare.cpu_s:.1f} | {compare.anonymous_mb:.0f} | "
            + (f"{loop:.0f} ({n_pairs} of {all_pairs} done) | {gain:.1f} |" if loop else "– | – |"),
            flush=True,
        )
        kept &= compare.anonymous_mb < MEMORY_MIB * 1.048576
        if gain:
            kept &= gain >= LEAST_GAIN
        rows.append({"n": count, "read": read.wall_s, "compare": compare.wall_s,
                     "cpu": compare.cpu_s, "mb": compare.anonymous_mb, "pairs": loop})  # fmt: skip
    (arguments.work / "compare_speed.json").write_text(json.dumps(rows, indent=1))
    print(f"gain of at least {LEAST_GAIN:.0f} and memory below {MEMORY_MIB} MiB: "
          f"{'kept' if kept else 'NOT kept'}; × read is to be below {MOST_READS} where the disk, "
          "not the arithmetic, is the limit")  # fmt: skip
    print(subprocess.run(["nproc"], capture_output=True, text=True).stdout.strip(), "cores")


if __name__ == "__main__":
    main()
