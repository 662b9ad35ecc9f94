"""Findings in words: what stands out is said, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stockpot.checkpoints import MemorySource, open_checkpoint
from stockpot.compare import Comparison, compare, delta_norms, study
from stockpot.engine import merge_in_memory
from stockpot.recipes import make_recipe
from stockpot.zoo import member


def test_what_the_zoo_is_said_to_be(zoo: Comparison) -> None:
    told = study(zoo).sentences
    assert "style-glossy differs from base only in vae: decoder." in told
    assert "There is no vae in content-angular." in told
    assert "By unet, the others seem to descend from base." in told
    assert "grandchild seems to have been trained from content-round." in told
    assert any(s.startswith("outlier stands apart in unet: ") for s in told)
    assert any(s.startswith("te is that of base in ") and "te-trained" not in s for s in told)
    assert not any("is a mix" in s for s in told)


def test_a_mix_of_others_is_recognised() -> None:
    names = ("base", "style-outline", "content-warm", "content-round")
    pool = {name: open_checkpoint(member(name).path) for name in names}
    recipe = make_recipe('lerp("style-outline", "content-warm", 0.25)', dict.fromkeys(names, "x"))
    found = study(compare({**pool, "soup": merge_in_memory(recipe, pool, dtype="fp16")}))
    assert "soup is a mix (unet): 0.75 style-outline, 0.25 content-warm." in found.sentences
    assert list(found.mixes) == [4]


def test_where_each_was_trained(zoo: Comparison) -> None:
    blocks, norms = delta_norms(zoo, zoo.index("base"), "vae")
    assert blocks == ("encoder", "decoder")
    glossy, angular = zoo.index("style-glossy"), zoo.index("content-angular")
    assert norms[0, glossy] == 0 and 0 < norms[1, glossy] < 1
    assert np.isnan(norms[:, angular]).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_pools_and_broken_files(n: int, make_source: Callable[..., MemorySource]) -> None:
    rng = np.random.default_rng(0)
    pool = {}
    for i in range(n):
        weights = rng.standard_normal((9, 9)).astype(np.float16)
        pool[f"m{i}"] = {"w": weights, "v": weights[0] + np.float16(1)}
    pool["m0"]["v"][2] = np.nan
    told = study(compare({name: make_source(arrays) for name, arrays in pool.items()})).sentences
    nan = "m0 has NaN or infinities in 1 tensor of model, which were not compared (v)."
    assert nan in told
