"""A file against what it says of itself: each fault is caught, and named for what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from stockpot.checkpoints import encode_header, open_checkpoint
from stockpot.engine import Settings, Verdict, merge, read_history, verify
from stockpot.engine.history import RECIPE_KEY
from stockpot.errors import CheckpointError
from stockpot.recipes import make_recipe

ONE_THREAD = Settings(threads=1)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """``out/abc.safetensors``, made of ab and c; ab is made of a and b; inputs in ``pool``."""
    pool, out = tmp_path / "pool", tmp_path / "out"
    pool.mkdir()
    out.mkdir()
    for seed, name in enumerate("abc"):
        weights = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float16)
        save_file({"w": weights}, pool / f"{name}.safetensors")
    files = {name: f"{name}.safetensors" for name in ("a", "b", "c", "ab")}
    step(pool, "mean(a, b)", {n: files[n] for n in "ab"}, pool / "ab.safetensors")
    step(pool, "lerp(ab, c, 0.25)", {n: files[n] for n in ("ab", "c")}, out / "abc.safetensors")
    return out / "abc.safetensors"


def step(folder: Path, mix: str, pool: dict[str, str], output: Path) -> None:
    merge(make_recipe(mix, pool), output, folder=folder, settings=ONE_THREAD)


def verdict(file: Path, pool: bool = False) -> Verdict:
    with open_checkpoint(file) as source:
        folder = file.parent.parent / "pool" if pool else None
        return verify(source, folder, settings=ONE_THREAD)


def retold(file: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """Write a file again with other metadata and the same tensors."""
    with open_checkpoint(file) as source:
        infos, metadata = dict(source.tensors), change(dict(source.metadata))
        body = b"".join(source.read_bytes(key) for key in infos)
    file.write_bytes(encode_header(infos, metadata) + body)


def edited(file: Path, old: str, new: str, *, sealed: bool) -> None:
    """Change the recipe's text; a forger also writes a new seal."""

    def change(metadata: dict[str, str]) -> dict[str, str]:
        assert old in metadata[RECIPE_KEY]
        metadata[RECIPE_KEY] = metadata[RECIPE_KEY].replace(old, new)
        history = read_history(metadata)
        assert history is not None and not history.intact
        return metadata | (history.to_metadata() if sealed else {})

    retold(file, change)


@pytest.mark.parametrize("pool", [False, True])
def test_what_was_not_touched_agrees(made: Path, pool: bool) -> None:
    found = verdict(made, pool)
    assert (found.answer, found.problems, found.recomputed) == ("agrees", (), pool)
    assert [i.state for i in found.inputs] == (["found", "found"] if pool else [])


def test_reordered_metadata_agree(made: Path) -> None:
    retold(made, lambda metadata: dict(reversed(metadata.items())))
    assert verdict(made, pool=True).answer == "agrees"


@pytest.mark.parametrize("pool", [False, True])
def test_one_flipped_bit_is_caught(made: Path, pool: bool) -> None:
    data = bytearray(made.read_bytes())
    data[-3] ^= 1
    made.write_bytes(data)
    found = verdict(made, pool)
    assert found.answer == "differs"
    (problem,) = found.problems
    assert problem.where == "model" and "its recipe made" in problem.message


def test_a_stripped_recipe_is_no_recipe(made: Path) -> None:
    save_file(load_file(made), made)
    assert verdict(made).answer == verdict(made, pool=True).answer == "no recipe"


def test_an_edited_ratio_is_caught_by_the_seal_and_by_running_it(made: Path) -> None:
    edited(made, "0.25", "0.26", sealed=False)
    assert verdict(made).answer == "edited"
    codes = [problem.code for problem in verdict(made, pool=True).problems]
    assert "edited" in codes and "recipe" in codes


def test_a_forged_seal_is_caught_by_running_the_recipe(made: Path) -> None:
    edited(made, "0.25", "0.26", sealed=True)
    retold(made, lambda metadata: {k: v for k, v in metadata.items() if k != "sd_merge_recipe"})
    assert verdict(made).answer == "agrees"  # nothing can be compared without the inputs
    found = verdict(made, pool=True)
    assert found.answer == "recipe" and found.recomputed
    assert "but makes" in found.problems[0].message


def test_a1111s_record_must_say_what_the_recipe_says(made: Path) -> None:
    def change(metadata: dict[str, str]) -> dict[str, str]:
        label = json.loads(metadata["sd_merge_recipe"])
        return metadata | {"sd_merge_recipe": json.dumps(label | {"multiplier": 0.5})}

    assert verdict(made).answer == "agrees"
    retold(made, change)
    (problem,) = verdict(made).problems
    assert (problem.code, problem.where) == ("edited", "sd_merge_recipe")


def test_another_file_under_an_inputs_name_is_caught(made: Path) -> None:
    pool = made.parent.parent / "pool"
    shutil.copy(pool / "a.safetensors", pool / "c.safetensors")
    found = verdict(made, pool=True)
    assert found.answer == "inputs" and not found.recomputed
    (problem,) = found.problems
    assert problem.where == "model 'c'" and "c.safetensors has its name" in problem.message
    assert {i.name: i.state for i in found.inputs} == {"ab": "found", "c": "missing"}


def test_a_replaced_intermediate_is_caught_though_it_can_be_made_again(made: Path) -> None:
    pool = made.parent.parent / "pool"
    shutil.copy(pool / "a.safetensors", pool / "ab.safetensors")
    found = verdict(made, pool=True)
    assert found.answer == "inputs" and found.recomputed
    assert [i.state for i in found.inputs] == ["made again", "found"]
    assert "ab.safetensors has its name and holds something else" in str(found.problems[0])
    (pool / "ab.safetensors").unlink()
    assert verdict(made, pool=True).answer == "agrees"


def test_renamed_inputs_agree(made: Path) -> None:
    pool = made.parent.parent / "pool"
    (pool / "deep").mkdir()
    (pool / "c.safetensors").rename(pool / "deep" / "x.safetensors")
    found = verdict(made, pool=True)
    assert found.answer == "agrees"
    assert next(i for i in found.inputs if i.name == "c").path.endswith("x.safetensors")


def test_a_record_that_goes_in_a_circle_is_refused(made: Path) -> None:
    with safe_open(made, "np") as file:
        history = read_history(file.metadata())
    assert history is not None
    content = str(history.last.inputs["ab"].made)
    step = history.earlier[content]
    itself = replace(step.inputs["a"], made=content, components={"model": "0" * 64}, sizes={})
    inputs = {"a": itself, "b": step.inputs["b"]}
    circle = replace(history, earlier={content: replace(step, inputs=inputs)})
    retold(made, lambda metadata: metadata | circle.to_metadata())
    (made.parent.parent / "pool" / "ab.safetensors").unlink()
    with pytest.raises(CheckpointError, match="goes in a circle"):
        verdict(made, pool=True)
