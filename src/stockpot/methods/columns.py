"""Supermerger's methods that look at a tensor's first axis, and its smoothing of differences."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import final

import numpy as np

from stockpot.methods.contract import Doubles, Parameters, Task, Work

__all__ = ["Cosine", "TensorSwap", "smoothed"]

_BLOCK = 1 << 14
_SLAB = 1 << 21  # doubles of windows at once


@final
class Cosine(Work):
    """Supermerger's cosineA and cosineB, each tensor on its own.

    The more a and b agree, the more of a is taken: b + k(a − b) with k = clamp(s − t, 0, 1). s is
    the cosine of a's and b's columns, that is along the first axis; for cosineB the mean of that
    and the cosine of the whole tensors. Supermerger stretches s between its extremes over all
    tensors first; here, as in sd-mecha, it is taken as it is.

    Args:
        task: ``t``.
        whole: Whether it is cosineB.
    """

    def __init__(self, task: Task, whole: bool) -> None:
        self._t, self._whole = task.number("t"), whole
        self._columns = math.prod(task.shape[1:]) or 1
        rows = max(1, _BLOCK // self._columns)
        self._block = np.empty((2, rows * self._columns))
        self._n_kept = 0
        self._sums = np.zeros((3, self._columns))  # a·b, a·a, b·b
        self._k = np.zeros(0)
        self.wants_pass = True

    def gather(self, start: int, panel: Doubles) -> None:
        """Look at a panel; see `Work.gather`."""
        at, length = 0, self._block.shape[1]
        while at < panel.shape[1]:
            step = min(length - self._n_kept, panel.shape[1] - at)
            self._block[:, self._n_kept : self._n_kept + step] = panel[:, at : at + step]
            self._n_kept += step
            at += step
            if self._n_kept == length:
                self._flush()

    def _flush(self) -> None:
        a, b = self._block[:, : self._n_kept].reshape(2, -1, self._columns)
        for total, product in zip(self._sums, (a * b, a * a, b * b), strict=True):
            total += product.sum(axis=0)
        self._n_kept = 0

    def finish_pass(self) -> None:
        """Draw conclusions; see `Work.finish_pass`."""
        if self._n_kept:
            self._flush()
        cosine = _cosine(*self._sums)
        if self._whole:
            total = [np.array(math.fsum(part)) for part in self._sums]
            cosine = (cosine + _cosine(*total)) / 2
        self._k = np.clip(cosine - self._t, 0, 1)
        self.wants_pass = False

    def rows(self, start: int, panel: Doubles) -> Doubles:
        """Compute results; see `Work.rows`."""
        a, b = panel
        place = np.arange(start, start + panel.shape[1]) % self._columns
        result: Doubles = b + self._k[place] * (a - b)
        return result[None]


def _cosine(product: Doubles, one: Doubles, other: Doubles) -> Doubles:
    size = np.sqrt(one) * np.sqrt(other)
    result: Doubles = np.divide(product, size, out=np.zeros_like(size), where=size > 0)
    return result


@final
class TensorSwap(Work):
    """Supermerger's tensor swap: some rows of the first axis from b, the others from a.

    Args:
        task: ``low`` and ``high``, fractions of the first axis; a tensor without axes has one row.
    """

    def __init__(self, task: Task) -> None:
        low, high = task.parameters["low"], task.parameters["high"]
        assert isinstance(low, Fraction) and isinstance(high, Fraction)
        rows = task.shape[0] if task.shape else 1
        columns = math.prod(task.shape[1:])
        self._from, self._to = (math.floor(end * rows) * columns for end in (low, high))

    def rows(self, start: int, panel: Doubles) -> Doubles:
        """Compute results; see `Work.rows`."""
        a, b = panel
        place = np.arange(start, start + panel.shape[1])
        result: Doubles = np.where((place >= self._from) & (place < self._to), b, a)
        return result[None]


def smoothed(delta: Doubles, parameters: Parameters) -> Doubles:
    """The filters of supermerger's smoothAdd: a median, then a Gaussian.

    The median is that of the window of 3 along every axis; the Gaussian has σ = 1 and reaches 4.
    Beyond an edge the tensor is mirrored, its last element included.

    Args:
        delta: The delta of a tensor, of any shape.
        parameters: None.

    Returns:
        The filtered delta, of the same shape.

    Example:
        >>> smoothed(np.array([0.0, 0.0, 9.0, 0.0]), {}).tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    if delta.ndim == 0 or delta.size == 0:
        return delta
    result = _median_of_windows(delta)
    reach = np.arange(-4, 5)
    bell = np.exp(-(reach**2) / 2)
    bell /= bell.sum()
    for axis in range(delta.ndim):
        length = delta.shape[axis]
        total = np.zeros_like(result)
        for offset, weight in zip(reach, bell, strict=True):
            mirrored = np.arange(length) + offset
            mirrored %= 2 * length
            mirrored = np.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
            total += weight * np.take(result, mirrored, axis=axis)
        result = total
    return result


def _median_of_windows(delta: Doubles) -> Doubles:
    padded = np.pad(delta, 1, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3,) * delta.ndim)
    result = np.empty_like(delta)
    step = max(1, _SLAB // (3**delta.ndim * max(1, delta[0].size)))
    for start in range(0, len(delta), step):
        slab = windows[start : start + step]
        flat = slab.reshape(*slab.shape[: delta.ndim], -1)
        result[start : start + step] = np.sort(flat, axis=-1)[..., 3**delta.ndim // 2]
    return result
