"""What changing a mix in place costs, against the engine's own merge from memory to memory.

    python bench/live_mix.py [--models 4]

The zoo's models, held in memory. Fifty switches to random mixes of all of them, then back: the
weights must be those of a fresh load, to the bit. Planning is part of both times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace

import numpy as np
import torch

from stockpot.checkpoints import MemorySink, Source, open_checkpoint
from stockpot.draw import LiveMix, hold, open_live
from stockpot.engine import Settings, make_plan, run_plan, take_chunks
from stockpot.recipes import Recipe, make_recipe
from stockpot.zoo import family


def engine_s(recipe: Recipe, sources: dict[str, Source], keys: set[str], how: Settings) -> float:
    """Seconds of the engine's own merge of some keys, planning included."""
    start = time.perf_counter()
    plan = make_plan(recipe, sources)
    part = replace(plan, tensors={k: t for k, t in plan.tensors.items() if k in keys})
    sink = MemorySink(part.infos)
    run_plan(part, sink, take_chunks(part, how.memory, how.n_threads), hashes=False)
    return time.perf_counter() - start


def weights(live: LiveMix) -> list[torch.Tensor]:
    parts = live.painter.parts
    return [v.clone() for m in (parts.unet, parts.vae, parts.text_encoder)
            for v in m.state_dict().values()]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=4)
    options = parser.parse_args()
    members = [m for m in family() if m.has_vae and m.prediction == "epsilon" and not m.has_ema]
    members = members[: options.models]
    names = [m.name for m in members]
    pool = {m.name: str(m.path) for m in members}
    sources: dict[str, Source] = {m.name: hold(open_checkpoint(m.path)) for m in members}
    how = Settings(hashes=False, threads=2)
    rng = np.random.default_rng(0)

    def mix(weights_: list[float]) -> Recipe:
        total = round(sum(weights_), 6)
        text = " + ".join(f'{w / total:.6f}*"{n}"' for n, w in zip(names, weights_, strict=True))
        rest = 1 - sum(float(f"{w / total:.6f}") for w in weights_)
        return make_recipe({"model": f'{text} + {rest:.6f}*"{names[0]}"'}, pool)

    first = make_recipe({"model": f'"{names[0]}"'}, pool)
    live = open_live(first, sources, settings=how)
    fresh = weights(live)
    ours, engine = [], []
    for _ in range(50):
        recipe = mix([round(float(x), 3) + 0.1 for x in rng.random(len(names))])
        keys = set(live.painter.parts.places)
        engine.append(engine_s(recipe, sources, keys, how))
        ours.append(live.show(recipe).elapsed_s)
    live.show(first)
    same = all(torch.equal(a, b) for a, b in zip(weights(live), fresh, strict=True))
    print(json.dumps({
        "models": len(names), "switch_s": round(statistics.median(ours), 4),
        "engine_s": round(statistics.median(engine), 4),
        "ratio": round(statistics.median(a / b for a, b in zip(ours, engine, strict=True)), 3),
        "same_bits_after_50": same,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
