"""Exact numbers: from decimal text and Python values to fractions, and back to text.

Nothing here passes through binary floating point: ``0.1`` is one tenth. Sizes are bounded, since a
recipe is untrusted input and ``1e999999999`` is a short text for a very long number.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

__all__ = ["MAX_BITS", "as_fraction", "check_size", "number_text", "parse_decimal"]

#: Longest numerator or denominator, in bits. A chain of 1000 merges typed to two digits needs 6644.
MAX_BITS = 8192
_MAX_CHARS = 2500
_MAX_EXPONENT = 1000
_MAX_DECIMALS = 20
_DECIMAL = re.compile(r"([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+))?", re.ASCII)


def check_size(value: Fraction) -> Fraction:
    """Return the number, if it is not longer than `MAX_BITS` allow.

    Args:
        value: Any fraction.

    Raises:
        ValueError: The numerator or the denominator is too long.

    Example:
        >>> check_size(Fraction(1, 3))
        Fraction(1, 3)
    """
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ValueError(f"a number must fit in {MAX_BITS} bits, but this one is longer")
    return value


def parse_decimal(text: str) -> Fraction:
    """Read an unsigned decimal number exactly.

    Args:
        text: Digits with at most one point and one exponent, such as ``0.05`` or ``1e-3``.

    Raises:
        ValueError: It is no number, or is longer than a recipe may hold.

    Example:
        >>> parse_decimal("0.1"), parse_decimal("1e-3")
        (Fraction(1, 10), Fraction(1, 1000))
    """
    match = _DECIMAL.fullmatch(text) if len(text) <= _MAX_CHARS else None
    if match is None and len(text) > _MAX_CHARS:
        raise ValueError(f"a number may have {_MAX_CHARS} characters, but this has {len(text)}")
    if match is None or not (match[1] or match[2]):
        raise ValueError(f"{text[:40]!r} is not a number")
    whole, part, power = match[1], match[2] or "", match[3] or "0"
    # Compare lengths before int(): an exponent of a million digits is itself slow to read.
    if len(power) > 6 or abs(int(power)) > _MAX_EXPONENT:
        raise ValueError(
            f"an exponent must lie between -{_MAX_EXPONENT} and {_MAX_EXPONENT}, "
            f"but got {power[:20]}"
        )
    exponent = int(power) - len(part)
    digits = int(whole + part)
    value = Fraction(digits * 10**exponent) if exponent >= 0 else Fraction(digits, 10**-exponent)
    return check_size(value)


def as_fraction(value: int | float | Fraction | Decimal) -> Fraction:
    """Turn a Python number into the fraction that its printed form says.

    Args:
        value: A float counts as the shortest decimal text that prints it; other kinds are exact.

    Raises:
        TypeError: It is a bool or no number.
        ValueError: It is not finite, or too long.

    Example:
        >>> as_fraction(0.1)
        Fraction(1, 10)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction | Decimal):
        raise TypeError(f"a number is needed, but got {value!r}")
    if isinstance(value, float):
        # Not repr(): subclasses of float, such as numpy's, print their own name around the digits.
        value = Decimal(float.__repr__(value))
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"a number must be finite, but got {value}")
        if value and abs(value.adjusted()) > _MAX_EXPONENT:
            raise ValueError(f"an exponent must lie within {_MAX_EXPONENT}, but got {value}")
    return check_size(Fraction(value))


def number_text(value: Fraction) -> str:
    """Write a number in its one canonical form: integer, short decimal, else ``p/q``.

    Args:
        value: Any fraction.

    Raises:
        ValueError: It is too long for a recipe.

    Example:
        >>> [number_text(Fraction(n)) for n in ("3", "-1/4", "1/3", "1e-3")]
        ['3', '-0.25', '1/3', '0.001']
    """
    check_size(value)
    if value.denominator == 1:
        return str(value.numerator)
    scale, places = 10, 1
    while scale % value.denominator and places < _MAX_DECIMALS:
        scale, places = scale * 10, places + 1
    if scale % value.denominator:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * (scale // value.denominator)).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}"
