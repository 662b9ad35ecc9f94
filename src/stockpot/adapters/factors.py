"""What the factors of an adapter multiply to: changes of a weight, row by row, in doubles.

A weight counts as the matrix ``[first axis, all others]``. Every element is a sum over the rank in
one order, one product and one addition at a time, so that no processor and no cut of the rows can
show. Where the factors are halves of usual size the sum is exact in doubles, and a library may take
any order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

__all__ = ["Change", "Doubles", "Elementwise", "Full", "Kronecker", "Low", "product"]

Doubles = npt.NDArray[np.float64]

#: Elements that stay in a core's cache while the rank is summed.
_BLOCK = 1 << 15
# Halves are multiples of 2⁻²⁴: a sum of their products below 2⁵ fits the 53 bits of a double.
_EXACT_BELOW = 2.0**5


def product(left: Doubles, right: Doubles, *, halves: bool = False) -> Doubles:
    """Multiply two matrices in an order that no machine changes.

    Args:
        left: Shape ``[m, r]``.
        right: Shape ``[r, n]``.
        halves: Whether all values are those of 16-bit floats with five bits of exponent; a library
            then multiplies them where that is exact.

    Returns:
        Shape ``[m, n]``.

    Example:
        >>> product(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])).tolist()
        [[11.0]]
    """
    if halves and left.size and right.size:
        bound = len(right) * float(np.abs(left).max()) * float(np.abs(right).max())
        if bound < _EXACT_BELOW:
            result: Doubles = left @ right
            return result
    total = np.zeros((len(left), right.shape[1]))
    step = max(1, _BLOCK // max(1, right.shape[1]))
    for start in range(0, len(left), step):
        rows, out = left[start : start + step], total[start : start + step]
        scratch = np.empty_like(out)
        for k in range(len(right)):
            np.multiply(rows[:, k : k + 1], right[k], out=scratch)
            out += scratch
    return total


class Change(ABC):
    """A change of one weight, not yet multiplied out.

    Attributes:
        n_rows: Length of the weight's first axis.
        n_columns: Product of the others.
    """

    n_rows: int
    n_columns: int

    @abstractmethod
    def rows(self, start: int, stop: int) -> Doubles:
        """Multiply some rows out.

        Args:
            start: The first.
            stop: One past the last.

        Returns:
            Shape ``[stop - start, n_columns]``; for each element the same in whatever range.
        """

    def quickly(self) -> Doubles:
        """Multiply all rows out by the fastest library at hand, whose last digits may differ.

        Returns:
            Shape ``[n_rows, n_columns]``.
        """
        return self.rows(0, self.n_rows)


@final
@dataclass(frozen=True, eq=False)
class Full(Change):
    """A change that is stored as it is.

    Attributes:
        values: Shape ``[n_rows, n_columns]``.
    """

    values: Doubles

    def __post_init__(self) -> None:
        _set_shape(self, *self.values.shape)

    def rows(self, start: int, stop: int) -> Doubles:
        """Take the rows; see `Change.rows`."""
        return self.values[start:stop]


@final
@dataclass(frozen=True, eq=False)
class Low(Change):
    """LoRA: scale · up · down (arXiv 2106.09685); with a core in between, down is their product.

    Attributes:
        up: Shape ``[n_rows, rank]``.
        down: Shape ``[rank, n_columns]``.
        scale: alpha / rank.
        halves: See `product`.
    """

    up: Doubles
    down: Doubles
    scale: float
    halves: bool = False

    def __post_init__(self) -> None:
        _set_shape(self, len(self.up), self.down.shape[1])

    def rows(self, start: int, stop: int) -> Doubles:
        """Multiply rows of `up`; see `Change.rows`."""
        result = product(self.up[start:stop], self.down, halves=self.halves)
        result *= self.scale
        return result

    def quickly(self) -> Doubles:
        """Multiply in any order; see `Change.quickly`."""
        result: Doubles = self.up @ self.down
        result *= self.scale
        return result


@final
@dataclass(frozen=True, eq=False)
class Elementwise(Change):
    """LoHa: scale · (a · b) ⊙ (c · d) (arXiv 2108.06098).

    Attributes:
        one: The first product, with scale 1.
        other: The second.
        scale: alpha / rank.
    """

    one: Low
    other: Low
    scale: float

    def __post_init__(self) -> None:
        _set_shape(self, self.one.n_rows, self.one.n_columns)

    def rows(self, start: int, stop: int) -> Doubles:
        """Multiply rows of both; see `Change.rows`."""
        result = self.one.rows(start, stop) * self.other.rows(start, stop)
        result *= self.scale
        return result

    def quickly(self) -> Doubles:
        """Multiply in any order; see `Change.quickly`."""
        result = self.one.quickly() * self.other.quickly()
        result *= self.scale
        return result


@final
@dataclass(frozen=True, eq=False)
class Kronecker(Change):
    """LoKr: scale · left ⊗ right (LyCORIS, arXiv 2309.14859).

    Attributes:
        left: Shape ``[a, b]``.
        right: Shape ``[c, d]``; a convolution's kernel belongs to the columns.
        scale: alpha / rank; 1 where both are whole.
    """

    left: Doubles
    right: Doubles
    scale: float

    def __post_init__(self) -> None:
        (a, b), (c, d) = self.left.shape, self.right.shape
        _set_shape(self, a * c, b * d)

    def rows(self, start: int, stop: int) -> Doubles:
        """Multiply a row of either for each row; see `Change.rows`."""
        result = np.empty((stop - start, self.n_columns))
        for out, row in zip(result, range(start, stop), strict=True):
            i, k = divmod(row, len(self.right))
            np.multiply(
                self.left[i][:, None], self.right[k], out=out.reshape(-1, len(self.right[k]))
            )
        result *= self.scale
        return result


def _set_shape(change: Change, n_rows: int, n_columns: int) -> None:
    object.__setattr__(change, "n_rows", n_rows)
    object.__setattr__(change, "n_columns", n_columns)
