"""How far two pictures are from each other, for studies of very many pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from stockpot.draw import mean_squared_error, sift_matches, structural_similarity, zoo_features
from stockpot.scores import Picture

__all__ = ["mse", "shrink", "sift_apart", "structure_apart", "zoo_embedding"]

_STRUCTURE_SIDE = 128
_SIFT_SIDE = 256


def mse(a: Picture, b: Picture) -> float:
    """The mean squared difference of values in [0, 1]; see `stockpot.draw.mean_squared_error`."""
    return mean_squared_error(a, b)


def structure_apart(a: Picture, b: Picture) -> float:
    """One minus SSIM, of pictures shrunk to a shorter side of at most 128 or so.

    Wang et al. advise shrinking to what an eye sees from its usual distance; besides, thousands of
    pairs are compared.

    Args:
        a: uint8 `[height, width, 3]`.
        b: Of the same size.

    Example:
        >>> picture = np.random.default_rng(0).integers(0, 255, (300, 300, 3)).astype(np.uint8)
        >>> structure_apart(picture, picture)
        0.0
    """
    return 1.0 - structural_similarity(shrink(a, _STRUCTURE_SIDE), shrink(b, _STRUCTURE_SIDE))


def sift_apart(a: Picture, b: Picture) -> float:
    """Minus the number of points that both pictures show, of pictures shrunk to 256 or so.

    Args:
        a: uint8 `[height, width, 3]`; below some 100 pixels there is little to find.
        b: Of any size.
    """
    return float(-sift_matches(shrink(a, _SIFT_SIDE), shrink(b, _SIFT_SIDE)))


def zoo_embedding() -> Callable[[Sequence[Picture]], npt.NDArray[np.float32]]:
    """Take the last features of the zoo's classifier, for pools of the zoo.

    Returns:
        From pictures of one size to unit vectors, float32 `[n, width]`.

    Raises:
        stockpot.zoo.ZooNotInstalled: The zoo is not installed.
    """
    features = zoo_features()

    def embed(pictures: Sequence[Picture]) -> npt.NDArray[np.float32]:
        import torch

        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            rows = features(pixels)[-1].flatten(1)
        found: npt.NDArray[np.float32] = torch.nn.functional.normalize(rows, dim=1).numpy()
        return found

    return embed


def shrink(picture: Picture, side: int) -> Picture:
    """Average whole blocks of pixels, so that the shorter side is at most `side` or a little more.

    Args:
        picture: uint8 `[height, width, 3]`.
        side: In pixels; smaller pictures stay as they are.

    Returns:
        uint8; what does not fill a block at the right and at the bottom is cut off.

    Example:
        >>> shrink(np.zeros((300, 600, 3), np.uint8), 128).shape
        (150, 300, 3)
    """
    height, width, _ = picture.shape
    by = max(1, round(min(height, width) / side))
    if by == 1:
        return picture
    rows, columns = height // by, width // by
    cut = picture[: rows * by, : columns * by].reshape(rows, by, columns, by, 3)
    found: npt.NDArray[np.uint8] = np.rint(cut.mean(axis=(1, 3))).astype(np.uint8)
    return found
