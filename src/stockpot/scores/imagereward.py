"""ImageReward: what people prefer among pictures of a prompt (Xu et al., 2304.05977)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from stockpot.errors import ScorerError
from stockpot.scores._base import Need, Reading, Scale
from stockpot.scores.networks import NetworkScorer, Tokens
from stockpot.scores.pictures import Transform

if TYPE_CHECKING:
    import torch

__all__ = ["ImageReward"]

_LENGTH = 35
_SOURCE = "https://huggingface.co/THUDM/ImageReward"


@final
class ImageReward(NetworkScorer):
    """ImageReward-v1.0: BLIP and an MLP, trained on 137 000 comparisons by people.

    The network's number is standardised with the mean and SD that its authors give, as in their
    own program. It reads 33 tokens of a prompt, and of a picture the middle square: of a 16:9
    picture it does not see 44 % of the width, unless `fit` says otherwise.

    Args:
        folder: Where its files are; see `stockpot.scores.scorers_folder`.
        files: Other places, by `weights`, `config` and `vocabulary`.
        device: Where the network runs.
        dtype: What it computes in.
        fit: How pictures are made square.

    Raises:
        MissingWeightsError: Files are not there.
        ScorerError: They are not those of ImageReward.
    """

    name = "imagereward"
    range = "standard deviations above the mean of its authors' pictures"
    needs: ClassVar[tuple[Need, ...]] = (
        Need("weights", "imagereward/ImageReward.pt", "ImageReward's weights", _SOURCE),
        Need("config", "imagereward/med_config.json", "its text encoder's size", _SOURCE),
        Need(
            "vocabulary",
            "bert-base-uncased/vocab.txt",
            "the vocabulary of its text encoder",
            "https://huggingface.co/google-bert/bert-base-uncased",
        ),
    )
    scale = Scale(0.0, 1.0)

    MEAN: ClassVar[float] = 0.16717362830052426
    SD: ClassVar[float] = 1.0333394966054072

    def _load(self) -> Transform:
        from stockpot.scores.blip import UNUSED, BlipReward, BlipShape
        from stockpot.scores.weights import load_strictly, read_weights

        where = self.files["weights"]
        weights = read_weights(where)
        try:
            config = json.loads(self.files["config"].read_text(encoding="utf-8"))
            shape = BlipShape.from_files(config, weights)
        except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise ScorerError(
                f"{where} and {self.files['config'].name} do not say how large the network is: "
                f"{error!r}; they must be ImageReward's"
            ) from error
        self._network = load_strictly(
            lambda: BlipReward(shape),
            weights,
            where,
            dtype=self._dtype,
            device=self._device,
            unused=UNUSED,
        )
        self._tokens = Tokens(_read_bert(self.files["vocabulary"], shape.vocabulary), _LENGTH)
        return Transform(shape.image, shape.image)

    def read(self, text: str) -> Reading:
        """Say how much of a prompt fits into 33 tokens.

        Args:
            text: A prompt whose syntax is stripped.

        Returns:
            The prompt and what is left out.
        """
        return self._tokens.read(text)

    def _run(self, pixels: torch.Tensor, texts: list[str]) -> torch.Tensor:
        tokens, mask = self._tokens(texts)
        raw: torch.Tensor = self._network(pixels, tokens.to(self._device), mask.to(self._device))
        return (raw.double() - self.MEAN) / self.SD


def _read_bert(path: Path, n_rows: int) -> Any:
    """Read BERT's vocabulary: a word a line, its number that of the line."""
    from transformers import BertTokenizer

    try:
        # Not `splitlines`: some words are what it takes for ends of lines.
        words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ScorerError(f"{path}: cannot be read as BERT's vocabulary: {error}") from error
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}
    if not special <= set(words) or len(words) > n_rows:
        raise ScorerError(
            f"{path}: a vocabulary must have {', '.join(sorted(special))} and at most {n_rows} "
            f"words, one a line, but there are {len(words)} lines; it must be that of "
            "bert-base-uncased"
        )
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})
