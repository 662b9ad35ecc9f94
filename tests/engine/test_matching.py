"""Re-basin: what may change places without effect, that it is found again, and what it makes."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from stockpot.checkpoints import open_checkpoint
from stockpot.draw import DrawSettings, open_painter
from stockpot.engine import Settings, merge
from stockpot.layouts import Symmetry, get_layout, symmetries_of
from stockpot.methods import order_blocks
from stockpot.recipes import make_recipe
from stockpot.zoo import member

BASE, OTHER = member("base").path, member("style-glossy").path
Arrays = dict[str, np.ndarray]


def shuffled(model: Arrays, seed: int = 0) -> Arrays:
    """A model with all units that may change places in a random order."""
    rng = np.random.default_rng(seed)
    made = {key: value.copy() for key, value in model.items()}
    for symmetry in symmetries_of("zoo"):
        blocks = rng.permutation(symmetry.n_blocks)
        for units in symmetry.units:
            size = units.n // symmetry.n_blocks
            order = np.concatenate([b * size + rng.permutation(size) for b in blocks])
            for place in units.places:
                old = made[place.key]
                index = np.arange(old.shape[place.axis])
                for start in place.starts:
                    index[start : start + units.n] = start + order
                made[place.key] = np.take(old, index, axis=place.axis)
    return made


def mixed(tmp_path: Path, mix: str, models: dict[str, Path], **how: int) -> Arrays:
    path = tmp_path / "out.safetensors"
    pool = {name: str(file) for name, file in models.items()}
    merge(make_recipe(mix, pool), path, settings=Settings(overwrite=True, **how))
    return load_file(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The base, another, and both with their units shuffled."""
    folder = tmp_path_factory.mktemp("shuffled")
    found = {"a": BASE, "b": OTHER}
    for number, (name, file) in enumerate((("a2", BASE), ("b2", OTHER))):
        found[name] = folder / f"{name}.safetensors"
        save_file(shuffled(load_file(file), number), found[name], {"format": "pt"})
    return found


def test_shuffled_units_draw_the_same_pictures(files: dict[str, Path]) -> None:
    pictures = []
    for name in ("a", "a2"):
        with open_checkpoint(files[name]) as source:
            painter = open_painter(source)
        drawn = painter.paint(["flat art, a large red heart on white background"], [1],
                              DrawSettings(steps=3, cfg=4.0))  # fmt: skip
        pictures.append(drawn.floats)
    one, two = (load_file(files[name]) for name in ("a", "a2"))
    n_moved = sum(one[key].tobytes() != two[key].tobytes() for key in one)
    assert n_moved > 300
    assert np.abs(pictures[0] - pictures[1]).max() < 1e-4


def test_a_layer_by_hand(tmp_path: Path) -> None:
    """Two of the hidden units of a feed-forward layer change places: 7 and 9, gates with them."""
    model = load_file(BASE)
    stem = "model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net"
    inner = model[f"{stem}.2.weight"].shape[1]
    other = {key: value.copy() for key, value in model.items()}
    for key in (f"{stem}.0.proj.weight", f"{stem}.0.proj.bias"):
        for start in (0, inner):
            other[key][[start + 7, start + 9]] = model[key][[start + 9, start + 7]]
    other[f"{stem}.2.weight"][:, [7, 9]] = model[f"{stem}.2.weight"][:, [9, 7]]
    save_file(other, tmp_path / "other.safetensors", {"format": "pt"})
    made = mixed(tmp_path, "rebasin(a, b)", {"a": BASE, "b": tmp_path / "other.safetensors"})
    assert all(made[key].tobytes() == model[key].tobytes() for key in model)


def test_a_shuffled_model_is_put_back(files: dict[str, Path], tmp_path: Path) -> None:
    """To the bit: a copy of a, and a fine-tune of it."""
    for shuffled_one, original in (("a2", "a"), ("b2", "b")):
        made = mixed(tmp_path, f"rebasin(a, {shuffled_one})", {n: files[n] for n in
                     ("a", shuffled_one)})  # fmt: skip
        expected = load_file(files[original])
        assert all(made[key].tobytes() == expected[key].tobytes() for key in expected)


def test_sums_and_nesting(files: dict[str, Path], tmp_path: Path) -> None:
    pool = {name: files[name] for name in ("a", "b", "b2")}
    got = mixed(tmp_path, "basin_sum(a, b2, 0.4)", {"a": files["a"], "b2": files["b2"]})
    a, b, b2 = (load_file(path) for path in pool.values())
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.2.weight"
    x, y, y2 = (model[key].astype(float) for model in (a, b, b2))
    expected = 0.4 * (0.4 * x + 0.6 * y2) + 0.6 * (0.4 * x + 0.6 * y)
    assert np.abs(got[key] - expected).max() < 1e-3
    nested = mixed(tmp_path, "lerp(a, rebasin(mean(a, b), rebasin(a, b2)), 0.5)", pool)
    plain = mixed(tmp_path, "lerp(a, b, 0.5)", {"a": files["a"], "b": files["b"]})
    assert all(nested[key].tobytes() == plain[key].tobytes() for key in plain)


def test_threads_and_panels_do_not_show(files: dict[str, Path], tmp_path: Path) -> None:
    pool = {"a": files["a"], "b2": files["b2"]}
    one = mixed(tmp_path, "basin_sum(a, b2, 0.3)", pool, threads=1)
    other = mixed(tmp_path, "basin_sum(a, b2, 0.3)", pool, threads=3, chunk_elements=1024)
    assert all(one[key].tobytes() == other[key].tobytes() for key in one)


def test_where_a_part_is_made_otherwise_nothing_moves(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """The text encoder is re-based; the UNet, which another expression makes, is what it says."""
    path = tmp_path / "out.safetensors"
    pool = {"a": str(files["a"]), "a2": str(files["a2"])}
    merge(make_recipe({"te": "rebasin(a, a2)", "unet": "a2", "vae": "a"}, pool), path)
    made, a, a2 = load_file(path), load_file(files["a"]), load_file(files["a2"])
    for key in made:
        source = a2 if key.startswith("model.diffusion_model.") else a
        assert made[key].tobytes() == source[key].tobytes()


@given(st.sampled_from([(1, 4), (2, 2), (2, 3), (3, 2)]), st.integers(0, 50), st.integers(1, 2))
def test_orders_of_blocks_are_the_best_there_are(
    shape: tuple[int, int], seed: int, n_kinds: int
) -> None:
    n_blocks, size = shape
    rng = np.random.default_rng(seed)
    profits = [rng.normal(size=(n_blocks * size,) * 2) for _ in range(n_kinds)]
    orders = order_blocks(profits, n_blocks)
    got = sum(p[np.arange(len(p)), o].sum() for p, o in zip(profits, orders, strict=True))
    best = -np.inf
    for blocks in permutations(range(n_blocks)):
        total = 0.0
        for profit in profits:
            for i, j in enumerate(blocks):
                part = profit[i * size : (i + 1) * size, j * size : (j + 1) * size]
                total += max(sum(part[k, p[k]] for k in range(size)) for p in
                             permutations(range(size)))  # fmt: skip
        best = max(best, total)
    assert got == pytest.approx(best)
    assert all(sorted(order.tolist()) == list(range(n_blocks * size)) for order in orders)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "zoo"])
def test_places_fit_and_do_not_overlap(name: str) -> None:
    specs = get_layout(name).specs
    taken: dict[tuple[str, int], set[int]] = {}
    found: tuple[Symmetry, ...] = symmetries_of(name)
    for symmetry in found:
        # One recipe makes a layer, or none of it is moved: all of it stands in one cell.
        assert len({specs[key].cell for key in symmetry.keys}) == 1
        for units in symmetry.units:
            assert units.n % symmetry.n_blocks == 0
            for place in units.places:
                for start in place.starts:
                    range_ = set(range(start, start + units.n))
                    assert max(range_) < specs[place.key].shape[place.axis]
                    here = taken.setdefault((place.key, place.axis), set())
                    assert not here & range_
                    here |= range_
    kinds = {symmetry.n_blocks for symmetry in found}
    assert {"sd1": {1, 8, 12, 32}, "sd2": {1, 5, 10, 20, 16, 32}, "sdxl": {1, 10, 20, 12, 32},
            "zoo": {1, 4, 8, 16}}[name] == kinds  # fmt: skip
