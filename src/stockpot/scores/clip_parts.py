"""CLIP from a Hugging Face folder on disk: both towers, tokenizer and preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from stockpot.errors import ScorerError
from stockpot.scores.pictures import Transform

if TYPE_CHECKING:
    import torch

__all__ = ["CLIP_FILES", "ClipTowers", "by_text", "paired_cosines", "read_transform"]

CLIP_FILES = ("config.json", "model.safetensors|model.safetensors.index.json|pytorch_model.bin")
"""What must be in a folder of a CLIP model; ``preprocessor_config.json`` is read where it is."""

_UNUSED = (".position_ids",)


def paired_cosines(pictures: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Compare each picture with its own text.

    Args:
        pictures: Of length 1, `[n, width]`.
        texts: Likewise.

    Returns:
        float64 `[n]`.
    """
    return (pictures.double() * texts.double()).sum(dim=-1)


def by_text(texts: list[str], encode: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
    """Encode each distinct text once.

    Args:
        texts: `n` of them.
        encode: From distinct texts to rows.

    Returns:
        A row for each text, `[n, width]`.
    """
    distinct = list(dict.fromkeys(texts))
    rows = encode(distinct)
    return rows[[distinct.index(text) for text in texts]]


def read_transform(folder: Path, side: int, *, square: bool = False) -> Transform:
    """Read what a folder says of preprocessing.

    Args:
        folder: A Hugging Face model.
        side: What its network takes.
        square: See `Transform.from_file`.

    Returns:
        What ``preprocessor_config.json`` says; without one, CLIP's.

    Raises:
        ScorerError: It makes pictures of another size than the network takes.
    """
    path = folder / "preprocessor_config.json"
    found = Transform.from_file(path, square=square) if path.is_file() else Transform(
        side, side, centre="down")  # fmt: skip
    if (found.height, found.width) != (side, side):
        raise ScorerError(
            f"{path}: pictures must become {side}x{side}, as the network takes them, but it says "
            f"{found.width}x{found.height}"
        )
    return found


@final
class ClipTowers:
    """A CLIP model from a local folder, never from the hub.

    Args:
        folder: With the files of `CLIP_FILES`.
        dtype: What to compute in.
        device: Where.
        has_text: Whether the text's tower is loaded too.

    Attributes:
        transform: What is done with pictures.
        length: How many tokens the text's tower reads.
        width: Numbers of an embedding.
        logit_scale: What the model was trained to multiply cosines by.

    Raises:
        ScorerError: The files are not those of a CLIP model.
    """

    def __init__(
        self, folder: Path, *, dtype: torch.dtype, device: str, has_text: bool = True
    ) -> None:
        from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

        from stockpot.scores.weights import find_weights, load_strictly, read_weights

        config = read_config(folder, CLIPConfig, "clip")
        where = find_weights(folder)
        weights = read_weights(where)
        if not has_text:
            weights = {key: value for key, value in weights.items()
                       if key.startswith(("vision_model.", "visual_projection."))}  # fmt: skip
            # The vision model alone reads the width of the projection from its own config.
            config.vision_config.projection_dim = config.projection_dim

        def build() -> Any:
            return CLIPModel(config) if has_text else CLIPVisionModelWithProjection(
                config.vision_config)  # fmt: skip

        self._model: Any = load_strictly(
            build, weights, where, dtype=dtype, device=device, unused=_UNUSED
        )
        self._device = device
        self.transform = read_transform(folder, config.vision_config.image_size)
        self.length: int = config.text_config.max_position_embeddings
        self.width: int = config.projection_dim
        self.logit_scale = float(self._model.logit_scale.exp()) if has_text else 1.0

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pictures.

        Args:
            pixels: From `transform`, on the device, `[n, 3, side, side]`.

        Returns:
            `[n, width]`, of length 1.
        """
        pooled = self._model.vision_model(pixel_values=pixels).pooler_output
        return _normalised(self._model.visual_projection(pooled))

    def encode_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed texts.

        Args:
            tokens: int64 `[n, length]`, filled up with the end token.

        Returns:
            `[n, width]`, of length 1.
        """
        pooled = self._model.text_model(input_ids=tokens.to(self._device)).pooler_output
        return _normalised(self._model.text_projection(pooled))


def _normalised(rows: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    return functional.normalize(rows, dim=-1)


def read_config(folder: Path, kind: Any, model_type: str) -> Any:
    """Read the config of a Hugging Face model.

    Args:
        folder: With ``config.json``.
        kind: transformers' class of the config.
        model_type: What the file must say that it is.

    Returns:
        The config.

    Raises:
        ScorerError: It cannot be read, or is of another kind of model.
    """
    import json

    path = folder / "config.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["model_type"] != model_type:
            raise ScorerError(f"{path}: the model must be of type {model_type!r}, but is "
                              f"{said['model_type']!r}")  # fmt: skip
        return kind.from_dict(said)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, ScorerError):
            raise
        raise ScorerError(f"{path}: cannot be read as a model's config: {error!r}") from error
