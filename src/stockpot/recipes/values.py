"""What an expression comes to: the kinds of value, and exact arithmetic on numbers by cell.

A scalar is one fraction for all cells, or a tuple with one for each cell of the layout once block
weights come in, or None where a number is not known yet (a hole, or no layout at hand).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from .numbers import check_size

__all__ = [
    "Amount", "Arithmetic", "Fill", "Invoke", "Leaf", "Linear", "Listing", "Mixture", "Names",
    "Op", "Output", "Scalar", "Value", "Word", "at", "is_zero",
]  # fmt: skip

Scalar: TypeAlias = "Fraction | tuple[Fraction, ...] | None"


@dataclass(frozen=True, slots=True)
class Amount:
    """A number, or a number for each cell."""

    value: Scalar


@dataclass(frozen=True, slots=True)
class Mixture:
    """A combination of models.

    Attributes:
        op: Which step of the program makes it.
        total: Sum of its coefficients: 1 for a model, 0 for a difference, anything in between for
            a part of a sum.
        name: The pool's name, if it is just one entry.
        base: The base of the method that made it, if one did.
    """

    op: int
    total: Scalar
    name: str | None = None
    base: Mixture | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """A set of pool entries, in the pool's order."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """A list, each item a value of its own; None is an item that has a problem already."""

    items: tuple[Value | None, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """A text."""

    text: str


Value: TypeAlias = Amount | Mixture | Names | Listing | Word


@dataclass(frozen=True, slots=True)
class Leaf:
    """A step that sums pool entries as they are.

    Attributes:
        names: The entries.
        adapter: Whether they are adapters, whose differences are meant.
    """

    names: tuple[str, ...]
    adapter: bool = False


@dataclass(frozen=True, slots=True)
class Linear:
    """A step that sums scaled results of earlier steps."""

    terms: tuple[tuple[Scalar, int], ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """A step that takes the left, or the right where the left lacks a key."""

    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Invoke:
    """A step that hands earlier steps to a method.

    Attributes:
        function: Name of the method.
        inputs: The steps that it reads.
        numbers: Its numbers, by name; each may differ from cell to cell.
        words: Its texts, by name.
        delta: Whether it gives differences of models, and no models.
    """

    function: str
    inputs: tuple[int, ...]
    numbers: tuple[tuple[str, Scalar], ...]
    words: tuple[tuple[str, str], ...]
    delta: bool


@dataclass(frozen=True, slots=True)
class Output:
    """A step that takes one of the results of an `Invoke`."""

    call: int
    index: int


Op: TypeAlias = Leaf | Linear | Fill | Invoke | Output


class Arithmetic:
    """Operations on scalars that count what they cost.

    Args:
        budget: Cost at which to stop; an operation costs 1, long numbers more.

    Example:
        >>> Arithmetic().apply(Fraction.__add__, Fraction(1, 2), (Fraction(0), Fraction(1)))
        (Fraction(1, 2), Fraction(3, 2))
    """

    def __init__(self, budget: int = 1_000_000) -> None:
        self._left = budget

    def spend(self, cost: int) -> None:
        """Count a cost.

        Raises:
            ValueError: The budget is used up.
        """
        self._left -= cost
        if self._left < 0:
            raise ValueError("the recipe takes too many steps of exact arithmetic")

    def apply(
        self, function: Callable[[Fraction, Fraction], Fraction], x: Scalar, y: Scalar
    ) -> Scalar:
        """Apply a function of two numbers cell by cell.

        Raises:
            ValueError: A result is too long, or the budget is used up.
            ZeroDivisionError: As the function does.
        """
        if x is None or y is None:
            return None
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            value = check_size(function(x, y))
            # Reducing a fraction takes time quadratic in its length.
            self.spend(1 + (value.denominator.bit_length() >> 9) ** 2)
            return value
        size = len(x) if isinstance(x, tuple) else len(y) if isinstance(y, tuple) else 1
        left = x if isinstance(x, tuple) else (x,) * size
        right = y if isinstance(y, tuple) else (y,) * size
        values = tuple(check_size(function(p, q)) for p, q in zip(left, right, strict=True))
        longest = max((value.denominator.bit_length() for value in values), default=0)
        self.spend(size * (1 + (longest >> 9) ** 2))
        return values

    def add(self, x: Scalar, y: Scalar) -> Scalar:
        """Add cell by cell."""
        return self.apply(Fraction.__add__, x, y)

    def multiply(self, x: Scalar, y: Scalar) -> Scalar:
        """Multiply cell by cell."""
        return self.apply(Fraction.__mul__, x, y)


def at(scalar: Scalar, cell: int) -> Fraction:
    """Take the number for one cell.

    Args:
        scalar: A known scalar.
        cell: Index into the layout's cells.

    Example:
        >>> at((Fraction(0), Fraction(1)), 1), at(Fraction(3), 1)
        (Fraction(1, 1), Fraction(3, 1))
    """
    assert scalar is not None
    return scalar[cell] if isinstance(scalar, tuple) else scalar


def is_zero(scalar: Scalar) -> bool:
    """Whether a scalar is known to be zero in every cell.

    Example:
        >>> is_zero(Fraction(0)), is_zero((Fraction(0), Fraction(1))), is_zero(None)
        (True, False, False)
    """
    return scalar is not None and not (any(scalar) if isinstance(scalar, tuple) else scalar)
