"""What can be wrong or worth knowing: one row a code, for messages, colours, repairs and docs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["CODES", "Code", "Level", "Repair", "worst_level"]

Level = Literal["error", "warning", "note"]
"""``error``: it will not load or not draw; ``warning``: it draws other pictures than it should, or
lacks what other files have; ``note``: good to know."""

Repair = Literal["", "alone", "base"]
"""Whether `repair` mends it: not, from the file alone, or with the values of a base."""


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of finding.

    Attributes:
        name: The stable identifier in JSON.
        level: How bad it is.
        repair: What it takes to mend it.
        deep: Whether only reading the values shows it.
        meaning: One sentence for people.
    """

    name: str
    level: Level
    repair: Repair
    deep: bool
    meaning: str


_ALL = (
    Code("unreadable", "error", "", False, "the file cannot be opened or read"),
    Code("truncated", "error", "", False, "the file ends before its header says: get it again"),
    Code("header", "error", "", False, "the header breaks the format"),
    Code("unsafe", "error", "", False, "the file asks for code to be run; nothing of it was"),
    Code("not-a-checkpoint", "error", "", False, "the file is something else, such as a web page"),
    Code("missing-component", "warning", "base", False, "a whole component is not there"),
    Code("missing-key", "error", "base", False, "a component lacks a tensor"),
    Code("shape", "error", "", False, "a tensor has a shape that the architecture has not"),
    Code("foreign-component", "warning", "", False, "a component of another architecture is there"),
    Code("unknown-key", "note", "", False, "the architecture has no such tensor"),
    Code("two-names", "warning", "alone", False, "a tensor is there under two names"),
    Code("old-names", "note", "alone", False, "tensors have the names of NovelAI's files"),
    Code("reshaped", "note", "alone", False, "the right numbers in another, equivalent shape"),
    Code("position-ids-wrong", "error", "alone", False, "position ids are not 0, 1, 2 …"),
    Code("position-ids-float", "warning", "alone", False, "position ids are fractions by type"),
    Code("integer-weights", "warning", "", False, "weights are stored as whole numbers"),
    Code("prediction-conflict", "warning", "", False, "markers and metadata contradict each other"),
    Code("other-claim", "warning", "", False, "the metadata name another architecture"),
    Code("ema-incomplete", "note", "", False, "the EMA copy lacks tensors of the UNet"),
    Code("ema", "note", "", False, "an EMA copy takes room that drawing does not need"),
    Code("mixed-precision", "note", "", False, "one component holds several element types"),
    Code("wide", "note", "", False, "fp32 or fp64 where most people use fp16"),
    Code("file", "note", "", False, "what the file holds besides weights, or a misleading name"),
    Code("metadata", "note", "", False, "metadata that cannot be understood"),
    Code("nan", "error", "base", True, "values are NaN"),
    Code("inf", "error", "base", True, "values are infinite"),
    Code("fp16-overflow", "warning", "", True, "finite values that fp16 cannot hold"),
    Code("all-zero", "note", "", True, "every value of a tensor is zero"),
    Code("lossless-fp16", "note", "", True, "every value fits fp16: half of the room is wasted"),
)

CODES: Mapping[str, Code] = MappingProxyType({code.name: code for code in _ALL})
"""Every code by name, in the order in which findings are shown."""

_LEVELS: tuple[Level, ...] = ("note", "warning", "error")


def worst_level(codes: list[str]) -> Level | None:
    """Say how bad the worst of several findings is.

    Args:
        codes: Names in `CODES`.

    Returns:
        Its level; None for an empty list.

    Example:
        >>> worst_level(["ema", "nan"]), worst_level([])
        ('error', None)
    """
    return max((CODES[code].level for code in codes), key=_LEVELS.index, default=None)
