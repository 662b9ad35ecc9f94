"""The reward: how well picture and prompt agree for a small CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np

from stockpot.errors import MissingExtraError
from stockpot.scores._base import Picture, Reading, Scorer, Scores
from stockpot.scores.attributes import to_tensor
from stockpot.scores.networks import Tokens

__all__ = ["ClipReward"]


@final
class ClipReward(Scorer):
    """Cosine of a picture's and its prompt's embeddings in a CLIP model.

    The zoo's CLIP was trained on captions of the zoo's world; of other prompts its cosine says
    little. Use differences between pictures of one prompt: the level varies with the prompt.

    Args:
        folder: A local folder of transformers' `CLIPModel` with its tokenizer; the installed
            zoo's unless given. Pictures are resampled to 32x32 and scaled to [-1, 1], which is
            what the zoo's CLIP takes.

    Raises:
        stockpot.zoo.ZooNotInstalled: No folder is given and the zoo is not installed.
        stockpot.errors.MissingExtraError: transformers is not installed.

    Examples:
        >>> from stockpot.zoo.shapes import Scene, render
        >>> scene = Scene("flat", "large", "red", "circle", "white")
        >>> picture = render(scene, np.random.default_rng(0))
        >>> right, wrong = ClipReward().score(
        ...     np.stack([picture, picture]), ["a red circle", "a blue star"]
        ... )
        >>> bool(right > wrong)
        True
    """

    name = "clip"
    range = "cosine, -1 to 1"
    batch_size = 256

    def __init__(self, folder: str | Path | None = None) -> None:
        try:
            from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
        except ImportError as error:
            raise MissingExtraError("the CLIP reward", "draw") from error

        from stockpot.scores.weights import find_weights, load_strictly, read_weights
        from stockpot.zoo import zoo_path

        where = zoo_path() / "clip" if folder is None else Path(folder)
        file = find_weights(where)
        config: Any = CLIPConfig.from_pretrained(where, local_files_only=True)
        self._model: Any = load_strictly(lambda: CLIPModel(config), read_weights(file), file)
        self._tokens = Tokens(
            CLIPTokenizer.from_pretrained(where, local_files_only=True),
            config.text_config.max_position_embeddings,
        )

    def read(self, text: str) -> Reading:
        """Say how much of a prompt fits.

        Args:
            text: A prompt whose syntax is stripped.

        Returns:
            The prompt and what is left out.
        """
        return self._tokens.read(text)

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        import torch

        with torch.no_grad():
            tokens, _ = self._tokens(texts)
            out = self._model(input_ids=tokens, pixel_values=to_tensor(pictures))
            pairs = (out.image_embeds.double() * out.text_embeds.double()).sum(dim=1)
        return np.asarray(pairs.numpy(), dtype=np.float64)
