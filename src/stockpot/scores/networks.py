"""What all scorers with a network from files have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stockpot.errors import MissingExtraError, ScorerError
from stockpot.scores._base import Need, Picture, Reading, Scorer, Scores, Setting
from stockpot.scores.files import find_needs
from stockpot.scores.pictures import Transform

if TYPE_CHECKING:
    import torch

__all__ = ["TOKENIZER", "NetworkScorer", "Tokens", "read_clip_tokenizer"]

TOKENIZER = Need(
    "tokenizer",
    "clip-tokenizer",
    "CLIP's tokenizer",
    "https://huggingface.co/openai/clip-vit-large-patch14 (vocab.json, merges.txt)",
    ("tokenizer.json|vocab.json", "tokenizer.json|merges.txt"),
)
"""CLIP's byte pairs; every CLIP model here has the same."""


class NetworkScorer(Scorer):
    """A scorer whose network is in files.

    A subclass gives `needs` and implements `_load` and `_run`.

    Args:
        folder: Where its files are; see `stockpot.scores.scorers_folder`.
        files: Other places, by the `key` of a need.
        device: Where the network runs.
        dtype: What it computes in: ``float32``, ``float16`` or ``bfloat16``.
        fit: How pictures are made square: ``published``, ``crop``, ``pad`` or ``stretch``.

    Attributes:
        files: Where its files were found, by the `key` of each need.

    Raises:
        MissingWeightsError: Files are not there; the message tells where to get and to put them.
        MissingExtraError: transformers or Pillow is not installed.
        ScorerError: The files are not those of this scorer's network.
    """

    batch_size = 8

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        files: Mapping[str, str | Path] | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        fit: str = "published",
    ) -> None:
        for package in ("transformers", "PIL"):
            if find_spec(package) is None:
                raise MissingExtraError(f"the scorer {self.name}", "draw")
        from stockpot.scores.weights import get_dtype

        self._dtype = get_dtype(dtype)
        Transform().fitted(fit)  # an unknown name is told before gigabytes are read
        self.files = find_needs(self.name, self.needs, folder, files)
        self._device = _checked_device(device)
        self._transform = self._load().fitted(fit)

    @classmethod
    def make(cls, setting: Setting) -> Self:
        """Make one from its files in the folder of scorers.

        Args:
            setting: Folder, device, dtype and fit are used.

        Returns:
            The scorer, loaded.
        """
        return cls(setting.folder, device=setting.device, dtype=setting.dtype, fit=setting.fit)

    @abstractmethod
    def _load(self) -> Transform:
        """Load everything from `self.files`.

        Returns:
            What the network's authors do with pictures.
        """

    @abstractmethod
    def _run(self, pixels: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """Compute scores, without gradients.

        Args:
            pixels: From the transform, on the device, `[n, 3, height, width]`.
            texts: `n`.

        Returns:
            `[n]`.
        """

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        import torch

        pixels = self._transform(pictures).to(self._device, self._dtype)
        with torch.inference_mode():
            return np.asarray(self._run(pixels, texts).double().cpu().numpy())


def _checked_device(device: str) -> str:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ScorerError(
            f"networks must run on a device that torch has, but got {device!r}: {error}"
        ) from error
    return device


class Tokens:
    """A tokenizer and how many tokens its text encoder reads.

    Args:
        tokenizer: One of transformers'.
        length: Tokens that are read, the two special ones counted.

    Attributes:
        length: Likewise.
    """

    def __init__(self, tokenizer: Any, length: int) -> None:
        self._tokenizer = tokenizer
        self.length = length

    def read(self, text: str) -> Reading:
        """Say how much of a text fits.

        Args:
            text: Any.

        Returns:
            The text and what is left out of it, as the tokenizer spells it.
        """
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        cut = ids[self.length - 2 :]
        return Reading(text, self._tokenizer.decode(cut).strip() if cut else "")

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn texts into numbers.

        Args:
            texts: `n` texts; what does not fit is cut off.

        Returns:
            Numbers and a mask that is 1 where there is text and 0 where there is padding, both
            int64 `[n, length]`.
        """
        found = self._tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        )
        return found["input_ids"], found["attention_mask"]


def read_clip_tokenizer(folder: Path) -> Any:
    """Read CLIP's tokenizer.

    Args:
        folder: With ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``.

    Returns:
        A `CLIPTokenizer`.

    Raises:
        ScorerError: The files cannot be read.
    """
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever its readers raise
        raise ScorerError(f"{folder}: cannot be read as CLIP's tokenizer: {error}") from error
