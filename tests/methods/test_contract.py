"""What every method must keep, whatever it computes; each law runs over the whole table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from stockpot.errors import CheckpointError
from stockpot.methods import METHODS
from stockpot.recipes import FUNCTIONS, Function

Arrays = dict[str, np.ndarray]
Merge = Callable[..., Arrays]

RUNNING = {name: row for name, row in FUNCTIONS.items() if row.kind in ("method", "composed")}
STARRED = sorted(name for name, row in RUNNING.items() if row.symmetric)
GIVEN = {"t": "0.3", "p": "0.3", "rank": "2", "eps": "-0.4", "low": "0.2", "high": "0.7"}


def call(row: Function | str, models: str = "abc", **options: str) -> str:
    """An expression that gives a model, with a value for every option that has no default."""
    row = FUNCTIONS[row] if isinstance(row, str) else row
    deltas = row.takes == "deltas"
    parts: list[str] = []
    for name in row.inputs:
        if name.startswith("*"):
            parts += [f"{m} - base" if deltas else m for m in models]
        else:
            parts.append("a - base" if name == "delta" else name)
    needed = {o.name: GIVEN[o.name] for o in row.options if o.default is None}
    if row.name == "masked":
        needed["eps"] = "-0.4"
    parts += [f"{name}={value}" for name, value in {**needed, **options}.items()]
    text = f"{row.name}({', '.join(parts)})"
    if row.gives == "list":
        text = f"mean({text})"
    return f"base + {text}" if deltas else text


def same(one: Arrays, other: Arrays) -> bool:
    """Whether all bytes are equal."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and one[key].tobytes() == other[key].tobytes()
        for key in one
    )


def test_the_two_tables_agree() -> None:
    assert {name for name, row in FUNCTIONS.items() if row.kind == "method"} == set(METHODS)
    assert all(method.function is FUNCTIONS[name] for name, method in METHODS.items())
    assert all(row.formula and row.source and row.version >= 1 for row in RUNNING.values())
    assert all(o.meaning for row in RUNNING.values() for o in row.options)


@pytest.mark.parametrize("name", RUNNING)
def test_shapes_types_and_finite_values(name: str, merge: Merge, family: dict[str, Arrays]) -> None:
    """Matrices, convolutions, vectors, one element, no element, no axis; inputs stay."""
    before = {model: {key: a.tobytes() for key, a in one.items()} for model, one in family.items()}
    out = merge(call(name))
    for key, value in family["a"].items():
        assert out[key].shape == value.shape and out[key].dtype == np.float16
        assert np.isfinite(out[key]).all()
    after = {model: {key: a.tobytes() for key, a in one.items()} for model, one in family.items()}
    assert before == after


@pytest.mark.parametrize("name", RUNNING)
def test_cuts_threads_and_kernels_do_not_show(name: str, merge: Merge) -> None:
    reference = merge(call(name))
    assert same(reference, merge(call(name), chunk_elements=64))
    assert same(reference, merge(call(name), chunk_elements=1000, threads=4))
    assert same(reference, merge(call(name), compiled=False, chunk_elements=320))


@pytest.mark.parametrize("name", STARRED)
def test_the_order_of_models_does_not_show(name: str, merge: Merge) -> None:
    reference = merge(call(name, "abcde"))
    for order in ("edcba", "cabed"):
        assert same(reference, merge(call(name, order)))


@pytest.mark.parametrize("name", STARRED)
def test_one_model_is_enough(name: str, merge: Merge, family: dict[str, Arrays]) -> None:
    out = merge(call(name, "a"))
    whole = {"keep": "1", "p": "0", "scale": "1", "cut": "0", "eps": "0"}
    options = {o.name: whole[o.name] for o in RUNNING[name].options if o.name in whole}
    assert out.keys() == family["a"].keys()
    assert same(merge(call(name, "a", **options)), family["a"])


@pytest.mark.parametrize("name", STARRED)
def test_identical_models_come_back(name: str, merge: Merge, family: dict[str, Arrays]) -> None:
    """With nothing dropped, three times a is a, to one rounding; task arithmetic sums."""
    whole = {"keep": "1", "p": "0", "scale": "1", "cut": "0", "eps": "0"}
    options = {o.name: whole[o.name] for o in RUNNING[name].options if o.name in whole}
    if name == "task_arithmetic":
        options["scale"] = "1/3"
    out = merge(call(name, "aaa", **options))
    for key, value in family["a"].items():
        ulp = np.spacing(np.abs(value).astype(np.float16)).astype(float)
        assert (np.abs(out[key].astype(float) - value) <= ulp).all(), key


@pytest.mark.parametrize("name", RUNNING)
def test_wider_types_stay_and_agree(name: str, merge: Merge, family: dict[str, Arrays]) -> None:
    """The same values in single precision give the same result, before it is rounded."""
    wide = {
        model: {key: value.astype(np.float32) for key, value in arrays.items()}
        for model, arrays in family.items()
    }
    if name in ("masked", "dare", "drop", "della", "tgmd", "dgmla", "ties_dropout"):
        # Contents differ, so masks do; without drops the results must agree.
        expression = call(name, p="0", eps="0") if "eps" in _options(name) else call(name, p="0")
    else:
        expression = call(name)
    out, narrow = merge(expression, wide), merge(expression)
    for key in out:
        assert out[key].dtype == np.float32
        difference = np.abs(out[key].astype(np.float16).astype(float) - narrow[key])
        assert (difference <= np.spacing(np.abs(narrow[key]))).all()


def _options(name: str) -> set[str]:
    return {option.name for option in RUNNING[name].options}


@pytest.mark.parametrize("name", RUNNING)
def test_nan_is_refused_or_stays_in_its_column(
    name: str, merge: Merge, family: dict[str, Arrays]
) -> None:
    broken = {model: dict(arrays) for model, arrays in family.items()}
    broken["a"]["matrix"] = family["a"]["matrix"].copy()
    broken["a"]["matrix"][5, 7] = np.nan
    with pytest.raises(CheckpointError, match="a: matrix: .* element 312 is NaN or infinite"):
        merge(call(name), broken)
    out = merge(call(name), broken, allow_nonfinite=True, chunk_elements=128)
    assert np.isnan(out["matrix"][5, 7])
    assert np.isfinite(out["matrix"]).sum() == out["matrix"].size - 1


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("slerp(a, b, 0)", "a"),
        ("slerp(a, b, 1)", "b"),
        ("slerp(a, a, 0.3)", "a"),
        ("ties(base, a, b, keep=0)", "base"),
        ("ties(base, a, b, scale=0)", "base"),
        ("ties(base, a)", "trimmed"),
        ("ties_soup(base, a)", "a"),
        ("dare(base, a, b, p=1)", "base"),
        ("dare(base, a, p=0)", "a"),
        ("drop(base, a, b, p=1)", "base"),
        ("della(base, a, p=0, eps=0)", "a"),
        ("della(base, a, b, p=1, eps=0)", "base"),
        ("breadcrumbs(base, a, keep=0)", "base"),
        ("breadcrumbs(base, a, keep=1, cut=0)", "a"),
        ("breadcrumbs(base, a, keep=0.5, cut=1)", "base"),
        ("tgmd(base, a, p=0)", "a"),
        ("dgmla(base, a, p=0, eps=0)", "a"),
        ("model_stock(base, a)", "a"),
        ("iso_z(base, a, z=1)", "a"),
        ("base + low_rank(a - base, rank=1000)", "a"),
        ("base + low_rank(a - base, rank=0)", "vectors"),
        ("train_difference(a, b, c, 0)", "a"),
        ("smooth_add(a, b, c, 0)", "a"),
        ("tensor_swap(a, b, 0, 1)", "b"),
        ("tensor_swap(a, b, 0.4, 0.4)", "a"),
        ("top_k_sum(a, b, 0)", "a"),
        ("top_k_sum(a, b, 1)", "b"),
        ("cosine_a(a, b, 1)", "b"),
        ("cosine_a(a, b, -2)", "a"),
        ("cosine_b(a, b, 1)", "b"),
        ("amplify(a, b, 1)", "b"),
        ("task_arithmetic(base, a, scale=1)", "a"),
        ("trimmed_mean(a, b, c, cut=0)", "mean(a, b, c)"),
        ("trimmed_mean(a, b, c, cut=0.4)", "median(a, b, c)"),
        ("median(a, b)", "mean(a, b)"),
        ("geometric_median(a, b)", "mean(a, b)"),
        ("geometric_median(a, b, c, maxiter=0)", "mean(a, b, c)"),
        ("dare(base, a, b, p=0)", "mean(a, b)"),
        ('ties(base, a, b, keep=1, elect="count")', "ties_soup(base, a, b)"),
        ("iso_c(base, a)", "iso_z(base, a, z=0)"),
        ("iso_z(dgmla(base, a, b, c), z=0.5)", "iso_z(base, dgmla(base, a, b, c), z=0.5)"),
    ],
)
def test_ends(expression: str, expected: str, merge: Merge, family: dict[str, Arrays]) -> None:
    out = merge(expression)
    if expected == "vectors":
        expected = "base"
        out = {key: out[key] for key in ("matrix", "conv")}
    elif expected == "trimmed":
        kept = sum(int((out[key] != family["base"][key]).sum()) for key in out)
        assert 0.15 < kept / sum(value.size for value in out.values()) < 0.25
        return
    reference = merge(expected) if "(" in expected else family[expected]
    for key, value in out.items():
        wanted = reference[key].astype(float)
        ulp = np.spacing(np.abs(reference[key]))
        exact = "(" not in expected
        off = np.abs(value.astype(float) - wanted)
        assert (off <= (0 if exact else ulp)).all(), (key, off.max())


def test_block_weights_stand_where_a_number_stands(merge: Merge) -> None:
    table: Mapping[str, str] = {"keep": "ties", "p": "drop", "t": "slerp", "z": "iso_z"}
    for option, name in table.items():
        plain = call(name, **{option: "0.25"})
        blocks = call(name, **{option: "components(model=0.25)"})
        assert same(merge(plain), merge(blocks))
