"""YAML as a recipe is written in it: one form for everything, read alike by every reader."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .printing import Printable, print_expression

__all__ = ["block", "flow", "formula", "plain"]

# Narrower than YAML allows, so that every reader of YAML takes these for the same text.
_PLAIN_TEXT = re.compile(r"[A-Za-z_./][A-Za-z0-9_./\-]*(?: [A-Za-z0-9_./(\-][A-Za-z0-9_./()\-]*)*")
_PLAIN_EXPRESSION = re.compile(r"[A-Za-z0-9_(.][A-Za-z0-9_.,()*/+|&\[\]=\" \-]*")
_WORDS = frozenset("null true false yes no on off y n . .. .inf .nan".split())


def block(title: str, rows: Mapping[str, str], *, indent: str = "") -> list[str]:
    """Lines of a block: its title, and a row for each name.

    Args:
        title: Name of the block.
        rows: What stands behind each name, as YAML; names are quoted where they must be.
        indent: Before the title.

    Example:
        >>> block("mix", {"model": "mean(pool)"}), block("pool", {})
        (['mix:', '  model: mean(pool)'], ['pool: {}'])
    """
    lines = [f"{indent}{title}:" if rows else f"{indent}{title}: {{}}"]
    # A long name needs YAML's explicit form; names are short, so quoting is all there is to it.
    return lines + [f"{indent}  {plain(name)}: {value}" for name, value in rows.items()]


def flow(facts: Mapping[str, str]) -> str:
    """Texts by name in one line.

    Args:
        facts: Their names are plain words.

    Example:
        >>> print(flow({"file": "a.ckpt", "title": "10"}))
        {file: a.ckpt, title: "10"}
    """
    return "{" + ", ".join(f"{key}: {plain(value)}" for key, value in facts.items()) + "}"


def plain(text: str) -> str:
    """A text as a scalar, quoted where a reader might take it for anything else.

    Args:
        text: Anything.

    Example:
        >>> print(plain("a.ckpt"), plain("no"), plain("1e3"))
        a.ckpt "no" "1e3"
    """
    if _PLAIN_TEXT.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return _double(text)


def formula(expression: Printable) -> str:
    """An expression as a scalar; single quotes where quotes are needed, since it has double ones.

    Args:
        expression: To write.

    Raises:
        RecipeError: It is too long or too deep to write.

    Example:
        >>> from stockpot.recipes import model
        >>> print(formula(model("a") + 1), formula(-model("b c")))
        a + 1 '-"b c"'
    """
    text = print_expression(expression)
    fits = _PLAIN_EXPRESSION.fullmatch(text) and text.lower() not in _WORDS
    if fits and not text.endswith(" "):
        return text
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return _double(text)


def _double(text: str) -> str:
    short = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(short.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
