"""Merges and comparisons that others do: the same bytes as here, whoever is lost. No Ray."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from stockpot.checkpoints import open_checkpoint
from stockpot.compare import Comparison, compare, save_comparison
from stockpot.engine import Progress, Settings, Stop, make_plan, merge, open_pool
from stockpot.engine.jobs import Made, Piece, job_of
from stockpot.engine.posting import PIECE_BYTES, open_merge
from stockpot.errors import (
    CheckpointError,
    ClusterError,
    DeviceError,
    MemoryBudgetError,
    PreflightError,
    StoppedError,
)
from stockpot.recipes import Recipe, make_recipe

NAMES = "abcd"
MIXES = {
    "mean": "mean(a, b, c, d)",
    "weights": "0.3*a + 1/7*b + 39/70*c",
    "ties": "ties(a, b, c, d, keep=0.4)",
    "nested": "geometric_median(ties(a, b, c, keep=0.5), d, 0.5*a + 0.5*b)",
    "dare": "dare(a, b, c, p=0.5, seed=3)",
    "copy": "a",
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models: small tensors, one of several pieces, one without elements."""
    folder = tmp_path_factory.mktemp("pool")
    base = np.random.default_rng(0).standard_normal(3_000_000).astype(np.float32)
    for number, name in enumerate(NAMES):
        rng = np.random.default_rng(number)
        tensors = {
            f"layer{i}.weight": rng.standard_normal((40, 30 + i)).astype(np.float16)
            for i in range(12)
        }
        tensors["large.weight"] = (base * (1 + number / 8)).reshape(1500, 2000)
        tensors["empty"] = np.zeros((0, 3), np.float32)
        tensors["count"] = np.array([1, 2, 3], np.int64)
        save_file(tensors, folder / f"{name}.safetensors")
    return folder


def recipe_of(pool: Path, mix: str) -> Recipe:
    return make_recipe(mix, {name: str(pool / f"{name}.safetensors") for name in NAMES})


def merged(pool: Path, mix: str, output: Path, **settings: Any) -> bytes:
    progress = settings.pop("progress", None)
    merge(recipe_of(pool, mix), output, settings=Settings(overwrite=True, **settings),
          progress=progress)  # fmt: skip
    return output.read_bytes()


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_a_merge_by_others_has_the_same_bytes_whoever_is_lost(
    pool: Path, mix: str, tmp_path: Path, imagined: Any
) -> None:
    here = merged(pool, mix, tmp_path / "here.safetensors", threads=1)
    crew = imagined(3, losses=0.2, seed=1)
    there = merged(pool, mix, tmp_path / "there.safetensors", crew=crew)
    assert here == there
    assert crew.n_lost > 0


def test_nodes_merge_on_their_processors_alone(pool: Path, tmp_path: Path, imagined: Any) -> None:
    output = tmp_path / "out.safetensors"
    with pytest.raises(DeviceError, match="nodes merge on their processors; leave out --device"):
        merged(pool, MIXES["nested"], output, crew=imagined(2), device="torch-cpu")
    assert not list(tmp_path.glob("out*"))


def test_without_hashes_too(pool: Path, tmp_path: Path, imagined: Any) -> None:
    here = merged(pool, MIXES["mean"], tmp_path / "a.safetensors", hashes=False, threads=1)
    there = merged(pool, MIXES["mean"], tmp_path / "b.safetensors", hashes=False,
                   crew=imagined())  # fmt: skip
    assert here == there


def test_progress_comes_to_its_end_and_not_beyond(
    pool: Path, tmp_path: Path, imagined: Any
) -> None:
    told: list[Progress] = []
    merged(pool, MIXES["mean"], tmp_path / "a.safetensors", progress=told.append,
           crew=imagined(2, losses=0.3, seed=2))  # fmt: skip
    merging = [one for one in told if one.stage == "merging"]
    assert merging[-1].done_bytes == merging[-1].total_bytes
    assert all(0 <= one.done_bytes <= one.total_bytes for one in merging)


def test_a_stopped_merge_goes_on_with_or_without_a_crew(
    pool: Path, tmp_path: Path, imagined: Any
) -> None:
    whole = merged(pool, MIXES["mean"], tmp_path / "whole.safetensors", threads=1)
    for name, first, then in (("a", imagined(), None), ("b", None, imagined(2))):
        output, stop = tmp_path / f"{name}.safetensors", Stop()

        def progress(told: Progress, stop: Stop = stop) -> None:
            if told.done_bytes > 0.2 * told.total_bytes:
                stop.ask()

        with pytest.raises(StoppedError, match="tensors are kept"):
            merged(pool, MIXES["mean"], output, crew=first, stop=stop, threads=1,
                   progress=progress)  # fmt: skip
        said: list[str] = []
        assert merged(pool, MIXES["mean"], output, crew=then, tell=said.append) == whole
        assert any("going on from a run that was stopped" in line for line in said)


def test_a_crew_that_fails_leaves_something_to_go_on_from(
    pool: Path, tmp_path: Path, imagined: Any
) -> None:
    output = tmp_path / "out.safetensors"

    class Failing(imagined):  # type: ignore[misc]
        def share(self, opening: Any, items: Any, take: Any, **options: Any) -> None:
            super().share(opening, list(items)[:5], take, **options)
            raise ClusterError("the cluster has no worker left")

    with pytest.raises(ClusterError) as error:
        merged(pool, MIXES["mean"], output, crew=Failing())
    assert "5 of" in error.value.__notes__[0] and "to go on" in error.value.__notes__[0]
    assert not output.exists()
    whole = merged(pool, MIXES["mean"], tmp_path / "whole.safetensors", threads=1)
    assert merged(pool, MIXES["mean"], output) == whole


def test_errors_of_inputs_are_those_of_one_machine(tmp_path: Path, imagined: Any) -> None:
    save_file({"w": np.ones(4, np.float32)}, tmp_path / "a.safetensors")
    save_file({"w": np.array([1, np.nan, 1, 1], np.float32)}, tmp_path / "b.safetensors")
    recipe = make_recipe("mean(a, b)", {n: f"{n}.safetensors" for n in "ab"})
    said = []
    for crew in (None, imagined()):
        with pytest.raises(CheckpointError, match="element 1 is NaN") as error:
            merge(recipe, tmp_path / "out", folder=tmp_path, settings=Settings(crew=crew))
        said.append(str(error.value))
    assert said[0] == said[1].replace(f"{tmp_path}{os.sep}", "", 0)
    assert not list(tmp_path.glob("out*"))


def job(pool: Path, **settings: Any) -> Any:
    recipe = recipe_of(pool, MIXES["mean"])
    with open_pool(recipe) as sources:
        return job_of(make_plan(recipe, sources), ".", Settings(**settings))


def test_a_worker_that_sees_other_files_refuses(pool: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.safetensors").write_bytes((pool / f"{name}.safetensors").read_bytes())
    told = job(tmp_path)
    os.utime(tmp_path / "b.safetensors", (1, 1))
    with pytest.raises(ClusterError, match="input b was.*a folder that all machines share"):
        open_merge(told, 1)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(PreflightError, match="b.safetensors: the file cannot be"):
        open_merge(told, 1)


def test_a_worker_keeps_its_memory(pool: Path) -> None:
    with pytest.raises(MemoryBudgetError, match="--memory allows"):
        open_merge(job(pool, memory=60 << 20), 1)
    post = open_merge(job(pool, memory=1 << 30), 3)
    assert post.lanes == 3
    post.close()
    assert open_merge(job(pool, threads=1), 3).lanes == 1
    # Fewer threads where the budget is small, as in one process.
    assert 1 <= open_merge(job(pool, memory=110 << 20), 16).lanes < 5


def test_a_large_tensor_comes_in_pieces_and_can_be_dropped(pool: Path) -> None:
    post = open_merge(job(pool), 1)
    found = list(post.work("large.weight"))
    assert isinstance(found[-1], Made)
    pieces = [piece for piece in found if isinstance(piece, Piece)]
    assert len(pieces) >= 2
    assert all(piece.n_bytes < 2 * PIECE_BYTES for piece in pieces)
    again = post.work("large.weight")
    next(again)
    again.close()  # type: ignore[attr-defined]
    assert len(list(post.work("large.weight"))) == len(found)
    post.close()


def test_what_is_in_memory_cannot_be_read_by_others(pool: Path, imagined: Any) -> None:
    from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo

    info = TensorInfo("w", DTYPES["F32"], (1,))
    source = MemorySource({"w": (info, b"\0\0\0\0")})
    with pytest.raises(ClusterError, match="in memory"):
        compare({"a": source}, crew=imagined())


def compared(
    pool: Path, output: Path, crew: Any = None, **options: Any
) -> tuple[bytes, Comparison]:
    sources = {name: open_checkpoint(pool / f"{name}.safetensors") for name in NAMES}
    try:
        found = compare(sources, crew=crew, **options)
    finally:
        for source in sources.values():
            source.close()
    save_comparison(found, output, overwrite=True)
    return output.read_bytes(), found


@pytest.mark.parametrize("by", ["component", "tensor"])
def test_a_comparison_by_others_has_the_same_bytes_whoever_is_lost(
    pool: Path, tmp_path: Path, imagined: Any, by: Any
) -> None:
    here, _ = compared(pool, tmp_path / "here", threads=1, by=by, base="b")
    crew = imagined(3, losses=0.3, seed=3)
    there, _ = compared(pool, tmp_path / "there", crew, by=by, base="b")
    assert here == there
    assert crew.n_lost > 0


def test_a_stopped_comparison_goes_on_elsewhere(pool: Path, tmp_path: Path, imagined: Any) -> None:
    whole, _ = compared(pool, tmp_path / "whole", threads=1)
    stop, sums, crew = Stop(), tmp_path / "sums", imagined(1)
    crew.at_value[5] = stop.ask
    with pytest.raises(StoppedError, match="give the same command again"):
        compared(pool, tmp_path / "out", crew, stop=stop, journal=sums)
    assert sums.exists()
    assert compared(pool, tmp_path / "out", journal=sums)[0] == whole
