"""One answer: orders, threads, chunks, hash seeds, kernels and forms of a recipe change nothing."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stockpot.engine import Settings, make_plan, merge, open_pool
from stockpot.recipes import make_recipe

Model = Callable[..., dict[str, torch.Tensor]]
N_MODELS = 8
NAMES = "abcdefgh"


@pytest.fixture
def folder(tmp_path: Path, save: Callable[..., Path], model: Model) -> Path:
    """Eight models that share a text encoder's keys, four of them with position ids."""
    positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    for i, name in enumerate(NAMES):
        tensors = model("te", seed=i) | {"betas": torch.arange(1000) / 1000}
        if i % 2:
            tensors[positions] = torch.arange(77)[None]
        save(name, tensors)
    return tmp_path


def digest(path: Path) -> str:
    """sha256 of a whole file, header and all."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def mean_of(folder: Path, names: str, out: str, **changes: object) -> Path:
    """The mean of models, named in this order."""
    pool = {name: f"{name}.safetensors" for name in names}
    settings = Settings(**changes)  # type: ignore[arg-type]
    mix = f"mean({', '.join(names)})"
    return merge(
        make_recipe(mix, pool), folder / f"{out}.safetensors", folder=folder, settings=settings
    ).path


def test_the_mean_of_eight_has_one_hash(folder: Path) -> None:
    rng = random.Random(5)
    seen = set()
    for i in range(10):
        names = "".join(rng.sample(NAMES, N_MODELS))
        seen.add(digest(mean_of(folder, names, f"order{i}")))
    for threads in (1, 2, 4):
        seen.add(digest(mean_of(folder, NAMES, f"threads{threads}", threads=threads)))
    for chunk in (1000, 4099, 65536):
        seen.add(digest(mean_of(folder, NAMES, f"chunk{chunk}", chunk_elements=chunk)))
    seen.add(digest(mean_of(folder, NAMES, "torch", compiled=False)))
    seen.add(digest(mean_of(folder, NAMES, "tight", memory=52_000_000)))
    assert len(seen) == 1


def test_it_is_the_exact_mean_rounded_once(folder: Path) -> None:
    merged = load_file(mean_of(folder, NAMES, "out"))
    models = [load_file(folder / f"{name}.safetensors") for name in NAMES]
    for key in ("cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc2.weight",
                "cond_stage_model.transformer.text_model.final_layer_norm.bias"):  # fmt: skip
        columns = np.stack([one[key].flatten().numpy() for one in models], 1).astype(np.float64)
        got = merged[key].flatten().numpy()
        # Candidates around the answer, compared as fractions: an arithmetic of its own.
        for column, value in zip(columns[:1500], got[:1500], strict=True):
            exact = sum(map(Fraction, column.tolist()), Fraction(0)) / N_MODELS
            near = [np.nextafter(value, np.float16(s * np.inf)) for s in (-1, 1)]
            mine = abs(Fraction(float(value)) - exact)
            for other in near:
                theirs = abs(Fraction(float(other)) - exact)
                even = int(value.view(np.uint16)) % 2 == 0
                assert mine < theirs or (mine == theirs and even)


@pytest.mark.parametrize("seed", ["0", "4242"])
def test_hash_seeds_do_not_show(folder: Path, seed: str) -> None:
    reference = digest(mean_of(folder, NAMES, "reference"))
    program = (
        "import sys\n"
        "from stockpot.engine import merge\n"
        "from stockpot.recipes import make_recipe\n"
        "pool = {n: n + '.safetensors' for n in 'hgfedcba'}\n"
        "merge(make_recipe('mean(h, g, f, e, d, c, b, a)', pool), 'out.safetensors')\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": seed}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
    assert digest(folder / "out.safetensors") == reference


def test_chain_tree_and_mean_are_one_model(folder: Path) -> None:
    chain = "a"
    for i, name in enumerate(NAMES[1:], 2):
        chain = f"lerp({chain}, {name}, 1/{i})"
    level = list(NAMES)
    while len(level) > 1:
        level = [f"0.5*({x}) + 0.5*({y})" for x, y in zip(level[::2], level[1::2], strict=True)]
    pool = {name: f"{name}.safetensors" for name in NAMES}
    tables, contents = [], set()
    for i, mix in enumerate((chain, level[0], "mean(pool)", "mean(h, a, g, b, f, c, e, d)")):
        recipe = make_recipe(mix, pool)
        with open_pool(recipe, folder) as sources:
            tables.append(make_plan(recipe, sources).fold)
        result = merge(recipe, folder / f"form{i}.safetensors", folder=folder)
        contents.add(result.content_hash)
    assert all(table.same(tables[0]) for table in tables)
    assert all(table.rows == tables[0].rows for table in tables)
    assert len(contents) == 1


def test_inputs_stay_as_they_are(folder: Path) -> None:
    before = {path: (digest(path), path.stat().st_mtime_ns) for path in folder.iterdir()}
    mean_of(folder, NAMES, "out")
    assert {p: (digest(p), p.stat().st_mtime_ns) for p in before} == before
