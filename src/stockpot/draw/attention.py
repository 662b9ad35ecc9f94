"""Emphasis in prompts, as web UIs write it: ``(x)``, ``(x:1.2)``, ``[x]``, ``BREAK``, ``AND``.

Plain functions from text to text with weights; nothing here knows of tokens. Any text is a prompt:
what is no grammar is drawn as the characters that it is, as A1111 does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["BREAK", "Emphasised", "parse_attention", "split_and"]

BREAK = "BREAK"
"""The word that ends a chunk."""

_MORE = 1.1
_PIECE = re.compile(
    r"\\[()\[\]\\]?"  # a backslash, and the bracket that it protects
    r"|[(\[]"
    r"|:\s*(?P<weight>[+-]?[.\d]+)\s*\)"
    r"|[)\]:]"
    r"|[^\\()\[\]:]+"
)
_BREAKS = re.compile(r"\s*\bBREAK\b\s*")
_AND = re.compile(r"\bAND\b")
_AND_WEIGHT = re.compile(r"\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*$")


@dataclass(frozen=True, slots=True)
class Emphasised:
    """A run of a prompt with one weight.

    Attributes:
        text: The characters, brackets and escapes resolved.
        weight: What the text encoder's output is multiplied by; 1 for plain text.
        ends_chunk: Whether this is no text but the word ``BREAK``.
    """

    text: str
    weight: float = 1.0
    ends_chunk: bool = False


def parse_attention(prompt: str) -> tuple[Emphasised, ...]:
    """Resolve brackets to weights.

    ``(x)`` multiplies by 1.1, ``[x]`` divides by 1.1, ``(x:w)`` multiplies by w; nested brackets
    multiply. A bracket that is never closed holds until the end. A backslash makes the bracket
    behind it a character; alone it vanishes. ``BREAK`` counts only outside of brackets: inside
    them A1111 weighs it like a word, and then it is one.

    Args:
        prompt: One prompt, without schedules (see `stockpot.draw.schedule_prompt`).

    Returns:
        Runs of text, neighbours with equal weights joined; never empty.

    Example:
        >>> [(run.text, round(run.weight, 4)) for run in parse_attention("a (b:1.5) [[c]]")]
        [('a ', 1.0), ('b', 1.5), (' ', 1.0), ('c', 0.8264)]
    """
    texts: list[str] = []
    weights: list[float] = []
    rounds: list[int] = []
    squares: list[int] = []

    def weigh(start: int, factor: float) -> None:
        for i in range(start, len(weights)):
            weights[i] *= factor

    for found in _PIECE.finditer(prompt):
        piece = found.group()
        weight = _number(found.group("weight"))
        if piece.startswith("\\"):
            _append(texts, weights, piece[1:])
        elif piece == "(":
            rounds.append(len(texts))
        elif piece == "[":
            squares.append(len(texts))
        elif weight is not None and rounds:
            weigh(rounds.pop(), weight)
        elif piece == ")" and rounds:
            weigh(rounds.pop(), _MORE)
        elif piece == "]" and squares:
            weigh(squares.pop(), 1 / _MORE)
        else:
            for i, part in enumerate(_BREAKS.split(piece)):
                if i:
                    texts.append(BREAK)
                    weights.append(-1.0)
                _append(texts, weights, part)
    for start in rounds:
        weigh(start, _MORE)
    for start in squares:
        weigh(start, 1 / _MORE)
    return _joined(texts, weights)


def split_and(prompt: str) -> tuple[tuple[str, float], ...]:
    """Split a prompt at ``AND`` into parts that are drawn at once, each with its weight.

    Args:
        prompt: Such as ``a cat AND a dog :0.5``.

    Returns:
        Each part's text and weight; the weight is the number behind its last colon, else 1.
        Source: Liu et al., Compositional Visual Generation with Composable Diffusion Models
        (2206.01714).

    Example:
        >>> split_and("a cat AND a dog :0.5")
        (('a cat', 1.0), (' a dog', 0.5))
    """
    parts = []
    for part in _AND.split(prompt):
        found = _AND_WEIGHT.search(part)
        if found is None:
            parts.append((part.rstrip(), 1.0))
        else:
            parts.append((part[: found.start()], float(found.group(1))))
    return tuple(parts)


def _append(texts: list[str], weights: list[float], text: str) -> None:
    texts.append(text)
    weights.append(1.0)


def _number(text: str | None) -> float | None:
    """What a weight says; digits and points that make no number are text."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _joined(texts: list[str], weights: list[float]) -> tuple[Emphasised, ...]:
    runs: list[Emphasised] = []
    for text, weight in zip(texts, weights, strict=True):
        if text == BREAK and weight == -1.0:
            runs.append(Emphasised(text, 1.0, ends_chunk=True))
        elif runs and runs[-1].weight == weight and not runs[-1].ends_chunk:
            runs[-1] = Emphasised(runs[-1].text + text, weight)
        else:
            runs.append(Emphasised(text, weight))
    return tuple(runs) or (Emphasised(""),)
