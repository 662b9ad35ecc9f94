"""Folding of recipes with methods: expansions, kinds, ranges, sameness, presence."""

from __future__ import annotations

from fractions import Fraction

import pytest

from stockpot.errors import RecipeError
from stockpot.layouts import Cell, get_layout
from stockpot.recipes import Called, Fold, MissingModelError, fold, lint, make_recipe

SD1 = get_layout("sd1")
IN00, OUT00 = Cell("unet", "IN00"), Cell("unet", "OUT00")
POOL = {name: f"{name}.safetensors" for name in ("base", "a", "b", "c")}


def folded(mix: str, pool: dict[str, str] = POOL, **let: str) -> Fold:
    return fold(make_recipe(mix, pool, let=let), SD1)


def test_a_method_is_an_atom_over_folded_rows() -> None:
    table = folded("0.5*median(lerp(a, b, 0.25), c, base) + 0.5*a")
    row = dict(table.rows[IN00])
    assert row.pop("a") == Fraction(1, 2)
    ((atom, share),) = row.items()
    assert isinstance(atom, Called) and share == Fraction(1, 2)
    call = atom.invocation
    assert call.function == "median" and call.models == {"a", "b", "c", "base"}
    assert dict(call.inputs[0]) == {"a": Fraction(3, 4), "b": Fraction(1, 4)}
    assert table.calls == (call,) and table.models == ("base", "a", "b", "c")
    assert not table.warnings


SAME = [
    ("ties(base, a, b)", "base + kept_mean(elected(trimmed(a - base, b - base, keep=0.2)))"),
    ("ties(base, a, b)", "ties(base, b, a, keep=1/5, scale=1)"),
    ("ties_soup(base, a, b)", 'base + kept_mean(elected(a - base, b - base, elect="count"))'),
    ("task_arithmetic(base, a, b)", "a + b - base"),
    ("amplify(a, b)", "2*b - a"),
    ("drop(base, a, b, p=0)", "mean(a, b)"),
    ("dgmla(base, a, b)", "base + geometric_median(elected(masked([a - base, b - base], p=0.1, "
     'eps=-0.1), elect="count"))'),
    ("tgmd(base, a, b)", "dgmla(base, b, a, eps=0)"),
    ("ties_dropout(base, a, p=0.1, keep=1, elect=\"count\", centre=\"median\")", "tgmd(base, a)"),
    ("iso_z(dgmla(base, a, b), z=0.5)", "iso_z(base, dgmla(base, a, b), z=0.5)"),
    ("iso_c(base, a)", "base + isotropic(a - base, z=0)"),
    ("slerp(a, b)", "slerp(a, b, t=0.5)"),
    ("median(pool)", "median([a, b], c, base)"),
    ("mean(masked(a - base, b - base, p=0.5))", "mean(masked(b - base, a - base, p=0.5))"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_model_in_other_words(one: str, other: str) -> None:
    assert folded(one).same(folded(other)) and folded(other).same(folded(one))


DIFFERENT = [
    ("slerp(a, b, 0.25)", "slerp(b, a, 0.25)"),
    ("median(a, b)", "median(a, c)"),
    ("median(a, b, b)", "median(a, a, b)"),
    ("ties(base, a, b)", "ties(base, a, b, keep=0.3)"),
    ("dare(base, a, p=0.5, seed=1)", "dare(base, a, p=0.5, seed=2)"),
    ("median(a, b)", "0.5*median(a, b) + 0.5*a"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_models(one: str, other: str) -> None:
    assert not folded(one).same(folded(other))


def test_pools_in_another_order_fold_to_the_same() -> None:
    turned = dict(reversed(POOL.items()))
    text = "dgmla(base, pool - base)"
    assert folded(text).same(folded(text, turned))


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("ties(a - base, b)", "`ties` takes models, but got a difference of models; add it to a "
                              "model first: a + (b - c)"),
        ("median(a, b - base)", "`median` takes models, or differences of models, but got some of "
                                "each"),
        ("base + kept_mean(a, b)", "`kept_mean` takes differences of models, but got a model; "
                                   "subtract a base first: a - base"),
        ("ties(base)", "`ties` needs at least one model; write ties(base, *models, keep=0.2"),
        ("ties(base, a, kep=0.3)", "unknown option of `ties` 'kep'; did you mean 'keep'?"),
        ("ties(base, a, keep=2)", "`keep` of `ties` must be 0 … 1, but got 2"),
        ("ties(base, a, keep=a)", "`keep` of `ties` must be a number, but got a model"),
        ('ties(base, a, elect="size")', '`elect` of `ties` must be "magnitude" or "count", but got '
                                        "'size'"),
        ("dare(base, a)", "`dare` needs `p`; write dare(base, *models, p, seed=0, scale=1)"),
        ("dare(base, a, p=0.5, seed=1/2)", "`seed` of `dare` must be a whole number, 0 or more, "
                                           "but got 0.5"),
        ("slerp(a)", "`slerp` needs `b`"),
        ("slerp(a, b, 0.5, c)", "`slerp` takes 3 arguments, but got 4"),
        ("iso_z(a)", "`iso_z` needs the base and a model, or the result of a method that has a "
                     "base"),
        ("median(pool - pool)", "`median` needs at least one model"),
        ("median(0.5)", "`an argument` of `median` must be a model, but got a number"),
    ],
)  # fmt: skip
def test_wrong_calls_say_the_rule(mix: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        folded(mix)
    assert message in str(caught.value)


def test_block_weights_in_options_split_the_table() -> None:
    numbers = ", ".join(["0.5"] * 13 + ["0.1"] * 14)
    table = folded(f'ties(base, a, b, keep=blocks("autombw", [{numbers}]))')
    keeps = {}
    for cell in (IN00, OUT00):
        (trimmed,) = (c for c in table.calls if c.function == "trimmed"
                      and c in _below(table, cell))  # fmt: skip
        keeps[cell] = trimmed.parameters["keep"]
    assert keeps == {IN00: Fraction(1, 2), OUT00: Fraction(1, 10)}
    assert len(table.calls) == 3 * 3  # and 0 where the profile says nothing


def _below(table: Fold, cell: Cell) -> set[object]:
    from stockpot.recipes import atoms_below

    return set(atoms_below([table.rows[cell]]))


def test_missing_keys_within_methods() -> None:
    table = folded("median(a, b, c)")
    with pytest.raises(MissingModelError, match="a key that 'b' lacks"):
        table.coefficients(IN00, frozenset("ac"))
    inside = folded("median(a, b | base, c)")
    (atom,) = inside.coefficients(IN00, frozenset(["a", "c", "base"]))
    assert isinstance(atom, Called) and atom.invocation.models == {"a", "base", "c"}
    outside = folded("median(a, b, c) | base")
    assert dict(outside.coefficients(IN00, frozenset(["a", "c", "base"]))) == {"base": 1}
    assert outside.models == ("base", "a", "b", "c")
    # What cancels is not needed.
    none = folded("median(a, b, c) - median(a, b, c) + base")
    assert dict(none.coefficients(IN00, frozenset(["base"]))) == {"base": 1}


def test_atoms_are_told_in_words() -> None:
    texts = [str(atom) for atom in folded("dare(base, a, p=0.5)").rows[IN00]]
    assert texts == ["base", "masked(a - base of 1 input, eps=0, p=0.5, rescale=1, seed=0)"]
    blocks = folded("ties(base, a, b)").to_json()["blocks"]["unet.IN00"]
    assert list(blocks) == ["base", "kept_mean(elected(trimmed(2 inputs, cut=0, keep=0.2), "
                            "elect=magnitude))"]  # fmt: skip


def test_deep_chains_of_methods_fold() -> None:
    let = {"x0": "median(a, b, c)"}
    for i in range(1, 400):
        let[f"x{i}"] = f"median(x{i - 1}, b, 0.5*x{i - 1} + 0.5*c)"
    table = folded("x399", **let)
    assert len(table.calls) == 400 and table.models == ("a", "b", "c")
    assert table.same(folded("x399", **let))


def test_lint_reads_recipes_with_methods() -> None:
    recipe = make_recipe("ties(base, a, b, c)", POOL)
    assert {finding.code for finding in lint(recipe)} <= {"changed-meaning", "base-not-base"}
    assert {f.code for f in lint(make_recipe("pick_component(a, 'unet')", POOL))} == {
        "unused-input"
    }
