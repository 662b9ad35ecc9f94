"""What a picture shows, by a classifier: the zoo's judge, or any scorer that reads prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stockpot.errors import Problem, RequestError
from stockpot.recipes import read_small_yaml
from stockpot.scores import AttributeJudge, Picture, Scorer, plain_prompt
from stockpot.zoo.shapes import ATTRIBUTES, Scene, render

__all__ = ["Classifier", "Concepts", "read_concepts", "scorer_classifier", "zoo_classifier"]

Doubles = npt.NDArray[np.float64]
Concepts = Mapping[str, tuple[str, ...]]
"""By attribute, such as colour, the words that exclude each other."""


@dataclass(frozen=True)
class Classifier:
    """Says which word of each attribute a picture shows.

    Attributes:
        name: What to call it.
        concepts: Words by attribute.
        asked: From a prompt to the word of each attribute that it names; an attribute of which it
            names two is left out.
        look: From pictures to logarithms of probabilities by attribute, float64 `[n, n_words]`.
        sure: Whether these are probabilities, so that one can say how sure it is, or only ranks.
        known: From a number and a seed to so many pictures and what they truly show; None where
            there are none, and the classifier's own errors stay unknown.
    """

    name: str
    concepts: Concepts
    asked: Callable[[str], Mapping[str, str]]
    look: Callable[[Sequence[Picture]], Mapping[str, Doubles]]
    sure: bool = False
    known: Callable[[int, int], tuple[list[Picture], list[Mapping[str, str]]]] | None = None


def zoo_classifier() -> Classifier:
    """The zoo's judge, which reads five attributes; its errors are known from rendered scenes.

    Raises:
        stockpot.zoo.ZooNotInstalled: The zoo is not installed.

    Example:
        >>> judge = zoo_classifier()
        >>> pictures, shown = judge.known(2, 0)
        >>> words = judge.look(pictures)["colour"].argmax(axis=1)
        >>> [judge.concepts["colour"][i] for i in words] == [one["colour"] for one in shown]
        True
    """
    judge = AttributeJudge()

    def asked(prompt: str) -> Mapping[str, str]:
        return _one_each(ATTRIBUTES, plain_prompt(prompt))

    def known(n: int, seed: int) -> tuple[list[Picture], list[Mapping[str, str]]]:
        rng = np.random.default_rng(seed)
        pictures: list[Picture] = []
        shown: list[Mapping[str, str]] = []
        for _ in range(n):
            words = {name: str(rng.choice(each)) for name, each in ATTRIBUTES.items()}
            pictures.append(render(Scene(**words), rng))
            shown.append(words)
        return pictures, shown

    def look(pictures: Sequence[Picture]) -> Mapping[str, Doubles]:
        return judge.log_probabilities(list(pictures))

    return Classifier("the zoo's judge", ATTRIBUTES, asked, look, True, known)


def scorer_classifier(scorer: Scorer, concepts: Concepts) -> Classifier:
    """Make a classifier of a scorer: of an attribute's words the one that scores best is shown.

    That is zero-shot classification (Radford et al., 2103.00020), with any scorer that reads
    prompts in CLIP's place. Its probabilities mean nothing beyond their order.

    Args:
        scorer: Such as ``clip`` or ``pickscore``.
        concepts: Words, or short descriptions, by attribute.

    Raises:
        RequestError: The scorer does not read prompts.
    """
    if not scorer.uses_prompt:
        raise RequestError(
            [Problem("scorer", "what pictures show is asked of a scorer that reads prompts, but "
                     "this one does not", scorer.name, "name another one with --score")]
        )  # fmt: skip

    def look(pictures: Sequence[Picture]) -> Mapping[str, Doubles]:
        found = {}
        for name, words in concepts.items():
            rows = np.stack([np.asarray(scorer.score(list(pictures), [word] * len(pictures)))
                             for word in words], axis=1)  # fmt: skip
            rows -= rows.max(axis=1, keepdims=True)
            found[name] = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        return found

    return Classifier(
        scorer.name, concepts, lambda prompt: _one_each(concepts, plain_prompt(prompt)), look
    )


def read_concepts(file: Path) -> Concepts:
    """Read a file of concepts.

    Args:
        file: YAML or JSON: by attribute a list of two words or more, such as
            ``character: [miku, haruhi]``.

    Returns:
        Words by attribute.

    Raises:
        RequestError: It cannot be read, or says something else.
    """
    value = read_small_yaml(file, "concepts")
    problems = []
    if not isinstance(value, dict) or not value:
        value = {}
        problems.append(_wrong(file, "", "a file of concepts has attributes, each with words"))
    found: dict[str, tuple[str, ...]] = {}
    for name, words in value.items():
        good = isinstance(words, list) and all(isinstance(w, str) and w.strip() for w in words)
        if not isinstance(name, str) or not good or len(set(words)) < 2 or \
                len(set(words)) != len(words):  # fmt: skip
            problems.append(_wrong(file, str(name), "an attribute is a list of two different "
                                   "words or more"))  # fmt: skip
        else:
            found[name] = tuple(words)
    if problems:
        raise RequestError(problems)
    return found


def _wrong(file: Path, where: str, rule: str) -> Problem:
    return Problem("concepts", rule, f"{file}: {where}" if where else str(file))


def _one_each(concepts: Concepts, text: str) -> dict[str, str]:
    """Words of a text; an attribute of which it names two says nothing."""
    said = _plain(text)
    found = {}
    for name, words in concepts.items():
        there = [word for word in words if f" {_plain(word)} " in f" {said} "]
        if len(there) == 1:
            found[name] = there[0]
    return found


def _plain(word: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in word.lower()).split())
