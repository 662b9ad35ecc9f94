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

__all__ = ["check_variants", "list_variants", "pick_variant"]

_LIST = re.compile(r"__([\w./-]+?)__")
_RANGE = re.compile(r"(\d+)?(-)?(\d+)?\$\$")
_WEIGHT = re.compile(r"\s*(\d+\.?\d*|\.\d+)::")
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class _Choice:
    """Some of several options, which are read when they are chosen: a list may have thousands."""

    options: tuple[str, ...]
    weights: tuple[float, ...]
    fewest: int = 1
    most: int = 1
    between: str = ", "
    name: str = ""


def check_variants(prompt: str, lists: Wildcards) -> None:
    """Check all that a prompt may come to stand for, so that no seed meets an error later.

    Args:
        prompt: As for `pick_variant`.
        lists: Lines for ``__name__``, by name.

    Raises:
        RequestError: A bracket is not closed, a list is missing or calls itself, more options are
            asked for than there are, or choices are nested more than 20 deep.
    """
    checked: set[str] = set()

    def check(text: str, inside: tuple[str, ...]) -> None:
        if len(inside) > _DEEPEST:
            raise _error(f"choices may be nested {_DEEPEST} deep", text, "make it simpler")
        for part in _parse(text, lists):
            if isinstance(part, str) or part.name in checked:
                continue
            if part.name and part.name in inside:
                raise _error("a list may not call itself", f"__{part.name}__", "remove the circle")
            for option in part.options:
                check(option, (*inside, part.name))
            if part.name:
                checked.add(part.name)

    check(prompt, ())


def pick_variant(prompt: str, lists: Wildcards, seed: str) -> str:
    """Fill a prompt at random.

    Args:
        prompt: With ``{a|b}``, ``{0.7::a|0.3::b}``, ``{2$$a|b|c}``, ``{1-2$$ and $$a|b|c}`` and
            ``__name__``, nested as you like; `check_variants` found nothing wrong.
        lists: Lines for ``__name__``, by name; they may hold all of this too.
        seed: Equal ones pick equally, on every machine.

    Returns:
        A prompt without choices.

    Example:
        >>> pick_variant("a {red|blue} cat in __place__", {"place": ["rain"]}, "1")
        'a red cat in rain'
    """
    chance = random.Random(seed)

    def fill(text: str) -> str:
        parts = _parse(text, lists)
        return "".join(part if isinstance(part, str) else choose(part) for part in parts)

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

    return fill(prompt)


def list_variants(prompt: str, lists: Wildcards) -> Iterator[str]:
    """List all prompts that a prompt stands for, the last choice changing fastest.

    Args:
        prompt: As for `pick_variant`; weights mean nothing here.
        lists: Lines for ``__name__``, by name.

    Yields:
        Prompts; of several options at once, each set in the order of the text.

    Example:
        >>> list(list_variants("{a|b} {c|d}", {}))
        ['a c', 'a d', 'b c', 'b d']
        >>> list(list_variants("{2$$a|b|c}", {}))
        ['a, b', 'a, c', 'b, c']
    """

    def fill(parts: tuple[str | _Choice, ...]) -> Iterator[str]:
        if not parts:
            yield ""
            return
        head, rest = parts[0], parts[1:]
        for first in [head] if isinstance(head, str) else expand(head):
            for last in fill(rest):
                yield first + last

    def expand(choice: _Choice) -> Iterator[str]:
        for n in range(choice.fewest, choice.most + 1):
            for some in itertools.combinations(choice.options, n):
                yield from map(choice.between.join, product(some))

    def product(options: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        # Not `itertools.product`, which would first make lists of all.
        if not options:
            yield ()
            return
        for first in fill(_parse(options[0], lists)):
            for rest in product(options[1:]):
                yield (first, *rest)

    yield from fill(_parse(prompt, lists))


def _parse(prompt: str, lists: Wildcards) -> tuple[str | _Choice, ...]:
    """Texts and choices in order; what is inside of choices stays text."""
    parts: list[str | _Choice] = []
    plain, at = "", 0
    while at < len(prompt):
        found = _LIST.match(prompt, at)
        if not found and prompt[at] != "{":
            plain += prompt[at]
            at += 1
            continue
        end = found.end() if found else _closing(prompt, at) + 1
        parts += [plain] if plain else []
        parts.append(_list(found[1], lists) if found else _choice(prompt[at + 1 : end - 1]))
        plain, at = "", end
    return tuple(parts + ([plain] if plain else []))


def _closing(prompt: str, start: int) -> int:
    depth = 0
    for at in range(start, len(prompt)):
        depth += (prompt[at] == "{") - (prompt[at] == "}")
        if depth == 0:
            return at
    raise _error("a choice needs its closing bracket", prompt[start:], "write {a|b}")


def _choice(text: str) -> _Choice:
    fewest = most = 1
    between = ", "
    pieces = _split(text)
    found = _RANGE.match(pieces[0])
    if found and (found[1] or found[3]):
        low, dash, high = found.groups()
        fewest = int(low or 0)
        most = int(high) if high else len(pieces) if dash else fewest
        pieces[0] = pieces[0][found.end() :]
        own, mark, rest = pieces[0].partition("$$")
        if mark and "{" not in own:  # else it is the mark of a nested choice
            between, pieces[0] = own, rest
    if not fewest <= most <= len(pieces):
        raise _error(f"of {len(pieces)} options {fewest} to {most} cannot be taken", f"{{{text}}}")
    weights = [_WEIGHT.match(piece) for piece in pieces]
    return _Choice(
        tuple(p[w.end() :] if w else p for p, w in zip(pieces, weights, strict=True)),
        tuple(float(w[1]) if w else 1.0 for w in weights),
        fewest,
        most,
        between,
    )


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


def _list(name: str, lists: Wildcards) -> _Choice:
    lines = tuple(lists.get(name, ()))
    if not lines:
        raise _error("no list has this name", f"__{name}__", "name the folder of wildcards")
    return _Choice(lines, (1.0,) * len(lines), name=name)


def _error(message: str, where: str, remedy: str = "") -> RequestError:
    return RequestError([Problem("wildcard", message, where[:80], remedy)])
