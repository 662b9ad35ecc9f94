"""Files whose steps came in another order, or under other names, are compared by their roots."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from stockpot.checkpoints import open_checkpoint
from stockpot.engine import (
    History,
    InputRecord,
    Step,
    compare_shares,
    merge,
    prune,
    read_history,
    shares_of,
    swap,
)
from stockpot.errors import CheckpointError
from stockpot.layouts import Cell
from stockpot.recipes import make_recipe

Save = Callable[..., Path]
Model = Callable[..., dict[str, torch.Tensor]]
BLOCKS = 'lerp(x, y, blocks("autombw", [{}]))'.format(", ".join(["0.25", "0.5", "0.75"] * 9))


@pytest.fixture
def models(save: Save, model: Model) -> dict[str, Path]:
    """Three raw models of the zoo's shape."""
    return {
        name: save(name, model("unet", "te", "vae", seed=i))
        for i, name in enumerate(["a", "b", "base"])
    }


def mix(expression: str, x: Path, y: Path, output: str) -> Path:
    recipe = make_recipe(expression, {"x": str(x), "y": str(y)})
    return merge(recipe, x.parent / f"{output}.safetensors").path


def history(path: Path) -> History:
    with open_checkpoint(path) as source:
        found = read_history(source.metadata, source.name)
    assert found is not None
    return found


def content(path: Path) -> str | None:
    return history(path).last.content


@pytest.mark.parametrize("expression", ["mean(x, y)", BLOCKS, "x + 1/3*(y - x)"])
def test_resetting_and_pruning_before_or_after_a_merge(
    expression: str, models: dict[str, Path], tmp_path: Path
) -> None:
    a, b, base = models.values()

    def fresh() -> Path:
        return tmp_path / f"step{len(list(tmp_path.iterdir()))}.safetensors"

    def reset(path: Path) -> Path:
        return merge(swap(path, {"te": base}), fresh()).path

    def pruned(path: Path) -> Path:
        return merge(prune(path), fresh()).path

    after = reset(pruned(mix(expression, a, b, "ab")))
    before = mix(expression, reset(pruned(a)), pruned(reset(b)), "before")
    assert content(after) == content(before)
    assert compare_shares(shares_of(history(after)), shares_of(history(before))) == []
    other = mix(expression, a, reset(b), "other")
    differences = compare_shares(shares_of(history(after)), shares_of(history(other)))
    assert {d.label for d in differences} == {"te.embeddings … te.final"}
    assert content(other) != content(after)


def test_shares_are_those_of_the_raw_models(
    models: dict[str, Path], hashes_of: Callable[[Path], dict[str, str]]
) -> None:
    a, b, base = models.values()
    ab = mix("mean(x, y)", a, b, "ab")
    deep = mix("lerp(x, y, 1/3)", ab, base, "deep")
    row = shares_of(history(deep))[Cell("unet", "IN04")]
    known = {hashes_of(path)["unet"]: path.stem for path in models.values()}
    assert {known[found.hash]: share for found, share in row.items()} == {
        "a": Fraction(1, 3), "b": Fraction(1, 3), "base": Fraction(1, 3)
    }  # fmt: skip


def test_the_same_model_under_another_name_is_the_same(
    models: dict[str, Path], tmp_path: Path
) -> None:
    a, b, _ = models.values()
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(a.read_bytes())
    one, two = mix("mean(x, y)", a, b, "one"), mix("mean(y, x)", b, renamed, "two")
    assert compare_shares(shares_of(history(one)), shares_of(history(two))) == []


def step(made: str | None, name: str = "m") -> Step:
    return Step(
        f"stockpot: 1\npool:\n  {name}: {name}.safetensors\nmix:\n  model: {name}\n",
        "0", "generic", {name: InputRecord({"model": "0" * 64}, made)}, {"model": "0" * 64},
        "1" * 64,
    )  # fmt: skip


def test_a_hostile_circle_ends() -> None:
    circle = History(step("2" * 64), {"2" * 64: step("3" * 64), "3" * 64: step("2" * 64)})
    with pytest.raises(CheckpointError, match="goes in a circle"):
        shares_of(circle)


def test_a_thousand_steps() -> None:
    names = [f"{i:064d}" for i in range(1000)]
    earlier = {name: step(names[i + 1] if i < 999 else None) for i, name in enumerate(names)}
    row = shares_of(History(step(names[0]), earlier))[Cell("model", "all")]
    assert list(row.values()) == [Fraction(1)]


def test_a_record_without_hashes_cannot_be_compared() -> None:
    bare = Step(step(None).recipe, "0", "generic", {"m": InputRecord({"model": None})},
                {"model": "0" * 64}, "1" * 64)  # fmt: skip
    with pytest.raises(CheckpointError, match="no hash of its model"):
        shares_of(History(bare, {}))
