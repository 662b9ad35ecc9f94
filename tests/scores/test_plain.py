"""Prompts without their syntax, by hand and by law."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.scores import plain_prompt

DATA = Path(os.environ.get("STOCKPOT_DATA", "../shared/data"))

CASES = {
    "a cat": "a cat",
    "": "",
    "(cat)": "cat",
    "((cat:1.3)), [[dog]]": "cat, dog",
    "(comic:0), (boy:-0.5), cat": "cat",
    "((solo:0), cat:1.2)": "cat",
    "((cat:1.2), solo:0), dog": "dog",
    "(cat:.5)": "cat",
    "(cat:1.2.3)": "cat:1.2.3)",
    r"\(cat\) \[dog\] c\\d": r"(cat) [dog] c\d",
    "a <lora:ink:0.8> b <hypernet:x:1>": "a b",
    "a < b > c": "a < b > c",
    "cat BREAK dog": "cat, dog",
    "BREAKFAST": "BREAKFAST",
    "cat AND dog": "cat, dog",
    "cat AND dog :0.5 AND rain :-1 AND sun :0": "cat, dog",
    "ANDROID": "ANDROID",
    "[cat:dog:0.5] sits": "cat, dog sits",
    "[dog:9]": "dog",
    "[cat::0.3]": "cat",
    "[cat|dog|cow]": "cat, dog, cow",
    "[(cat:1.2):dog:10]": "cat, dog",
    "[a: b]": "a: b",
    "time 12:30, (ratio 16:9)": "time 12:30, ratio 16",
    "cat | dog": "cat | dog",
    "cat,, ,dog ,": "cat, dog",
    "  a \n b\t": "a b",
    "((cat": "cat",
    "cat)) dog]": "cat)) dog]",
}


@pytest.mark.parametrize("prompt", CASES)
def test_by_hand(prompt: str) -> None:
    assert plain_prompt(prompt) == CASES[prompt]


@given(st.lists(st.sampled_from(["cat", "red", "in the rain", "1.5", ",", " "]), max_size=8))
def test_plain_text_stays(parts: list[str]) -> None:
    text = " ".join(parts)
    assert re.findall(r"[\w.]+", plain_prompt(text)) == re.findall(r"[\w.]+", text)
    assert plain_prompt(plain_prompt(text)) == plain_prompt(text)


@given(st.text(alphabet="ab ()[]\\:|.,0<>ANDBREK-1", max_size=40))
def test_any_text_is_a_prompt(text: str) -> None:
    plain = plain_prompt(text)
    assert plain == " ".join(plain.split())
    assert len(plain) <= 2 * len(text) + 2


def test_deep_nesting_is_quick() -> None:
    start = time.perf_counter()
    plain_prompt("[" * 3000 + "a" + ":b:1]" * 3000 + "(" * 3000 + ":0)" * 3000)
    assert time.perf_counter() - start < 10


@pytest.mark.skipif(not DATA.is_dir(), reason="STOCKPOT_DATA is absent")
def test_the_author_s_payloads_ask_for_their_subject() -> None:
    said = json.loads((DATA / "payloads" / "sd1_russia.json").read_text(encoding="utf-8"))
    payload = said if isinstance(said, dict) else said[0]
    assert plain_prompt(payload["prompt"]) == "ushanka, braid, astolfo, moscow, russia"
