"""Ratios are recovered within their stated confidence, and what cannot be known is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stockpot.checkpoints import MemorySource, Source, open_checkpoint
from stockpot.compare import Explanation, compare, explain, recover_recipe, simple_ratios
from stockpot.engine import merge_in_memory
from stockpot.errors import UnknownNameError
from stockpot.layouts import Cell, get_layout
from stockpot.recipes import Recipe, fold, make_recipe
from stockpot.zoo import member

SEVEN = ("base", "style-outline", "style-glossy", "content-warm", "content-round",
         "content-night", "te-trained")  # fmt: skip
WEIGHTS = [i % 21 / 20 for i in range(27)]


def zoo_recipe(mix: str | Mapping[str, str], names: tuple[str, ...]) -> Recipe:
    return make_recipe(mix, {name: str(member(name).path) for name in names})


def made(recipe: Recipe, dtype: str = "fp16") -> MemorySource:
    sources = {name: open_checkpoint(entry.file) for name, entry in recipe.pool.items()}
    return merge_in_memory(recipe, sources, dtype=dtype)


def explained(
    mix: Source, names: tuple[str, ...], base: str | None = None, **more: Source
) -> Explanation:
    pool = {name: open_checkpoint(member(name).path) for name in names} | more
    return explain(compare({**pool, "the mix": mix}), "the mix", base=base)


def check(told: Explanation, component: str, truth: Mapping[str, float]) -> None:
    part = told.components[component]
    for name, ratio in part.ratios.items():
        error = abs(ratio - truth.get(name, 0.0))
        assert error <= part.confidence[name], (component, name, ratio, part.confidence[name])


@pytest.mark.parametrize("t", ["0.05", "0.3", "0.5", "0.72", "0.95"])
def test_two_models_at_any_ratio(t: str) -> None:
    names = ("style-outline", "content-warm", "content-round")
    mix = made(zoo_recipe(f'lerp("style-outline", "content-warm", {t})', names[:2]))
    told = explained(mix, names)
    truth = {"style-outline": 1 - float(t), "content-warm": float(t)}
    check(told, "unet", truth)
    part = told.components["unet"]
    assert part.confidence["content-warm"] < 0.01 and part.is_explained
    assert part.residual == pytest.approx(part.noise, rel=0.25)
    assert told.components["te"].residual == 0


def test_the_mean_of_seven() -> None:
    told = explained(made(zoo_recipe("mean(pool)", SEVEN)), SEVEN)
    check(told, "unet", dict.fromkeys(SEVEN, 1 / 7))
    assert max(told.components["unet"].confidence.values()) < 0.001
    te = told.components["te"]
    assert te.ratios["te-trained"] == pytest.approx(1 / 7, abs=te.confidence["te-trained"])
    assert any(set(tie) == set(SEVEN) - {"te-trained"} for tie in te.ties)


def test_a_swapped_text_encoder_is_named() -> None:
    recipe = zoo_recipe({"unet": "mean(base, \"style-outline\")", "te": '"te-trained"',
                         "vae": "base"}, ("base", "style-outline", "te-trained"))  # fmt: skip
    told = explained(made(recipe), ("base", "style-outline", "te-trained"))
    te = told.components["te"]
    assert te.identical == ("te-trained",) and te.ratios["te-trained"] == 1 and te.residual == 0
    assert "base" in told.components["vae"].identical


def test_a_ratio_of_its_own_in_each_block_and_the_way_back() -> None:
    names = ("style-outline", "content-warm", "te-trained")
    weights = ", ".join(map(str, WEIGHTS))
    expression = f'lerp("style-outline", "content-warm", blocks("autombw", [{weights}]))'
    recipe = zoo_recipe({"unet": expression, "te": '"te-trained"', "vae": '"te-trained"'}, names)
    mix = made(recipe)
    told = explained(mix, names)
    assert told.is_by_block("unet") and not told.is_by_block("te")
    table = fold(recipe, get_layout("zoo"))
    for block, part in told.blocks["unet"].items():
        truth = table.coefficients(Cell("unet", block))
        for name, ratio in part.ratios.items():
            assert abs(ratio - float(truth.get(name, 0))) <= part.confidence[name], (block, name)
    found = recover_recipe(told, {n: str(member(n).path) for n in names}, "zoo")
    again = made(found)
    for key in mix.tensors:
        if ".position_ids" not in key:
            assert again.read_bytes(key) == mix.read_bytes(key), key


def test_after_a_chain_of_six_roundings() -> None:
    mix: Source = open_checkpoint(member("base").path)
    for k, name in enumerate(SEVEN[1:], start=2):
        step = make_recipe(f"lerp(m, x, 1/{k})", {"m": "m", "x": "x"})
        pool = {"m": mix, "x": open_checkpoint(member(name).path)}
        mix = merge_in_memory(step, pool, dtype="fp16")
    told = explained(mix, SEVEN)
    check(told, "unet", dict.fromkeys(SEVEN, 1 / 7))
    part = told.components["unet"]
    assert 1.5 < part.n_roundings < 6 and part.is_explained


def test_added_differences_by_a_base() -> None:
    names = ("base", "style-outline", "content-warm", "style-glossy")
    mix = made(zoo_recipe('"style-outline" + 0.7*("content-warm" - base)', names[:3]))
    told = explained(mix, names, base="base")
    check(told, "unet", {"style-outline": 1.0, "content-warm": 0.7, "base": -0.7})
    without = explained(mix, names)
    assert not without.components["unet"].is_explained


def test_a_parent_left_out_shows() -> None:
    mix = made(zoo_recipe("mean(pool)", SEVEN))
    rest = tuple(name for name in SEVEN if name != "content-round")
    part = explained(mix, rest).components["unet"]
    assert not part.is_explained and part.n_roundings > 50
    assert part.unexplained > 0.1
    # The shares that come nearest are far less sure than they would be.
    assert min(part.confidence.values()) > 0.05


def test_parents_that_cannot_be_told_apart_are_flagged(
    make_source: Callable[..., MemorySource],
) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((64, 64)).astype(np.float16) for _ in range(2))
    near = a.copy()
    near[0, :4] = np.nextafter(near[0, :4], np.float16(9))
    mix = ((a.astype(float) + b) / 2).astype(np.float16)
    pool = {"a": a, "near a": near, "b": b, "copy of b": b.copy()}
    found = compare({name: make_source({"w": value}) for name, value in pool.items()}
                    | {"mix": make_source({"w": mix})})  # fmt: skip
    part = explain(found, "mix").components["model"]
    assert {frozenset(tie) for tie in part.ties} == {
        frozenset(("a", "near a")), frozenset(("b", "copy of b"))}  # fmt: skip
    assert part.ratios["b"] + part.ratios["copy of b"] == pytest.approx(0.5, abs=0.01)
    assert part.ratios["a"] + part.ratios["near a"] == pytest.approx(0.5, abs=0.01)
    assert min(part.confidence["a"], part.confidence["near a"]) > 0.05


def test_shares_that_need_not_sum_to_one(make_source: Callable[..., MemorySource]) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((40, 40)) for _ in range(2))
    found = compare({"a": make_source({"w": a}), "b": make_source({"w": b}),
                     "mix": make_source({"w": 0.5 * a + 0.2 * b})})  # fmt: skip
    part = explain(found, "mix", sum_to_one=False).components["model"]
    assert part.ratios == pytest.approx({"a": 0.5, "b": 0.2}, abs=1e-7)
    assert explain(found, "mix").components["model"].residual > 1


def test_who_lacks_a_component_is_no_parent_of_it() -> None:
    names = ("base", "content-angular", "style-glossy")
    mix = made(zoo_recipe('lerp(base, "style-glossy", 0.5)', ("base", "style-glossy")))
    told = explained(mix, names)
    vae = told.components["vae"]
    assert vae.left_out == ("content-angular",) and set(vae.ratios) == {"base", "style-glossy"}
    check(told, "vae", {"base": 0.5, "style-glossy": 0.5})


def test_json_has_what_other_programs_read(tmp_path: Path) -> None:
    mix = made(zoo_recipe("mean(pool)", ("base", "style-outline")))
    plain = explained(mix, ("base", "style-outline")).to_json()["components"]["unet"]
    assert plain["ratios"] == pytest.approx({"base": 0.5, "style-outline": 0.5}, abs=1e-3)
    assert set(plain["confidence"]) == {"base", "style-outline"}
    assert isinstance(plain["residual"], float) and plain["explained"] is True


def test_simple_ratios() -> None:
    sure = {"a": 1e-4, "b": 1e-4, "c": 1e-4}
    assert simple_ratios({"a": 0.33331, "b": 0.66669}, sure) == {
        "a": Fraction(1, 3), "b": Fraction(2, 3)}  # fmt: skip
    assert simple_ratios({"a": 0.05003, "b": 0.94997, "c": 0.0}, sure) == {
        "a": Fraction(1, 20), "b": Fraction(19, 20)}  # fmt: skip
    assert simple_ratios({"a": 1.0, "b": 0.7, "c": -0.7}, sure) == {
        "a": 1, "b": Fraction(7, 10), "c": Fraction(-7, 10)}  # fmt: skip
    odd = simple_ratios({"a": 0.123456, "b": 0.876544}, {})
    assert sum(odd.values()) == 1 and float(odd["a"]) == pytest.approx(0.123456, abs=1e-3)


def test_wrong_use_is_named(make_source: Callable[..., MemorySource]) -> None:
    found = compare({"a": make_source({"w": np.ones(3)})})
    with pytest.raises(ValueError, match="a pool of other models"):
        explain(found, "a")
    with pytest.raises(UnknownNameError, match="unknown model 'z'"):
        explain(found, "z")
