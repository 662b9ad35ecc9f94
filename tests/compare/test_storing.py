"""The kept comparison: the same numbers back, and nothing believed that does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from stockpot.compare import Comparison, load_comparison, save_comparison
from stockpot.errors import CheckpointError, OutputExistsError
from stockpot.zoo import member


def test_every_number_comes_back(zoo: Comparison, tmp_path: Path) -> None:
    path = save_comparison(zoo, tmp_path / "zoo.safetensors")
    again = load_comparison(path)
    assert path.stat().st_size < 500_000
    assert again.names == zoo.names and again.base == zoo.base and again.by == zoo.by
    assert again.exclusions == zoo.exclusions
    assert [m.components for m in again.models] == [m.components for m in zoo.models]
    for one, other in zip(zoo.groups, again.groups, strict=True):
        assert (one.place, one.members, one.n_tensors) == (
            other.place, other.members, other.n_tensors)  # fmt: skip
        assert one.gram.squared.tobytes() == other.gram.squared.tobytes()
        assert one.gram.products().tobytes() == other.gram.products().tobytes()
        assert one.rounding.tobytes() == other.rounding.tobytes()
        assert one.kurtosis.tobytes() == other.kurtosis.tobytes()
    assert again.pairs().compared.tolist() == zoo.pairs().compared.tolist()
    assert Path(again.models[0].path).samefile(member("base").path)
    with pytest.raises(OutputExistsError):
        save_comparison(zoo, path)


def test_paths_are_relative_to_the_file(zoo: Comparison, tmp_path: Path) -> None:
    path = save_comparison(zoo, tmp_path / "zoo.safetensors")
    with safe_open(path, "np") as file:
        described = json.loads(file.metadata()["stockpot.comparison"])
    assert not any(Path(m["path"]).is_absolute() for m in described["models"])


def _set(path: list[Any], value: Any) -> Callable[[Any], None]:
    def change(described: Any) -> None:
        for step in path[:-1]:
            described = described[step]
        described[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set(["version"], 2),
        _set(["base"], 99),
        _set(["base"], True),
        _set(["groups", 0, "members"], [0, 0]),
        _set(["groups", 0, "members"], [99]),
        _set(["groups", 0, "pivot"], -1),
        _set(["groups", 0, "n_elements"], 1.5),
        _set(["groups", 0, "pivot_square"], float("nan")),
        _set(["models", 1, "name"], "base"),
        _set(["models"], []),
        _set(["sizes", 0, 2], [1]),
        _set(["groups"], [{}]),
        _set(["exclusions"], [[1]]),
    ],
)
def test_a_comparison_that_contradicts_itself_is_refused(
    zoo: Comparison, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    path = save_comparison(zoo, tmp_path / "zoo.safetensors")
    arrays = load_file(path)
    with safe_open(path, "np") as file:
        described = json.loads(file.metadata()["stockpot.comparison"])
    change(described)
    save_file(arrays, path, {"stockpot.comparison": json.dumps(described)})
    with pytest.raises(CheckpointError, match="make it again|version must be 1"):
        load_comparison(path)


def test_distances_below_zero_and_other_files_are_refused(zoo: Comparison, tmp_path: Path) -> None:
    path = save_comparison(zoo, tmp_path / "zoo.safetensors")
    arrays = load_file(path)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    arrays["g0000.squared"] = -arrays["g0000.squared"]
    save_file(arrays, path, metadata)
    with pytest.raises(CheckpointError, match="none below zero"):
        load_comparison(path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="this is no comparison; make one with"):
        load_comparison(path)
