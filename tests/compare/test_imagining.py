"""Mixes that were not made lie where they would lie if they were."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stockpot.checkpoints import MemorySource
from stockpot.compare import Place, add_mixes, compare, list_stages
from stockpot.engine import merge_in_memory
from stockpot.recipes import make_recipe

POOL = {"a": "a.ckpt", "b": "b.ckpt", "c": "c.ckpt"}
CHAIN = make_recipe(
    {"unet": "far", "te": "b", "vae": "a"},
    POOL,
    let={
        "ab": "mean(a, b)",
        "abc": "lerp(ab, c, 1/3)",
        "far": "a + 2*(c - b)",
        "short": "0.5*a",
        "mbw": f'lerp(a, b, blocks("autombw", {[i / 32 for i in range(27)]}))',
    },
)


def test_intermediates_lie_where_they_would(make_model: Callable[..., MemorySource]) -> None:
    sources = {name: make_model(seed) for seed, name in enumerate("abc")}
    stages = list_stages(CHAIN)
    imagined = add_mixes(compare(sources), stages)
    real = dict(sources)
    for stage in stages:
        if not stage.name.startswith("mix"):
            real[stage.name] = merge_in_memory(stage.recipe, sources, dtype="fp64")
    written = compare(real)
    names = written.names
    rows = [imagined.index(name) for name in names]
    for place in [Place(c) for c in ("unet", "te", "vae")] + [Place("unet", "IN00")]:
        expected = written.pairs(place)
        found = imagined.pairs(place)
        assert found.distances()[rows][:, rows] == pytest.approx(
            expected.distances(), rel=1e-6, abs=1e-6
        )
        assert found.cosines()[rows][:, rows] == pytest.approx(
            expected.cosines(), rel=1e-5, abs=1e-9
        )
        assert (found.compared[rows][:, rows] == expected.compared).all()


def test_levels_and_what_is_read() -> None:
    stages = {stage.name: (stage.level, stage.reads) for stage in list_stages(CHAIN)}
    assert stages["ab"] == (1, ("a", "b"))
    assert stages["abc"] == (2, ("ab", "c"))
    assert stages["mix (unet)"] == (2, ("far",))


def test_what_reads_other_models_is_left_out(make_model: Callable[..., MemorySource]) -> None:
    known = compare({"a": make_model(0), "b": make_model(1)})
    placed = add_mixes(known, list_stages(CHAIN))
    assert set(placed.names) - set(known.names) == {"ab", "short", "mbw", "mix (te)", "mix (vae)"}


def test_blocks_need_a_comparison_by_block(make_model: Callable[..., MemorySource]) -> None:
    coarse = compare({"a": make_model(0), "b": make_model(1)}, by="component")
    with pytest.raises(ValueError, match="compare again with --by block"):
        add_mixes(coarse, [s for s in list_stages(CHAIN) if s.name == "mbw"])
    placed = add_mixes(coarse, [s for s in list_stages(CHAIN) if s.name == "ab"])
    distances = placed.pairs(Place("unet")).distances()
    assert distances[0, 2] == pytest.approx(distances[0, 1] / 2)
    assert np.isfinite(distances).all()
