"""Folding: hand-computed tables, an independent evaluation, presence of keys, sameness."""

import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.errors import RecipeError, UnknownNameError
from stockpot.layouts import Cell, get_layout, get_profile, spread
from stockpot.recipes import (
    Expr,
    Fold,
    MissingModelError,
    Name,
    PoolEntry,
    Recipe,
    add_difference,
    blocks,
    fold,
    lerp,
    linear,
    make_recipe,
    mean,
    model,
)

SD1 = get_layout("sd1")
IN00 = Cell("unet", "IN00")
POOL = {name: f"{name}.safetensors" for name in "abcd"}


def row(mix: str | Expr, pool: dict[str, str] = POOL, **let: str) -> dict[str, Fraction]:
    return dict(fold(make_recipe(mix, pool, let=let), SD1).rows[IN00])


def shares(**values: str) -> dict[str, Fraction]:
    return {name: Fraction(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ("0.1*a + 0.9*b", shares(a="1/10", b="9/10")),
        ("a + 1.0*(b - c)", shares(a="1", b="1", c="-1")),
        ("lerp(a, b, 0.3)", shares(a="7/10", b="3/10")),
        ("lerp(a, b, t=1)", shares(b="1")),
        ("weighted_sum(a, b, 0)", shares(a="1")),
        ("lerp(a, b, 2)", shares(a="-1", b="2")),
        ("add_difference(a, b, c, 0.5)", shares(a="1", b="1/2", c="-1/2")),
        ("linear([a, b], [1/3, 2/3])", shares(a="1/3", b="2/3")),
        ("mean(pool)", shares(a="1/4", b="1/4", c="1/4", d="1/4")),
        ("mean(pool - d)", shares(a="1/3", b="1/3", c="1/3")),
        ("mean(pool - [a, b])", shares(c="1/2", d="1/2")),
        ("mean(pool & {a, b})", shares(a="1/2", b="1/2")),
        ("mean({a} | b)", shares(a="1/2", b="1/2")),
        ("mean({a, b}, c)", shares(a="1/3", b="1/3", c="1/3")),
        ("mean([a, a, b])", shares(a="2/3", b="1/3")),
        ('mean(glob("a*"), b)', shares(a="1/2", b="1/2")),
        ("-a + 2*b/1", shares(a="-1", b="2")),
        ("a - a + b", shares(b="1")),
    ],
)
def test_hand_computed_coefficients(mix: str, expected: dict[str, Fraction]) -> None:
    assert row(mix) == expected


def test_block_weights_and_their_complement() -> None:
    weights = [Fraction(i, 100) for i in range(27)]
    vector = blocks("autombw", weights)
    a, b = model("a"), model("b")
    table = fold(make_recipe(lerp(a, b, vector), POOL), SD1)
    assert table.rows[IN00] == shares(a="1")
    assert table.rows[Cell("unet", "OUT00")] == shares(a="86/100", b="14/100")
    assert table.rows[Cell("unet", "time_embed")] == shares(a="74/100", b="26/100")
    assert table.rows[Cell("te", "final")] == shares(a="1")
    assert table.same(fold(make_recipe((1 - vector) * a + vector * b, POOL), SD1))
    for cell, value in spread(get_profile("autombw"), weights, SD1).items():
        assert table.rows[cell].get("b", 0) == value


def test_particular_components_win() -> None:
    mix = {"te0": "c", "te": "b", "model": "a"}
    table = fold(make_recipe(mix, POOL), get_layout("sdxl"))
    taken = {cell.component: next(iter(row)) for cell, row in table.rows.items()}
    assert {k: taken[k] for k in ("unet", "te0", "te1", "vae")} == {
        "unet": "a", "te0": "c", "te1": "b", "vae": "a",
    }  # fmt: skip
    assert table.models == ("a", "b", "c")


def test_components_that_nobody_makes_are_absent() -> None:
    table = fold(make_recipe({"unet": "a"}, POOL), SD1)
    assert {cell.component for cell in table.rows} == {"unet"}
    with pytest.raises(UnknownNameError, match="unknown cell of the mix 'vae.decoder'"):
        table.coefficients(Cell("vae", "decoder"))


def test_chain_tree_and_mean_are_the_same_model() -> None:
    n = 64
    pool = {f"m{i}": f"{i}.ckpt" for i in range(n)}
    models: list[Expr] = [model(name) for name in pool]
    chain = models[0]
    for i, new in enumerate(models[1:], 2):
        chain = lerp(chain, new, Fraction(1, i))
    tree = models
    while len(tree) > 1:
        tree = [0.5 * x + 0.5 * y for x, y in zip(tree[::2], tree[1::2], strict=True)]
    folds = [fold(make_recipe(mix, pool), SD1) for mix in (chain, tree[0], mean(*models))]
    assert folds[0].same(folds[1]) and folds[1].same(folds[2])
    assert set(folds[0].rows[IN00].values()) == {Fraction(1, n)}
    assert not folds[0].warnings


# --- an independent evaluation: dense vectors, straight recursion -----------------------------

scales = st.fractions(-2, 2, max_denominator=12)
vectors = st.lists(scales, min_size=27, max_size=27)
CELLS = SD1.cells
Dense = list[dict[str, Fraction]]


def dense(name: str) -> Dense:
    return [{n: Fraction(n == name) for n in POOL} for _ in CELLS]


def combine(*terms: tuple[list[Fraction], Dense]) -> Dense:
    return [
        {n: sum((w[i] * d[i][n] for w, d in terms), Fraction(0)) for n in POOL}
        for i in range(len(CELLS))
    ]


def spreaded(values: list[Fraction]) -> list[Fraction]:
    return list(spread(get_profile("autombw"), values, SD1).values())


def flat(value: Fraction | int) -> list[Fraction]:
    return [Fraction(value)] * len(CELLS)


Pair = tuple[Expr, Dense]
pairs = st.recursive(
    st.sampled_from("abcd").map(lambda n: (Name(n), dense(n))),
    lambda inner: st.one_of(
        st.builds(
            lambda x, y: (x[0] + y[0], combine((flat(1), x[1]), (flat(1), y[1]))), inner, inner
        ),
        st.builds(lambda x, s: (s * x[0], combine((flat(s), x[1]))), inner, scales),
        st.builds(
            lambda x, v: (blocks("autombw", v) * x[0], combine((spreaded(v), x[1]))),
            inner,
            vectors,
        ),
        st.builds(
            lambda x, s, y, z: (
                linear([x[0], add_difference(y[0], x[0], z[0], s)], [1 - s, s]),
                combine(
                    (flat(1 - s + s * s), x[1]), (flat(s), y[1]), (flat(-s * s), z[1])
                ),
            ),
            inner, scales, inner, inner,
        ),
    ),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_folding_agrees_with_a_dense_evaluation(pair: Pair) -> None:
    expression, expected = pair
    rows = fold(make_recipe(expression, POOL), SD1).rows
    for cell, values in zip(CELLS, expected, strict=True):
        assert rows[cell] == {n: v for n, v in values.items() if v}


# --- presence ---------------------------------------------------------------------------------


def coefficients(mix: str, present: str) -> dict[str, Fraction]:
    return dict(fold(make_recipe(mix, POOL), SD1).coefficients(IN00, frozenset(present)))


def test_fill_takes_the_right_side_where_the_left_lacks_a_key() -> None:
    assert coefficients("mean(a, b) | c", "abc") == shares(a="1/2", b="1/2")
    assert coefficients("mean(a, b) | c", "ac") == shares(c="1")
    assert coefficients("mean(a | c, b | c)", "ac") == shares(a="1/2", c="1/2")
    assert coefficients("a | b | c", "c") == shares(c="1")
    assert coefficients("0.5*(a | c) + 0.5*c", "c") == shares(c="1")


def test_a_model_that_cancels_out_may_lack_the_key() -> None:
    assert coefficients("(a + b - b) | c", "ac") == shares(a="1")
    assert coefficients("a + 0*b", "a") == shares(a="1")


def test_a_needed_model_that_lacks_the_key_is_named() -> None:
    with pytest.raises(MissingModelError) as caught:
        coefficients("mean(a, b, c)", "a")
    assert caught.value.models == ("b", "c")
    assert str(caught.value) == (
        "unet.IN00: the mix needs a key that 'b', 'c' lacks; "
        "say whose key to take instead: (…) | base"
    )
    with pytest.raises(MissingModelError) as caught:
        coefficients("a | b", "c")
    assert caught.value.models == ("a", "b")


def test_models_behind_a_fill_are_read() -> None:
    table = fold(make_recipe("a | b", POOL), SD1)
    assert table.models == ("a", "b")
    assert table.rows[IN00] == shares(a="1")


# --- sameness, warnings, forms ----------------------------------------------------------------


def hashed(**hashes: str | None) -> Fold:
    pool = {name: PoolEntry(f"{name}.ckpt", digest) for name, digest in hashes.items()}
    return fold(Recipe(pool, {"model": mean(*map(Name, pool))}), SD1)


def test_sameness_goes_by_hash_where_both_have_one() -> None:
    assert hashed(a="1", b="2").same(hashed(x="2", y="1"))
    assert not hashed(a="1", b="2").same(hashed(a="1", b="3"))
    assert hashed(a="1", b=None).same(hashed(a="1", b="2"))
    assert not hashed(a=None).same(hashed(b=None))


def test_warnings() -> None:
    recipe = make_recipe("a + 0.5*b + (c - c)", POOL, let={"x": "a"})
    found = [str(problem) for problem in fold(recipe, SD1).warnings]
    assert found[0].endswith(
        "coefficients should sum to 1, but sum to 1.5; "
        "check the ratios, or ignore this if a scale is meant"
    )
    assert "mix: a model is subtracted from itself; the difference is zero everywhere" in found
    assert any(text.startswith("pool.c: no expression of the mix reads it") for text in found)
    assert any(text.startswith("pool.d: ") for text in found)
    assert "let.x: no expression reads it; remove it" in found
    assert not fold(make_recipe("mean(pool)", POOL), SD1).warnings


def test_table_and_json() -> None:
    table = fold(make_recipe({"unet": "mean(a, b)", "te": "a"}, POOL), SD1)
    assert [(r.label, dict(r.coefficients)) for r in table.table()] == [
        ("unet.time_embed … unet.out", shares(a="1/2", b="1/2")),
        ("te.embeddings … te.final", shares(a="1")),
    ]
    data = table.to_json()
    assert data["models"] == ["a", "b"]
    assert data["blocks"]["unet.IN00"] == {"a": 0.5, "b": 0.5}


def test_globs_of_files(tmp_path: Path) -> None:
    (tmp_path / "ft").mkdir()
    for name in ("x1", "x2", "[x] 3"):
        (tmp_path / "ft" / f"{name}.safetensors").touch()
    pool = {"base": "base.ckpt", "ft_*": "ft/*.safetensors"}
    recipe = make_recipe("mean(pool - base)", pool)
    with pytest.raises(RecipeError, match="call resolve_pool"):
        fold(recipe, SD1)
    resolved = recipe.resolve_pool(tmp_path)
    assert list(resolved.pool) == ["base", "ft_[x] 3", "ft_x1", "ft_x2"]
    assert resolved.pool["ft_x1"].file == "ft/x1.safetensors"
    assert set(fold(resolved, SD1).rows[IN00].values()) == {Fraction(1, 3)}
    for pattern, message in [("../*", "must stay within"), ("none/*", "no file in")]:
        with pytest.raises(RecipeError, match=message):
            make_recipe("pool", {"ft_*": pattern}).resolve_pool(tmp_path)


# --- size -------------------------------------------------------------------------------------


def test_a_thousand_lets_over_a_thousand_models_fold_in_linear_time() -> None:
    n = 1000
    pool = {f"m{i}": f"{i}.ckpt" for i in range(n + 1)}
    let = {f"x{i}": f"lerp(x{i - 1}, m{i}, 1/{i + 1})" for i in range(n, 0, -1)} | {"x0": "m0"}
    start = time.process_time()
    recipe = make_recipe(f"x{n}", pool, let=let)
    assert set(fold(recipe, SD1).rows[IN00].values()) == {Fraction(1, n + 1)}
    assert time.process_time() - start < 2


def test_shared_nodes_cost_once_per_level() -> None:
    let = {f"x{i}": f"0.25*x{i - 1} + 0.75*x{i - 1}" for i in range(1, 65)}
    node: Expr = Name("a")
    for _ in range(64):
        node = 0.25 * node + 0.75 * node
    start = time.process_time()
    assert row("x64", POOL, x0="a", **let) == row(node) == shares(a="1")
    assert hash(node) and time.process_time() - start < 1


def test_a_flat_sum_of_a_thousand_terms() -> None:
    pool = {f"m{i}": f"{i}.ckpt" for i in range(1000)}
    assert len(row(" + ".join(f"0.001*{name}" for name in pool), pool)) == 1000
