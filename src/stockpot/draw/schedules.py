"""Prompts that change on the way: ``[a:b:0.5]``, ``[a::9]``, ``[a:9]``, ``[a|b]``.

A recursive descent over the grammar that web UIs use. What does not fit it stays text: a bracket
that is never closed, a colon outside of brackets; and with a ``|`` outside of brackets, or a lone
backslash at the end, nothing of a prompt is a schedule, as in A1111.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Span", "schedule_prompt"]

_PLAIN = re.compile(r"(?:[^\\\[\]():|]|\\.)+", re.DOTALL)
_WHEN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\]")
_DEEPEST = 60


@dataclass(frozen=True, slots=True)
class Span:
    """What a prompt says during some steps.

    Attributes:
        until: The last step, counted from 1, at which it is drawn.
        text: The prompt there; emphasis is still in it.
    """

    until: int
    text: str


@dataclass(frozen=True)
class _Switch:
    before: _Row
    after: _Row
    when: str


@dataclass(frozen=True)
class _Turns:
    options: tuple[_Row, ...]


_Row = tuple["str | _Switch | _Turns", ...]


def schedule_prompt(prompt: str, steps: int, *, after_steps: int | None = None) -> tuple[Span, ...]:
    """List what a prompt says at each step.

    ``[a:b:w]`` is a until w and b afterwards; with a decimal point w is a fraction of the steps,
    without one a step. ``[b:w]`` begins with nothing, ``[a::w]`` ends with nothing. ``[a|b]`` takes
    turns, a at the first step. Groups nest.

    Args:
        prompt: Any text.
        steps: How many steps are drawn, at least 1.
        after_steps: For the second pass of hires fix: the steps of the first. Steps then go on
            counting, and fractions from 1 to 2 speak of the second pass.

    Returns:
        Spans in order; the last one ends at `steps`. Neighbours with equal text are joined.

    Example:
        >>> [(span.until, span.text) for span in schedule_prompt("a [cat:dog:0.5]", 10)]
        [(5, 'a cat'), (10, 'a dog')]
    """
    row = _Parser(prompt).whole()
    if row is None:
        return (Span(steps, prompt),)
    ends = sorted({steps, *_ends(row, steps, after_steps)})
    spans: list[Span] = []
    for end in ends:
        text = _text(row, end, steps, after_steps)
        if spans and spans[-1].text == text:
            spans[-1] = Span(end, text)
        else:
            spans.append(Span(end, text))
    return tuple(spans)


class _Parser:
    """One prompt; every group is tried once, whatever surrounds it."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._groups: dict[int, tuple[_Row, int] | None] = {}

    def whole(self) -> _Row | None:
        row: list[str | _Switch | _Turns] = []
        at, depth = 0, 0
        while at < len(self._prompt):
            inner, at = self._row(at, depth)
            row += inner
            if at >= len(self._prompt):
                break
            if self._prompt[at] not in "[]():":
                return None
            row.append(self._prompt[at])
            at += 1
        return tuple(row)

    def _row(self, at: int, depth: int) -> tuple[_Row, int]:
        """As much as is plain text and whole groups, and where it ends."""
        row: list[str | _Switch | _Turns] = []
        while at < len(self._prompt):
            plain = _PLAIN.match(self._prompt, at)
            if plain:
                row.append(plain.group())
                at = plain.end()
                continue
            if self._prompt[at] not in "([" or depth >= _DEEPEST:
                break
            if at not in self._groups:
                self._groups[at] = self._group(at, depth + 1)
            group = self._groups[at]
            if group is None:
                break
            row += group[0]
            at = group[1]
        return tuple(row), at

    def _group(self, at: int, depth: int) -> tuple[_Row, int] | None:
        first, end = self._row(at + 1, depth)
        closing = self._peek(end)
        if self._prompt[at] == "(":
            return self._emphasis(first, end, closing, depth)
        if closing == "]":
            return ("[", *first, "]"), end + 1
        if closing == "|":
            return self._turns(first, end, depth)
        if closing != ":":
            return None
        when = _WHEN.match(self._prompt, end + 1)
        if when:
            return (_Switch((), first, when.group(1)),), when.end()
        second, end = self._row(end + 1, depth)
        when = _WHEN.match(self._prompt, end + 1) if self._peek(end) == ":" else None
        return ((_Switch(first, second, when.group(1)),), when.end()) if when else None

    def _emphasis(self, first: _Row, end: int, closing: str, depth: int) -> tuple[_Row, int] | None:
        if closing == ")":
            return ("(", *first, ")"), end + 1
        if closing != ":":
            return None
        weight, end = self._row(end + 1, depth)
        if self._peek(end) != ")":
            return None
        return ("(", *first, ":", *weight, ")"), end + 1

    def _turns(self, first: _Row, end: int, depth: int) -> tuple[_Row, int] | None:
        options = [first]
        while self._peek(end) == "|":
            option, end = self._row(end + 1, depth)
            options.append(option)
        return ((_Turns(tuple(options)),), end + 1) if self._peek(end) == "]" else None

    def _peek(self, at: int) -> str:
        return self._prompt[at : at + 1]


def _step(when: str, steps: int, after: int | None) -> int:
    """The last step of what stands before a switch."""
    if "." in when or "e" in when.lower():
        number = (float(when) - (0 if after is None else 1)) * steps
    else:
        number = float(when) - (after or 0)
    return int(max(-1.0, min(float(steps), number)))


def _ends(row: _Row, steps: int, after: int | None) -> set[int]:
    found: set[int] = set()
    for item in row:
        if isinstance(item, _Switch):
            end = _step(item.when, steps, after)
            found |= {end} if end >= 1 else set()
            found |= _ends(item.before, steps, after) | _ends(item.after, steps, after)
        elif isinstance(item, _Turns):
            found |= set(range(1, steps + 1))
    return found


def _text(row: _Row, step: int, steps: int, after: int | None) -> str:
    parts = []
    for item in row:
        if isinstance(item, str):
            parts.append(item)
        elif isinstance(item, _Switch):
            chosen = item.before if step <= _step(item.when, steps, after) else item.after
            parts.append(_text(chosen, step, steps, after))
        else:
            chosen = item.options[(step - 1) % len(item.options)]
            parts.append(_text(chosen, step, steps, after))
    return "".join(parts)
