"""Pictures from files, and pictures as networks want them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from stockpot.errors import MissingExtraError, ScorerError, UnknownNameError
from stockpot.scores._base import Picture

if TYPE_CHECKING:
    import torch

__all__ = [
    "CLIP_MEAN",
    "CLIP_SD",
    "FITS",
    "Transform",
    "read_picture",
    "read_texts",
    "require_pillow",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_SD = (0.26862954, 0.26130258, 0.27577711)
FITS = ("published", "crop", "pad", "stretch")
"""How a picture may be made square; ``published`` is as the scorer's authors do it."""

_FORMATS = ("PNG", "JPEG", "WEBP")
_LARGEST_SIDE = 16_384
Centre = Literal["down", "nearest"]


def require_pillow() -> Any:
    """Import Pillow's module of images.

    Returns:
        `PIL.Image`.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("reading and resampling pictures", "draw") from error
    return Image


def read_picture(path: Path) -> Picture:
    """Read a picture.

    Args:
        path: A PNG, JPEG or WebP file; transparent parts become white.

    Returns:
        uint8 RGB, `[height, width, 3]`.

    Raises:
        ScorerError: It is not there, no picture, damaged, or larger than 16384 pixels a side.
    """
    image = require_pillow()
    with _opened(path) as opened:
        if max(opened.size) > _LARGEST_SIDE:
            raise ScorerError(
                f"{path}: a picture may have {_LARGEST_SIDE} pixels a side, but has "
                f"{opened.width}x{opened.height}"
            )
        if "A" in opened.getbands() or "transparency" in opened.info:
            coloured = opened.convert("RGBA")
            ground = image.new("RGBA", coloured.size, "white")
            opened = image.alpha_composite(ground, coloured)
        return np.array(opened.convert("RGB"), dtype=np.uint8)


def read_texts(path: Path) -> dict[str, str]:
    """Read the texts that a picture carries in front of its pixels.

    Args:
        path: A PNG, JPEG or WebP file.

    Returns:
        Texts by keyword; web UIs write what they drew from under ``parameters`` of PNG files.

    Raises:
        ScorerError: It is not there or no picture.
    """
    with _opened(path) as opened:
        return {key: value for key, value in opened.info.items() if isinstance(value, str)}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A picture; whatever Pillow's readers raise becomes one error."""
    image = require_pillow()
    try:
        with warnings.catch_warnings():
            # Large pictures are judged by their sides.
            warnings.simplefilter("ignore")
            with image.open(path, formats=_FORMATS) as opened:
                yield opened
    except ScorerError:
        raise
    except Exception as error:  # each of Pillow's readers has errors of its own
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ScorerError(
            f"{path}: cannot be read as a PNG, JPEG or WebP picture: {reason}"
        ) from error


@dataclass(frozen=True, slots=True)
class Transform:
    """How a picture becomes what a network takes.

    Attributes:
        height: Pixels of the result.
        width: Likewise.
        fit: ``crop``: the shorter side is resampled to fit and the longer one's ends are cut off;
            ``pad``: the longer side is resampled to fit and black is put around; ``stretch``:
            both are resampled to fit, whatever the proportions.
        mean: Subtracted from each channel, of values from 0 to 1.
        sd: Divided by afterwards.
        resample: Pillow's number of the filter: 3 bicubic, 2 bilinear, 1 Lanczos, 0 nearest.
        edge: With ``crop``, the length that the shorter side gets first, with ``stretch`` both
            sides; the middle is cut out of that. 0 is that of the result.
        centre: Which way the middle of an odd rest is rounded: ``down`` in
            transformers, ``nearest`` (even) in torchvision.
    """

    height: int = 224
    width: int = 224
    fit: str = "crop"
    mean: tuple[float, ...] = CLIP_MEAN
    sd: tuple[float, ...] = CLIP_SD
    resample: int = 3
    edge: int = 0
    centre: Centre = "nearest"

    @classmethod
    def from_file(cls, path: Path, *, square: bool = False) -> Self:
        """Read a Hugging Face ``preprocessor_config.json``.

        Args:
            path: The file.
            square: Whether a plain number as size means both sides, as BEiT's processor has it;
                otherwise it is the shorter side, as CLIP's has it.

        Returns:
            What it describes.

        Raises:
            ScorerError: It describes something else than resampling, cropping and normalising.
        """
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            return cls._from_config(said, square)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ScorerError(f"{path}: cannot be read as a preprocessor's settings: "
                              f"{error!r}") from error  # fmt: skip

    @classmethod
    def _from_config(cls, said: dict[str, Any], square: bool) -> Self:
        size = said.get("size", 224)
        crops = bool(said.get("do_center_crop", not square))
        if isinstance(size, dict) and "shortest_edge" in size:
            size, square = int(size["shortest_edge"]), False
        elif isinstance(size, dict):
            square = True
        first = _sides(size)
        height, width = _sides(said.get("crop_size", 224)) if crops else first
        rescale = float(said.get("rescale_factor", 1 / 255))
        if abs(rescale * 255 - 1) > 1e-6 or not said.get("do_resize", True):
            raise ValueError("values must be divided by 255, and pictures resized")
        if first[0] != first[1] or first[0] < max(height, width) or not (crops or square):
            raise ValueError("pictures must be resized to a square, or cropped to one")
        normal = bool(said.get("do_normalize", True))
        return cls(
            height,
            width,
            "stretch" if square else "crop",
            tuple(map(float, said["image_mean"])) if normal else (0.0,) * 3,
            tuple(map(float, said["image_std"])) if normal else (1.0,) * 3,
            int(said.get("resample", 3)),
            first[0],
            "down",
        )

    def fitted(self, fit: str) -> Self:
        """The same with another way of making pictures square.

        Args:
            fit: One of `FITS`.

        Returns:
            A transform.

        Raises:
            UnknownNameError: There is no such way.
        """
        if fit not in FITS:
            raise UnknownNameError("fit", fit, FITS)
        if fit in ("published", self.fit):
            return self
        return replace(self, fit=fit, edge=0)

    def __call__(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Transform pictures.

        Args:
            pictures: uint8 RGB, each `[height, width, 3]`.

        Returns:
            float32, `[n, 3, height, width]`.
        """
        import torch

        rows = np.stack([self._resampled(picture) for picture in pictures])
        x = torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(self.mean).reshape(1, 3, 1, 1)
        sd = torch.tensor(self.sd).reshape(1, 3, 1, 1)
        return (x - mean) / sd

    def _resampled(self, picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        if self.fit == "pad":
            scale = min(self.height / height, self.width / width)
            rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
            out = np.zeros((self.height, self.width, 3), dtype=np.uint8)
            top, left = (self.height - rows) // 2, (self.width - columns) // 2
            out[top : top + rows, left : left + columns] = self._resize(picture, rows, columns)
            return out
        edge = self.edge or max(self.height, self.width)
        short = min(height, width)
        if self.fit == "stretch" or height == width:
            rows = columns = edge
        else:
            # The long side's fraction of a pixel is dropped, in transformers and torchvision.
            rows = edge if height == short else int(edge * height / short)
            columns = edge if width == short else int(edge * width / short)
        resized = self._resize(picture, rows, columns)
        top, left = self._start(rows - self.height), self._start(columns - self.width)
        return resized[top : top + self.height, left : left + self.width]

    def _resize(self, picture: Picture, rows: int, columns: int) -> Picture:
        if picture.shape[:2] == (rows, columns):
            return picture
        image = require_pillow()
        whole = image.fromarray(np.ascontiguousarray(picture))
        return np.asarray(whole.resize((columns, rows), self.resample), dtype=np.uint8)

    def _start(self, rest: int) -> int:
        return rest // 2 if self.centre == "down" else int(round(rest / 2))


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        size = cast("dict[str, Any]", size)
        return int(size["height"]), int(size["width"])
    return int(size), int(size)
