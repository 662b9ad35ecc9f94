"""Weights of n models that sum to 1, from n - 1 numbers between 0 and 1, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

__all__ = ["apportion", "split_shares", "splits_of"]


def split_shares(splits: Sequence[float]) -> list[float]:
    """Split one whole by halving: which share of what is left goes to the first half, and so on.

    Args:
        splits: n - 1 numbers in [0, 1]; all at one half give equal shares. Every point of the
            simplex is reached, and, off its edges, by one choice of splits only.

    Returns:
        n shares that sum to 1.

    Example:
        >>> split_shares([0.5, 0.5]), split_shares([1.0, 0.5]), split_shares([])
        ([0.333..., 0.333..., 0.333...], [1.0, 0.0, 0.0], [1.0])
    """
    shares = [0.0] * (len(splits) + 1)
    numbers = iter(splits)
    stack = [(0, len(shares), 1.0)]
    while stack:
        start, stop, whole = stack.pop()
        if stop - start == 1:
            shares[start] = whole
            continue
        middle = (start + stop) // 2
        even, split = (middle - start) / (stop - start), next(numbers)
        # Half of the range goes below the even split and half above, so that 0.5 is even.
        part = 2 * even * split if split <= 0.5 else 1 - 2 * (1 - even) * (1 - split)
        stack.append((middle, stop, whole * (1 - part)))
        stack.append((start, middle, whole * part))
    return shares


def splits_of(shares: Sequence[float]) -> list[float]:
    """Find the splits that give shares; where nothing is left to split, one half.

    Args:
        shares: Not negative, sum 1.

    Returns:
        One number less than there are shares.

    Example:
        >>> splits_of([0.5, 0.25, 0.25])
        [0.625, 0.5]
    """
    splits = []
    stack = [(0, len(shares))]
    while stack:
        start, stop = stack.pop()
        if stop - start == 1:
            continue
        middle = (start + stop) // 2
        even = (middle - start) / (stop - start)
        left, whole = math.fsum(shares[start:middle]), math.fsum(shares[start:stop])
        part = left / whole if whole > 0 else even
        split = part / (2 * even) if part <= even else 1 - (1 - part) / (2 * (1 - even))
        splits.append(min(max(split, 0.0), 1.0))
        stack.append((middle, stop))
        stack.append((start, middle))
    return splits


def apportion(shares: Sequence[float], n_units: int) -> list[Fraction]:
    """Round shares to multiples of a unit so that they sum to 1 exactly (largest remainders).

    Args:
        shares: Not negative, sum about 1.
        n_units: How many units the whole has.

    Example:
        >>> apportion([1 / 3, 1 / 3, 1 / 3], 20)
        [Fraction(7, 20), Fraction(7, 20), Fraction(3, 10)]
    """
    quotas = [share * n_units for share in shares]
    counts = [math.floor(quota) for quota in quotas]
    order = sorted(range(len(shares)), key=lambda i: (counts[i] - quotas[i], i))
    missing = n_units - sum(counts)
    for i in order[: max(missing, 0)]:
        counts[i] += 1
    for i in reversed(order):  # sums a hair above 1 may leave one too many
        if missing < 0 and counts[i] > 0:
            counts[i] -= 1
            missing += 1
    return [Fraction(count, n_units) for count in counts]
