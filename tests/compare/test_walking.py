"""The walk: agreement with pairwise arithmetic, one answer, and nothing filled in."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stockpot.checkpoints import DTYPES, GeneratedSource, MemorySource, TensorInfo, open_checkpoint
from stockpot.compare import Comparison, Place, compare
from stockpot.engine import Progress
from stockpot.errors import CheckpointError, MemoryBudgetError, UnknownNameError
from stockpot.layouts import get_layout
from stockpot.zoo import family as members
from stockpot.zoo import member
from stockpot.zoo.variants import derive

Make = Callable[..., MemorySource]
ZOO = get_layout("zoo")


def as_bytes(found: Comparison) -> list[object]:
    return [
        part
        for g in found.groups
        for part in (g.place, g.members, g.gram.inner.tobytes(), g.gram.squared.tobytes(),
                     g.gram.cross.tobytes(), g.rounding.tobytes(), g.kurtosis.tobytes())
    ]  # fmt: skip


def test_distances_agree_with_pairwise_arithmetic_on_the_zoo(zoo: Comparison) -> None:
    files = {
        m.name: {
            key: value.astype(np.float64).ravel()
            for key, value in load_file(m.path).items()
            if value.dtype.kind == "f"
        }
        for m in members()
    }
    found = {component: zoo.pairs(Place(component)).distances() for component in zoo.components}
    for a, b in itertools.combinations(zoo.names, 2):
        sums: dict[str, float] = {}
        for key in files[a].keys() & files[b].keys():
            gap = files[a][key] - files[b][key]
            component = ZOO.cell_of(key).component
            sums[component] = sums.get(component, 0.0) + float(gap @ gap)
        i, j = zoo.index(a), zoo.index(b)
        for component, expected in sums.items():
            assert found[component][i, j] == pytest.approx(math.sqrt(expected), rel=1e-9, abs=0)


def test_the_authors_rule_on_keys_and_shapes_of_sd1() -> None:
    """The square root of the sum over keys of squared distances, each in float64."""
    infos = [
        TensorInfo(key, DTYPES["F16"], spec.shape)
        for key, spec in get_layout("sd1").specs.items()
        if spec.cell.component == "vae" and ".encoder.down." in key and not spec.optional
    ]

    def values(seed: int) -> Callable[[TensorInfo, int, int, memoryview], None]:
        def fill(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
            ramp = (np.arange(start, stop) * (2 * seed + 1) + len(info.key)) % 2039
            target = np.frombuffer(out, np.float16)
            np.multiply(ramp.astype(np.float32), 1 / 1024, out=target, casting="unsafe")

        return fill

    sources = {str(seed): GeneratedSource(infos, values(seed)) for seed in range(2)}
    found = compare(sources)
    assert found.layout == "sd1"
    total = 0.0
    for info in infos:
        a, b = (
            np.frombuffer(source.read_bytes(info.key), np.float16).astype(np.float64)
            for source in sources.values()
        )
        total += float(np.linalg.norm(a - b)) ** 2
    assert found.pairs(Place("vae")).distances()[0, 1] == pytest.approx(math.sqrt(total), rel=1e-9)


def test_threads_memory_and_pieces_do_not_show(make_model: Make) -> None:
    def pool() -> dict[str, MemorySource]:
        return {str(seed): make_model(seed) for seed in range(3)}

    one = as_bytes(compare(pool(), threads=1))
    assert as_bytes(compare(pool(), threads=4)) == one
    assert as_bytes(compare(pool(), threads=2, memory=90 << 20)) == one


def test_distances_are_a_metric_and_the_sum_of_their_parts(zoo: Comparison) -> None:
    whole = zoo.pairs(Place("unet"))
    d = whole.distances()
    assert (d == d.T).all() and (d.diagonal() == 0).all() and (d >= 0).all()
    assert (d[:, None] <= d[:, :, None] + d[None] + 1e-9).all()
    parts = sum(zoo.pairs(Place("unet", block)).squared for block in zoo.blocks("unet"))
    assert whole.squared == pytest.approx(parts, rel=1e-12)
    cosine = whole.cosines()
    assert (cosine.diagonal() == 0).all() and (cosine >= 0).all() and cosine.max() < 2


@pytest.mark.parametrize("by", ["component", "tensor"])
def test_finer_and_coarser_sums_agree(make_model: Make, by: str) -> None:
    pool = {"a": make_model(1), "b": make_model(2)}
    block, other = compare(pool), compare(pool, by=by)  # type: ignore[arg-type]
    for component in block.components:
        expected = block.pairs(Place(component))
        found = other.pairs(Place(component))
        assert found.squared == pytest.approx(expected.squared, rel=1e-12)
        assert found.cosines() == pytest.approx(expected.cosines(), rel=1e-9)
        assert (found.compared == expected.compared).all()
    if by == "tensor":
        key = next(iter(ZOO.specs))
        place = Place(ZOO.cell_of(key).component, ZOO.cell_of(key).block, key)
        assert other.pairs(place).compared[0, 1] == math.prod(ZOO.specs[key].shape)
    else:
        assert other.blocks("unet") == ()


def test_a_missing_component_is_no_zero(make_model: Make) -> None:
    found = compare({"a": make_model(1), "b": make_model(2, without=("vae",)), "c": make_model(3)})
    vae = found.pairs(Place("vae"))
    assert np.isnan(vae.distances()[1]).all() and np.isnan(vae.cosines()[1]).all()
    assert vae.distances()[0, 2] > 0
    assert vae.coverage()[0, 1] == 0 and vae.compared[0, 1] == 0
    listed = [e for e in found.exclusions if e.component == "vae"]
    assert [(e.model, e.reason) for e in listed] == [(1, "absent")]
    # All components together rest on what both have, and say so.
    whole = found.pairs()
    assert 0 < whole.coverage()[0, 1] < 1 and whole.coverage()[0, 2] == 1
    assert np.isfinite(whole.distances()).all()


def test_missing_keys_other_shapes_and_nan_are_left_out_and_told(
    make_source: Callable[..., MemorySource],
) -> None:
    rng = np.random.default_rng(0)
    keys = ("p", "q", "r", "s")

    def model() -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        return {key: rng.standard_normal((4, 5)).astype(np.float16) for key in keys}

    a, b, c, d = (model() for _ in range(4))
    del b["p"]
    c["q"] = c["q"].reshape(5, 4)
    for broken in (a, d):  # the first is the pivot
        broken["r"] = broken["r"].copy()
        broken["r"][1, 1] = np.nan if broken is a else np.inf
    found = compare({"a": make_source(a), "b": make_source(b), "c": make_source(c),
                     "d": make_source(d)})  # fmt: skip
    told = {(found.names[e.model], e.reason): (e.n_keys, e.n_elements, e.keys)
            for e in found.exclusions}  # fmt: skip
    assert told == {
        ("a", "nonfinite"): (1, 20, ("r",)),
        ("b", "missing"): (1, 20, ("p",)),
        ("c", "shape"): (1, 20, ("q",)),
        ("d", "nonfinite"): (1, 20, ("r",)),
    }
    models = {"a": a, "b": b, "c": c, "d": d}
    shared = {"ab": "qs", "ac": "ps", "ad": "pqs", "bc": "rs", "bd": "qs", "cd": "ps"}
    pairs = found.pairs()
    for (one, other), common in ((tuple(pair), common) for pair, common in shared.items()):
        expected = math.sqrt(sum(
            float(((models[one][k].astype(float) - models[other][k].astype(float)) ** 2).sum())
            for k in common
        ))  # fmt: skip
        i, j = found.index(one), found.index(other)
        assert pairs.distances()[i, j] == pytest.approx(expected, rel=1e-12)
        assert pairs.compared[i, j] == 20 * len(common)
    assert pairs.sizes.tolist() == [80, 60, 80, 80]


def test_names_and_types_of_other_tools_meet(tmp_path: object) -> None:
    from pathlib import Path

    from stockpot.checkpoints import open_checkpoint

    folder = Path(str(tmp_path))
    base = member("base").path
    found = compare(
        {
            "base": open_checkpoint(base),
            "nai": open_checkpoint(derive(base, "nai-names", folder)),
            "fp32": open_checkpoint(derive(base, "fp32", folder)),
            "resaved": open_checkpoint(derive(base, "resaved", folder)),
        }
    )
    assert found.exclusions == ()
    assert not found.pairs().squared.any() and (found.pairs().coverage() == 1).all()
    contents = [model.content for model in found.models]
    assert contents[0] == contents[3] and len(set(contents)) == 3


def test_integers_are_hashed_and_not_compared(make_source: Callable[..., MemorySource]) -> None:
    weights = np.ones(3, np.float32)
    found = compare(
        {
            "a": make_source({"w": weights, "n": np.array([1, 2])}),
            "b": make_source({"w": weights, "n": np.array([1, 9])}),
        }
    )
    assert found.pairs().distances()[0, 1] == 0
    assert found.pairs().compared[0, 1] == 3
    assert found.models[0].content != found.models[1].content


def test_rounding_errors_are_foreseen(make_source: Callable[..., MemorySource]) -> None:
    exact = np.random.default_rng(1).standard_normal((200, 300)) * 0.03
    found = compare({"w": make_source({"w": exact.astype(np.float16)}),
                     "x": make_source({"w": exact})})  # fmt: skip
    error = float(found.pairs().squared[0, 1])
    assert found.groups[0].rounding[0] == pytest.approx(error, rel=0.05)
    assert found.groups[0].kurtosis == pytest.approx([3.0, 3.0], rel=0.1)


def test_progress_ends_at_the_whole(make_model: Make) -> None:
    seen: list[Progress] = []
    pool = {"a": make_model(1), "b": make_model(2)}
    compare(pool, progress=seen.append)
    total = sum(info.n_bytes for source in pool.values() for info in source.tensors.values())
    assert seen[-1].done_bytes == seen[-1].total_bytes == total
    assert seen[-1].stage == "comparing"


def test_wrong_use_is_named(make_model: Make) -> None:
    pool = {"a": make_model(1)}
    with pytest.raises(ValueError, match="at least one model"):
        compare({})
    with pytest.raises(ValueError, match="component, block or tensor, but got 'key'"):
        compare(pool, by="key")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown base 'b'"):
        compare(pool, base="b")
    with pytest.raises(MemoryBudgetError, match="comparing 1 models needs at least .* allow more"):
        compare(pool, memory=1 << 20)


def test_a_failing_read_stops_all_threads() -> None:
    infos = [TensorInfo(f"k{i}", DTYPES["F16"], (100,)) for i in range(300)]

    def fail(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        if info.key == "k100":
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        compare({"a": GeneratedSource(infos, fail)}, threads=3)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_file_that_is_written_to_meanwhile_is_told(tmp_path: Path, threads: int) -> None:
    values = np.arange(1 << 16, dtype=np.float32)
    for name in "ab":
        save_file({f"k{i}": values + i for i in range(8)}, tmp_path / f"{name}.safetensors")
    changed = []

    def change(told: Progress) -> None:
        if told.done_bytes and not changed:
            changed.append(told.done_bytes)
            with (tmp_path / "b.safetensors").open("r+b") as file:
                file.seek(-4, os.SEEK_END)
                file.write(b"\0\0\0\0")

    with ExitStack() as stack:
        pool = {name: stack.enter_context(open_checkpoint(tmp_path / f"{name}.safetensors"))
                for name in "ab"}  # fmt: skip
        journal = tmp_path / "sums"
        with pytest.raises(CheckpointError, match=r"b\.safetensors was changed while it was read"):
            compare(pool, threads=threads, progress=change, journal=journal)
    assert changed
    assert not journal.exists()  # sums of who knows what are not gone on from
