"""Print and parse are inverse, for expressions and for whole recipes."""

import ast
import pickle
import string
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.recipes import (
    DTYPES,
    FORMS,
    MIX_KEYS,
    STATUSES,
    Call,
    Expr,
    Items,
    Name,
    Number,
    Origin,
    PoolEntry,
    Recipe,
    Save,
    Text,
    parse_expression,
    parse_recipe,
    print_expression,
)
from stockpot.recipes.expressions import operate
from stockpot.recipes.functions import RESERVED

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
names = st.one_of(st.sampled_from(["a", "b", "größe", "10-vcb te", 'x "y"', "lambda"]), texts)
numbers = st.one_of(
    st.fractions(max_denominator=1000),
    st.integers(-(10**30), 10**30).map(Fraction),
    st.decimals(allow_nan=False, allow_infinity=False, places=6).map(Fraction),
)
leaves = st.one_of(names.map(Name), numbers.map(Number))
functions = st.sampled_from(["mean", "lerp", "ties", "blocks", "glob", "somewhere"])
options = st.dictionaries(
    st.sampled_from(["t", "keep", "seed"]), st.one_of(leaves, texts.map(Text)), max_size=2
)


def extend(children: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    binary = st.sampled_from(["add", "subtract", "multiply", "fill", "intersect", "divide"])
    nonzero = children.filter(lambda e: e != Number(0))
    return st.one_of(
        st.builds(operate, binary, children, nonzero),
        st.builds(operate, st.just("negate"), children),
        st.builds(lambda items: Items(tuple(items)), st.lists(children, max_size=4)),
        st.builds(
            lambda f, args, named: Call(f, tuple(args), tuple(named.items())),
            functions,
            st.lists(st.one_of(children, texts.map(Text)), max_size=4),
            options,
        ),
    )


expressions = st.recursive(leaves, extend, max_leaves=25)


@given(expressions)
def test_what_is_printed_parses_to_the_same_expression(expression: Expr) -> None:
    text = print_expression(expression)
    parsed = parse_expression(text)
    assert parsed == expression
    assert hash(parsed) == hash(expression)
    assert print_expression(parsed) == text


def from_python(node: ast.AST) -> Expr:
    """Read Python's own syntax tree: an independent judge of precedence."""
    if isinstance(node, ast.BinOp):
        table = {
            ast.Add: "add",
            ast.Sub: "subtract",
            ast.Mult: "multiply",
            ast.Div: "divide",
            ast.BitOr: "fill",
            ast.BitAnd: "intersect",
        }
        return operate(table[type(node.op)], from_python(node.left), from_python(node.right))
    if isinstance(node, ast.UnaryOp):
        return operate("negate", from_python(node.operand))
    if isinstance(node, ast.Name):
        return Name(node.id)
    assert isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    return Number(node.value)


@given(
    st.recursive(
        st.sampled_from(["a", "b", "2", "0.25", "1e-3"]),
        lambda inner: st.one_of(
            st.builds("{} {} {}".format, inner, st.sampled_from("+-*/|&"), inner),
            inner.map("({})".format),
            inner.map("-{}".format),
        ),
        max_leaves=12,
    )
)
def test_precedence_is_pythons(text: str) -> None:
    assert parse_expression(text) == from_python(ast.parse(text, mode="eval").body)


pool_names = st.one_of(st.text(string.ascii_letters, min_size=1, max_size=6), texts).filter(
    lambda n: (
        n == n.strip()
        and "*" not in n
        and n not in RESERVED
        and not n.startswith("__")
        and all(c.isprintable() for c in n)
    )
)
files = texts.filter(lambda t: "*" not in t)
maybe = st.none() | texts
entries = st.one_of(
    st.builds(PoolEntry, files, st.none() | files),
    st.builds(
        PoolEntry, files, title=maybe, licence=maybe, note=maybe,
        status=st.none() | st.sampled_from(STATUSES), sha256=st.none() | st.just("0f" * 32),
    ),
    st.builds(PoolEntry, st.just(""), unknown=texts, note=maybe),
)  # fmt: skip
origins = st.none() | st.builds(Origin, texts, st.dictionaries(pool_names, texts, max_size=2))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    pool = draw(st.dictionaries(pool_names, entries, min_size=1, max_size=5))
    models = st.sampled_from([Name(n) for n in pool])
    mixes = st.recursive(
        models,
        lambda inner: st.one_of(
            st.builds(lambda a, b: a + b, inner, inner),
            st.builds(lambda n, a: n * a, numbers, inner),
            st.builds(lambda a, b, t: Call("lerp", (a, b, Number(t))), models, models, numbers),
            st.builds(lambda a, b: a | b, models, models),
        ),
        max_leaves=6,
    )
    let = draw(st.dictionaries(pool_names.filter(lambda n: n not in pool), mixes, max_size=3))
    mix = draw(st.dictionaries(st.sampled_from(MIX_KEYS), mixes, min_size=1))
    dtypes = st.sampled_from(DTYPES)
    dtype = draw(
        st.none() | dtypes | st.dictionaries(st.sampled_from(MIX_KEYS), dtypes, min_size=1)
    )
    save = Save(draw(st.none() | texts), dtype, draw(st.none() | st.sampled_from(FORMS)))
    return Recipe(pool, mix, let, save, origin=draw(origins))


@given(recipes())
def test_a_recipe_survives_its_own_text(recipe: Recipe) -> None:
    again = parse_recipe(recipe.to_yaml())
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert again.to_yaml() == recipe.to_yaml()
    assert list(again.pool) == list(recipe.pool)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("0.10*a+.5*b", "0.1*a + 0.5*b"),
        ("1/3*a", "1/3*a"),
        ("a*(1/3)", "a*(1/3)"),
        ("1e-3*a", "0.001*a"),
        ("a-(b-c)", "a - (b - c)"),
        ("(a-b)-c", "a - b - c"),
        ("-(a+b)", "-(a + b)"),
        ("{a, b}", "[a, b]"),
        ('"a"+"10-vcb te"', 'a + "10-vcb te"'),
        ("ties(base, a, seed=7, keep=.2)", "ties(base, a, keep=0.2, seed=7)"),
        ("blocks('autombw', (0.5,))", 'blocks("autombw", [0.5])'),
        ("a | b & c", "a | b & c"),
        ("2*(1 - 0.75)*a", "0.5*a"),
    ],
)
def test_canonical_text(text: str, printed: str) -> None:
    assert print_expression(parse_expression(text)) == printed


def test_floats_are_the_decimals_that_they_print_as() -> None:
    assert 0.1 * Name("a") == parse_expression("0.1*a")
    assert Name("a") / 3 == parse_expression("a/3")
    assert sum([0.5 * Name("a"), 0.5 * Name("b")]) == parse_expression("0.5*a + 0.5*b")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1", None])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Number(value)  # type: ignore[arg-type]


def test_a_text_alone_is_the_name_of_a_model() -> None:
    assert parse_expression('"10-vcb te"') == Name("10-vcb te")
    with pytest.raises(ValueError, match="cannot be empty"):
        parse_expression('""')
