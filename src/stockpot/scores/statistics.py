"""What a picture is, without any taste: contrast, detail, sharpness, colourfulness.

These need no weights and no prompt. A search that maximises somebody's taste is watched with them:
a winner whose pictures are blurred or garish compared with its parents' has found a weakness of
the scorer, not better pictures.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.scores._base import Picture, Scorer, Scores

__all__ = ["Colourfulness", "Contrast", "Detail", "Sharpness", "Statistics", "picture_statistics"]

_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class Statistics:
    """Numbers of one picture.

    Attributes:
        brightness: Mean luma, 0 to 1.
        contrast: Standard deviation of luma, 0 to 0.5.
        detail: Mean square of luma's Laplacian (four neighbours, without the border): the energy
            of what changes from pixel to pixel. It depends on the resolution.
        sharpness: Detail divided by the square of contrast: 0 for a flat or smooth picture, larger
            the finer its structures are, whatever their strength.
        colourfulness: Hasler and Süsstrunk's measure (Measuring colourfulness in natural images,
            2003): spread and offset of red against green and of yellow against blue.
    """

    brightness: float
    contrast: float
    detail: float
    sharpness: float
    colourfulness: float


def luma(picture: Picture) -> npt.NDArray[np.float64]:
    """Compute brightness as people see it (ITU-R BT.601).

    Args:
        picture: uint8 RGB, `[height, width, 3]`.

    Returns:
        0 to 1, `[height, width]`.
    """
    return np.asarray(np.asarray(picture, dtype=np.float64) @ _LUMA / 255)


def picture_statistics(picture: Picture) -> Statistics:
    """Compute all statistics of a picture.

    Args:
        picture: uint8 RGB, `[height, width, 3]`.

    Returns:
        The numbers.

    Example:
        >>> white = np.full((8, 8, 3), 255, np.uint8)
        >>> picture_statistics(white)
        Statistics(brightness=1.0, contrast=0.0, detail=0.0, sharpness=0.0, colourfulness=0.0)
    """
    y = luma(picture)
    inner = y[1:-1, 1:-1]
    edges = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * inner
    contrast = float(y.std()) if np.ptp(y) else 0.0
    detail = float(np.square(edges).mean()) if edges.size and contrast else 0.0
    return Statistics(
        float(y.mean()),
        contrast,
        detail,
        detail / contrast**2 if contrast else 0.0,
        _colourfulness(picture),
    )


def _colourfulness(picture: Picture) -> float:
    red, green, blue = np.moveaxis(np.asarray(picture, dtype=np.float64), -1, 0)
    differences = (red - green, (red + green) / 2 - blue)
    spread = np.hypot(*(d.std() for d in differences))
    offset = np.hypot(*(d.mean() for d in differences))
    return float(spread + 0.3 * offset)


class _StatisticScorer(Scorer):
    uses_prompt = False

    @staticmethod
    @abstractmethod
    def _pick(found: Statistics) -> float:
        """Take this scorer's number."""

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        return np.array([self._pick(picture_statistics(picture)) for picture in pictures])


@final
class Contrast(_StatisticScorer):
    """Standard deviation of luma; see `Statistics`."""

    name = "contrast"
    range = "standard deviation of luma, 0 to 0.5"

    @staticmethod
    def _pick(found: Statistics) -> float:
        return found.contrast


@final
class Detail(_StatisticScorer):
    """Energy of what changes from pixel to pixel; see `Statistics`."""

    name = "detail"
    range = "mean square of luma's Laplacian, from 0"

    @staticmethod
    def _pick(found: Statistics) -> float:
        return found.detail


@final
class Sharpness(_StatisticScorer):
    """How fine the structures are, whatever their strength; see `Statistics`."""

    name = "sharpness"
    range = "detail divided by the square of contrast, from 0"

    @staticmethod
    def _pick(found: Statistics) -> float:
        return found.sharpness


@final
class Colourfulness(_StatisticScorer):
    """Hasler and Süsstrunk's colourfulness; see `Statistics`."""

    name = "colourfulness"
    range = "Hasler-Süsstrunk, from 0 (grey)"

    @staticmethod
    def _pick(found: Statistics) -> float:
        return found.colourfulness
