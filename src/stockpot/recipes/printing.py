"""Expressions back to text, in one canonical form that parses to the same expression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeAlias

from .errors import one_problem

__all__ = [
    "ATOM", "MAX_CHARS", "MAX_DEPTH", "Piece", "Printable", "abbreviate", "listed",
    "print_expression", "quote",
]  # fmt: skip

#: Characters that an expression may have.
MAX_CHARS = 1 << 20
#: How deep brackets and signs of an expression may nest.
MAX_DEPTH = 100
#: How tightly something binds that never needs brackets.
ATOM = 9


class Printable(Protocol):
    """An expression, as far as writing it goes."""

    def _pieces(self, depth: int) -> tuple[list[Piece], int]:
        """What it is written from where it stands `depth` deep, and how tightly that binds."""


#: A text as it stands; or an expression, how tightly what is written there must bind so that it
#: needs no brackets, and how deep it stands.
Piece: TypeAlias = "str | tuple[Printable, int, int]"


def quote(text: str) -> str:
    r"""Write a string literal of the expression language.

    Args:
        text: Anything; what does not print is escaped.

    Example:
        >>> print(quote('a "b"\n'))
        "a \"b\"\n"
    """
    short = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    parts = []
    for char in text:
        code = ord(char)
        if char in short:
            parts.append(short[char])
        elif char.isprintable():
            parts.append(char)
        else:
            parts.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(parts) + '"'


def print_expression(expression: Printable) -> str:
    """Write an expression as canonical text; parsing that gives the expression again.

    Args:
        expression: Any expression. A `Text` on its own reads back as the `Name` of a model.

    Raises:
        RecipeError: It is longer or more deeply nested than text may be, which a graph built in
            Python with shared parts can be: give those parts names with `let`.

    Example:
        >>> from stockpot.recipes.expressions import Name
        >>> print_expression(0.25 * (Name("a") - Name("x y")) / 3)
        '0.25*(a - "x y")/3'
    """
    return _write(expression, MAX_CHARS, strict=True)


def abbreviate(expression: Printable, limit: int = 60) -> str:
    """Write the start of an expression, for messages.

    Args:
        expression: Any expression.
        limit: Where to cut, in characters.

    Example:
        >>> from stockpot.recipes.expressions import Call, Name
        >>> abbreviate(Call("mean", tuple(Name(f"model{i}") for i in range(99))), 24)
        'mean(model0, model1, mo…'
    """
    text = _write(expression, limit, strict=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _write(expression: Printable, limit: int, *, strict: bool) -> str:
    """Print from a stack of texts, of nodes with the binding they must have, and of depths."""
    out: list[str] = []
    length = 0
    stack: list[Piece] = [(expression, 0, 0)]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            out.append(item)
            length += len(item)
            if length > limit and not strict:
                break
            if length > limit:
                raise one_problem(
                    "too-long", f"an expression may have {limit} characters, but this has more",
                    remedy="give its parts names with `let`",
                )  # fmt: skip
            continue
        node, binding, depth = item
        if depth > MAX_DEPTH and strict:
            raise one_problem(
                "too-deep", f"an expression may nest {MAX_DEPTH} deep, but this nests deeper",
                remedy="give its parts names with `let`",
            )  # fmt: skip
        pieces, own = node._pieces(depth)
        if own < binding:
            pieces = ["(", *_deeper(pieces), ")"]
        stack.extend(reversed(pieces))
    return "".join(out)


def listed(items: Iterable[tuple[str, Printable]], depth: int) -> list[Piece]:
    """What a list of expressions is written from.

    Args:
        items: Each with the label before it, such as ``keep=``, or an empty text.
        depth: How deep they stand.

    Example:
        >>> from stockpot.recipes.expressions import Name
        >>> listed([("", Name("a")), ("keep=", Name("b"))], 1)
        [(<a>, 0, 1), ', keep=', (<b>, 0, 1)]
    """
    pieces: list[Piece] = []
    for i, (label, item) in enumerate(items):
        if i or label:
            pieces.append((", " if i else "") + label)
        pieces.append((item, 0, depth))
    return pieces


def _deeper(pieces: list[Piece]) -> list[Piece]:
    return [p if isinstance(p, str) else (p[0], p[1], p[2] + 1) for p in pieces]
