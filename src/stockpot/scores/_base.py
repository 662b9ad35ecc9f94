"""The contract of every scorer: pictures and their prompts in, one number a picture out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

__all__ = ["Images", "Scorer", "Scores"]

Images = npt.NDArray[np.uint8]
"""RGB pictures as bytes, `[n, height, width, 3]`."""

Scores = npt.NDArray[np.float64]
"""One number for each picture, `[n]`; higher is better."""


class Scorer(ABC):
    """Something that says how good a picture is, given what was asked for.

    A subclass gives `name` and `range`, and implements `_score`; callers use `score`, which
    checks both ends of the bargain. Scores of one picture must not depend on the other pictures
    of the batch.

    Attributes:
        name: The name in `stockpot.scores.SCORERS`.
        range: What the numbers mean, in a few words, for reports.
    """

    name: ClassVar[str]
    range: ClassVar[str]

    def score(self, images: Images, prompts: Sequence[str]) -> Scores:
        """Score pictures.

        Args:
            images: uint8 RGB, `[n, height, width, 3]`; `n` may be 0.
            prompts: What each picture was asked to show, `n` of them.

        Returns:
            float64 `[n]`; higher is better; see `range`.

        Raises:
            ValueError: The pictures' dtype or shape, or the number of prompts, is wrong; or a
                prompt says nothing that this scorer can look for.
        """
        check_images(images, len(prompts))
        if not len(prompts):
            return np.zeros(0, dtype=np.float64)
        scores = np.asarray(self._score(images, list(prompts)), dtype=np.float64)
        assert scores.shape == (len(prompts),), (self.name, scores.shape)
        return scores

    @abstractmethod
    def _score(self, images: Images, prompts: list[str]) -> Scores:
        """Score at least one picture; the arguments are already checked.

        Args:
            images: uint8 RGB, `[n, height, width, 3]`, n > 0.
            prompts: `n` texts.

        Returns:
            `[n]`.
        """


def check_images(images: Images, n_prompts: int) -> None:
    """Check that pictures are RGB bytes, one for each prompt.

    Args:
        images: Anything.
        n_prompts: How many pictures there must be.

    Raises:
        ValueError: They are not.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            "`images` must be uint8 RGB of shape [n, height, width, 3], "
            f"but got {images.dtype} {list(images.shape)}."
        )
    if len(images) != n_prompts:
        raise ValueError(f"There must be one prompt a picture: {len(images)} and {n_prompts}.")
