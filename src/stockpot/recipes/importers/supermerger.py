"""supermerger's entries, which stand among A1111's in the same JSON."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from ..building import blocks
from ..expressions import Call, Expr, Items, Name, Number, Text, operate
from ..numbers import as_fraction, parse_decimal
from ._base import Builder

__all__ = ["is_supermerger", "supermerger_step"]

_ROLES = ("primary", "secondary", "tertiary")
#: Ways of computing that are functions here; all others but ``normal`` are kept as they are.
_WAYS = {
    "cosineA": "cosine_a",
    "cosineB": "cosine_b",
    "trainDifference": "train_difference",
    "smoothAdd": "smooth_add",
}


def is_supermerger(record: dict[str, Any]) -> bool:
    """Whether a record of ``sd_merge_recipe`` is supermerger's.

    Args:
        record: Decoded.

    Example:
        >>> is_supermerger({"type": "sd-webui-supermerger"}), is_supermerger({"type": "webui"})
        (True, False)
    """
    return "supermerger" in str(record.get("type", "")).lower()


def supermerger_step(
    builder: Builder,
    record: dict[str, Any],
    name: str,
    parent: Callable[[object, str, str], Name],
) -> Expr:
    """Turn one of supermerger's records into an expression.

    Args:
        builder: Receives notes.
        record: With ``mode``, ``calcmode``, ``base_alpha``, ``weights_alpha`` and the like.
        name: Of the result; empty for the last one.
        parent: Finds a parent by hash or name, its role, and the result's name.

    Raises:
        RecipeError: A number or list of numbers cannot be read.
    """
    mode = str(record.get("mode") or record.get("interp_method") or "Weight sum").strip().lower()
    way = str(record.get("calcmode") or "normal").strip()
    where = name or "mix"

    def model(index: int) -> Name:
        # The key itself says that there is one, even where its value is null.
        keys = (f"model_{'abc'[index]}", f"{_ROLES[index]}_model_hash")
        value = next((record[key] for key in keys if record.get(key)), None)
        return parent(value, _ROLES[index], name)

    three = mode.startswith(("add", "triple", "sum")) or way in ("trainDifference", "smoothAdd")
    a, b = model(0), model(1)
    c = model(2) if three else None
    alpha = _ratio(builder, record, "alpha", where)
    elemental = record.get("elemental_merge")
    plain = way in ("normal", "") and not elemental
    if not plain and not elemental and way in _WAYS:
        parents = (a, b, c) if c is not None and way in ("trainDifference", "smoothAdd") else (a, b)
        return Call(_WAYS[way], (*parents, alpha))
    beta = _ratio(builder, record, "beta", where) if c is not None else Number(0)
    one = Number(1)
    if plain and mode.startswith("weight"):
        return Call("weighted_sum", (a, b, alpha))
    if plain and mode.startswith("add") and c is not None:
        return Call("add_difference", (a, b, c, alpha))
    if plain and mode.startswith("triple") and c is not None:
        rest = operate("subtract", operate("subtract", one, alpha), beta)
        return Call("linear", (Items((a, b, c)), Items((rest, alpha, beta))))
    if plain and mode.startswith("sum") and c is not None:
        return Call("weighted_sum", (Call("weighted_sum", (a, b, alpha)), c, beta))
    builder.note("unknown-method", f"supermerger's mode {mode[:40]!r}, {way[:40]!r} is kept as it "
                 "was written", where)  # fmt: skip
    options: tuple[tuple[str, Expr], ...] = (("alpha", alpha), ("beta", beta))
    if elemental:
        options += (("elemental", Text(str(elemental)[:1000])),)
    parents = (a, b) if c is None else (a, b, c)
    return Call("foreign", (Text(f"supermerger: {mode[:40]}, {way[:40]}"), *parents), options)


def _ratio(builder: Builder, record: dict[str, Any], which: str, where: str) -> Expr:
    """A plain ratio, or block weights: 26 or 20 numbers with BASE, 25 or 19 without."""
    base = _number(builder, record.get(f"base_{which}", 0), f"{where}: base_{which}")
    weights = record.get(f"weights_{which}")
    if isinstance(weights, str):
        weights = [part for part in weights.replace("\n", ",").split(",") if part.strip()]
    if not weights:
        return Number(base)
    if not isinstance(weights, list) or len(weights) not in (26, 25, 20, 19):
        size = len(weights) if isinstance(weights, list) else "no list"
        builder.refuse("profile", f"`weights_{which}` has 25, 26, 19 or 20 numbers, but got {size}",
                       where)  # fmt: skip
    numbers = [_number(builder, value, f"{where}: weights_{which}") for value in weights]
    if len(numbers) in (25, 19):
        numbers.insert(0, base)
    profile = "supermerger" if len(numbers) == 26 else "supermerger-xl"
    if profile == "supermerger-xl":
        builder.layout = "sdxl"
    return blocks(profile, numbers)


def _number(builder: Builder, value: object, where: str) -> Fraction:
    try:
        if value is None:
            return Fraction(0)
        if isinstance(value, str):
            sign = -1 if value.strip().startswith("-") else 1
            return sign * parse_decimal(value.strip().lstrip("+-"))
        if isinstance(value, int | float):
            return as_fraction(value)
        raise ValueError(f"got {type(value).__name__}")
    except (TypeError, ValueError) as error:
        builder.refuse("number", f"a number is needed, but {error}", where)
