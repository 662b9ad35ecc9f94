"""Each rule of lint: what it finds, and what it leaves alone."""

from __future__ import annotations

import pytest

from stockpot.recipes import Finding, PoolEntry, Recipe, Save, lint, make_recipe, parse_recipe
from stockpot.recipes.importers import import_text
from stockpot.recipes.linting import RULES

POOL = {name: f"{name}.ckpt" for name in "abcd"} | {"base": "sd_xl_base_1.0.safetensors"}
SHA = "0" * 64


def found(recipe: Recipe, **options: object) -> dict[str, Finding]:
    """Findings by code."""
    return {f.code: f for f in lint(recipe, **options)}  # type: ignore[arg-type]


def of(mix: str, **let: str) -> dict[str, Finding]:
    """Findings of a recipe over the test pool, but for unused entries."""
    return {c: f for c, f in found(make_recipe(mix, POOL, let=let)).items() if c != "unused-input"}


def test_nothing_to_say() -> None:
    assert lint(make_recipe("mean(pool)", {"a": "a.ckpt", "b": "b.ckpt"})) == []
    assert of("lerp(a, b, 0.25)") == of("add_difference(a, b, c, 0.7)") == {}


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (PoolEntry("./X/a.ckpt"), "duplicate-file"),
        (PoolEntry("b.ckpt", hash="h", sha256=SHA), "duplicate-content"),
        (PoolEntry("_x07-other.ckpt"), "duplicate-name"),
    ],
)
def test_duplicates(second: PoolEntry, code: str) -> None:
    pool = {"a": PoolEntry("x/a.ckpt", sha256=SHA), "o": PoolEntry("_x03-other.ckpt"), "b": second}
    finding = found(make_recipe("mean(pool)", pool))[code]
    assert finding.where == "pool.b" and "twice" in finding.message and finding.fix
    short = {"a": PoolEntry("_202a-202te.ckpt"), "b": PoolEntry("_204a-202te.ckpt")}
    assert not found(make_recipe("mean(pool)", short))


def test_bases_and_self_deltas() -> None:
    assert not of('ties(base, a, b, c, elect="count")')
    finding = of('ties(d, a, b, c, elect="count")')["base-not-base"]
    assert "3 deltas are taken against 'd'" in finding.message
    assert "the result of a step" in of("a + (b - x) + (c - x) + (d - x)", x="2*a - b")[
        "base-not-base"
    ].message  # fmt: skip
    assert "votes as such" in of('ties(base, a, base, elect="count")')["self-delta"].message
    assert "self-delta" in of("a + (b - b)") and "self-delta" in of("add_difference(a, b, b, 1)")


@pytest.mark.parametrize(
    ("ratio", "meant"),
    [("0.333", "1/3"), ("0.143", "1/7"), ("0.67", "2/3"), ("0.111", "1/9"), ("0.909", "10/11")],
)
def test_rounded_ratios(ratio: str, meant: str) -> None:
    finding = of(f"lerp(a, b, {ratio})")["rounded-ratio"]
    assert f"from {meant}," in finding.message and finding.fix == f"write {meant}"


@pytest.mark.parametrize("ratio", ["0.5", "0.25", "0.3", "0.45", "1/3", "0.7", "1", "0", "2.01"])
def test_ratios_that_are_what_they_say(ratio: str) -> None:
    assert "rounded-ratio" not in of(f"lerp(a, b, {ratio})")


def test_holes_outputs_and_unused_inputs() -> None:
    pool = {"a": PoolEntry("a.ckpt"), "h": PoolEntry("", unknown="parent of x"),
            "o": PoolEntry("old/out.ckpt"), "p": PoolEntry("x9a-Mix-24051501-29bac1a.safetensors"),
            "z": PoolEntry("z.ckpt")}  # fmt: skip
    recipe = make_recipe("mean(a, h, o, p) + 0*z", pool, let={"y": "a"}, save=Save("out.ckpt"))
    findings = lint(recipe)
    by_place = {(f.code, f.where): f.message for f in findings}
    assert "the parent of x is" in by_place["unknown-parent", "pool.h"]
    assert "which this recipe makes" in by_place["own-output", "pool.o"]
    assert "earlier merge of the series" in by_place["own-output", "pool.p"]
    assert "with a share other than 0" in by_place["unused-input", "pool.z"]
    assert ("unused-input", "let.y") in by_place


def test_predictions() -> None:
    pool = {"a": "a.ckpt", "noob-vpred": "n.ckpt"}
    recipe = make_recipe("mean(pool)", pool)
    assert "as far as names tell" in found(recipe)["mixed-prediction"].message
    told = found(recipe, predictions={"a": "eps", "noob-vpred": "v"})["mixed-prediction"]
    assert told.message == "1 models predict v and 1 do not"
    assert "mixed-prediction" not in found(recipe, predictions={"a": "v"})


def test_means() -> None:
    exact = of("lerp(lerp(a, b, 1/2), c, 1/3)")["plain-mean"]
    assert "UNet of 3 models" in exact.message and "exactly" in exact.message
    near = of("lerp(lerp(a, b, 1/2), c, 0.333)")["near-mean"]
    assert "shares from 0.33300 to 0.33350 where a mean has 0.33333" in near.message
    assert "sum-not-one" in of("a + b")


def test_methods_that_changed_and_order() -> None:
    assert "how signs are elected" in of("ties(base, a, b)")["changed-meaning"].message
    nested = of("slerp(x, c, 0.5)", x="slerp(a, b, 0.5)")["order-dependence"]
    assert "depends on what came first" in nested.message


def test_places_are_lines_and_problems_of_folding_are_findings() -> None:
    text = "stockpot: 1\npool:\n  a: a.ckpt\n  b: a.ckpt\nmix:\n  te1: lerp(a, b, 0.33)\n"
    findings = lint(import_text(text, "r.yaml"))
    assert {f.where for f in findings} == {"r.yaml:4: pool.b", "r.yaml:6: mix.te1"}
    assert findings[0].to_json().keys() == {"code", "where", "message", "fix"}
    wrong = lint(parse_recipe(text), layout="sd1")
    assert wrong[0].code == "unknown-component"


def test_the_table_has_all_rules() -> None:
    assert len(RULES) == 13
