"""What every scorer must do, whoever wrote it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.errors import ScorerError
from stockpot.scores import (
    SCORERS,
    CallableScorer,
    CommandScorer,
    HumanChoice,
    Hybrid,
    Question,
    Scale,
    Scorer,
    Setting,
    UnreadPromptWarning,
    make_scorer,
)

MEAN_OF_FILES = """
import sys
from PIL import Image
for line in sys.stdin:
    path, prompt = line.rstrip("\\n").split("\\t")
    grey = Image.open(path).convert("L")
    print(sum(grey.tobytes()) / (grey.width * grey.height) + len(prompt))
"""


class Brightest:
    """A person who likes bright pictures."""

    def ask(self, question: Question) -> float | None:
        left, right = question.left.mean(), question.right.mean()
        return 0.5 if left == right else float(left > right)

    def close(self) -> None:
        pass


OTHERS: dict[str, Callable[[Setting], Scorer]] = {
    "callable": lambda _: CallableScorer("mean", lambda ps, ts: [p.mean() for p in ps]),
    "command": lambda _: CommandScorer([sys.executable, "-c", MEAN_OF_FILES], batch_size=3),
    "hybrid": lambda setting: Hybrid.from_scales(
        [(make_scorer("contrast"), 0.7), (make_scorer("hpsv2", setting), -0.3)],
        {"contrast": Scale(0.2, 0.1), "hpsv2": Scale(0.0, 0.5)},
    ),
}


@pytest.fixture(scope="module", params=[*sorted(SCORERS), *sorted(OTHERS)])
def scorer(
    request: pytest.FixtureRequest, originals: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scorer]:
    name = request.param
    setting = Setting(folder=originals.folder)
    if name == "human":
        answers = tmp_path_factory.mktemp("human") / "answers.jsonl"
        yield HumanChoice(answers, open_asker=Brightest, rounds=10)
    elif name in OTHERS:
        yield OTHERS[name](setting)
    else:
        yield make_scorer(name, setting)


pytestmark = pytest.mark.filterwarnings("ignore::stockpot.scores.UnreadPromptWarning")
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture
def asked(scorer: Scorer, prompts: list[str]) -> list[str]:
    """A person compares pictures of one prompt only."""
    return prompts if scorer.pointwise else ["a red circle"] * len(prompts)


def test_one_finite_float64_a_picture(
    scorer: Scorer, pictures: list[np.ndarray], asked: list[str]
) -> None:
    scores = scorer.score(pictures, asked)
    assert scores.dtype == np.float64 and scores.shape == (5,) and np.isfinite(scores).all()
    assert np.ptp(scores) > 0
    assert scorer.name and scorer.range


def test_the_order_of_pictures_does_not_matter(
    scorer: Scorer, pictures: list[np.ndarray], asked: list[str]
) -> None:
    scores = scorer.score(pictures, asked)
    order = [3, 0, 4, 2, 1]
    again = scorer.score([pictures[i] for i in order], [asked[i] for i in order])
    np.testing.assert_allclose(again, scores[order], **TOLERANCE)


def test_pictures_do_not_depend_on_each_other(
    scorer: Scorer, pictures: list[np.ndarray], asked: list[str]
) -> None:
    if not scorer.pointwise:
        with pytest.raises(ScorerError, match="no two of these have the same"):
            scorer.score(pictures[:1], asked[:1])
        return
    whole = scorer.score(pictures, asked)
    alone = [scorer.score(pictures[i : i + 1], asked[i : i + 1])[0] for i in range(5)]
    np.testing.assert_allclose(alone, whole, **TOLERANCE)


def test_the_size_of_batches_does_not_matter(
    scorer: Scorer, pictures: list[np.ndarray], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scorer.score(pictures, asked)
    monkeypatch.setattr(scorer, "batch_size", 2)
    np.testing.assert_allclose(scorer.score(pictures, asked), whole, **TOLERANCE)


def test_the_same_picture_gets_the_same_score(
    scorer: Scorer, pictures: list[np.ndarray], asked: list[str]
) -> None:
    twice = scorer.score([pictures[1], pictures[0], pictures[1]], [asked[0]] * 3)
    assert abs(twice[0] - twice[2]) <= 2e-5 * max(1, abs(twice[0]))
    assert np.array_equal(scorer.score(pictures, asked), scorer.score(pictures, asked))


def test_inputs_stay_as_they_are(
    scorer: Scorer, pictures: list[np.ndarray], asked: list[str]
) -> None:
    before, texts = [picture.copy() for picture in pictures], list(asked)
    for picture in pictures:
        picture.flags.writeable = False
    try:
        scorer.score(pictures, asked)
    finally:
        for picture in pictures:
            picture.flags.writeable = True
    assert all(np.array_equal(a, b) for a, b in zip(before, pictures, strict=True))
    assert texts == asked


def test_an_array_is_a_list_of_pictures(
    scorer: Scorer, pictures: list[np.ndarray], asked: list[str]
) -> None:
    same = [picture[:40, :40] for picture in pictures]
    from_list = scorer.score(same, asked)
    np.testing.assert_allclose(scorer.score(np.stack(same), asked), from_list, **TOLERANCE)


def test_no_pictures(scorer: Scorer) -> None:
    assert scorer.score(np.zeros((0, 32, 32, 3), dtype=np.uint8), []).shape == (0,)
    assert scorer.score([], []).shape == (0,)


def test_prompt_syntax_is_stripped(scorer: Scorer, pictures: list[np.ndarray]) -> None:
    decorated = ["(comic:0), ((a red circle:1.2)) <lora:ink:0.8> BREAK on [white] background"] * 2
    plain = ["a red circle, on white background"] * 2
    expected = scorer.score(pictures[:2], score_prompts=plain)
    assert np.array_equal(scorer.score(pictures[:2], decorated), expected)
    # A score prompt is taken word for word, whatever the prompt is.
    mixed = scorer.score(pictures[:2], decorated, score_prompts=[plain[0], None])
    np.testing.assert_allclose(mixed, expected, **TOLERANCE)


def test_prompts_may_be_left_out_where_nobody_looks_at_them(
    scorer: Scorer, pictures: list[np.ndarray]
) -> None:
    if scorer.uses_prompt:
        with pytest.raises(ScorerError, match="needs a prompt for each picture, but got none"):
            scorer.score(pictures)
    else:
        assert np.isfinite(scorer.score(pictures)).all()


def test_wrong_inputs_are_told(scorer: Scorer, pictures: list[np.ndarray]) -> None:
    good = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    for images, said in (
        (np.zeros((1, 4, 4, 3)), r"must be uint8 RGB .* float64 \[1, 4, 4, 3\]"),
        (np.zeros((4, 4, 3), np.uint8), r"but got uint8 \[4, 4, 3\]"),
        ([np.zeros((4, 4, 4), np.uint8)], r"but got uint8 \[4, 4, 4\]"),
        ([np.zeros((0, 4, 3), np.uint8)], r"but got uint8 \[0, 4, 3\]"),
        (["a.png"], "but got str"),
    ):
        with pytest.raises(ScorerError, match=said):
            scorer.score(images, ["a red circle"])  # type: ignore[arg-type]
    with pytest.raises(ScorerError, match="one prompt a picture: 1 and 2"):
        scorer.score(good, ["a", "b"])
    with pytest.raises(ScorerError, match="one score prompt a picture, or None: 1 and 2"):
        scorer.score(good, ["a"], score_prompts=["b", None])


@pytest.mark.filterwarnings("error::stockpot.scores.UnreadPromptWarning")
def test_what_is_not_read_of_a_prompt_is_told(
    scorer: Scorer, pictures: list[np.ndarray], asked: list[str]
) -> None:
    long = "a red circle " * 40 + "tail"
    left_out = scorer.read(long).left_out
    if left_out:
        assert left_out.endswith("tail") or scorer.name == "imagereward" or "[UNK]" in left_out
        with pytest.warns(UnreadPromptWarning, match=f"{scorer.name} does not see the end"):
            scorer.score(pictures[:2], [long, long])
    else:
        scorer.score(pictures[:2], [long, long])
    assert scorer.read("a star").left_out == ""


def test_what_breaks_the_contract_is_told(pictures: list[np.ndarray]) -> None:
    def given(answer: Any) -> Callable[[Any, Any], Any]:
        return lambda pictures, texts: answer

    for answer, said in (
        ([1.0], r"one number a picture, 5 of them, but gave the shape \[1\]"),
        ([1.0, 2.0, float("nan"), 4.0, 5.0], r"finite numbers, but gave nan for picture 2"),
        ([1, 2, 3, 4, float("inf")], "but gave inf for picture 4"),
        (["a"] * 5, "must give a list of numbers"),
        (None, "must give a list of numbers, but gave NoneType"),
        ("12345", "must give a list of numbers, but gave str"),
        ([[1.0]] * 5, r"but gave the shape \[5, 1\]"),
    ):
        with pytest.raises(ScorerError, match=f"bad {said}|bad must.*{said}"):
            CallableScorer("bad", given(answer)).score(pictures, ["x"] * 5)


def test_a_failing_callable_is_named(pictures: list[np.ndarray]) -> None:
    def fail(pictures: Any, texts: Any) -> Any:
        raise ZeroDivisionError("oh")

    with pytest.raises(ScorerError, match="bad failed: ZeroDivisionError: oh"):
        CallableScorer("bad", fail).score(pictures, ["x"] * 5)


def test_a_callable_cannot_change_pictures(pictures: list[np.ndarray]) -> None:
    def spoil(pictures: Any, texts: Any) -> Any:
        for picture in pictures:
            picture[:] = 0
        texts.clear()
        return [0.0] * len(pictures)

    before, texts = [picture.copy() for picture in pictures], ["x"] * 5
    CallableScorer("bad", spoil).score(pictures, texts)
    assert all(np.array_equal(a, b) for a, b in zip(before, pictures, strict=True))
    assert texts == ["x"] * 5


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_the_table_is_right(name: str) -> None:
    kind = SCORERS[name]
    assert kind.name == name
    keys = [need.key for need in kind.needs]
    assert len(keys) == len(set(keys))
    for need in kind.needs:
        assert not Path(need.path).is_absolute() and need.source.startswith("https://")
