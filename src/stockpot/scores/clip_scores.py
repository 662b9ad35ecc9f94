"""Scores that are cosines in a CLIP model's space: PickScore and CLIPScore."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

from stockpot.scores._base import Need, Reading
from stockpot.scores.clip_parts import CLIP_FILES, ClipTowers, by_text, paired_cosines
from stockpot.scores.networks import TOKENIZER, NetworkScorer, Tokens, read_clip_tokenizer
from stockpot.scores.pictures import Transform

if TYPE_CHECKING:
    import torch

__all__ = ["ClipScore", "PickScore"]


class _CosineScorer(NetworkScorer):
    """A CLIP model in a Hugging Face folder, and a function of its cosine."""

    prefix: ClassVar[str] = ""

    def _load(self) -> Transform:
        self._clip = ClipTowers(self.files["model"], dtype=self._dtype, device=self._device)
        self._tokens = Tokens(read_clip_tokenizer(self.files["tokenizer"]), self._clip.length)
        return self._clip.transform

    def read(self, text: str) -> Reading:
        """Say how much of a prompt fits.

        Args:
            text: A prompt whose syntax is stripped.

        Returns:
            The prompt and what is left out.
        """
        return Reading(text, self._tokens.read(self.prefix + text).left_out)

    def _run(self, pixels: torch.Tensor, texts: list[str]) -> torch.Tensor:
        def encode(distinct: list[str]) -> torch.Tensor:
            tokens, _ = self._tokens([self.prefix + text for text in distinct])
            return self._clip.encode_texts(tokens)

        seen = self._clip.encode_images(pixels)
        return self._from_cosines(paired_cosines(seen, by_text(texts, encode)))

    @abstractmethod
    def _from_cosines(self, cosines: torch.Tensor) -> torch.Tensor:
        """Make scores of cosines, `[n]`."""


@final
class PickScore(_CosineScorer):
    """PickScore: a CLIP-H trained on choices of people (Kirstain et al., 2305.01569).

    The score is the cosine times the model's own logit scale, as its authors compute it.

    Args:
        folder: Where its files are; see `stockpot.scores.scorers_folder`.
        files: Other places, by `model` and `tokenizer`.
        device: Where the network runs.
        dtype: What it computes in.
        fit: How pictures are made square.

    Raises:
        MissingWeightsError: Files are not there.
        ScorerError: They are not those of a CLIP model.
    """

    name = "pickscore"
    range = "cosine times the model's logit scale"
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "model",
            "pickscore",
            "PickScore's model",
            "https://huggingface.co/yuvalkirstain/PickScore_v1",
            CLIP_FILES,
        ),
        TOKENIZER,
    )

    def _from_cosines(self, cosines: torch.Tensor) -> torch.Tensor:
        return cosines * self._clip.logit_scale


@final
class ClipScore(_CosineScorer):
    """CLIPScore: how well a picture and its prompt agree (Hessel et al., 2104.08718).

    ``2.5 * max(cosine, 0)`` of the picture and of "A photo depicts" with the prompt, as in the
    paper, with any CLIP model; the paper's is ViT-B/32, and numbers of different models cannot be
    compared.

    Args:
        folder: Where its files are; see `stockpot.scores.scorers_folder`.
        files: Other places, by `model` and `tokenizer`.
        device: Where the network runs.
        dtype: What it computes in.
        fit: How pictures are made square.

    Raises:
        MissingWeightsError: Files are not there.
        ScorerError: They are not those of a CLIP model.
    """

    name = "clipscore"
    range = "2.5 times the cosine, 0 to 2.5"
    prefix: ClassVar[str] = "A photo depicts "
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "model",
            "clip",
            "a CLIP model",
            "https://huggingface.co/openai/clip-vit-base-patch32 (or any other CLIP)",
            CLIP_FILES,
        ),
        TOKENIZER,
    )

    def _from_cosines(self, cosines: torch.Tensor) -> torch.Tensor:
        return 2.5 * cosines.clamp(min=0)
