"""Measures of how a picture differs from another one, by the names that `stockpot grid` takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.draw.comparing import (
    Features,
    Picture,
    describe_picture,
    embed_pictures,
    mean_squared_error,
    perceptual_distance,
    sift_matches,
    structural_similarity,
    zoo_features,
)
from stockpot.errors import MissingExtraError, Problem, RequestError, UnknownNameError

__all__ = ["MEASURES", "Measure", "Measurer"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One way to compare a picture with its reference.

    Attributes:
        name: What users type.
        title: What it tells, in a few words.
        shown: How a caption shows it, as a format of the number.
        any_size: Whether the pictures may differ in size.
    """

    name: str
    title: str
    shown: str
    any_size: bool = False


_ALL = (
    Measure("mse", "mean squared error of values in [0, 1]; 0 where equal", "MSE {:.4f}"),
    Measure("ssim", "structural similarity (Wang et al., 2004); 1 where equal", "SSIM {:.2f}"),
    Measure(
        "lpips",
        "distance in features of the zoo's judge, taken as LPIPS takes it; 0 where equal",
        "LPIPS-like {:.3f}",
    ),
    Measure("sift", "points that both show (Lowe, 2004)", "SIFT {:.0f}", any_size=True),
    Measure("colour", "distance of mean colours", "colour {:.3f}", any_size=True),
    Measure("contrast", "contrast, less the reference's", "contrast {:+.3f}", any_size=True),
    Measure("detail", "fine structure, less the reference's", "detail {:+.4f}", any_size=True),
    Measure(
        "subject_detail", "the same, of the subject alone", "subject detail {:+.4f}", any_size=True
    ),
    Measure(
        "background_detail",
        "the same, of the background alone",
        "background detail {:+.4f}",
        any_size=True,
    ),
    Measure(
        "embedding", "cosine of a network's embeddings; 1 where equal", "cosine {:.3f}",
        any_size=True,
    ),
)  # fmt: skip

MEASURES: Mapping[str, Measure] = MappingProxyType({measure.name: measure for measure in _ALL})
"""Every measure by name."""


@final
class Measurer:
    """Compares pictures with their references by some measures.

    Args:
        names: Keys of `MEASURES`.
        embed: Folder of a network in transformers' form, which ``embedding`` needs.

    Raises:
        UnknownNameError: There is no such measure.
        RequestError: ``embedding`` is asked for without a folder.
        MissingExtraError: ``sift`` is asked for, and scikit-image is not installed.
        stockpot.zoo.ZooNotInstalled: ``lpips`` is asked for, and the zoo is not installed.

    Example:
        >>> black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
        >>> measurer = Measurer(["mse", "contrast"])
        >>> found = measurer.compare(black, white)
        >>> found, measurer.caption(found)
        ({'mse': 1.0, 'contrast': 0.0}, 'MSE 1.0000, contrast +0.000')
    """

    def __init__(self, names: Sequence[str], embed: Path | None = None) -> None:
        for name in names:
            if name not in MEASURES:
                raise UnknownNameError("measure", name, MEASURES)
        if "embedding" in names and (embed is None or not embed.is_dir()):
            problem = Problem(
                "embed",
                "comparing embeddings needs the folder of a network, such as CLIP or DINO, but "
                f"{'none was named' if embed is None else f'{embed} is no folder'}",
                "embedding",
                "name one with --embed",
            )
            raise RequestError([problem])
        if "sift" in names and find_spec("skimage") is None:
            raise MissingExtraError("counting SIFT matches", "compare")
        self.measures = tuple(MEASURES[name] for name in dict.fromkeys(names))
        self._folder = embed
        self._features: Features | None = zoo_features() if "lpips" in names else None
        self._vectors: dict[bytes, npt.NDArray[np.float32]] = {}

    def prepare(self, pictures: Sequence[Picture]) -> None:
        """Embed pictures at once, where embeddings are compared; else do nothing.

        Args:
            pictures: uint8 `[height, width, 3]`, of any sizes.
        """
        if self._folder is None or MEASURES["embedding"] not in self.measures:
            return
        fresh = {_digest(p): p for p in pictures if _digest(p) not in self._vectors}
        if fresh:
            found = embed_pictures(list(fresh.values()), self._folder)
            self._vectors |= dict(zip(fresh, found, strict=True))

    def compare(self, picture: Picture, reference: Picture) -> dict[str, float]:
        """Compare a picture with its reference.

        Args:
            picture: uint8 `[height, width, 3]`.
            reference: The same; of another size, only measures that allow it are taken.

        Returns:
            By the measure's name.
        """
        same_size = picture.shape == reference.shape
        return {
            m.name: round(self._take(m.name, picture, reference), 6)
            for m in self.measures
            if same_size or m.any_size
        }

    def caption(self, found: Mapping[str, float]) -> str:
        """Say in a line what `compare` found.

        Args:
            found: By the measure's name.

        Returns:
            Such as ``MSE 0.0123, SSIM 0.87``.
        """
        shown = (m.shown.format(found[m.name]) for m in self.measures if m.name in found)
        return ", ".join(shown)

    def _take(self, name: str, a: Picture, b: Picture) -> float:
        if name == "lpips":
            assert self._features is not None
            return perceptual_distance(a, b, self._features)
        if name == "embedding":
            self.prepare([a, b])
            return float(self._vectors[_digest(a)] @ self._vectors[_digest(b)])
        return _PLAIN[name](a, b)


def _colour(a: Picture, b: Picture) -> float:
    x, y = (np.array(describe_picture(one).colour) for one in (a, b))
    return float(np.linalg.norm(x - y))


def _fact(name: str) -> Callable[[Picture, Picture], float]:
    def less(a: Picture, b: Picture) -> float:
        return float(getattr(describe_picture(a), name) - getattr(describe_picture(b), name))

    return less


_PLAIN: Mapping[str, Callable[[Picture, Picture], float]] = MappingProxyType(
    {
        "mse": mean_squared_error,
        "ssim": structural_similarity,
        "sift": sift_matches,
        "colour": _colour,
        **{n: _fact(n) for n in ("contrast", "detail", "subject_detail", "background_detail")},
    }
)


def _digest(picture: Picture) -> bytes:
    head = str(picture.shape).encode()
    return hashlib.sha256(head + np.ascontiguousarray(picture).tobytes()).digest()
