"""HPSv2: human preference in CLIP's space (Wu et al., 2306.09341)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

from stockpot.errors import ScorerError
from stockpot.scores._base import Need, Reading
from stockpot.scores.clip_parts import by_text, paired_cosines
from stockpot.scores.networks import TOKENIZER, NetworkScorer, Tokens, read_clip_tokenizer
from stockpot.scores.pictures import Transform

if TYPE_CHECKING:
    import torch

__all__ = ["HpsV2"]


@final
class HpsV2(NetworkScorer):
    """HPSv2: an OpenCLIP ViT-H-14 that was trained on pairs of which people preferred one.

    The score is the cosine of both embeddings, as in its authors' program. Pictures are resampled
    until the longer side fits and padded with black. Its authors resample with torchvision
    where this program does with Pillow, so that scores may differ a little from theirs. Files of
    version 2.0 and 2.1 have the same layout.

    Args:
        folder: Where its files are; see `stockpot.scores.scorers_folder`.
        files: Other places, by `weights` and `tokenizer`.
        device: Where the network runs.
        dtype: What it computes in.
        fit: How pictures are made square.

    Raises:
        MissingWeightsError: Files are not there.
        ScorerError: They are not those of HPSv2.
    """

    name = "hpsv2"
    range = "cosine, -1 to 1"
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "weights",
            "hpsv2/HPS_v2.1_compressed.pt",
            "HPSv2's weights",
            "https://huggingface.co/xswu/HPSv2 (HPS_v2_compressed.pt is version 2.0: "
            "give it this name)",
        ),
        TOKENIZER,
    )

    def _load(self) -> Transform:
        from stockpot.scores.openclip import UNUSED, OpenClip, OpenClipShape
        from stockpot.scores.weights import load_strictly, read_weights

        where = self.files["weights"]
        weights = read_weights(where)
        try:
            shape = OpenClipShape.from_weights(weights)
        except (KeyError, IndexError) as error:
            raise ScorerError(
                f"{where}: there must be the tensors of an OpenCLIP model, but it lacks {error}"
            ) from error
        self._network = load_strictly(
            lambda: OpenClip(shape),
            weights,
            where,
            dtype=self._dtype,
            device=self._device,
            unused=UNUSED,
        )
        self._tokens = Tokens(read_clip_tokenizer(self.files["tokenizer"]), shape.length)
        return Transform(shape.image, shape.image, fit="pad")

    def read(self, text: str) -> Reading:
        """Say how much of a prompt fits.

        Args:
            text: A prompt whose syntax is stripped.

        Returns:
            The prompt and what is left out.
        """
        return self._tokens.read(text)

    def _run(self, pixels: torch.Tensor, texts: list[str]) -> torch.Tensor:
        def encode(distinct: list[str]) -> torch.Tensor:
            tokens, _ = self._tokens(distinct)
            return self._network.encode_text(tokens.to(self._device))

        return paired_cosines(self._network.encode_image(pixels), by_text(texts, encode))
