"""The judge: a small convolutional classifier of the five attributes of a scene.

It is kept apart from the reward (`stockpot.scores.clip`): trained on other draws, by another
loss, with no text at all. So a merge that was tuned for the reward can be judged by something it
was not tuned for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import numpy.typing as npt

from stockpot.errors import ScorerError
from stockpot.scores._base import Images, Picture, Scorer, Scores, check_images
from stockpot.zoo.shapes import ATTRIBUTES, parse

if TYPE_CHECKING:
    import torch

__all__ = ["AttributeJudge", "judge_network"]

CHANNELS = (24, 48, 64)


def judge_network() -> torch.nn.ModuleDict:
    """Build the judge's network with fresh weights: three strided stages and five linear heads.

    Returns:
        Modules `trunk` (float pictures in [-1, 1], `[n, 3, 32, 32]`, to features `[n, 1024]`) and
        `heads`, one for each attribute (features to logits `[n, n_words]`, in the order of
        `stockpot.zoo.shapes.ATTRIBUTES`).
    """
    from torch import nn

    layers: list[nn.Module] = []
    width = 3
    for channels in CHANNELS:
        for inputs, stride in ((width, 1), (channels, 2)):
            layers += [
                nn.Conv2d(inputs, channels, 3, stride=stride, padding=1),
                nn.GroupNorm(8, channels),
                nn.SiLU(),
            ]
        width = channels
    heads = {name: nn.Linear(width * 16, len(words)) for name, words in ATTRIBUTES.items()}
    return nn.ModuleDict(
        {"trunk": nn.Sequential(*layers, nn.Flatten()), "heads": nn.ModuleDict(heads)}
    )


@final
class AttributeJudge(Scorer):
    """How surely a picture shows the attributes that its prompt names.

    The score is the mean, over the attributes that the prompt names, of the classifier's
    log-probability of the named word: 0 is certainty, about -2 is a guess among eight words.
    Log-probabilities are floored at -10 so that one sure mistake cannot outweigh a hundred
    pictures.

    Args:
        file: The judge's weights; those of the installed zoo unless given.

    Raises:
        stockpot.zoo.ZooNotInstalled: No file is given and the zoo is not installed.

    Examples:
        >>> from stockpot.zoo.shapes import Scene, caption, render
        >>> scene = Scene("flat", "large", "red", "circle", "white")
        >>> picture = render(scene, np.random.default_rng(0))[None]
        >>> bool(AttributeJudge().score(picture, [caption(scene)])[0] > -0.2)
        True
    """

    name = "attributes"
    range = "mean log-probability of the named attributes, -10 to 0"

    batch_size = 256

    FLOOR: ClassVar[float] = -10.0

    def __init__(self, file: str | Path | None = None) -> None:
        from safetensors.torch import load_file

        from stockpot.zoo import zoo_path

        self._network = judge_network()
        weights = load_file(zoo_path() / "judge.safetensors" if file is None else Path(file))
        self._network.load_state_dict({key: value.float() for key, value in weights.items()})
        self._network.eval()

    def log_probabilities(self, images: Images) -> dict[str, npt.NDArray[np.float64]]:
        """Say what each picture shows.

        Args:
            images: uint8 RGB; sizes other than 32x32 are resampled.

        Returns:
            For each attribute the natural logarithm of each word's probability,
            float64 `[n, n_words]`, words in the order of `stockpot.zoo.shapes.ATTRIBUTES`.

        Raises:
            ScorerError: The pictures are not uint8 RGB.
        """
        import torch

        pictures = check_images(images, len(images))
        found: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in ATTRIBUTES}
        trunk: Any = self._network["trunk"]
        heads: Any = self._network["heads"]
        with torch.no_grad():
            for start in range(0, len(pictures), self.batch_size):
                features = trunk(to_tensor(pictures[start : start + self.batch_size]))
                for name in ATTRIBUTES:
                    rows = torch.log_softmax(heads[name](features).double(), dim=1)
                    found[name].append(rows.numpy())
        return {
            name: np.concatenate(parts) if parts else np.zeros((0, len(ATTRIBUTES[name])))
            for name, parts in found.items()
        }

    def judge(
        self, images: Images, prompts: Sequence[str]
    ) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """Judge each attribute by itself.

        Args:
            images: uint8 RGB, `[n, height, width, 3]`.
            prompts: `n` texts.

        Returns:
            For each attribute two rows of float64 `[n]`: `"right"` (1 where the most probable
            word is the one that the prompt names, else 0) and `"log_probability"` (of the named
            word, floored). Both are NaN where the prompt does not name the attribute.

        Raises:
            ValueError: The pictures are not uint8 RGB, their number is not that of the prompts,
                or a prompt names two words of one attribute.
        """
        check_images(images, len(prompts))
        named = [parse(prompt) for prompt in prompts]
        verdict = {}
        for name, rows in self.log_probabilities(images).items():
            right = np.full(len(named), np.nan)
            log_probability = np.full(len(named), np.nan)
            for i, words in enumerate(named):
                if name in words:
                    asked = ATTRIBUTES[name].index(words[name])
                    right[i] = float(rows[i].argmax() == asked)
                    log_probability[i] = max(self.FLOOR, rows[i, asked])
            verdict[name] = {"right": right, "log_probability": log_probability}
        return verdict

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        for text in texts:
            if not parse(text):
                raise ScorerError(f"The prompt {text!r} names no attribute to look for.")
        verdict = self.judge(pictures, texts)
        rows = np.stack([verdict[name]["log_probability"] for name in ATTRIBUTES])
        return np.asarray(np.nanmean(rows, axis=0), dtype=np.float64)


def to_tensor(pictures: Sequence[Picture]) -> torch.Tensor:
    """Turn pictures into what the zoo's networks take.

    Args:
        pictures: uint8 RGB, each `[height, width, 3]`; at least one.

    Returns:
        float32 in [-1, 1], `[n, 3, 32, 32]`, area-averaged where the pictures are larger.
    """
    import torch

    from stockpot.zoo.shapes import IMAGE_SIZE

    rows = []
    for picture in pictures:
        # A copy: torch does not take arrays that may not be written to.
        row = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
        if row.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
            size = (IMAGE_SIZE, IMAGE_SIZE)
            row = torch.nn.functional.interpolate(row[None], size, mode="area")[0]
        rows.append(row)
    return torch.stack(rows)
