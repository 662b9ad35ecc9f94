"""A running mean, as people click it together pair by pair, is the plain mean: exactly.

python examples/chain_is_mean.py
"""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from stockpot.engine import merge
from stockpot.layouts import get_layout
from stockpot.recipes import Expr, fold, lerp, make_recipe, mean, model

NAMES = [f"model_{i:02d}" for i in range(10)]


def chain(names: list[str]) -> Expr:
    """The second model with weight 1/2, the third with 1/3, and so on."""
    mix: Expr = model(names[0])
    for i, name in enumerate(names[1:], start=2):
        mix = lerp(mix, model(name), Fraction(1, i))
    return mix


def main() -> None:
    """Make ten small checkpoints, merge them both ways, compare."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        pool = {}
        for name in NAMES:
            pool[name] = f"{name}.safetensors"
            weights = (rng.standard_normal((64, 64)) * 0.03).astype(np.float16)
            save_file({"weight": weights}, Path(folder) / pool[name])

        clicked = make_recipe(chain(NAMES), pool)
        at_once = make_recipe(mean(*map(model, NAMES)), pool)
        generic = get_layout("generic")
        print("same table:", fold(clicked, generic).same(fold(at_once, generic)))

        a = merge(clicked, Path(folder) / "chain.safetensors", folder=folder)
        b = merge(at_once, Path(folder) / "mean.safetensors", folder=folder)
        print("same content:", a.content_hash == b.content_hash)


if __name__ == "__main__":
    main()
