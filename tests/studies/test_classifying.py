"""Classifiers of what pictures show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import RequestError
from stockpot.scores import Contrast, make_scorer
from stockpot.studies import read_concepts, scorer_classifier, zoo_classifier
from stockpot.zoo.shapes import COLOURS


def test_the_zoos_judge_knows_its_world() -> None:
    judge = zoo_classifier()
    assert judge.known is not None
    pictures, shown = judge.known(64, 1)
    rows = judge.look(pictures)
    for name, words in judge.concepts.items():
        drawn = [words[i] for i in rows[name].argmax(axis=1)]
        assert np.mean([a == one[name] for a, one in zip(drawn, shown, strict=True)]) > 0.9
        assert np.allclose(np.exp(rows[name]).sum(axis=1), 1)
    asked = judge.asked("(glossy:1.2) art, a large red heart, blue <lora:navy:1>")
    # Two colours are none, and a LoRA's name is no word.
    assert asked == {"style": "glossy", "size": "large", "shape": "heart"}


def test_any_scorer_that_reads_prompts_tells_words_apart() -> None:
    judge = zoo_classifier()
    assert judge.known is not None
    pictures, shown = judge.known(16, 2)
    own = scorer_classifier(make_scorer("clip"), {"colour": tuple(COLOURS)})
    rows = own.look(pictures)
    right = [tuple(COLOURS)[i] == one["colour"]
             for i, one in zip(rows["colour"].argmax(axis=1), shown, strict=True)]  # fmt: skip
    assert np.mean(right) > 0.7
    assert not own.sure and own.known is None


def test_a_scorer_that_reads_no_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="reads prompts"):
        scorer_classifier(Contrast(), {"colour": ("red", "blue")})


def test_concepts_are_read_and_phrases_found(tmp_path: Path) -> None:
    file = tmp_path / "concepts.yaml"
    file.write_text("hair: [long hair, short hair]\nplace: [sea, forest]\n")
    concepts = read_concepts(file)
    assert concepts == {"hair": ("long hair", "short hair"), "place": ("sea", "forest")}
    judge = scorer_classifier(make_scorer("clip"), concepts)
    assert judge.asked("Long_hair, seaside, (forest:1.1)") == {"hair": "long hair",
                                                               "place": "forest"}  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "[red, blue]", "colour: red", "colour: [red]", "colour: [red, red]",
             "colour: [red, 3]", "a: {b", "\x00"],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "concepts.yaml"
    file.write_text(text)
    with pytest.raises(RequestError, match=r"concepts\.yaml"):
        read_concepts(file)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        read_concepts(tmp_path / "none.yaml")
