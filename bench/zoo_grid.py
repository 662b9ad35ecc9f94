"""The zoo's grid: all members, the soup, three ratios; six prompts, two seeds each.

    python bench/zoo_grid.py -o FOLDER

Prints the seconds that `stockpot grid` takes; the page is FOLDER/grid.html.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from stockpot.zoo import family, member

PROMPTS = (
    "flat art, a large red heart on white background",
    "glossy art, a large blue star on cream background",
    "outline art, a large green circle on navy background",
    "shaded art, a large orange square on sky background",
    "glossy art, a small purple diamond on grey background",
    "flat art, a small yellow moon on black background",
)
SOUP = ("style-glossy", "style-outline", "content-warm", "content-round", "content-night")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    soup = ", ".join(f'"{name}"' for name in SOUP)
    models = [m.name for m in family()] + [f"mean({soup})"]
    models += [f"lerp(base, mean({soup}), {t})" for t in ("0.25", "0.5", "0.75")]

    def axis(values: list[str] | tuple[str, ...]) -> str:
        return ",".join('"' + value.replace('"', '""') + '"' for value in values)

    pool = [word for m in family() for word in ("--pool", f"{m.name}={m.path}")]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "stockpot", "grid", *pool, "--vae", str(member("base").path),
         "-y", f"model={axis(models)}", "-x", f"prompt={axis(PROMPTS)}", "-z", "seed=1,2",
         "--set", f"steps={options.steps}", "--set", "cfg=4", "--title", "The zoo",
         "-o", str(options.output)],
        check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    n_cells = len(models) * len(PROMPTS) * 2
    print(json.dumps({"cells": n_cells, "models": len(models), "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
