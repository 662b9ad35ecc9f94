"""Pictures are sound SVG, whatever the names are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path

import pytest

from stockpot.errors import RecipeError
from stockpot.layouts import get_layout
from stockpot.recipes import PoolEntry, draw_graph, draw_shares, fold, make_recipe

EVIL = "</text><script>alert(1)</script>\"'&\x00"
SVG = "{http://www.w3.org/2000/svg}"


def test_names_cannot_leave_their_place() -> None:
    pool = {"</svg><a & b>": "x'.ckpt", "b": PoolEntry("b.ckpt", title=EVIL)}
    recipe = make_recipe('lerp("</svg><a & b>", b, 0.25)', pool)
    folded = fold(recipe, get_layout("sd1"))
    for picture in (draw_shares(folded, EVIL), draw_graph(recipe, EVIL)):
        root = ET.fromstring(picture)
        assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
            "svg", "rect", "text", "title", "g", "path",
        }  # fmt: skip


def test_the_numbers_of_a_row_are_those_of_the_table() -> None:
    recipe = make_recipe("2*a - b", {"a": "a.ckpt", "b": "b.ckpt"})
    picture = draw_shares(fold(recipe, get_layout("generic")))
    assert re.findall(r"<title>(.*?)</title>", picture) == ["a, model.all: 2", "b, model.all: -1"]
    assert "#215ea8" in picture and "#be3026" in picture


def test_a_graph_shows_each_step_once() -> None:
    pool = {"a": "a.ckpt", "b": "b.ckpt", "c": "c.ckpt", "unread": "u.ckpt"}
    recipe = make_recipe("lerp(x, y, 0.5)", pool, let={"x": "a + b - c", "y": "lerp(x, c, 0.5)"})
    picture = draw_graph(recipe, "t")
    assert picture.count("<g>") == 6 and "unread" not in picture
    assert picture.count("<path") == 7
    everything = draw_graph(make_recipe("mean(pool)", pool))
    assert everything.count("<path") == 4


def test_too_much_to_draw_is_refused() -> None:
    pool = {f"m{i}": f"{i}.ckpt" for i in range(2500)}
    recipe = make_recipe("mean(pool)", pool)
    with pytest.raises(RecipeError, match="2000 models"):
        draw_graph(recipe)
    with pytest.raises(RecipeError, match="2000 models"):
        draw_shares(fold(recipe, get_layout("generic")))
    circle = make_recipe("x", {"a": "a"}, let={"x": "y + a", "y": "x + a"})
    with pytest.raises(RecipeError, match="circle"):
        draw_graph(circle)


def test_the_rows_of_the_picture_in_the_docs_sum_to_one() -> None:
    page = Path(__file__).parents[2] / "docs" / "img" / "autombw-12b.svg"
    sums: dict[str, Fraction] = {}
    for said in re.findall(r"<title>(.*?)</title>", page.read_text(encoding="utf-8")):
        name, row, value = re.fullmatch(r"(.*), (.*): (.*)", said).groups()  # type: ignore[union-attr]
        sums[row] = sums.get(row, Fraction(0)) + Fraction(value)
    assert len(sums) == 29 and set(sums.values()) == {Fraction(1)}
