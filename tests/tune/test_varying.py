"""Templates of prompts, through the exams that hold them: what is picked is in the list."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from stockpot.errors import RequestError
from stockpot.tune import read_exam

LISTS = {"place": ["rain", "{deep|} snow"], "deep/er": ["__place__", "sun"]}
WORDS = st.sampled_from(["red", "blue cat", ", ", "(x:1.2)", "__place__", "__deep/er__", "[a|b]"])
TEMPLATES = st.recursive(
    WORDS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda some: "{" + "|".join(some) + "}"),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: "{2$$" + "|".join(some) + "}"),
        st.lists(inner, min_size=1, max_size=3).map("".join),
    ),
    max_leaves=5,
)


def prompts(folder: Path, kind: str, prompt: str, n: int) -> list[str]:
    path = folder / "p.json"
    path.write_text(json.dumps({"prompt": prompt, "seed": 1, "n_iter": n, "wildcard_type": kind}))
    return [task.request.prompt for task in read_exam([path], lists=LISTS).tasks]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TEMPLATES)
def test_what_is_picked_is_one_of_the_combinations(tmp_path: Path, template: str) -> None:
    listed = prompts(tmp_path, "combinatorial", template, 60)
    assume(len(listed) < 60)
    picked = prompts(tmp_path, "random", template, 8)
    # Those that are taken together may be picked in any order.
    letters = {"".join(sorted(prompt)) for prompt in listed}
    assert {"".join(sorted(prompt)) for prompt in picked} <= letters
    assert not any(c in prompt for prompt in listed + picked for c in "{}$") and "__" not in listed


def test_weights_ranges_and_separators(tmp_path: Path) -> None:
    found = Counter(prompts(tmp_path, "random", "{9::red|1::blue|0::green}", 400))
    assert found["green"] == 0 and 320 < found["red"] < 390
    assert set(prompts(tmp_path, "random", "{1-2$$ and $$a|b}", 60)) == {
        "a", "b", "a and b", "b and a",
    }  # fmt: skip
    assert prompts(tmp_path, "combinatorial", "{2-$$+$$a|b|c}", 9) == ["a+b", "a+c", "b+c", "a+b+c"]
    assert prompts(tmp_path, "combinatorial", "{-1$$a|b}", 9) == ["", "a", "b"]
    assert prompts(tmp_path, "random", "{2$$0::a|0::b}", 1)[0] in ("a, b", "b, a")


@pytest.mark.parametrize("kind", ["random", "combinatorial"])
def test_errors_come_before_the_first_picture(tmp_path: Path, kind: str) -> None:
    """Also those of options that no seed has picked yet."""
    LISTS["loop"] = ["fine", "__pool__"]
    LISTS["pool"] = ["fine", "{0::__loop__|fine}"]
    with pytest.raises(RequestError, match="__loop__: a list may not call itself"):
        prompts(tmp_path, kind, "{fine|__loop__}", 1)
    with pytest.raises(RequestError, match="__none__: no list has this name"):
        prompts(tmp_path, kind, "{1::fine|0::__none__}", 1)
    with pytest.raises(RequestError, match="nested 20 deep"):
        prompts(tmp_path, kind, "{" * 30 + "a" + "}" * 30, 1)
    with pytest.raises(RequestError, match=r"\{3\$\$a\|b\}: of 2 options 3 to 3 cannot be taken"):
        prompts(tmp_path, kind, "{{3$$a|b}|c}", 1)
