"""The examples of docs/recipe.md are recipes, and mean what the page says."""

import re
from fractions import Fraction
from pathlib import Path

import pytest

from stockpot.layouts import Cell, get_layout
from stockpot.recipes import FUNCTIONS, fold, parse_recipe

PAGE = Path(__file__).parents[2].joinpath("docs", "recipe.md").read_text(encoding="utf-8")
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
IN00, FINAL = Cell("unet", "IN00"), Cell("te", "final")
THIRD = Fraction(1, 3)


@pytest.mark.parametrize("text", YAML)
def test_examples_parse_fold_and_survive_printing(text: str) -> None:
    recipe = parse_recipe(text, "docs/recipe.md")
    assert parse_recipe(recipe.to_yaml()) == recipe
    assert not fold(recipe, get_layout("sd1")).warnings


def test_examples_mean_what_the_page_says() -> None:
    design, running, reset, weighted = (fold(parse_recipe(t), get_layout("sd1")) for t in YAML)
    assert dict(design.rows[IN00]) == {"vbp": THIRD, "cbp": THIRD, "d8": THIRD}
    assert dict(design.rows[FINAL]) == {"base": 1}
    assert dict(running.rows[IN00]) == {"a": THIRD, "b": THIRD, "c": THIRD}
    assert dict(reset.rows[IN00]) == {"a": Fraction(1, 2), "b": Fraction(1, 2)}
    assert dict(reset.rows[FINAL]) == {"base": 1}
    assert dict(weighted.rows[IN00]) == {"a": Fraction(9, 10), "b": Fraction(1, 10)}
    assert dict(weighted.coefficients(IN00, frozenset("a"))) == {"a": 1}


def test_the_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})


def test_every_linear_function_is_on_the_page() -> None:
    for function in FUNCTIONS.values():
        if function.linear:
            assert f"`{function.name}(" in PAGE
