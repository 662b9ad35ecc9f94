"""What a file tells of its making, through several merges and through other people's hands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from stockpot.checkpoints import open_checkpoint
from stockpot.engine import (
    History,
    InputRecord,
    MergeResult,
    Part,
    Step,
    merge,
    read_history,
)
from stockpot.errors import CheckpointError
from stockpot.recipes import make_recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three raw models, a, b and c."""
    for seed, name in enumerate("abc"):
        weights = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float16)
        save_file({"w": weights}, tmp_path / f"{name}.safetensors")
    return tmp_path


def step(folder: Path, expression: str, output: str, *names: str) -> MergeResult:
    pool = {name: f"{name}.safetensors" for name in names}
    return merge(make_recipe(expression, pool), folder / f"{output}.safetensors", folder=folder)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return dict(file.metadata())


def test_a_chain_of_merges_is_told_down_to_the_raw_models(folder: Path) -> None:
    ab = step(folder, "mean(a, b)", "ab", "a", "b")
    abc = step(folder, "lerp(ab, c, 1/3)", "abc", "ab", "c")
    last = step(folder, "mean(abc, ab)", "last", "abc", "ab")
    history = read_history(metadata_of(last.path))
    assert history is not None
    assert set(history.earlier) == {ab.content_hash, abc.content_hash}
    tree = [(depth, name, step is not None) for depth, name, _, step in history.walk()]
    assert tree == [
        (0, "", True),
        (1, "ab", True),
        (2, "a", False),
        (2, "b", False),
        (1, "abc", True),
        (2, "ab", True),  # told above, so not told again
        (2, "c", False),
    ]
    assert "mean(a, b)" in history.earlier[str(ab.content_hash)].recipe
    assert history.last.content == last.content_hash


def test_weights_that_another_program_changed_lose_their_history(folder: Path) -> None:
    ab = step(folder, "mean(a, b)", "ab", "a", "b")
    weights = {key: value + np.float16(1) for key, value in load_file(ab.path).items()}
    save_file(weights, ab.path, metadata_of(ab.path))
    result = step(folder, "mean(ab, c)", "out", "ab", "c")
    history = read_history(metadata_of(result.path))
    assert history is not None and not history.earlier
    (note,) = [note for note in result.notes if note.code == "changed-since"]
    assert "ab.safetensors" in str(note) and "not those that its recipe made" in str(note)


def test_the_output_type_belongs_to_the_recipe(folder: Path) -> None:
    recipe = make_recipe("a", {"a": "a.safetensors"})
    result = merge(recipe, folder / "x.safetensors", folder=folder, dtype="BF16")
    assert "dtype: bf16" in metadata_of(result.path)["stockpot.recipe"]


def test_without_hashes_nothing_is_claimed(folder: Path) -> None:
    from stockpot.engine import Settings

    recipe = make_recipe("a", {"a": "a.safetensors"})
    result = merge(recipe, folder / "x", folder=folder, settings=Settings(hashes=False))
    history = read_history(metadata_of(result.path))
    assert history is not None
    assert history.last.content is None and history.last.inputs["a"].components == {"model": None}


def hostile(**changes: object) -> dict[str, str]:
    step = {"recipe": "", "version": "1", "layout": "sd1", "inputs": {}, "components": {},
            "content": None}  # fmt: skip
    return {"stockpot.provenance": json.dumps({"format": 1, "earlier": {}, **step, **changes})}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"stockpot.provenance": "{"}, "is not JSON"),
        ({"stockpot.provenance": "[" * 100_000}, "is not JSON"),
        ({"stockpot.provenance": "[]"}, "has no format number"),
        (hostile(format=2), "this version reads up to 1; update Stockpot"),
        (hostile(content="xyz"), "a hash must be 64 hex digits"),
        (hostile(inputs=[1]), "is not well-formed"),
        (hostile(inputs={"a": {"components": {"x": 7}, "made": None}}), "is not well-formed"),
        (hostile(earlier={str(i): {} for i in range(20_000)}), "too many steps"),
    ],
)
def test_untrue_tables_are_refused(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match="f.safetensors") as caught:
        read_history(metadata, "f.safetensors")
    assert message in str(caught.value)


def test_a_table_is_read_as_it_was_written() -> None:
    a, b, c = "a" * 64, "b" * 64, "c" * 64
    record = InputRecord({"unet": a, "te": None}, b, {"unet": (3, 40)},
                         {"unet": Part(("IN00",), ("out.0.bias",))})  # fmt: skip
    step = Step("stockpot: 1\n", "9.9", "sd1", {"x y": record}, {"unet": c}, c,
                {"linear": 1, "ties": 2}, {"unet": "fp16+fp32"}, 7)  # fmt: skip
    plain = Step("", "1", "sd1", {"z": InputRecord({})}, {}, b)
    apart = Step("", "1", "sd1", {}, {}, a)
    history = History(step, {b: plain, a: apart})
    assert read_history(history.to_metadata()) == history
    assert history.of(step) == History(step, {b: plain})
    changed = history.to_metadata()
    changed["stockpot.provenance"] = changed["stockpot.provenance"].replace('"seed":7', '"seed":8')
    again = read_history(changed)
    assert again is not None and not again.intact


def test_circles_end() -> None:
    a, b = "a" * 64, "b" * 64

    def made_of(other: str) -> dict[str, object]:
        return {"recipe": "", "version": "1", "layout": "sd1", "components": {}, "content": None,
                "inputs": {"x": {"components": {}, "made": other}}}  # fmt: skip

    history = read_history(hostile(earlier={a: made_of(b), b: made_of(a)},
                                   inputs={"x": {"components": {}, "made": a}}))  # fmt: skip
    assert history is not None
    assert len(list(history.walk())) == 4


def test_a_broken_table_does_not_stop_a_merge(folder: Path) -> None:
    weights = load_file(folder / "a.safetensors")
    save_file(weights, folder / "a.safetensors", {"stockpot.provenance": "{"})
    result = step(folder, "mean(a, b)", "out", "a", "b")
    (note,) = [note for note in result.notes if note.code == "history"]
    assert "is not JSON" in str(note)
    with open_checkpoint(result.path) as made:
        assert "w" in made.tensors
