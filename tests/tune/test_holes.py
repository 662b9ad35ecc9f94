"""Holes: found wherever a number stands, filled exactly, named so that a person knows them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.errors import RecipeError, UnknownNameError
from stockpot.layouts import get_layout, get_profile
from stockpot.recipes import Recipe, fold, make_recipe, parse_recipe, search
from stockpot.tune import fill_holes, find_holes, read_values

POOL = {name: f"{name}.ckpt" for name in ("base", "a", "b", "c")}


def recipe_of(mix: str | dict[str, str], **let: str) -> Recipe:
    return make_recipe(mix, POOL, let=let)


def vector(hole: str, profile: str = "autombw") -> str:
    return f'blocks("{profile}", [{", ".join([hole] * get_profile(profile).length)}])'


def test_27_block_weights_are_called_after_their_blocks() -> None:
    holes = find_holes(recipe_of("lerp(a, b, w)", w=vector("search(0, 1, 0.05)")))
    assert [hole.name for hole in holes] == list(get_profile("autombw").labels)
    assert {hole.n_levels for hole in holes} == {21}


@pytest.mark.parametrize(
    ("mix", "names"),
    [
        ("lerp(a, b, search(0, 1))", ["t"]),
        ("a + search(0, 2)*(b - a)", ["model"]),
        ("a + search(0, 2)*(b - a) + search(0, 2)*(c - a)", ["model#1", "model#2"]),
        ("linear([a, b, c], [search(0, 1), search(0, 1), search(0, 1)])", ["a", "b", "c"]),
        ("ties(base, a, b, keep=search(0.1, 1), scale=search(0, 2))", ["keep", "scale"]),
        ("iso_z(base, a, z=search(0, 1))", ["z"]),
        ("lerp(a, b, components(unet=search(0, 1), te=search(0, 0.5)))", ["te", "unet"]),
        ("lerp(lerp(a, b, search(0, 1)), c, search(0, 1))", ["a.lerp.t", "model.lerp.t"]),
    ],
)
def test_a_hole_may_stand_wherever_a_number_may(mix: str, names: list[str]) -> None:
    recipe = recipe_of(mix)
    found = [hole.name for hole in find_holes(recipe)]
    assert found == names
    layout = get_layout("sd1")
    with pytest.raises(RecipeError, match="holes"):
        fold(recipe, layout)
    middle = {hole.name: hole.snap((hole.low + hole.high) / 2) for hole in find_holes(recipe)}
    filled = fill_holes(recipe, middle)
    assert fold(filled, layout).rows
    assert not find_holes(filled)


def test_equal_texts_in_two_places_are_two_holes_and_a_let_is_one() -> None:
    twice = recipe_of({"unet": "lerp(a, b, search(0, 1))", "te": "lerp(a, b, search(0, 1))"})
    once = recipe_of({"unet": "lerp(a, b, t)", "te": "lerp(a, b, t)"}, t="search(0, 1)")
    assert len(find_holes(twice)) == 2
    assert [hole.name for hole in find_holes(once)] == ["t"]
    assert fill_holes(once, {"t": 1}).let["t"].__str__() == "1"


def test_one_python_object_in_two_places_is_two_holes_as_in_its_text() -> None:
    hole = search(0, 1)
    recipe = make_recipe(recipe_of("a").mix["model"] * hole + hole * recipe_of("b").mix["model"],
                         POOL)  # fmt: skip
    assert len(find_holes(recipe)) == 2 == len(find_holes(parse_recipe(recipe.to_yaml())))


def test_numbers_beside_a_hole_are_computed_once_it_is_filled() -> None:
    recipe = recipe_of("(1 - search(0, 1))*a + search(0, 1)*2/4*b")
    first, second = find_holes(recipe)
    filled = fill_holes(recipe, {first.name: Fraction(1, 4), second.name: Fraction(1, 2)})
    assert str(filled.mix["model"]) == "0.75*a + 0.25*b"


@given(st.lists(st.integers(0, 20), min_size=27, max_size=27))
def test_what_was_filled_is_read_back(levels: list[int]) -> None:
    recipe = recipe_of("lerp(a, b, w)", w=vector("search(0, 1, 0.05)"))
    values = {
        hole.name: Fraction(level, 20)
        for hole, level in zip(find_holes(recipe), levels, strict=True)
    }
    filled = fill_holes(recipe, values)
    assert read_values(recipe, filled) == values
    assert filled == parse_recipe(filled.to_yaml())


@given(
    st.fractions(-3, 3, max_denominator=50),
    st.fractions(Fraction(1, 50), 4, max_denominator=50),
    st.fractions(Fraction(1, 100), 1, max_denominator=100),
    st.floats(-5, 5),
)
def test_values_stay_on_their_grid(
    low: Fraction, size: Fraction, part: Fraction, wish: float
) -> None:
    step = size * part
    a = make_recipe("a", POOL).mix["model"]
    recipe = make_recipe(a * search(low, low + size, step), POOL)
    (hole,) = find_holes(recipe)
    value = hole.snap(wish)
    assert low <= value <= low + size
    assert ((value - low) / step).denominator == 1
    assert abs(value - Fraction(wish)) <= step / 2 or value in (low, hole.snap(low + size))
    assert hole.snap(value) == value
    assert hole.n_levels == len({hole.snap(low + step * k) for k in range(hole.n_levels or 0)})


def test_without_a_step_values_are_short_decimals_within_the_ends() -> None:
    (hole,) = find_holes(recipe_of("lerp(a, b, search(0, 1/3))"))
    assert hole.snap(0.123456789) == Fraction("0.12346")
    assert hole.snap(9) == Fraction(1, 3)
    assert hole.snap(-1) == 0


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ("lerp(a, b, search(1, 0))", "low end must not be above"),
        ("lerp(a, b, search(0, 1, 2))", "fit into the range"),
        ("lerp(a, b, search(0, 1, 0))", "above 0"),
        ("lerp(a, b, search(0))", "a hole has numbers"),
        ("lerp(a, b, search(0, a))", "a hole has numbers"),
        ("ties(base, a, keep=search(0, 2))", "may be 0 … 1"),
        ("dare(base, a, p=0.1, seed=search(0, 9))", "whole number"),
        ('ties(base, a, elect=search(0, 1))', "magnitude or count"),
    ],
)  # fmt: skip
def test_a_hole_that_cannot_be_filled_is_told_before_anything_is_drawn(mix: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        find_holes(recipe_of(mix))


def test_whole_numbers_are_searched_with_a_whole_step() -> None:
    (hole,) = find_holes(recipe_of("dare(base, a, p=0.1, seed=search(0, 9, 1))"))
    assert hole.snap(3.4) == 3


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        find_holes(recipe_of({"unet": "lerp(a, b, search(1, 0))", "te": "search(0, 1, 7)*a"}))
    assert len(caught.value.problems) == 2


def test_a_number_that_divides_by_zero_is_an_error_of_the_recipe() -> None:
    recipe = recipe_of("a / search(0, 1)")
    with pytest.raises(RecipeError, match="zero"):
        fold(fill_holes(recipe, {find_holes(recipe)[0].name: 0}), get_layout("sd1"))


def test_an_unknown_hole_is_named_with_its_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="hole 'u'"):
        fill_holes(recipe_of("lerp(a, b, search(0, 1))"), {"u": 1})


def test_other_numbers_are_not_read_as_a_filling() -> None:
    recipe = recipe_of("lerp(a, b, search(0, 1))")
    assert read_values(recipe, recipe_of("lerp(a, c, 0.5)")) is None
    assert read_values(recipe, recipe_of("mean(a, b)")) is None


def test_holes_of_a_deep_sum_are_found_without_recursion() -> None:
    a = make_recipe("a", POOL).mix["model"]
    total = a
    for _ in range(3000):
        total = total + a
    recipe = make_recipe(total + search(0, 1) * a, POOL)
    (hole,) = find_holes(recipe)
    assert not find_holes(fill_holes(recipe, {hole.name: 0.5}))
