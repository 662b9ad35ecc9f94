"""What a person reads when a recipe is wrong."""

import pytest

from stockpot.errors import RecipeError
from stockpot.layouts import get_layout
from stockpot.recipes import fold, make_recipe, parse_recipe

POOL = {"a": "a.ckpt", "b": "b.ckpt", "c": "c.ckpt"}


def folded(mix: str, layout: str = "sd1", **let: str) -> str:
    with pytest.raises(RecipeError) as caught:
        fold(make_recipe(mix, POOL, let=let), get_layout(layout))
    return str(caught.value)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("a*b", "mix.model: `*` multiplies a number by a number or by a model, but got a model and "
                "a model; scale a model by a number, or mix the two: lerp(a, b, t)"),
        ("0.5", "mix.model: a mix must be a model, but got a number"),
        ("pool", "mix.model: a mix must be a model, but got a set; average it: mean(…)"),
        ("a + pool", "mix.model: `+` adds two models or two numbers, but got a model and a set; "
                     "average the set: mean(…)"),
        ("a + 1", "mix.model: `+` adds two models or two numbers, but got a model and a number; "
                  "write the number as a factor, such as 0.5*a"),
        ("a/b", "mix.model: `/` divides a number or a model by a number, "
                "but got a model and a model"),
        ("a & b", "mix.model: `&` takes what two sets have in common, but got a model and a model"),
        ("mean(a, b - c)", "mix.model: `mean` takes models, or differences of models, but got some "
                           "of each; add a difference to a model first: a + (b - c)"),
        ("mean(pool - pool)", "mix.model: `mean` needs at least one model, but the set is empty"),
        ("lerp(a, pool, 0.5)", "mix.model: `b` of `lerp` must be a model, but got a set; "
                               "average it: mean(…)"),
        ("lerp(a, b, c)", "mix.model: `t` of `lerp` must be a number or block weights, "
                          "but got a model"),
        ("lerp(a, b)", "mix.model: `lerp` takes 3 arguments, but got 2; write lerp(a, b, t)"),
        ("lerp(a, b, alpha=1)", "mix.model: unknown option of `lerp` 'alpha' (known: a, b, t); "
                                "write lerp(a, b, t)"),
        ("a - [b + c]", "mix.model: `-` with a set needs sets or names of pool entries, but got "
                        "a model and a list; put names of the pool in the set"),
        ("meen(a)", "mix.model: unknown function 'meen'; did you mean 'mean'?"),
        ("a + bb", "mix.model: unknown name 'bb'; did you mean 'b'? (known: a, b, c); "
                   "add it to `pool` or `let`"),
        ("pick_component(a, 'unet')", "mix.model: `pick_component` is read and printed, but no "
                                      "method does it here; see `stockpot methods` for those "
                                      "there are"),
        ("lerp(a, b, search(0, 1))", "mix.model: a recipe with holes does not fold, but got "
                                     "`search`; put a number in its place"),
        ('lerp(a, b, blocks("autombw", [1]))', "mix.model: profile 'autombw' has 27 numbers "
                                               "(IN00 … TIME), but got 1"),
        ('lerp(a, b, blocks("autombv", [1]))', "mix.model: unknown profile 'autombv'; "
                                               "did you mean 'autombw'?"),
        ('mean(glob("x*"))', "mix.model: no name of the pool matches 'x*'"),
        ("a/(1 - 1/1)", "mix.model: nothing can be divided by zero"),
    ],
)  # fmt: skip
def test_ill_typed_expressions_say_the_rule(mix: str, message: str) -> None:
    assert folded(mix).startswith(message)


def test_cycles_are_named() -> None:
    text = folded("x", x="0.5*y + a", y="z", z="x")
    assert "let.z: `let` may not go in a circle, but got x → y → z → x" in text
    assert folded("x", x="x + a").startswith("let.x: `let` may not go in a circle, but got x → x")


def test_components_that_the_layout_lacks() -> None:
    with pytest.raises(RecipeError, match="mix.te1: unknown component of .* 'te1'"):
        fold(make_recipe({"te1": "a"}, POOL), get_layout("sd1"))


def test_all_problems_come_at_once_with_their_lines() -> None:
    text = """\
stockpot: 2
pool:
  mean: a.ckpt
  a: {file: a.ckpt, hsh: 1}
  b:
lets: {}
let:
  x: a +
  y: 1e-3*x + q
mix:
  unte: a
  te: [a, b]
  vae: 0.5*a * b
save: {dtype: fb32}
"""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml")
    assert str(caught.value).splitlines() == [
        "r.yaml:6: unknown key 'lets'; did you mean 'let'? "
        "(known: let, mix, origin, pool, save, stockpot)",
        "r.yaml:1: stockpot: this version reads recipes of version 1; "
        "write `stockpot: 1`, or update Stockpot",
        "r.yaml:4: pool.a: unknown key 'hsh'; did you mean 'hash'? "
        "(known: file, hash, licence, note, sha256, status, title, unknown, url)",
        "r.yaml:5: pool.b: a text is needed, but got nothing",
        "r.yaml:8: let.x, column 4: the expression ends where a name or a number is needed",
        "r.yaml:12: mix.te: a text is needed, but got a list or a mapping; "
        "put an expression that starts with a bracket in single quotes",
        "r.yaml:3: pool.mean: 'mean' is the name of a function; choose another name",
        "r.yaml:11: mix.unte: unknown component 'unte'; did you mean 'unet'? "
        "(known: ema, model, other, te, te0, te1, unet, vae)",
        "r.yaml:14: save.dtype: unknown dtype 'fb32'; did you mean 'fp32'? "
        "(known: bf16, fp16, fp32, fp64, fp8_e4m3, fp8_e5m2)",
        "r.yaml:9: let.y: unknown name 'q' (known: a, b, mean, y); add it to `pool` or `let`",
        "r.yaml:13: mix.vae: `*` multiplies a number by a number or by a model, but got a model "
        "and a model; scale a model by a number, or mix the two: lerp(a, b, t)",
    ]


def test_quoted_names_in_yaml_get_advice() -> None:
    with pytest.raises(RecipeError, match="in single quotes"):
        parse_recipe('stockpot: 1\npool: {x y: a}\nmix:\n  unet: "x y" + a\n')


def test_later_functions_are_kept() -> None:
    text = "stockpot: 1\npool: {a: a.ckpt, b: b.ckpt}\nmix: {unet: 'ties(a, b, keep=.2)'}\n"
    recipe = parse_recipe(text)
    assert "unet: ties(a, b, keep=0.2)" in recipe.to_yaml()
    assert parse_recipe(recipe.to_yaml()) == recipe
