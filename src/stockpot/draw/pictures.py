"""Pictures as arrays, and as PNG files with what was asked for inside."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stockpot.errors import Problem, RequestError

__all__ = ["Pictures", "from_png", "read_parameters", "to_png"]

Pictures = npt.NDArray[np.uint8]
"""RGB pictures as bytes, `[n, height, width, 3]`."""


def to_png(picture: npt.NDArray[np.uint8], parameters: str = "") -> bytes:
    """Encode one picture.

    Args:
        picture: uint8 RGB, `[height, width, 3]`.
        parameters: An infotext, kept under the name that web UIs read.

    Returns:
        A PNG file: equal pictures and texts give equal bytes.

    Raises:
        ValueError: The array is something else.

    Example:
        >>> to_png(np.zeros((2, 2, 3), np.uint8))[1:4]
        b'PNG'
    """
    from PIL import Image, PngImagePlugin

    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            "a picture must be uint8 RGB of shape [height, width, 3], "
            f"but got {picture.dtype} {list(picture.shape)}"
        )
    information = PngImagePlugin.PngInfo()
    if parameters:
        information.add_text("parameters", parameters)
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.save(buffer, "PNG", optimize=True, pnginfo=information)
    return buffer.getvalue()


def from_png(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode one picture.

    Args:
        data: An image file of any kind that Pillow reads.

    Returns:
        uint8 RGB, `[height, width, 3]`.

    Raises:
        ValueError: It is no picture.

    Example:
        >>> from_png(to_png(np.full((1, 2, 3), 7, np.uint8))).tolist()
        [[[7, 7, 7], [7, 7, 7]]]
    """
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"a picture was expected, but this is none: {error}") from error


def read_parameters(path: Path) -> str:
    """Find the infotext in a picture, or in a text file.

    Args:
        path: A PNG file with ``parameters``, a JPEG or WebP file with it as user comment, or plain
            text.

    Returns:
        The infotext.

    Raises:
        RequestError: There is none.
    """
    from PIL import Image

    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError([Problem("unreadable", f"the file cannot be read: {error.strerror}",
                                    str(path))]) from error  # fmt: skip
    try:
        image = Image.open(io.BytesIO(data))
        text = image.info.get("parameters")
        if not isinstance(text, str):
            text = _comment(image)
    except Image.DecompressionBombError as error:
        raise RequestError([Problem("too-large", f"the picture is too large: {error}",
                                    str(path))]) from error  # fmt: skip
    except (OSError, SyntaxError, ValueError):
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = ""
    if not text:
        problem = Problem("no-infotext", "there is no infotext in this file", str(path),
                          "web UIs write it into the PNG files that they save")  # fmt: skip
        raise RequestError([problem])
    return text


def _comment(image: object) -> str:
    """The EXIF user comment, which names its encoding in its first 8 bytes."""
    exif = image.getexif() if hasattr(image, "getexif") else {}
    value = exif.get_ifd(0x8769).get(0x9286) if hasattr(exif, "get_ifd") else None
    if not isinstance(value, bytes):
        return ""
    kind, rest = value[:8], value[8:]
    return rest.decode("utf-16-be" if kind.startswith(b"UNICODE") else "utf-8", "replace")
