"""Expressions: what to mix, as immutable values with Python's arithmetic.

Equality and hashes are structural. Nothing here recurses over an expression, because a sum of
thousands of terms is a tree thousands deep, and because a node may be shared so often that walking
every path to it would never end.
"""

from __future__ import annotations

import keyword
import operator
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import TypeAlias, final

from .functions import OPERATORS, text_slots
from .numbers import as_fraction, check_size, number_text
from .printing import ATOM, Piece, abbreviate, listed, print_expression, quote

__all__ = [
    "Call", "Expr", "Items", "Name", "Number", "Operand", "Text", "as_expression", "is_bare",
    "operate",
]  # fmt: skip

#: What Python code may write where an expression stands.
Operand: TypeAlias = "Expr | int | float | Fraction | Decimal"

_ARITHMETIC: Mapping[str, Callable[..., Fraction]] = MappingProxyType(
    {
        "add": operator.add,
        "subtract": operator.sub,
        "multiply": operator.mul,
        "divide": operator.truediv,
        "negate": operator.neg,
    }
)


class Expr:
    """An expression of a recipe; one of `Name`, `Number`, `Text`, `Items`, `Call`.

    ``+ - * /``, unary minus, ``|`` and ``&`` build calls; two numbers are computed at once.

    Example:
        >>> 0.5 * Name("a") + Name("b") / 2
        <0.5*a + b/2>
        >>> Name("a") + Name("b") == Name("a") + Name("b")
        True
    """

    __slots__ = ()
    _hash: int

    def _children(self) -> tuple[Expr, ...]:
        return ()

    def _shallow(self) -> object:
        raise NotImplementedError

    def _pieces(self, depth: int) -> tuple[list[Piece], int]:
        raise NotImplementedError

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Expr):
            return NotImplemented
        pairs, seen = [(self, other)], set()
        while pairs:
            x, y = pairs.pop()
            if x is y or (id(x), id(y)) in seen:
                continue
            if type(x) is not type(y) or x._hash != y._hash or x._shallow() != y._shallow():
                return False
            seen.add((id(x), id(y)))
            pairs.extend(zip(x._children(), y._children(), strict=True))
        return True

    def __repr__(self) -> str:
        return f"<{abbreviate(self)}>"

    def __str__(self) -> str:
        return print_expression(self)

    def __add__(self, other: Operand) -> Expr:
        return operate("add", self, as_expression(other))

    def __radd__(self, other: Operand) -> Expr:
        # Python's sum() starts at 0, which is no model.
        return self if type(other) is int and other == 0 else operate("add", other, self)

    def __sub__(self, other: Operand) -> Expr:
        return operate("subtract", self, other)

    def __rsub__(self, other: Operand) -> Expr:
        return operate("subtract", other, self)

    def __mul__(self, other: Operand) -> Expr:
        return operate("multiply", self, other)

    def __rmul__(self, other: Operand) -> Expr:
        return operate("multiply", other, self)

    def __truediv__(self, other: Operand) -> Expr:
        return operate("divide", self, other)

    def __rtruediv__(self, other: Operand) -> Expr:
        return operate("divide", other, self)

    def __or__(self, other: Operand) -> Expr:
        return operate("fill", self, other)

    def __and__(self, other: Operand) -> Expr:
        return operate("intersect", self, other)

    def __neg__(self) -> Expr:
        return operate("negate", self)

    def __pos__(self) -> Expr:
        return self


@final
@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Name(Expr):
    """A model of the pool, a `let`, or `pool` itself.

    Args:
        name: Any text that is not empty; one that is no Python identifier prints in quotes.

    Example:
        >>> Name("a"), Name("10-vcb te")
        (<a>, <"10-vcb te">)
    """

    name: str
    _hash: int = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a name must be a text that is not empty, but got {self.name!r}")
        object.__setattr__(self, "_hash", hash(("name", self.name)))

    def _shallow(self) -> object:
        return self.name

    def _pieces(self, depth: int) -> tuple[list[Piece], int]:
        return [self.name if is_bare(self.name) else quote(self.name)], ATOM


@final
@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Number(Expr):
    """An exact number.

    Args:
        value: A fraction; floats count as the decimal text that they print as.

    Example:
        >>> Number(0.1).value
        Fraction(1, 10)
    """

    value: Fraction
    _hash: int = field(init=False)

    def __init__(self, value: int | float | Fraction | Decimal) -> None:
        object.__setattr__(self, "value", as_fraction(value))
        object.__setattr__(self, "_hash", hash(("number", self.value)))

    def _shallow(self) -> object:
        return self.value

    def _pieces(self, depth: int) -> tuple[list[Piece], int]:
        text = number_text(self.value)
        # `1/3` reads as a division and `-2` as a negation, so they bind like those.
        return [text], 4 if "/" in text else 5 if self.value < 0 else ATOM


@final
@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Text(Expr):
    """A text that a function takes, such as the name of a profile.

    Where a model belongs, a text becomes the `Name` of one: both are written as string literals.

    Example:
        >>> Call("glob", (Text("anime-*"),))
        <glob("anime-*")>
    """

    value: str
    _hash: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(("text", self.value)))

    def _shallow(self) -> object:
        return self.value

    def _pieces(self, depth: int) -> tuple[list[Piece], int]:
        return [quote(self.value)], ATOM


@final
@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Items(Expr):
    """A list of expressions.

    Example:
        >>> Items((Name("a"), Number(1)))
        <[a, 1]>
    """

    items: tuple[Expr, ...]
    _hash: int = field(init=False)

    def __post_init__(self) -> None:
        items = tuple(_as_model(item) for item in self.items)
        object.__setattr__(self, "items", items)
        object.__setattr__(self, "_hash", hash(("items", items)))

    def _children(self) -> tuple[Expr, ...]:
        return self.items

    def _shallow(self) -> object:
        return len(self.items)

    def _pieces(self, depth: int) -> tuple[list[Piece], int]:
        return ["[", *listed([("", item) for item in self.items], depth + 1), "]"], ATOM


@final
@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Call(Expr):
    """A function, or an operator by its name, with its arguments.

    Args:
        function: Name from `stockpot.recipes.FUNCTIONS`, or an operator's (``add``, ``fill``, …).
        args: Positional arguments.
        options: Named arguments; kept in the order of their names.

    Raises:
        ValueError: A name is no identifier or comes twice, an operator has the wrong number of
            operands, or its operands are numbers only (use Python's operators, which compute).

    Example:
        >>> Call("ties", (Name("base"), Name("a")), (("keep", Number(0.2)),))
        <ties(base, a, keep=0.2)>
    """

    function: str
    args: tuple[Expr, ...] = ()
    options: tuple[tuple[str, Expr], ...] = ()
    _hash: int = field(init=False)

    def __post_init__(self) -> None:
        names = [name for name, _ in self.options]
        if not all(map(is_bare, [self.function, *names])) or len(set(names)) < len(names):
            raise ValueError(
                f"a call needs distinct plain names, but got {self.function!r} {names}"
            )
        if self.function in OPERATORS:
            if len(self.args) != OPERATORS[self.function][1] or names:
                raise ValueError(f"`{self.function}` is an operator; its operands are not as many")
            if self.function in _ARITHMETIC and all(isinstance(a, Number) for a in self.args):
                raise ValueError("arithmetic on numbers is a number; use Python's operators")
        slots = text_slots(self.function)
        args = tuple(
            _as_text(arg) if i in slots else _as_model(arg) for i, arg in enumerate(self.args)
        )
        options = tuple(
            (name, _as_text(value)) for name, value in sorted(self.options, key=lambda o: o[0])
        )
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "_hash", hash((self.function, args, options)))

    def _children(self) -> tuple[Expr, ...]:
        return (*self.args, *(value for _, value in self.options))

    def _shallow(self) -> object:
        return self.function, len(self.args), tuple(name for name, _ in self.options)

    def _pieces(self, depth: int) -> tuple[list[Piece], int]:
        if self.function in OPERATORS:
            sign, operands, binding = OPERATORS[self.function]
            if operands == 1:
                return [sign, (self.args[0], binding, depth + 1)], binding
            spaced = sign if binding == 4 else f" {sign} "
            left, right = self.args
            return [(left, binding, depth), spaced, (right, binding + 1, depth)], binding
        labelled = [("", arg) for arg in self.args]
        labelled += [(f"{name}=", value) for name, value in self.options]
        return [f"{self.function}(", *listed(labelled, depth + 1), ")"], ATOM


def is_bare(name: str) -> bool:
    """Whether a name may stand in an expression without quotes.

    Args:
        name: Any text. Python reads identifiers in NFKC form, so others need quotes.

    Example:
        >>> is_bare("größe"), is_bare("10-vcb"), is_bare("lambda"), is_bare("__class__")
        (True, False, False, False)
    """
    return (
        name.isidentifier()
        and not keyword.iskeyword(name)
        and not name.startswith("__")
        # Python also allows a few signs inside, such as the middle dot; expressions do not.
        and re.fullmatch(r"\w+", name) is not None
        and unicodedata.normalize("NFKC", name) == name
    )


def _as_model(value: Expr) -> Expr:
    return Name(value.value) if isinstance(value, Text) else value


def _as_text(value: Expr) -> Expr:
    return Text(value.name) if isinstance(value, Name) and not is_bare(value.name) else value


def as_expression(value: Operand) -> Expr:
    """Turn a Python number into a `Number`; an expression is returned as it is.

    Args:
        value: An expression or a number.

    Raises:
        TypeError: It is neither.

    Example:
        >>> as_expression(0.5)
        <0.5>
    """
    return value if isinstance(value, Expr) else Number(value)


def operate(function: str, *operands: Operand) -> Expr:
    """Apply an operator; on numbers it computes, on anything else it builds the call.

    Args:
        function: ``add``, ``subtract``, ``multiply``, ``divide``, ``negate``, ``fill`` or
            ``intersect``.
        *operands: One for ``negate``, two for the others.

    Raises:
        ValueError: Division of a number by zero, or a result too long.

    Example:
        >>> operate("divide", 1, 3), operate("divide", Name("a"), 3)
        (<1/3>, <a/3>)
    """
    args = tuple(_as_model(as_expression(operand)) for operand in operands)
    numbers = [arg.value for arg in args if isinstance(arg, Number)]
    if function not in _ARITHMETIC or len(numbers) < len(args):
        return Call(function, args)
    if function == "divide" and not numbers[1]:
        raise ValueError("a number cannot be divided by zero")
    return Number(check_size(_ARITHMETIC[function](*numbers)))
