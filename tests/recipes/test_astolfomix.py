"""The AstolfoMix recipes of `examples` fold to what their author says of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from stockpot.layouts import Cell, get_layout
from stockpot.recipes import Fold, fold, lint, parse_recipe, read_recipe

FOLDER = Path(__file__).parents[2] / "examples" / "astolfomix"
NAMES = [f"_{i:02d}a" for i in range(1, 21)]
IN00, IN03, TE, VAE = (Cell(*p.split(".")) for p in
                       ("unet.IN00", "unet.IN03", "te.final", "vae.encoder"))  # fmt: skip


def folded(name: str, layout: str = "sd1") -> Fold:
    """Read an example and fold it."""
    return fold(read_recipe(FOLDER / f"{name}.yaml"), get_layout(layout))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_are_sound(path: Path) -> None:
    recipe = read_recipe(path)
    assert parse_recipe(recipe.to_yaml()) == recipe
    layout = "sd2" if path.stem == "209" else "sd1"
    assert not fold(recipe, get_layout(layout)).warnings
    rows = fold(recipe, get_layout(layout)).rows
    assert all(sum(row.values()) == 1 for row in rows.values())
    assert {f.code for f in lint(recipe, layout=layout)} <= {"plain-mean"}


def test_there_are_six() -> None:
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    assert names == {"10", "20", "20b", "21", "21b", "209"}


@pytest.mark.parametrize(("name", "n"), [("10", 10), ("20", 20)])
def test_uniform_merges(name: str, n: int) -> None:
    rows = folded(name).rows
    assert dict(rows[IN00]) == dict.fromkeys(NAMES[:n], Fraction(1, n))
    assert dict(rows[TE]) == dict(rows[VAE]) == {"sd14": 1}


def test_20b_is_made_of_all_twenty() -> None:
    table = folded("20b")
    assert table.models == tuple(NAMES)
    # 02b, 03b and 12b at IN03 are 0.45, 0.5 and 0.9; three halves come above them.
    share = {"_01a": "0.055", "_02a": "0.045", "_03a": "0.45", "_04a": "0.45"}
    for name, value in share.items():
        assert table.rows[IN03][name] == Fraction(value) / 8
    # AutoMBW keeps the text encoder of model A, all the way down: 18b, 15b, 08b, _13a.
    assert dict(table.rows[TE]) == {"_13a": 1}


def test_21_is_halfway_between_20_and_20b() -> None:
    twenty, other, both = folded("20"), folded("20b"), folded("21")
    for cell, row in both.rows.items():
        if cell.component == "unet":
            expected = {
                name: (twenty.rows[cell].get(name, Fraction(0))
                       + other.rows[cell].get(name, Fraction(0))) / 2
                for name in NAMES
            }  # fmt: skip
            assert dict(row) == expected
    assert dict(both.rows[TE]) == {"sd14": 1}
    assert folded("21b").rows[IN00] == both.rows[IN00]


def test_209_has_ten_unets_and_four_text_encoders() -> None:
    rows = folded("209", "sd2").rows
    assert set(rows[IN00].values()) == {Fraction(1, 10)} and len(rows[IN00]) == 10
    assert dict(rows[TE]) == dict.fromkeys(["_213", "_215", "_217", "_220"], Fraction(1, 4))
    assert not rows[TE].keys() & rows[IN00].keys()
    assert dict(rows[VAE]) == {"anime2": 1}


def test_what_was_rejected_is_listed_and_not_read() -> None:
    recipe = read_recipe(FOLDER / "20.yaml")
    assert recipe.pool["dreamlike"].status == "rejected"
    assert "dreamlike" not in folded("20").models
