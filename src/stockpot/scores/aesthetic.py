"""Scores that look at the picture alone: LAION's aesthetic predictor and cafe-aesthetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from stockpot.errors import ScorerError
from stockpot.scores._base import Need
from stockpot.scores.clip_parts import CLIP_FILES, ClipTowers, read_config, read_transform
from stockpot.scores.networks import NetworkScorer
from stockpot.scores.pictures import Transform

if TYPE_CHECKING:
    import torch

__all__ = ["CafeAesthetic", "LaionAesthetic"]


@final
class LaionAesthetic(NetworkScorer):
    """LAION's aesthetic predictor V2: five linear layers on CLIP L/14's picture embedding.

    It was fitted to people's ratings from 1 to 10. Source: C. Schuhmann,
    ``improved-aesthetic-predictor``.

    Args:
        folder: Where its files are; see `stockpot.scores.scorers_folder`.
        files: Other places, by `head` and `clip`.
        device: Where the network runs.
        dtype: What it computes in.
        fit: How pictures are made square.

    Raises:
        MissingWeightsError: Files are not there.
        ScorerError: They are not those of the predictor and of a CLIP of its width.
    """

    name = "aesthetic"
    range = "predicted rating on a scale from 1 to 10"
    uses_prompt = False
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "head",
            "aesthetic/sac+logos+ava1-l14-linearMSE.pth",
            "the predictor's weights",
            "https://github.com/christophschuhmann/improved-aesthetic-predictor",
        ),
        Need(
            "clip",
            "clip-vit-large-patch14",
            "the CLIP model on which it stands",
            "https://huggingface.co/openai/clip-vit-large-patch14",
            CLIP_FILES,
        ),
    )

    def _load(self) -> Transform:
        from stockpot.scores.blip import LinearHead
        from stockpot.scores.weights import load_strictly, read_weights

        where = self.files["head"]
        weights = read_weights(where)
        first = weights.get("layers.0.weight")
        if first is None or first.ndim != 2:
            raise ScorerError(
                f"{where}: there must be a matrix 'layers.0.weight', but there is none; the file "
                "must be a head of LAION's aesthetic predictor"
            )
        # The small file first: what is wrong with it shows before gigabytes are read.
        self._head = load_strictly(
            lambda: LinearHead(first.shape[1]),
            weights,
            where,
            dtype=self._dtype,
            device=self._device,
        )
        self._clip = ClipTowers(
            self.files["clip"], dtype=self._dtype, device=self._device, has_text=False
        )
        if self._clip.width != first.shape[1]:
            raise ScorerError(
                f"{where}: the head takes embeddings of {first.shape[1]} numbers, but the CLIP in "
                f"{self.files['clip']} gives {self._clip.width}; it must be CLIP L/14"
            )
        return self._clip.transform

    def _run(self, pixels: torch.Tensor, texts: list[str]) -> torch.Tensor:
        found: torch.Tensor = self._head(self._clip.encode_images(pixels))
        return found


@final
class CafeAesthetic(NetworkScorer):
    """cafe-aesthetic: a BEiT that was trained to tell aesthetic pictures from others.

    The score is the probability of its class ``aesthetic``.

    Args:
        folder: Where its files are; see `stockpot.scores.scorers_folder`.
        files: Other places, by `model`.
        device: Where the network runs.
        dtype: What it computes in.
        fit: How pictures are made square.

    Raises:
        MissingWeightsError: Files are not there.
        ScorerError: They are not those of a BEiT with a class ``aesthetic``.
    """

    name = "cafe"
    range = "probability of being aesthetic, 0 to 1"
    uses_prompt = False
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            "model",
            "cafe-aesthetic",
            "the classifier",
            "https://huggingface.co/cafeai/cafe_aesthetic",
            (*CLIP_FILES, "preprocessor_config.json"),
        ),
    )

    def _load(self) -> Transform:
        from transformers import BeitConfig, BeitForImageClassification

        from stockpot.scores.weights import find_weights, load_strictly, read_weights

        folder = self.files["model"]
        config = read_config(folder, BeitConfig, "beit")
        classes = {str(label): int(number) for number, label in config.id2label.items()}
        if "aesthetic" not in classes:
            raise ScorerError(
                f"{folder / 'config.json'}: one of the classes must be 'aesthetic', but they are "
                f"{', '.join(sorted(classes)[:8])}"
            )
        self._class = classes["aesthetic"]
        where = find_weights(folder)

        def build() -> Any:
            return BeitForImageClassification(config)

        self._network: Any = load_strictly(
            build,
            read_weights(where),
            where,
            dtype=self._dtype,
            device=self._device,
            # Versions of transformers before 5 kept a table that follows from the sizes.
            unused=(".relative_position_index",),
        )
        return read_transform(folder, config.image_size, square=True)

    def _run(self, pixels: torch.Tensor, texts: list[str]) -> torch.Tensor:
        logits = self._network(pixel_values=pixels).logits.double()
        probabilities: torch.Tensor = logits.softmax(dim=-1)[:, self._class]
        return probabilities
