"""ImageReward and HPSv2 at their full size, with random weights in the originals' files.

Writes a file of the original's names and shapes (1.8 or 3.9 GB), loads it as a user's would be
loaded, scores pictures, and compares with the same weights in transformers' own modules:

    python bench/scores/full_size.py imagereward FOLDER
    python bench/scores/full_size.py hpsv2 FOLDER

FOLDER is made, and removed at the end. Prints seconds, peak memory and the largest difference.
"""

from __future__ import annotations

import importlib.util
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from stockpot.scores import Setting, make_scorer

TESTS = Path(__file__).parents[2] / "tests" / "scores"
N_PICTURES = 4


def load(name: str) -> ModuleType:
    """Use what the tests use: how the files are made, and how transformers scores."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Write, load, score, compare."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True)
    try:
        measure(name, folder)
    finally:
        shutil.rmtree(folder)


def measure(name: str, folder: Path) -> None:
    """Do it in a folder that is there."""
    make, reference = load("conftest"), load("test_originals")
    make.save_tokenizers(folder)
    if name == "imagereward":
        network = make.save_imagereward(
            folder,
            make.BlipSizes(1024, 24, 224, 768, 12, 12, 3072, 30524, 512),
        )
    else:
        network = make.save_hpsv2(
            folder, make.ClipSizes(1280, 32, 16, 16, 1024, 24, 49408, 77, 1024)
        )
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (N_PICTURES, 6, 8, 3)).astype(np.uint8)
    pictures = list(coarse.repeat(64, axis=1).repeat(64, axis=2))
    prompts = ["a red circle on white background", "a blue star"] * (N_PICTURES // 2)
    start = time.perf_counter()
    scorer = make_scorer(name, Setting(folder=folder))
    loaded = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = scorer.score(pictures, prompts)
    scored = time.perf_counter()
    options = {"side": 224} if name == "imagereward" else {"side": 224, "length": 77}
    with torch.no_grad():
        expected = reference.BY_TRANSFORMERS[name](network, folder, pictures, prompts, **options)
    difference = np.abs(scores - expected.double().numpy()).max()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    each = (scored - loaded) / N_PICTURES
    print(f"{name}: loaded in {loaded - start:.1f} s")
    print(f"{each:.1f} s a picture on {torch.get_num_threads()} thread(s)")
    print(f"scores {scores.min():.3f} to {scores.max():.3f}")
    print(f"largest difference from transformers {difference:.1e}")
    print(f"peak memory, both networks and the making of the file: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
