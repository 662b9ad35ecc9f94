"""Recipes back to YAML, in one canonical form."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .document import PoolEntry, Recipe, Save
from .printing import print_expression

__all__ = ["recipe_text"]

# Narrower than YAML allows, so that every reader of YAML takes these for the same text.
_PLAIN_TEXT = re.compile(r"[A-Za-z_./][A-Za-z0-9_./\-]*(?: [A-Za-z0-9_./(\-][A-Za-z0-9_./()\-]*)*")
_PLAIN_EXPRESSION = re.compile(r"[A-Za-z0-9_(.][A-Za-z0-9_.,()*/+|&\[\]=\" \-]*")
_WORDS = frozenset("null true false yes no on off y n . .. .inf .nan".split())


def recipe_text(recipe: Recipe) -> str:
    """Write the canonical text of a recipe.

    Args:
        recipe: Any recipe; one with problems gives a text that cannot be read back.

    Raises:
        RecipeError: An expression is too long or too deep to write.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> print(recipe_text(make_recipe('"10 te"', {"10 te": "te.ckpt"})), end="")
        stockpot: 1
        pool:
          "10 te": te.ckpt
        mix:
          model: '"10 te"'
    """
    lines = [f"stockpot: {recipe.version}", "pool:" if recipe.pool else "pool: {}"]
    lines += [f"  {_key(name)}: {_entry(entry)}" for name, entry in recipe.pool.items()]
    if recipe.let:
        lines.append("let:")
        lines += [f"  {_key(n)}: {_expression(print_expression(e))}" for n, e in recipe.let.items()]
    lines.append("mix:" if recipe.mix else "mix: {}")
    lines += [f"  {_key(k)}: {_expression(print_expression(e))}" for k, e in recipe.mix.items()]
    if recipe.save != Save():
        lines.append("save:")
    if recipe.save.file is not None:
        lines.append(f"  file: {_text(recipe.save.file)}")
    if isinstance(recipe.save.dtype, Mapping):
        lines.append("  dtype:" if recipe.save.dtype else "  dtype: {}")
        lines += [f"    {_key(key)}: {_text(name)}" for key, name in recipe.save.dtype.items()]
    elif recipe.save.dtype is not None:
        lines.append(f"  dtype: {_text(recipe.save.dtype)}")
    if recipe.save.form is not None:
        lines.append(f"  form: {_text(recipe.save.form)}")
    if recipe.origin is not None:
        lines += ["origin:", f"  format: {_text(recipe.origin.format)}"]
        if recipe.origin.records:
            lines.append("  records:")
        lines += [f"    {_key(n)}: {_text(text)}" for n, text in recipe.origin.records.items()]
    return "\n".join(lines) + "\n"


def _entry(entry: PoolEntry) -> str:
    facts = entry.facts()
    if list(facts) in (["file"], []):
        return _text(entry.file)
    return "{" + ", ".join(f"{key}: {_text(value)}" for key, value in facts.items()) + "}"


def _key(name: str) -> str:
    # A long key needs YAML's explicit form; names are short, so quoting is all there is to it.
    return _text(name)


def _text(text: str) -> str:
    if _PLAIN_TEXT.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return _double(text)


def _expression(text: str) -> str:
    plain = _PLAIN_EXPRESSION.fullmatch(text) and text.lower() not in _WORDS
    if plain and not text.endswith(" "):
        return text
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return _double(text)


def _double(text: str) -> str:
    short = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(short.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
