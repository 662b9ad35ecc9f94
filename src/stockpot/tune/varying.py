"""Prompts that stand for many: ``{red|blue} cat in __place__``.

This is the grammar of the Dynamic Prompts templates that AutoMBW's payloads may hold, as far as it
chooses words: choices, nested ones, weights, several at once, lists in files. Its Jinja templates
and its queries to a web site are not here.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from stockpot.draw import Wildcards
from stockpot.errors import Problem, RequestError

__all__ = ["list_variants", "pick_variant"]

_LIST = re.compile(r"__([\w./-]+?)__")
_RANGE = re.compile(r"(\d+)?(-)?(\d+)?\$\$")
_WEIGHT = re.compile(r"\s*(\d+\.?\d*|\.\d+)::")
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class _Choice:
    """Some of several options; an option is a sequence of texts and choices."""

    options: tuple[tuple[str | _Choice, ...], ...]
    weights: tuple[float, ...]
    fewest: int = 1
    most: int = 1
    between: str = ", "


_Template = tuple[str | _Choice, ...]


def pick_variant(prompt: str, lists: Wildcards, seed: str) -> str:
    """Fill a prompt at random.

    Args:
        prompt: With ``{a|b}``, ``{0.7::a|0.3::b}``, ``{2$$a|b|c}``, ``{1-2$$ and $$a|b|c}`` and
            ``__name__``, nested as you like.
        lists: Lines for ``__name__``, by name; they may hold all of this too.
        seed: Equal ones pick equally, on every machine.

    Returns:
        A prompt without choices.

    Raises:
        RequestError: A bracket is not closed, a list is missing or calls itself, or more options
            are asked for than there are.

    Example:
        >>> pick_variant("a {red|blue} cat in __place__", {"place": ["rain"]}, "1")
        'a red cat in rain'
    """
    chance = random.Random(seed)

    def fill(template: _Template) -> str:
        return "".join(part if isinstance(part, str) else choose(part) for part in template)

    def choose(choice: _Choice) -> str:
        left = list(range(len(choice.options)))
        taken = []
        for _ in range(chance.randint(choice.fewest, choice.most)):
            weights = [choice.weights[i] for i in left]
            # All that is left may weigh nothing.
            place = chance.choices(left, weights if any(weights) else None)[0]
            left.remove(place)
            taken.append(fill(choice.options[place]))
        return choice.between.join(taken)

    return fill(_parse(prompt, lists))


def list_variants(prompt: str, lists: Wildcards) -> Iterator[str]:
    """List all prompts that a prompt stands for, the last choice changing fastest.

    Args:
        prompt: As for `pick_variant`; weights mean nothing here.
        lists: Lines for ``__name__``, by name.

    Yields:
        Prompts; of several options at once, each set in the order of the text.

    Raises:
        RequestError: As for `pick_variant`.

    Example:
        >>> list(list_variants("{a|b} {c|d}", {}))
        ['a c', 'a d', 'b c', 'b d']
        >>> list(list_variants("{2$$a|b|c}", {}))
        ['a, b', 'a, c', 'b, c']
    """

    def fill(template: _Template) -> Iterator[str]:
        if not template:
            yield ""
            return
        head, rest = template[0], template[1:]
        for first in [head] if isinstance(head, str) else expand(head):
            for last in fill(rest):
                yield first + last

    def expand(choice: _Choice) -> Iterator[str]:
        for n in range(choice.fewest, choice.most + 1):
            for some in itertools.combinations(choice.options, n):
                yield from map(choice.between.join, product(some))

    def product(templates: tuple[_Template, ...]) -> Iterator[tuple[str, ...]]:
        # Not `itertools.product`, which would first make lists of all.
        if not templates:
            yield ()
            return
        for first in fill(templates[0]):
            for rest in product(templates[1:]):
                yield (first, *rest)

    yield from fill(_parse(prompt, lists))


def _parse(prompt: str, lists: Wildcards, inside: tuple[str, ...] = ()) -> _Template:
    parts: list[str | _Choice] = []
    at = 0
    while at < len(prompt):
        found = _LIST.match(prompt, at)
        if found:
            parts.append(_list(found.group(1), lists, inside))
            at = found.end()
        elif prompt[at] == "{":
            end = _closing(prompt, at)
            parts.append(_choice(prompt[at + 1 : end], lists, inside))
            at = end + 1
        else:
            parts.append(prompt[at])
            at += 1
    return _joined(parts)


def _joined(parts: list[str | _Choice]) -> _Template:
    made: list[str | _Choice] = []
    for part in parts:
        if made and isinstance(part, str) and isinstance(made[-1], str):
            made[-1] += part
        else:
            made.append(part)
    return tuple(made)


def _closing(prompt: str, start: int) -> int:
    depth = 0
    for at in range(start, len(prompt)):
        depth += (prompt[at] == "{") - (prompt[at] == "}")
        if depth == 0:
            return at
    raise _error("a choice needs its closing bracket", prompt[start:], "write {a|b}")


def _choice(text: str, lists: Wildcards, inside: tuple[str, ...]) -> _Choice:
    if len(inside) >= _DEEPEST:
        raise _error(f"choices may be nested {_DEEPEST} deep", text, "make it simpler")
    fewest = most = 1
    between = ", "
    pieces = _split(text)
    found = _RANGE.match(pieces[0])
    if found and (found.group(1) or found.group(3)):
        low, dash, high = found.groups()
        fewest = int(low or 0)
        most = int(high) if high else (len(pieces) if dash else fewest)
        pieces[0] = pieces[0][found.end() :]
        own, mark, rest = pieces[0].partition("$$")
        if mark:
            between, pieces[0] = own, rest
    weights, options = [], []
    for piece in pieces:
        weight = _WEIGHT.match(piece)
        weights.append(float(weight.group(1)) if weight else 1.0)
        words = piece[weight.end() :] if weight else piece
        options.append(_parse(words, lists, (*inside, "")))
    if not fewest <= most <= len(options):
        raise _error(f"of {len(options)} options {fewest} to {most} cannot be taken", text)
    return _Choice(tuple(options), tuple(weights), fewest, most, between)


def _split(text: str) -> list[str]:
    """At bars that are not inside of a nested choice."""
    pieces, depth = [""], 0
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        if letter == "|" and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return pieces


def _list(name: str, lists: Wildcards, inside: tuple[str, ...]) -> _Choice:
    if not lists.get(name):
        raise _error("no list has this name", f"__{name}__", "name the folder of wildcards")
    if name in inside:
        raise _error("a list may not call itself", f"__{name}__", "remove the circle")
    options = tuple(_parse(line, lists, (*inside, name)) for line in lists[name])
    return _Choice(options, (1.0,) * len(options))


def _error(message: str, where: str, remedy: str = "") -> RequestError:
    return RequestError([Problem("wildcard", message, where[:80], remedy)])
