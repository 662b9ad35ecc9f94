"""Spaces: fewer numbers than holes; grids and sums are exact; what is found is filled again."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.errors import RecipeError
from stockpot.layouts import get_profile
from stockpot.recipes import make_recipe
from stockpot.tune import Hole, Space, find_holes, make_space, sums_of_models

KINDS = ("each", "depth", "groups", "curve:1", "curve:4", "curve:8")
POOL = {name: f"{name}.ckpt" for name in "abcde"}


def vector(hole: str, profile: str = "autombw") -> str:
    return f'blocks("{profile}", [{", ".join([hole] * get_profile(profile).length)}])'


def holes_of(mix: str) -> tuple[Hole, ...]:
    return find_holes(make_recipe(mix, POOL))


def two_models(hole: str, profile: str = "autombw") -> tuple[Hole, ...]:
    return holes_of(f"lerp(a, b, {vector(hole, profile)})")


def turn(space: Space, seed: int) -> dict[str, float]:
    dice = random.Random(seed)
    return {
        dial.name: dice.randint(int(dial.low), int(dial.high))
        if dial.whole
        else dice.choice([dial.low, dial.high, dice.uniform(dial.low, dial.high)])
        for dial in space.dials
    }


@pytest.mark.parametrize(
    ("kind", "n"),
    [("each", 27), ("depth", 5), ("groups", 3), ("curve:4", 4), ("curve:8", 8), ("curve:1", 1)],
)
def test_a_coarse_space_has_few_numbers(kind: str, n: int) -> None:
    assert len(make_space(two_models("search(0, 1, 0.05)"), kind).dials) == n


def test_text_encoder_and_vae_keep_a_number_of_their_own() -> None:
    dials = make_space(two_models("search(0, 1)", "sd-mecha-xl"), "curve:4").dials
    assert [dial.name for dial in dials] == ["BASE", "curve 1", "curve 2", "curve 3", "curve 4",
                                             "VAE"]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(["search(0, 1)", "search(0, 1, 0.05)", "search(0, 1, 0.3)",
                     "search(-1, 2, 0.1)"]),
    st.integers(0, 10**6),
)  # fmt: skip
def test_values_are_on_the_grid_and_refinement_keeps_them(kind: str, hole: str, seed: int) -> None:
    holes = two_models(hole)
    space = make_space(holes, kind)
    values = space.fill(turn(space, seed))
    assert all(one.snap(values[one.name]) == values[one.name] for one in holes)
    found = space.find(values)
    if found is not None:
        assert space.fill(found) == values
    else:
        assert kind.startswith("curve")
    for finer in ("each", "depth", "curve:8"):
        fine = make_space(holes, finer, around=values, radius=0.2)
        assert fine.fill(fine.start) == values
        again = fine.find(values)
        assert again is not None and fine.fill(again) == values


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.sampled_from(["0.05", "1/3", ""]), st.integers(0, 10**6))
def test_weights_of_a_sum_sum_to_one(n: int, step: str, seed: int) -> None:
    hole = f"search(0, 1{', ' + step if step else ''})"
    names = ", ".join("abcde"[:n])
    holes = holes_of(f"linear([{names}], [{', '.join([hole] * n)}])")
    space = make_space(holes, "each", sums={holes[0].sum})
    assert len(space.dials) == n - 1
    values = space.fill(turn(space, seed))
    assert sum(values.values()) == 1
    assert all(0 <= value <= 1 for value in values.values())
    found = space.find(values)
    assert found is not None and space.fill(found) == values


def test_every_model_alone_and_the_uniform_mix_can_be_reached() -> None:
    holes = holes_of("linear([a, b, c, d], [search(0, 1, 0.05), search(0, 1, 0.05), "
                     "search(0, 1, 0.05), search(0, 1, 0.05)])")  # fmt: skip
    space = make_space(holes, "each", sums={holes[0].sum})
    assert set(space.fill(space.start).values()) == {Fraction(1, 4)}
    for one in holes:
        corner = {hole.name: Fraction(hole.name == one.name) for hole in holes}
        assert space.find(corner) is not None


def test_block_weights_of_several_models_sum_to_one_in_every_block() -> None:
    vectors = ", ".join([vector("search(0, 1, 0.1)")] * 3)
    holes = holes_of(f"linear([a, b, c], [{vectors}])")
    sums = sums_of_models(make_recipe(f"linear([a, b, c], [{vectors}])", POOL), holes)
    for kind, n in (("each", 54), ("curve:4", 8), ("depth", 10)):
        space = make_space(holes, kind, sums=sums)
        assert len(space.dials) == n
        values = space.fill(turn(space, 3))
        for label in get_profile("autombw").labels:
            assert sum(values[hole.name] for hole in holes if hole.label == label) == 1


def test_weights_of_differences_are_free() -> None:
    recipe = make_recipe("a + linear([b - a, c - a], [search(0, 2), search(0, 2)])", POOL)
    assert sums_of_models(recipe, find_holes(recipe)) == ()


def test_a_smooth_curve_is_constant_where_its_nodes_are_equal_and_has_no_jumps() -> None:
    space = make_space(two_models("search(0, 1)"), "curve:6")
    flat = space.fill(dict.fromkeys((dial.name for dial in space.dials), 0.3))
    assert set(flat.values()) == {Fraction(3, 10)}
    nodes = {dial.name: i % 2 for i, dial in enumerate(space.dials)}
    order = [*(f"IN{i:02d}" for i in range(12)), "M00", *(f"OUT{i:02d}" for i in range(12))]
    values = [float(space.fill(nodes)[name]) for name in order]
    assert max(abs(x - y) for x, y in zip(values, values[1:], strict=False)) < 0.5


def test_blocks_of_one_resolution_share_a_number() -> None:
    space = make_space(two_models("search(0, 1)"), "depth")
    values = space.fill({"depth0": 0.0, "depth1": 0.1, "depth2": 0.2, "depth3": 0.3, "middle": 0.4})
    wanted = {"IN02": 0, "OUT09": 0, "OUT": 0, "TIME": 0, "IN05": 0.1, "OUT00": 0.3, "M00": 0.4}
    assert {name: float(values[name]) for name in wanted} == wanted


def test_groups_share_and_frozen_holes_stay() -> None:
    holes = two_models("search(0, 1, 0.05)")
    space = make_space(holes, "each", groups=[("IN00", "OUT11")], fixed={"M00": Fraction(1, 3)})
    assert len(space.dials) == 25
    values = space.fill(turn(space, 1))
    assert values["IN00"] == values["OUT11"]
    assert values["M00"] == Fraction(1, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "smooth"}, "a space must be one of"),
        ({"kind": "curve:0"}, "a space must be one of"),
        ({"groups": [("IN00", "IN99")]}, "no hole 'IN99'"),
        ({"groups": [("IN00",), ("IN00",)]}, "in one group only"),
        ({"groups": [("IN00",)], "fixed": {"IN00": Fraction(0)}}, "in one group only"),
    ],
)
def test_what_cannot_be_is_told(options: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make_space(two_models("search(0, 1)"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "weights", ["search(0, 1), 0.5", "search(0, 1, 0.3), search(0, 1, 0.3)",
                "search(0, 0.5), search(0, 0.5)", "search(0, 1, 0.1), search(0, 1, 0.2)"]
)  # fmt: skip
def test_weights_that_cannot_sum_to_one_are_told(weights: str) -> None:
    holes = holes_of(f"linear([a, b], [{weights}])")
    with pytest.raises(RecipeError, match="sum"):
        make_space(holes, "each", sums={holes[0].sum})
