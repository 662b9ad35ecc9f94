"""Prompts without their syntax: what a scorer is asked about.

This is the one place where syntax is taken away. Drawing gives syntax its meaning (weights,
schedules, LoRAs) and never removes it; scoring needs the words only, so that nothing here knows
of tokens, steps or strengths.
"""

from __future__ import annotations

import re

__all__ = ["plain_prompt"]

_TAG = re.compile(r"<\w+:[^>]+>")
_AND = re.compile(r"\s*\bAND\b\s*")
_AND_WEIGHT = re.compile(r"\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*$")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_PIECE = re.compile(
    r"\\[()\[\]\\]?"
    r"|[(\[]"
    r"|:\s*(?P<weight>[+-]?[.\d]+)\s*\)"
    r"|[)\]:|]"
    r"|[^\\()\[\]:|]+"
)
_COMMAS = re.compile(r"\s*,(?:\s*,)*\s*")
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*")


def plain_prompt(prompt: str) -> str:
    """Take web UI syntax out of a prompt.

    Brackets of emphasis go and their words stay, unless the weight is 0 or less: ``(comic:0)``
    asks for nothing that could be seen. Tags such as ``<lora:ink:0.8>`` go. ``BREAK`` and ``AND``
    become commas; a part with a weight of 0 or less goes. Of schedules such as ``[cat:dog:0.5]``
    and ``[cat|dog]`` every alternative stays. Escaped brackets become brackets.

    Args:
        prompt: Any text.

    Returns:
        The words, runs of white space and of commas made one.

    Example:
        >>> plain_prompt("(solo:0), (astolfo:0.98), [[moscow, russia]] BREAK <lora:ink:1> 1.5 cats")
        'astolfo, moscow, russia, 1.5 cats'
        >>> plain_prompt(r"a [cat:dog:0.5] \\(cute\\) AND rain :-1")
        'a cat, dog (cute)'
    """
    parts = []
    for part in _AND.split(_TAG.sub("", prompt)):
        weight = _AND_WEIGHT.search(part)
        if weight is None:
            parts.append(_without_brackets(part))
        elif float(weight.group(1)) > 0:
            parts.append(_without_brackets(part[: weight.start()]))
    text = " ".join(", ".join(parts).split())
    return _COMMAS.sub(", ", text).strip(", ")


def _without_brackets(prompt: str) -> str:
    texts: list[str] = []
    kept: list[bool] = []
    rounds: list[int] = []
    squares: list[int] = []
    for found in _PIECE.finditer(prompt):
        piece = found.group()
        weight = _number(found.group("weight"))
        if piece.startswith("\\"):
            _append(texts, kept, piece[1:])
        elif piece == "(":
            rounds.append(len(texts))
        elif piece == "[":
            squares.append(len(texts))
        elif weight is not None and rounds:
            start = rounds.pop()
            if weight <= 0:
                kept[start:] = [False] * (len(kept) - start)
        elif piece == ")" and rounds:
            rounds.pop()
        elif piece == "]" and squares:
            _settle_schedule(texts, kept, squares.pop())
        elif piece == "|" and squares:
            _append(texts, kept, ", ")
        else:
            # Inside brackets `BREAK` is a word like others.
            _append(texts, kept, piece if rounds or squares else _BREAK.sub(", ", piece))
    return "".join(text for text, keep in zip(texts, kept, strict=True) if keep)


def _settle_schedule(texts: list[str], kept: list[bool], start: int) -> None:
    """Make `a:b:0.5` of one pair of square brackets `a, b`."""
    colons = [i for i in range(start, len(texts)) if texts[i] == ":"]
    if not colons or not _NUMBER.fullmatch("".join(texts[colons[-1] + 1 :])):
        return
    for i in range(colons[-1], len(texts)):
        kept[i] = False
    for i in colons[:-1]:
        texts[i] = ", "


def _append(texts: list[str], kept: list[bool], text: str) -> None:
    texts.append(text)
    kept.append(True)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
