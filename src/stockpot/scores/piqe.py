"""PIQE: distortions of a picture, without any reference and without weights.

Source: Venkatanath et al., Blind image quality evaluation using perception based features
(NCC 2015). ``pypiqe``, a port of MATLAB's, differs: it leaves a wrong column out of a block's
surround, and stretches brightness so that the brightest pixel is 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.scores._base import Picture, Scorer, Scores
from stockpot.scores.statistics import luma

__all__ = ["Blocks", "Piqe", "find_blocks", "piqe"]

_Array = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]

_SIDE = 16
_SEGMENT = 6
_ACTIVE = 0.1  # least variance of a block that people look at
_IMPAIRED = 0.1  # a segment of an edge with less deviation shows an artefact
_RADIUS = 3
_SIGMA = 7 / 6


@dataclass(frozen=True, slots=True)
class Blocks:
    """What was found in each block of 16 x 16 pixels, `[rows, columns]`.

    Attributes:
        variance: Of the normalised luma.
        active: Whether people would look at it.
        impaired: Whether it is active and a piece of its border is flat: compression, blur.
        noisy: Whether it is active and looks like noise.
    """

    variance: _Array
    active: _Flags
    impaired: _Flags
    noisy: _Flags


def piqe(picture: Picture) -> float:
    """Compute PIQE: about 0 for a clean picture, about 100 for a spoilt or flat one.

    Args:
        picture: uint8 RGB, `[height, width, 3]`.

    Returns:
        The score of the paper: lower is better.

    Example:
        >>> piqe(np.zeros((32, 32, 3), np.uint8))
        100.0
    """
    blocks = find_blocks(picture)
    damage = blocks.impaired * (1 - blocks.variance) + blocks.noisy * blocks.variance
    # The 1 keeps a picture without active blocks from dividing by zero.
    return float(100 * (damage.sum() + 1) / (blocks.active.sum() + 1))


def find_blocks(picture: Picture) -> Blocks:
    """Judge each block of a picture.

    Args:
        picture: uint8 RGB, `[height, width, 3]`; mirrored at the right and lower border until it
            divides into blocks.

    Returns:
        What was found.
    """
    rows, columns = (-size % _SIDE for size in picture.shape[:2])
    whole = np.pad(_grey(picture), ((0, rows), (0, columns)), mode="symmetric")
    normal = _normalised(whole)
    n_rows, n_columns = normal.shape[0] // _SIDE, normal.shape[1] // _SIDE
    blocks = normal.reshape(n_rows, _SIDE, n_columns, _SIDE).swapaxes(1, 2)
    variance = blocks.var(axis=(-2, -1), ddof=1)
    active = variance > _ACTIVE
    return Blocks(variance, active, active & _is_impaired(blocks), active & _is_noisy(blocks))


def _grey(picture: Picture) -> _Array:
    return np.asarray(np.round(255 * luma(picture)), dtype=np.float64)


def _normalised(y: _Array) -> _Array:
    """Take the local mean away and divide by the local deviation."""
    mean = _blurred(y)
    deviation = np.sqrt(np.abs(_blurred(y * y) - mean * mean))
    return np.asarray((y - mean) / (deviation + 1))


def _blurred(y: _Array) -> _Array:
    places = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(places**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    padded = np.pad(y, _RADIUS, mode="edge")
    tall = sum(w * padded[i : i + y.shape[0]] for i, w in enumerate(weights))
    return np.asarray(sum(w * tall[:, i : i + y.shape[1]] for i, w in enumerate(weights)))


def _is_impaired(blocks: _Array) -> _Flags:
    borders = np.stack(
        [blocks[..., 0, :], blocks[..., -1, :], blocks[..., :, 0], blocks[..., :, -1]], axis=-2
    )
    segments = np.lib.stride_tricks.sliding_window_view(borders, _SEGMENT, axis=-1)
    return np.asarray((segments.std(axis=-1, ddof=1) < _IMPAIRED).any(axis=(-2, -1)))


def _is_noisy(blocks: _Array) -> _Flags:
    """Compare a block's two middle columns with the rest of it."""
    middle = slice(_SIDE // 2 - 1, _SIDE // 2 + 1)
    centre = blocks[..., middle].reshape(*blocks.shape[:2], -1).std(axis=-1, ddof=1)
    rest = np.delete(blocks, middle, axis=-1).reshape(*blocks.shape[:2], -1)
    surround = rest.std(axis=-1, ddof=1)
    ratio = np.divide(centre, surround, out=np.zeros_like(centre), where=surround > 0)
    deviation = blocks.std(axis=(-2, -1), ddof=1)
    larger = np.maximum(deviation, ratio)
    beta = np.divide(np.abs(deviation - ratio), larger, out=np.zeros_like(larger), where=larger > 0)
    return np.asarray(deviation > 2 * beta)


@final
class Piqe(Scorer):
    """PIQE with its sign turned, so that higher is better.

    It knows nothing of art: flat colours and soft backgrounds count as damage.
    """

    name = "piqe"
    range = "minus PIQE, about -100 (spoilt) to 0 (clean)"
    uses_prompt = False

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        return np.array([-piqe(picture) for picture in pictures])
