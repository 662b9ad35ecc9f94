"""How right are the shares that `explain` finds, and do they keep to their bounds?

Makes mixes with known shares from the zoo, or from UNet-only files with the keys and shapes of
Stable Diffusion 1.5, explains them, and prints the largest error of a share beside the
bound that was stated for it. See bench/README.md.

    python bench/explain_noise.py
    python bench/explain_noise.py --arch sd1 --work /big/disk/bench
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
from merge_speed import make_files

from stockpot.checkpoints import Source, open_checkpoint
from stockpot.compare import Part, compare, explain
from stockpot.engine import Settings, merge, merge_in_memory
from stockpot.layouts import get_layout
from stockpot.recipes import Fold, fold, make_recipe
from stockpot.zoo import member

ZOO_NAMES = ("base", "style-outline", "style-glossy", "content-warm", "content-round",
             "content-night", "te-trained")  # fmt: skip
SPREAD = 0.03
QUICK = Settings(overwrite=True, verify=False, hashes=False)
BLOCKS = ", ".join(str(i % 21 / 20) for i in range(27))


def zoo_pool() -> dict[str, Source]:
    """A base and six fine-tunes that were really trained."""
    return {name.replace("-", "_"): open_checkpoint(member(name).path) for name in ZOO_NAMES}


def sd1_pool(work: Path, source: Path | None) -> dict[str, Source]:
    """A base and six models a few percent away, UNet-only files of Stable Diffusion 1.5."""
    raw = (
        sorted(source.glob("sd1-unet-*.safetensors"))[:7]
        if source
        else make_files(work, "sd1", True, 7)
    )
    pool: dict[str, Source] = {"base": open_checkpoint(raw[0])}
    for name, other in zip("abcdef", raw[1:], strict=True):
        path = work / f"near-{name}.safetensors"
        if not path.exists():
            recipe = make_recipe(f"lerp(x, y, {SPREAD})", {"x": str(raw[0]), "y": str(other)})
            merge(recipe, path, dtype="fp16", settings=QUICK)
        pool[name] = open_checkpoint(path)
    return pool


def mixes(names: list[str]) -> Iterator[tuple[str, str | list[str], str | None]]:
    """What it is, an expression or a chain of them (each reads the former as `m`), and a base."""
    base, a, b, *_ = names
    yield "mean of 7", f"mean({', '.join(names)})", None
    for t in ("0.05", "0.25", "0.5", "0.75", "0.95"):
        yield f"{t} of two", f"lerp({a}, {b}, {t})", None
    yield "a ratio for each block", f'lerp({a}, {b}, blocks("autombw", [{BLOCKS}]))', None
    chain = [f"lerp(m, {name}, 1/{k})" for k, name in enumerate(names[1:], start=2)]
    yield "chain of 6 roundings", chain, None
    yield "added difference", f"{a} + 0.7*({b} - {base})", base


def make(
    pool: Mapping[str, Source], steps: str | list[str], work: Path | None
) -> tuple[Source, Fold]:
    """Write a mix as fp16, after each step, and tell its true shares."""
    files = {name: f"{name}.safetensors" for name in pool}
    layout = get_layout("zoo" if work is None else "sd1")
    chain = [steps] if isinstance(steps, str) else steps
    first = next(iter(pool))
    mix, let = pool[first], {}
    for number, step in enumerate(chain, start=1):
        recipe = make_recipe({"unet": step}, files | {"m": "m"})
        sources = {**pool, "m": mix}
        if work is None:
            mix = merge_in_memory(recipe, sources, dtype="fp16")
        else:
            path = work / f"mix-{number % 2}.safetensors"
            merge(recipe, path, sources=sources, dtype="fp16", settings=QUICK)
            mix = open_checkpoint(path)
        before = f"m{number - 1}" if number > 1 else first
        let[f"m{number}"] = step.replace("lerp(m,", f"lerp({before},")
    return mix, fold(make_recipe({"unet": f"m{len(chain)}"}, files, let=let), layout)


def judge(part: Part, truth: Mapping[str, Fraction]) -> tuple[float, float, float]:
    """Largest error of a share, its bound, and the largest error in bounds."""
    worst, bound, relative = 0.0, 0.0, 0.0
    for name, ratio in part.ratios.items():
        if any(name in tie for tie in part.ties):
            continue
        error = abs(ratio - float(truth.get(name, 0)))
        relative = max(relative, error / max(part.confidence[name], 1e-300))
        if error >= worst:
            worst, bound = error, part.confidence[name]
    return worst, bound, relative


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", choices=["zoo", "sd1"], default="zoo")
    parser.add_argument("--work", type=Path, help="where SD1's files are made (25 GB) and kept")
    parser.add_argument("--source", type=Path, help="where sd1-unet-*.safetensors are already")
    parser.add_argument("--only", default="", help="only mixes whose name has this in it")
    arguments = parser.parse_args()
    work: Path | None = arguments.work if arguments.arch == "sd1" else None
    if arguments.arch == "sd1" and work is None:
        parser.error("--arch sd1 needs --work")
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    pool = zoo_pool() if work is None else sd1_pool(work, arguments.source)
    print("| mix | places | worst error | its bound | worst error/bound | roundings left |")
    print("|---|---|---|---|---|---|")
    kept = True
    for title, steps, base in mixes(list(pool)):
        if arguments.only not in title:
            continue
        mix, table = make(pool, steps, work)
        told = explain(compare({**pool, "the_mix": mix}, base=base), "the_mix", base=base)
        parts = list(told.blocks["unet"].values())
        if not told.is_by_block("unet"):
            parts.append(told.components["unet"])
        found = []
        for part in parts:
            cells = [c for c in table.rows if c.component == "unet"
                     and part.place.block in ("", c.block)]  # fmt: skip
            found.append(judge(part, table.rows[cells[0]]))
        worst, bound, _ = max(found)
        ratio = max(relative for _, _, relative in found)
        kept &= ratio <= 1
        left = [part.n_roundings for part in parts if np.isfinite(part.n_roundings)]
        print(f"| {title} | {len(parts)} | {worst:.2g} | {bound:.2g} | {ratio:.2f} | "
              f"{min(left):.2f} … {max(left):.2f} |", flush=True)  # fmt: skip
    for title, hidden in (("mean of 7, one left out of the pool", list(pool)[4]),):
        mix, _ = make(pool, f"mean({', '.join(pool)})", work)
        rest = {name: source for name, source in pool.items() if name != hidden}
        part = explain(compare({**rest, "the_mix": mix}), "the_mix").components["unet"]
        print(f"| {title} | 1 | – | ± {min(part.confidence.values()):.2g} at least | – | "
              f"{part.n_roundings:.0f}: {part.unexplained:.0%} is not explained |")  # fmt: skip
    print("every share within its bound:", "yes" if kept else "NO")


if __name__ == "__main__":
    main()
