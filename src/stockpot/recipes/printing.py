"""Expressions back to text, in one canonical form that parses to the same expression."""

from __future__ import annotations

from .errors import one_problem
from .expressions import Call, Expr, Items, Name, Number, Text, is_bare
from .functions import OPERATORS
from .grammar import MAX_CHARS, MAX_DEPTH
from .numbers import number_text

__all__ = ["abbreviate", "print_expression", "quote"]

_ATOM = 9


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


def print_expression(expression: Expr) -> str:
    """Write an expression as canonical text; parsing that gives the expression again.

    Args:
        expression: Any expression. A `Text` on its own reads back as the `Name` of a model.

    Raises:
        RecipeError: It is longer or more deeply nested than text may be, which a graph built in
            Python with shared parts can be: give those parts names with `let`.

    Example:
        >>> print_expression(0.25 * (Name("a") - Name("x y")) / 3)
        '0.25*(a - "x y")/3'
    """
    return _write(expression, MAX_CHARS, strict=True)


def abbreviate(expression: Expr, limit: int = 60) -> str:
    """Write the start of an expression, for messages.

    Args:
        expression: Any expression.
        limit: Where to cut, in characters.

    Example:
        >>> abbreviate(Call("mean", tuple(Name(f"model{i}") for i in range(99))), 24)
        'mean(model0, model1, mo…'
    """
    text = _write(expression, limit, strict=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _write(expression: Expr, limit: int, *, strict: bool) -> str:
    """Print from a stack of texts, of nodes with the binding they must have, and of depths."""
    out: list[str] = []
    length = 0
    stack: list[str | tuple[Expr, int, int]] = [(expression, 0, 0)]
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
        pieces, own = _pieces(node, depth)
        if own < binding:
            pieces = ["(", *_deeper(pieces), ")"]
        stack.extend(reversed(pieces))
    return "".join(out)


_Piece = str | tuple[Expr, int, int]


def _deeper(pieces: list[_Piece]) -> list[_Piece]:
    return [p if isinstance(p, str) else (p[0], p[1], p[2] + 1) for p in pieces]


def _pieces(node: Expr, depth: int) -> tuple[list[_Piece], int]:
    """What a node is written from, and how tightly that binds."""
    if isinstance(node, Name):
        return [node.name if is_bare(node.name) else quote(node.name)], _ATOM
    if isinstance(node, Text):
        return [quote(node.value)], _ATOM
    if isinstance(node, Number):
        text = number_text(node.value)
        # `1/3` reads as a division and `-2` as a negation, so they bind like those.
        return [text], 4 if "/" in text else 5 if node.value < 0 else _ATOM
    if isinstance(node, Items):
        return ["[", *_listed([("", item) for item in node.items], depth + 1), "]"], _ATOM
    assert isinstance(node, Call)
    if node.function in OPERATORS:
        sign, operands, binding = OPERATORS[node.function]
        if operands == 1:
            return [sign, (node.args[0], binding, depth + 1)], binding
        spaced = sign if binding == 4 else f" {sign} "
        left, right = node.args
        return [(left, binding, depth), spaced, (right, binding + 1, depth)], binding
    labelled = [("", arg) for arg in node.args]
    labelled += [(f"{name}=", value) for name, value in node.options]
    return [f"{node.function}(", *_listed(labelled, depth + 1), ")"], _ATOM


def _listed(items: list[tuple[str, Expr]], depth: int) -> list[_Piece]:
    pieces: list[_Piece] = []
    for i, (label, item) in enumerate(items):
        if i or label:
            pieces.append((", " if i else "") + label)
        pieces.append((item, 0, depth))
    return pieces
