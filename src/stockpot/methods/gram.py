"""Inner products of rows, in one pass: what distances, medians and explanations are computed from.

Everything that depends on n rows only through their inner products needs one walk over the data
and then arithmetic on n×n numbers: ‖xᵢ − Σwⱼxⱼ‖² is a quadratic form in them (Weiszfeld's median,
1912.13445; model stock, 2403.19522; metric multidimensional scaling).

Rows of fine-tunes differ by a few percent, so that ⟨xᵢ, xⱼ⟩ of whole rows would lose the digits
in which they differ. What is summed here are products of differences to one of the rows, the pivot.
Sums run over fixed blocks of elements in their order, so that the cut of panels does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.methods.feeds import Feed, panels
from stockpot.methods.linear import CODES, HAS_COMPILED_KERNEL, Row, kernel

__all__ = [
    "BLOCK_ELEMENTS",
    "NEAR",
    "Gram",
    "GramAccumulator",
    "one_blas_thread",
    "sum_grams",
    "widen",
]

Doubles = npt.NDArray[np.float64]

BLOCK_ELEMENTS = 1 << 14
"""Columns whose products are summed at once: short enough for the caches, and part of the result's
definition, since sums of floats depend on their order."""

# Below this share of ‖dᵢ‖² + ‖dⱼ‖², the distance of i and j is taken from the rows themselves:
# the products have lost too many digits to show it.
NEAR = 1e-5
# Columns of a block are summed in so many sums, each of which takes every eighth.
_LANES = 8


@final
@dataclass(frozen=True, eq=False)
class Gram:
    """Inner products of n rows, as differences to a pivot row p: dᵢ = xᵢ − p.

    Attributes:
        pivot: Which row was subtracted, 0 to n − 1; −1 for none: then p is zero.
        n_elements: Length of the rows.
        inner: ⟨dᵢ, dⱼ⟩, shape ``[n, n]``, float64; zero in the pivot's row and column.
        cross: ⟨dᵢ, p⟩, shape ``[n]``; zero at the pivot.
        pivot_square: ⟨p, p⟩.
        squared: ‖xᵢ − xⱼ‖², shape ``[n, n]``; exactly zero for equal rows, and accurate for near
            ones, which `inner` alone would not be.

    Example:
        >>> sums = GramAccumulator(2)
        >>> sums.add(np.array([[1.0, 2.0], [1.0, 4.0]]))
        >>> gram = sums.finish()
        >>> gram.distances().tolist(), gram.products().tolist()
        ([[0.0, 2.0], [2.0, 0.0]], [[5.0, 9.0], [9.0, 17.0]])
    """

    pivot: int
    n_elements: int
    inner: Doubles
    cross: Doubles
    pivot_square: float
    squared: Doubles

    def distances(self) -> Doubles:
        """Euclidean distances ‖xᵢ − xⱼ‖.

        Returns:
            Shape ``[n, n]``, symmetric, zero on the diagonal.
        """
        result: Doubles = np.sqrt(self.squared)
        return result

    def products(self) -> Doubles:
        """Inner products of the rows themselves, ⟨xᵢ, xⱼ⟩.

        Returns:
            Shape ``[n, n]``.
        """
        result: Doubles = self.inner + self.cross[:, None] + self.cross + self.pivot_square
        return result

    def cosines(self) -> Doubles:
        """Cosine similarities of the rows; NaN for a row of zeros.

        Returns:
            Shape ``[n, n]``, within [−1, 1].
        """
        return _cosines(self.products())

    def deltas(self, base: int) -> Doubles:
        """Inner products of differences to any of the rows, ⟨xᵢ − x_b, xⱼ − x_b⟩.

        Args:
            base: The row b.

        Returns:
            Shape ``[n, n]``; zero in the base's row and column.
        """
        if base == self.pivot:
            return self.inner.copy()
        to_base = self.squared[base]
        result: Doubles = (to_base[:, None] + to_base - self.squared) / 2
        return result

    def delta_cosines(self, base: int) -> Doubles:
        """Cosine similarities of differences to a row; NaN where a difference is zero.

        Args:
            base: The row.

        Returns:
            Shape ``[n, n]``, within [−1, 1].
        """
        return _cosines(self.deltas(base))

    def pick(self, rows: list[int]) -> Gram:
        """Keep some of the rows.

        Args:
            rows: Which, in their new order. Where the pivot is not among them, the first becomes
                the pivot.

        Returns:
            Their inner products.
        """
        squared = self.squared[np.ix_(rows, rows)]
        if self.pivot < 0 or self.pivot in rows:
            inner = self.inner[np.ix_(rows, rows)]
            place = rows.index(self.pivot) if self.pivot >= 0 else -1
            return Gram(place, self.n_elements, inner, self.cross[rows], self.pivot_square, squared)
        products = self.products()[np.ix_(rows, rows)]
        inner = (squared[0][:, None] + squared[0] - squared) / 2
        cross = products[0] - products[0, 0]
        return Gram(0, self.n_elements, inner, cross, float(products[0, 0]), squared)

    def __add__(self, other: Gram) -> Gram:
        """The inner products of rows that continue in another tensor.

        Args:
            other: Of the same rows with the same pivot.

        Returns:
            The sums.

        Raises:
            ValueError: Other rows, or another pivot.
        """
        if self.pivot != other.pivot or self.inner.shape != other.inner.shape:
            raise ValueError("inner products can be added where rows and pivot are the same")
        return Gram(
            self.pivot,
            self.n_elements + other.n_elements,
            self.inner + other.inner,
            self.cross + other.cross,
            self.pivot_square + other.pivot_square,
            self.squared + other.squared,
        )


@final
class GramAccumulator:
    """Takes the panels of one tensor in their order and sums inner products.

    Memory: some n×n matrices, and ``8 · n · BLOCK_ELEMENTS`` bytes where panels end within blocks.
    The result does not depend on how the columns are cut into panels, nor on the machine: of a
    block, eight sums take every eighth column each and are added in one order.

    A row with NaN or infinities spoils what it takes part in and nothing else, unless it is the
    pivot.

    Args:
        n_rows: Rows of every panel, at least 1.
        pivot: The row to subtract: best a base of the others, or any of them where they are near
            each other. −1 subtracts nothing: then the order of rows decides about no digit.
        compiled: Use C where it was built; the bits are the same.
        elsewhere: Gives inner products and squared distances of a block without a pivot, in place
            of the processor; only near the same.

    Raises:
        ValueError: There is no such row.

    Example:
        >>> sums = GramAccumulator(2, pivot=1)
        >>> for column in ([[3.0], [1.0]], [[5.0], [1.0]]):
        ...     sums.add(np.array(column))
        >>> sums.finish().squared.tolist()
        [[0.0, 20.0], [20.0, 0.0]]
    """

    def __init__(
        self,
        n_rows: int,
        pivot: int = 0,
        *,
        compiled: bool = True,
        elsewhere: Callable[[Feed], tuple[Doubles, Doubles]] | None = None,
    ) -> None:
        if not -1 <= pivot < n_rows:
            raise ValueError(f"the pivot must be one of {n_rows} rows, but is {pivot}")
        self._n, self._pivot = n_rows, pivot
        self._elsewhere = elsewhere
        self._compiled = compiled and panels is not None
        self._kept: Doubles | None = None
        self._restart()

    def add(self, panel: Doubles) -> None:
        """Take the next columns.

        Args:
            panel: Shape ``[n, m]`` with any m; not changed, and not kept.

        Raises:
            ValueError: Not n rows.
        """
        if panel.ndim != 2 or len(panel) != self._n:
            raise ValueError(f"a panel must have {self._n} rows, but its shape is {panel.shape}")
        m = panel.shape[1]
        self._n_elements += m
        start = 0
        while start < m:
            if not self._n_kept and m - start >= BLOCK_ELEMENTS:
                self._block(panel[:, start : start + BLOCK_ELEMENTS])
                start += BLOCK_ELEMENTS
                continue
            if self._kept is None:
                self._kept = np.empty((self._n, BLOCK_ELEMENTS))
            step = min(BLOCK_ELEMENTS - self._n_kept, m - start)
            self._kept[:, self._n_kept : self._n_kept + step] = panel[:, start : start + step]
            self._n_kept += step
            start += step
            if self._n_kept == BLOCK_ELEMENTS:
                self._flush()

    def add_feed(self, feed: Feed, last: bool) -> None:
        """Take the next columns without making them.

        Args:
            feed: Rows that were not made.
            last: Whether the tensor ends with them.

        Raises:
            ValueError: Not n rows.
        """
        if len(feed.pairs) != self._n:
            raise ValueError(f"a feed must have {self._n} rows, but has {len(feed.pairs)}")
        size = feed.n_elements
        whole = size if last else size - size % BLOCK_ELEMENTS
        if self._n_kept:
            whole = 0
        if whole:
            self._n_elements += whole
            for at in range(0, whole if self._elsewhere else 0, BLOCK_ELEMENTS):
                self._add_from(feed.cut(at, min(at + BLOCK_ELEMENTS, whole)))
        if whole and not self._elsewhere:
            assert panels is not None
            whole_feed = feed if whole == size else feed.cut(0, whole)
            panels.gram(whole_feed.packed, self._pivot, self._inner, self._squared)
        if whole < size:
            self.add(feed.cut(whole, size).panel())

    def finish(self) -> Gram:
        """Give the sums of the tensor, and begin anew for the next one.

        Returns:
            Inner products of all columns since the last call.
        """
        if self._n_kept:
            self._flush()
        inner, pivot = self._inner, self._pivot
        if pivot < 0:
            result = Gram(-1, self._n_elements, inner, np.zeros(self._n), 0.0, self._squared)
            self._restart()
            return result
        cross = inner[pivot].copy()
        square, cross[pivot] = float(cross[pivot]), 0.0
        inner[pivot] = inner[:, pivot] = 0.0
        result = Gram(pivot, self._n_elements, inner, cross, square, self._squared)
        self._restart()
        return result

    def _restart(self) -> None:
        self._inner = np.zeros((self._n, self._n))
        self._squared = np.zeros((self._n, self._n))
        self._n_kept = self._n_elements = 0

    def _flush(self) -> None:
        assert self._kept is not None  # columns wait in it
        n_kept, self._n_kept = self._n_kept, 0
        self._block(self._kept[:, :n_kept])

    def _add_from(self, block: Feed) -> None:
        assert self._elsewhere is not None
        products, squared = self._elsewhere(block)
        self._inner += products
        self._squared += squared

    @np.errstate(invalid="ignore", over="ignore")
    def _block(self, columns: Doubles) -> None:
        """Add the products of one block.

        The pivot's own row would be zeros; the pivot stands there itself, so that one product of
        matrices gives ⟨dᵢ, dⱼ⟩, ⟨dᵢ, p⟩ and ⟨p, p⟩.
        """
        if self._elsewhere:
            self._add_from(Feed.of(columns))
            return
        if self._compiled:
            assert panels is not None
            panels.gram(Feed.of(columns).packed, self._pivot, self._inner, self._squared)
            return
        pivot = self._pivot
        lanes = np.zeros((self._n, -(-columns.shape[1] // _LANES), _LANES))
        deltas = lanes.reshape(self._n, -1)[:, : columns.shape[1]]
        deltas[:] = columns
        if pivot >= 0:
            deltas -= columns[pivot]
            deltas[pivot] = columns[pivot]
        products = np.empty((self._n, self._n))
        for i, row in enumerate(lanes):
            for j in range(i, self._n):
                products[i, j] = products[j, i] = _sum_of(row * lanes[j])
        squares = products.diagonal().copy()
        if pivot >= 0:
            squares[pivot] = 0.0
        sizes = squares[:, None] + squares
        squared = sizes - 2 * products
        near = squared <= NEAR * sizes
        if pivot >= 0:
            squared[pivot] = squared[:, pivot] = squares
            near[pivot] = near[:, pivot] = False
        # The products of near rows have lost the digits of their distance.
        for i, j in zip(*np.nonzero(np.triu(near, 1)), strict=True):
            gaps = lanes[i] - lanes[j]
            squared[i, j] = squared[j, i] = _sum_of(gaps * gaps)
        np.fill_diagonal(squared, 0.0)
        self._inner += products
        self._squared += squared


def _sum_of(products: Doubles) -> float:
    """The sum of a block, shape ``[m/8, 8]``, in the one order that C keeps to as well."""
    # Along an outer axis numpy adds one after the other.
    lanes = np.add.reduce(products, axis=0)
    halves = lanes[:4] + lanes[4:]
    quarters = halves[:2] + halves[2:]
    return float(quarters[0] + quarters[1])


def sum_grams(grams: Iterable[Gram]) -> Gram:
    """Add the inner products of several tensors of the same rows, in the given order.

    Args:
        grams: At least one; the same rows and pivot in each. Sums of floats depend on their
            order, so give them in the order of keys.

    Returns:
        The sums.

    Raises:
        ValueError: None came, or rows or pivots differ.

    Example:
        >>> one = GramAccumulator(2)
        >>> one.add(np.array([[1.0], [2.0]]))
        >>> gram = one.finish()
        >>> sum_grams([gram, gram]).squared[0, 1].item()
        2.0
    """
    total: Gram | None = None
    for gram in grams:
        total = gram if total is None else total + gram
    if total is None:
        raise ValueError("there must be at least one tensor to add up")
    return total


def widen(row: Row, out: Doubles, *, compiled: bool = HAS_COMPILED_KERNEL) -> bool:
    """Write a row's values as doubles; always exact.

    Args:
        row: ``n`` elements of any float type.
        out: Where they go, shape ``[n]``, contiguous.
        compiled: Use the C kernel; otherwise torch.

    Returns:
        Whether every value is finite. What stands in `out` for the others means nothing.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> out = np.empty(2)
        >>> half = np.array([0.5, np.inf], np.float16)
        >>> widen(Row(memoryview(half).cast("B"), DTYPES["F16"]), out), out[0].item()
        (False, 0.5)
    """
    if not out.size:
        return True
    target = out.data.cast("B")
    facts = kernel(compiled)(
        target, CODES["F64"], [row.data], [CODES[row.dtype.name]], [1.0], 1.0, -1.0
    )
    return not facts[2]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep numpy's matrix library to the thread that calls it.

    Sums then have one order, and threads of our own do not wait for those of the library. It holds
    for the whole process, so it goes around a run, not around a block.

    Yields:
        Nothing; the former number of threads comes back at the end.

    Example:
        >>> with one_blas_thread():
        ...     product = np.ones((2, 3)) @ np.ones((3, 2))
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def _cosines(products: Doubles) -> Doubles:
    lengths = np.sqrt(products.diagonal())
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Doubles = np.clip(products / lengths[:, None] / lengths, -1.0, 1.0)
    return result
