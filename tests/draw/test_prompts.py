"""The grammar of prompts: a table of cases whose weights were worked out by hand."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.draw import (
    fill_wildcards,
    parse_attention,
    replace_words,
    schedule_prompt,
    split_and,
    take_loras,
)

UP, DOWN = 1.1, 1 / 1.1

# Prompt, and its runs of text with their weights.
ATTENTION: list[tuple[str, list[tuple[str, float]]]] = [
    ("", [("", 1)]),
    ("plain text", [("plain text", 1)]),
    ("(x)", [("x", UP)]),
    ("((x))", [("x", UP**2)]),
    ("[x]", [("x", DOWN)]),
    ("[[x]]", [("x", DOWN**2)]),
    ("[[[[x]]]]", [("x", DOWN**4)]),
    ("([x])", [("x", 1)]),
    ("(x:1.2)", [("x", 1.2)]),
    ("(x:0)", [("x", 0)]),
    ("(x:.5)", [("x", 0.5)]),
    ("(x:2.)", [("x", 2)]),
    ("(x:-1.5)", [("x", -1.5)]),
    ("(x:+1.5)", [("x", 1.5)]),
    ("(x: 1.5 )", [("x", 1.5)]),
    ("(a b:1.5) c", [("a b", 1.5), (" c", 1)]),
    ("((x:1.5))", [("x", 1.65)]),
    ("((x:1.5):2)", [("x", 3)]),
    ("(a (b) c:2)", [("a ", 2), ("b", 2 * UP), (" c", 2)]),
    ("(a [b:x] c)", [("a ", UP), ("b:x", 1), (" c", UP)]),
    ("(a)(b)", [("ab", UP)]),
    ("(a) (b)", [("a", UP), (" ", 1), ("b", UP)]),
    ("(a:1.5)(b:1.5)", [("ab", 1.5)]),
    ("(open", [("open", UP)]),
    ("[open", [("open", DOWN)]),
    ("((a)", [("a", UP**2)]),
    ("a)", [("a)", 1)]),
    ("a]", [("a]", 1)]),
    ("a:1.5)", [("a:1.5)", 1)]),
    ("a:b", [("a:b", 1)]),
    (r"\(x\)", [("(x)", 1)]),
    (r"\[x\]", [("[x]", 1)]),
    (r"(\(x\))", [("(x)", UP)]),
    (r"(x\):1.5)", [("x)", 1.5)]),
    (r"a\\b", [(r"a\b", 1)]),
    (r"a\b", [("ab", 1)]),
    ("a\\", [("a", 1)]),
    ("(x:1.2.3)", [("x:1.2.3)", UP)]),
    ("(x:.)", [("x:.)", UP)]),
    ("(:1.5)", [("", 1)]),
    ("()", [("", 1)]),
    ("([a)]", [("a", 1)]),
    ("(a:1.5) (b:0.5) [c]", [("a", 1.5), (" ", 1), ("b", 0.5), (" ", 1), ("c", DOWN)]),
    ("a, (b:1.3), c", [("a, ", 1), ("b", 1.3), (", c", 1)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [("a ", 1), ("house", 1.3 * UP**2), (" ", UP), ("on", 1), (" a ", UP), ("hill", 0.55),
         (", sun, ", UP), ("sky", UP**4), (".", UP)],
    ),
    ("a BREAK b", [("a", 1), ("BREAK", None), ("b", 1)]),
    ("BREAK", [("", 1), ("BREAK", None), ("", 1)]),
    ("a BREAK BREAK b", [("a", 1), ("BREAK", None), ("", 1), ("BREAK", None), ("b", 1)]),
    ("(a) BREAK (b:2)", [("a", UP), ("", 1), ("BREAK", None), ("", 1), ("b", 2)]),
    # Inside brackets A1111 weighs the word, and then it is one.
    ("(a BREAK b)", [("a", UP), ("BREAK", -UP), ("b", UP)]),
    ("BREAKFAST", [("BREAKFAST", 1)]),
    ("break", [("break", 1)]),
    ("猫 (耳:1.2)", [("猫 ", 1), ("耳", 1.2)]),
    ("a\n(b)", [("a\n", 1), ("b", UP)]),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "expected"), ATTENTION, ids=[case[0] for case in ATTENTION])
def test_weights(prompt: str, expected: list[tuple[str, float | None]]) -> None:
    runs = parse_attention(prompt)
    got = [(run.text, None if run.ends_chunk else run.weight) for run in runs]
    kept = [run for run in got if run[0]] or got[:1]
    wanted = [run for run in expected if run[0]] or expected[:1]
    assert [text for text, _ in kept] == [text for text, _ in wanted]
    for (_, weight), (_, other) in zip(kept, wanted, strict=True):
        if kept[0][0] or len(kept) > 1:
            assert weight == pytest.approx(other)


SCHEDULES: list[tuple[str, int, list[tuple[int, str]]]] = [
    ("test", 10, [(10, "test")]),
    ("", 10, [(10, "")]),
    ("a [b:3]", 10, [(3, "a "), (10, "a b")]),
    ("a [b: 3 ]", 10, [(3, "a "), (10, "a b")]),
    ("a [b:.5] c", 10, [(5, "a  c"), (10, "a b c")]),
    ("[a:b:0.25]", 20, [(5, "a"), (20, "b")]),
    ("[a::4]", 10, [(4, "a"), (10, "")]),
    ("[:a:4]", 10, [(4, ""), (10, "a")]),
    ("a [[[b]]:2]", 10, [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", 10, [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", 10, [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", 10, [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [unbalanced", 10, [(10, "a [unbalanced")]),
    ("((a][:b:c [d:3]", 10, [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("[a|b]", 4, [(1, "a"), (2, "b"), (3, "a"), (4, "b")]),
    ("[a|b|c]", 4, [(1, "a"), (2, "b"), (3, "c"), (4, "a")]),
    ("[fe|]male", 3, [(1, "female"), (2, "male"), (3, "female")]),
    ("[a|(b:1.1)] c", 2, [(1, "a c"), (2, "(b:1.1) c")]),
    ("[[a|b]:c:2]", 4, [(1, "a"), (2, "b"), (4, "c")]),
    ("[a:b:30]", 10, [(10, "a")]),
    ("[a:b:0]", 10, [(10, "b")]),
    ("[a:b:-3]", 10, [(10, "b")]),
    ("[a:b:1.0]", 10, [(10, "a")]),
    ("[a:b:1]", 10, [(1, "a"), (10, "b")]),
    ("[a:b:c]", 10, [(10, "[a:b:c]")]),
    ("[a:b:c:3]", 10, [(10, "[a:b:c:3]")]),
    ("[a]", 10, [(10, "[a]")]),
    ("a | b [c:3]", 10, [(10, "a | b [c:3]")]),
    ("[a|b:3]", 10, [(10, "[a|b:3]")]),
    ("[c:3]\\", 10, [(10, "[c:3]\\")]),
    (r"\[a:b:3\]", 10, [(10, r"\[a:b:3\]")]),
    ("(a [b:c:5]:1.2)", 10, [(5, "(a b:1.2)"), (10, "(a c:1.2)")]),
    ("[a:b:2] [c:d:4]", 6, [(2, "a c"), (4, "b c"), (6, "b d")]),
]


@pytest.mark.parametrize(
    ("prompt", "steps", "expected"), SCHEDULES, ids=[case[0] for case in SCHEDULES]
)
def test_schedules(prompt: str, steps: int, expected: list[tuple[int, str]]) -> None:
    assert [(span.until, span.text) for span in schedule_prompt(prompt, steps)] == expected


def test_schedules_go_on_in_the_second_pass() -> None:
    def texts(prompt: str) -> list[tuple[int, str]]:
        return [(s.until, s.text) for s in schedule_prompt(prompt, 8, after_steps=20)]

    assert texts("[a:b:0.5]") == [(8, "b")]  # long over
    assert texts("[a:b:1.5]") == [(4, "a"), (8, "b")]
    assert texts("[a:b:22]") == [(2, "a"), (8, "b")]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("a cat AND a dog", [("a cat", 1), (" a dog", 1)]),
        ("a :1.5 AND b:-0.5", [("a", 1.5), (" b", -0.5)]),
        ("ANDROID and BAND", [("ANDROID and BAND", 1)]),
        ("(a:1.2) AND b", [("(a:1.2)", 1), (" b", 1)]),
        ("AND", [("", 1), ("", 1)]),
    ],
)
def test_and(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert list(split_and(prompt)) == expected


# The two styles of words in the payloads: emptied ones, and dampened ones.
def by_hand(prompt: str) -> list[tuple[str, float]]:
    """Weights of the payloads' words, from their form alone: `(x:w)`, `[x]`, `[[x]]`, `[[[[x]]]]`,
    joined by commas that have weight 1 outside of the brackets."""
    runs: list[tuple[str, float]] = []
    depth, word = 0, ""
    for part in prompt.replace("]]]], ", "]]]]\0").replace("]], ", "]]\0").replace(
        "], ", "]\0").replace("), ", ")\0").split("\0"):  # fmt: skip
        if runs:
            runs.append((", ", 1.0))
        if part.startswith("("):
            word, number = part[1:-1].rsplit(":", 1)
            runs.append((word, float(number)))
        else:
            depth = len(part) - len(part.lstrip("["))
            runs.append((part.strip("[]"), DOWN**depth))
    return runs


def test_payloads(data: Path) -> None:
    files = sorted((data / "payloads").glob("*.json"))
    assert len(files) == 7
    for file in files:
        payload = json.loads(file.read_text())
        for prompt in (payload["prompt"], payload["negative_prompt"]):
            got = [(run.text, run.weight) for run in parse_attention(prompt)]
            expected = by_hand(prompt)
            assert [text for text, _ in got] == [text for text, _ in expected]
            assert [w for _, w in got] == pytest.approx([w for _, w in expected])
            assert [span.text for span in schedule_prompt(prompt, 48)] == [prompt]
    russia = json.loads((data / "payloads" / "sd1_russia.json").read_text())["prompt"]
    assert dict((r.text, round(r.weight, 4)) for r in parse_attention(russia)) == {
        "aesthetic": 0.0, ", ": 1.0, "quality": 0.0, "solo": 0.0, "boy": 0.0, "ushanka": 0.98,
        "braid": 0.8264, "astolfo": 0.9091, "moscow, russia": 0.8264,
    }  # fmt: skip


GRAMMAR = st.text(st.sampled_from("ab ()[]:|\\,.0159-ANDBREK<>_é"), max_size=40)


@given(st.one_of(GRAMMAR, st.text(max_size=40)))
def test_odd_text_is_text(prompt: str) -> None:
    runs = parse_attention(prompt)
    assert runs
    spans = schedule_prompt(prompt, 7)
    assert spans[-1].until == 7
    assert [span.until for span in spans] == sorted({span.until for span in spans})
    assert split_and(prompt)
    take_loras(prompt)
    fill_wildcards(prompt, {"a": ["b"]}, 0)


@given(st.text(st.characters(exclude_characters="()[]:\\|", exclude_categories=("Cs",)),
               max_size=30))  # fmt: skip
def test_text_without_grammar_stays(prompt: str) -> None:
    if "BREAK" in prompt or "AND" in prompt:
        return
    assert [(run.text, run.weight) for run in parse_attention(prompt)] == [(prompt, 1.0)]
    assert [span.text for span in schedule_prompt(prompt, 3)] == [prompt]


def test_deep_nesting_ends() -> None:
    for deep in ("(" * 5000, "[" * 5000 + "a" + ":1]" * 5000, "[a|" * 3000, "[" * 300 + "]" * 300):
        assert parse_attention(deep)
        assert schedule_prompt(deep, 5)[-1].until == 5


@pytest.mark.parametrize(
    ("prompt", "text", "strengths", "others"),
    [
        ("a <lora:x:0.8> b", "a  b", [("x", 0.8, 0.8)], ()),
        ("<lora:x>", "", [("x", 1, 1)], ()),
        ("<lora:x:0.5:0.7>", "", [("x", 0.7, 0.5)], ()),
        ("<lora:x:te=0.5:unet=0.2>", "", [("x", 0.2, 0.5)], ()),
        ("<lora:x:unet=0.2>", "", [("x", 0.2, 1)], ()),
        ("<lora:x:-1><lora:y:0>", "", [("x", -1, -1), ("y", 0, 0)], ()),
        ("<lora:x:much>", "", [], ("<lora:x:much>",)),
        ("<hypernet:h:1>", "", [], ("<hypernet:h:1>",)),
        ("a < b > c", "a < b > c", [], ()),
    ],
)
def test_lora_tags(
    prompt: str, text: str, strengths: list[tuple[str, float, float]], others: tuple[str, ...]
) -> None:
    got, tags, rest = take_loras(prompt)
    assert (got, [(t.name, t.unet, t.te) for t in tags], rest) == (text, strengths, others)


def test_wildcards_follow_the_seed() -> None:
    lists = {"colour": ["red", "green", "blue"], "thing": ["__colour__ cat"], "loop": ["__loop__"]}
    filled = [fill_wildcards("a __thing__", lists, seed)[0] for seed in range(40)]
    assert set(filled) == {"a red cat", "a green cat", "a blue cat"}
    assert filled == [fill_wildcards("a __thing__", lists, seed)[0] for seed in range(40)]
    random.seed(0)  # nobody else's chance is touched
    assert fill_wildcards("__loop__", lists, 0) == ("__loop__", ())
    assert fill_wildcards("__none__ __colour__", {"colour": ["x"]}, 0) == ("__none__ x", ("none",))


def test_search_and_replace() -> None:
    assert replace_words("a red cat, red", "red", "blue") == "a blue cat, blue"
    with pytest.raises(ValueError, match="'green' is not in 'a red cat'"):
        replace_words("a red cat", "green", "blue")
