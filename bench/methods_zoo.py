"""What does each method make of the zoo, with a broken model in the pool and without?

Mixes the UNets of the zoo's sound members by every method, and again with the outlier among them;
lets each mix draw the same prompts from the same noise, and the attribute classifier, which nobody
maximises, judge. Methods of two models get a sound one and, in the second table, the outlier. See
bench/README.md.

    python bench/methods_zoo.py
"""

from __future__ import annotations

import argparse
import re
import time

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import MemorySource, Source, open_checkpoint
from stockpot.draw import DrawSettings, hold, open_live
from stockpot.engine import Settings, merge_in_memory
from stockpot.recipes import FUNCTIONS, Recipe, make_recipe
from stockpot.scores import AttributeJudge
from stockpot.zoo import family
from stockpot.zoo.shapes import all_scenes, caption

LEFT_OUT = ("v-prediction", "te-good-unet-bad", "te-ruined", "outlier")
OUTLIER = "outlier"
UNET = "model.diffusion_model."
HOW = Settings(hashes=False, threads=2)
# By name; ALL is the set of all models but the base, A and B are two of them.
EXPRESSIONS = {
    "mean": "mean(ALL)",
    "median": "median(ALL)",
    "trimmed_mean": "trimmed_mean(ALL, cut=0.2)",
    "geometric_median": "geometric_median(ALL)",
    "element_geometric_median": "element_geometric_median(ALL)",
    "karcher_mean": "karcher_mean(ALL)",
    "model_stock": "model_stock(base, ALL)",
    "task_arithmetic": "task_arithmetic(base, ALL, scale=0.2)",
    "ties": "ties(base, ALL)",
    "ties_soup": "ties_soup(base, ALL)",
    "dare": "dare(base, ALL, p=0.3)",
    "drop": "drop(base, ALL, p=0.3)",
    "della": "della(base, ALL, p=0.3, eps=0.2)",
    "breadcrumbs": "breadcrumbs(base, ALL)",
    "ties_dropout": "ties_dropout(base, ALL, p=0.1)",
    "tgmd": "tgmd(base, ALL)",
    "dgmla": "dgmla(base, ALL)",
    "iso_c": "iso_c(base, mean(ALL))",
    "iso_z": "iso_z(dgmla(base, ALL), z=0.8)",
    "low_rank": "base + low_rank(mean(ALL) - base, rank=8)",
    "amplify": "amplify(base, mean(ALL), 1.5)",
    "lerp": "lerp(A, B, 0.5)",
    "slerp": "slerp(A, B, 0.5)",
    "cosine_a": "cosine_a(A, B, 0.5)",
    "cosine_b": "cosine_b(A, B, 0.5)",
    "train_difference": "train_difference(A, B, base, 0.5)",
    "smooth_add": "smooth_add(A, B, base, 0.5)",
    "tensor_swap": "tensor_swap(A, B, 0.25, 0.75)",
    "top_k_sum": "top_k_sum(A, B, 0.1)",
    "rebasin": "lerp(A, rebasin(A, B), 0.5)",
    "basin_sum": "basin_sum(A, B, 0.5)",
}
#: Steps of other methods; what they do alone is no way to merge.
PARTS = {"stock", "masked", "trimmed", "elected", "kept_mean", "isotropic", "smoothed"}


def recipe_of(method: str, names: list[str], second: str) -> Recipe:
    """The UNet by a method; text encoder and VAE are the base's."""
    text = EXPRESSIONS[method].replace("ALL", "pool - base")
    text = re.sub(r"\bA\b", '"content-warm"', text)
    text = re.sub(r"\bB\b", f'"{second}"', text)
    pool = {name: f"{name}.safetensors" for name in names}
    return make_recipe({"unet": text, "te": "base", "vae": "base"}, pool)


def unet(source: Source) -> npt.NDArray[np.float64]:
    """All values of a UNet, one after the other."""
    keys = sorted(key for key in source.tensors if key.startswith(UNET))
    return np.concatenate(
        [np.frombuffer(source.read_bytes(key), np.float16).astype(np.float64) for key in keys]
    )


def main() -> None:
    """Mix, draw, judge and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--methods", default=",".join(EXPRESSIONS))
    args = parser.parse_args()
    rows = {n for n, row in FUNCTIONS.items() if row.kind in ("method", "composed")}
    assert rows - PARTS <= EXPRESSIONS.keys(), rows - PARTS - EXPRESSIONS.keys()
    sound = [m for m in family() if m.name not in LEFT_OUT]
    files = {m.name: m.path for m in family() if m in sound or m.name == OUTLIER}
    sources: dict[str, Source] = {n: hold(open_checkpoint(path)) for n, path in files.items()}
    names = [m.name for m in sound]
    centre = unet(merge_in_memory(recipe_of("mean", names, ""), sources, settings=HOW))
    spread = np.sqrt(np.mean([((unet(sources[n]) - centre) ** 2).sum() for n in names
                              if n != "base"]))  # fmt: skip
    scenes = list(all_scenes())
    picked = np.random.default_rng(7).choice(len(scenes), size=args.prompts, replace=False)
    prompts = [caption(scenes[i]) for i in picked]
    judge, drawing = AttributeJudge(), DrawSettings(steps=args.steps, cfg=5.0)
    seeds = [1000 * s + i for s in range(args.seeds) for i in range(len(prompts))]
    base = {name: "base" for name in ("unet", "te", "vae")}
    live = open_live(make_recipe(base, {"base": "base.safetensors"}), sources, settings=HOW)

    def look(recipe: Recipe) -> npt.NDArray[np.float64]:
        """Mean score of each seed."""
        live.show(recipe)
        pictures = live.painter.draw(prompts * args.seeds, seeds, drawing)
        scores = judge.score(pictures, prompts * args.seeds)
        return np.asarray(scores.reshape(args.seeds, -1).mean(1))

    print(f"{len(names) - 1} sound models and the base; {args.prompts} prompts, {args.seeds} "
          f"seeds, {args.steps} steps; score: mean log-probability of the named attributes, 0 is "
          "best; ± is the standard deviation of the seeds' means; distance: from the mean of the "
          "sound models, 1 is how far these are from it")  # fmt: skip
    print("\n| method | score | distance | seconds | score with the outlier | distance | lost |")
    print("|---|---|---|---|---|---|---|", flush=True)
    singles = {"base": "base", **{name: name for name in names if name != "base"}, OUTLIER: OUTLIER}
    for name in singles:
        scores = look(make_recipe({"unet": f'"{name}"', "te": "base", "vae": "base"},
                                  dict.fromkeys(files, "x.safetensors")))  # fmt: skip
        away = np.linalg.norm(unet(sources[name]) - centre) / spread
        print(f"| ({name}) | {told(scores)} | {away:.2f} | – | – | – | – |", flush=True)
    for method in args.methods.split(","):
        found = []
        for group, second in ((names, "style-glossy"), ([*names, OUTLIER], OUTLIER)):
            recipe = recipe_of(method, group, second)
            start = time.perf_counter()
            made: MemorySource = merge_in_memory(recipe, sources, settings=HOW)
            seconds = time.perf_counter() - start
            away = float(np.linalg.norm(unet(made) - centre) / spread)
            found.append((look(recipe), away, seconds))
        (plain, near, seconds), (broken, far, _) = found
        cells = (method, told(plain), f"{near:.2f}", f"{seconds:.1f}", told(broken), f"{far:.2f}",
                 f"{plain.mean() - broken.mean():+.2f}")  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def told(scores: npt.NDArray[np.float64]) -> str:
    """Mean and spread of the seeds."""
    return f"{scores.mean():.2f} ± {scores.std(ddof=1) if len(scores) > 1 else 0:.2f}"


if __name__ == "__main__":
    main()
