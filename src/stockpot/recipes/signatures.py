"""What a call looks like: a function's inputs and options, with their ranges and meanings."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

__all__ = ["Function", "Parameter"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number or a word that a function takes by name.

    Attributes:
        name: As it is written before the ``=``.
        meaning: What it does, in a line for people.
        default: What counts where it is not given; None where it must be given.
        low: Least number.
        high: Greatest number; None without an end.
        kind: ``number`` may differ from block to block; ``whole`` is one whole number; ``word`` is
            one of `words`.
        words: What a ``word`` may be.

    Example:
        >>> Parameter("keep", "the fraction that stays", Fraction(1, 5)).range_text
        '0 … 1'
    """

    name: str
    meaning: str
    default: Fraction | str | None = None
    low: Fraction | None = Fraction(0)
    high: Fraction | None = Fraction(1)
    kind: Literal["number", "whole", "word"] = "number"
    words: tuple[str, ...] = ()

    @property
    def range_text(self) -> str:
        """What it may be, for people."""
        if self.kind == "word":
            return " or ".join(self.words)
        if self.low is None:
            return "any number"
        if self.high is None:
            return f"{self.low} or more"
        return f"{self.low} … {self.high}"


@dataclass(frozen=True, slots=True)
class Function:
    """One row of the table of functions.

    Attributes:
        name: What stands before the bracket.
        parameters: Names of the parameters, in order; one that starts with ``*`` takes the rest.
        summary: What it means, in a line for people.
        linear: Whether it is linear algebra, and folds to coefficients alone.
        gives: ``model``, ``number``, ``set``, or ``list``: one result for each of its models.
        text: Positions whose string literal is a text and not the name of a model.
        symmetric: Whether the order of what the starred parameter takes is without meaning; a
            ``list`` comes in the order of the inputs all the same.
        named: Whether it takes options of any name and no arguments by position.
        kind: ``rule`` is computed when a recipe is folded; ``method`` runs on tensors;
            ``composed`` is written with other functions; ``kept`` is read and printed only.
        options: Its numbers and words. One that stands in `parameters` too may be given by
            position.
        takes: What a method merges: ``models``, ``deltas``, or ``either``, but never some of each.
        formula: What it computes, for people; empty where the summary says it.
        source: Paper or program that it comes from.
        version: Of what it computes: grows when the same call comes to mean something else.

    Example:
        >>> from stockpot.recipes import FUNCTIONS
        >>> FUNCTIONS["lerp"].signature, FUNCTIONS["ties"].signature
        ('lerp(a, b, t)', 'ties(base, *models, keep=0.2, elect="magnitude", scale=1)')
    """

    name: str
    parameters: tuple[str, ...]
    summary: str
    linear: bool = True
    gives: Literal["model", "number", "set", "list"] = "model"
    text: tuple[int, ...] = ()
    symmetric: bool = False
    named: bool = False
    kind: Literal["rule", "method", "composed", "kept"] = "rule"
    options: tuple[Parameter, ...] = ()
    takes: Literal["models", "deltas", "either"] = "models"
    formula: str = ""
    source: str = ""
    version: int = 1

    @property
    def signature(self) -> str:
        """How a call is written, with the options' defaults."""
        from .numbers import number_text

        parts = list(self.parameters)
        for option in self.options:
            if option.name in parts:
                continue
            default = option.default
            if default is None:
                parts.append(option.name)
            else:
                text = f'"{default}"' if isinstance(default, str) else number_text(default)
                parts.append(f"{option.name}={text}")
        return f"{self.name}({', '.join(parts)})"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parameters that take models."""
        options = {option.name for option in self.options}
        return tuple(name for name in self.parameters if name not in options)
