"""What a walk looks at beside inner products: how coarse values are, and how they spread."""

from __future__ import annotations

from typing import final

import numpy as np

from stockpot.checkpoints import TensorInfo
from stockpot.compare.comparison import Doubles
from stockpot.compare.units import Unit

__all__ = ["Sample"]


@final
class Sample:
    """Rounding steps and kurtosis of a tensor, from a fixed part of its elements.

    Args:
        infos: The tensor in each model.
        unit: What the models have in common of it.
    """

    def __init__(self, infos: list[TensorInfo], unit: Unit) -> None:
        self._lowest = np.array([[1023 + info.dtype.min_exponent] for info in infos], np.int64)
        self._mantissa = np.array([[info.dtype.mantissa_bits] for info in infos], np.int64)
        self._unit = unit
        self._n = 0
        self._steps, self._second, self._fourth = np.zeros((3, len(infos)))

    def add(self, panel: Doubles) -> None:
        """Look at some columns.

        Args:
            panel: Shape ``[n, m]``.
        """
        bits = np.ascontiguousarray(panel).view(np.int64)
        exponent = np.maximum((bits >> 52) & 0x7FF, self._lowest) - self._mantissa
        steps = (np.maximum(exponent, 1) << 52).view(np.float64)
        squares = panel * panel
        self._n += panel.shape[1]
        self._steps += (steps * steps).sum(axis=1)
        self._second += squares.sum(axis=1)
        self._fourth += (squares * squares).sum(axis=1)

    def result(self) -> tuple[Doubles, Doubles | None]:
        """Give the squared rounding error of the whole tensor, and kurtosis of a matrix.

        Returns:
            Shape ``[n]`` each; no kurtosis where the tensor is no matrix, or holds NaN.
        """
        n = max(1, self._n)
        # A rounding error is anywhere within half a step: its variance is step²/12.
        rounding = self._steps / 12 * (self._unit.n_elements / n)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            kurtosis = n * self._fourth / self._second**2
        is_matrix = self._unit.n_axes > 1 and bool(np.isfinite(kurtosis).all())
        return rounding, kurtosis if is_matrix else None
