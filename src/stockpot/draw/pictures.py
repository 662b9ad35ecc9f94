"""Pictures as arrays, and as PNG files."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

__all__ = ["Pictures", "to_png"]

Pictures = npt.NDArray[np.uint8]
"""RGB pictures as bytes, `[n, height, width, 3]`."""


def to_png(picture: npt.NDArray[np.uint8]) -> bytes:
    """Encode one picture.

    Args:
        picture: uint8 RGB, `[height, width, 3]`.

    Returns:
        A PNG file without metadata: equal pictures give equal bytes.

    Raises:
        ValueError: The array is something else.

    Example:
        >>> to_png(np.zeros((2, 2, 3), np.uint8))[1:4]
        b'PNG'
    """
    from PIL import Image

    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            "a picture must be uint8 RGB of shape [height, width, 3], "
            f"but got {picture.dtype} {list(picture.shape)}"
        )
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
