"""The contract of every scorer: pictures and their prompts in, one number a picture out."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from stockpot.errors import ScorerError
from stockpot.scores.plain import plain_prompt

__all__ = [
    "Images",
    "Need",
    "Picture",
    "Reading",
    "Scale",
    "Scorer",
    "Scores",
    "Setting",
    "UnreadPromptWarning",
    "check_images",
]

Picture = npt.NDArray[np.uint8]
"""One RGB picture as bytes, `[height, width, 3]`."""

Images = npt.NDArray[np.uint8] | Sequence[Picture]
"""RGB pictures as bytes: an array `[n, height, width, 3]`, or a list of `[height, width, 3]`."""

Scores = npt.NDArray[np.float64]
"""One number for each picture, `[n]`; higher is better."""


class UnreadPromptWarning(UserWarning):
    """A scorer reads only the beginning of a prompt; the message names what it does not see."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a scorer sees of a prompt.

    Attributes:
        text: The prompt, its syntax stripped.
        left_out: The end of it that the scorer does not see; empty when it sees everything.
    """

    text: str
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """What a scorer's numbers are compared with.

    Attributes:
        mean: The score that becomes 0.
        sd: How much more becomes 1; above 0.

    Example:
        >>> Scale(5.0, 0.5).standardise(np.array([5.0, 6.0])).tolist()
        [0.0, 2.0]
    """

    mean: float
    sd: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mean) and np.isfinite(self.sd) and self.sd > 0):
            raise ScorerError(
                f"a scale needs a finite mean and an SD above 0, but got {self.mean} and {self.sd}"
            )

    def standardise(self, scores: Scores) -> Scores:
        """Express scores in standard deviations above the mean.

        Args:
            scores: `[n]`.

        Returns:
            `(scores - mean) / sd`, `[n]`.
        """
        return (np.asarray(scores, dtype=np.float64) - self.mean) / self.sd

    @classmethod
    def fit(cls, scores: Iterable[float]) -> Self:
        """Take mean and SD from the scores of reference pictures.

        Args:
            scores: At least two different ones; a hundred tell the SD within some 7 %.

        Returns:
            The scale on which they have mean 0 and SD 1 (with n - 1 in the denominator).

        Raises:
            ScorerError: There are fewer than two scores, or all are the same.

        Example:
            >>> Scale.fit([1.0, 3.0]).mean
            2.0
        """
        values = np.array(list(scores), dtype=np.float64)
        if len(values) < 2 or not np.ptp(values) > 0:
            raise ScorerError("a scale is fitted to at least two different scores; score more "
                              "pictures")  # fmt: skip
        return cls(float(values.mean()), float(values.std(ddof=1)))


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a scorer needs on disk.

    Attributes:
        key: What the scorer calls it.
        path: Where it belongs, inside the folder of scorers; a file or a folder.
        what: What it is, in a few words.
        source: Where people get it.
        contains: For a folder, the files that must be in it; ``a|b`` means either.
    """

    key: str
    path: str
    what: str
    source: str
    contains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """How scorers are set up by those who only know their names.

    Attributes:
        folder: Where files of scorers are; None is `stockpot.scores.scorers_folder`.
        device: Where networks run, such as ``cpu`` or ``cuda``.
        dtype: What networks compute in: ``float32``, ``float16`` or ``bfloat16``; the latter
            two are faster on GPUs and less exact.
        fit: How pictures are made square: ``published`` as the scorer's authors do it, ``crop``,
            ``pad`` or ``stretch``.
        answers: File of a person's answers, for `stockpot.scores.HumanChoice`.
    """

    folder: Path | None = None
    device: str = "cpu"
    dtype: str = "float32"
    fit: str = "published"
    answers: Path | None = None


class Scorer(ABC):
    """Something that says how good a picture is, given what was asked for.

    A subclass gives `name` and `range`, and implements `_score`; callers use `score`, which
    checks both ends of the bargain. Scores of one picture must not depend on the other pictures
    of the batch, nor on its place among them.

    Attributes:
        name: What it is called in reports; that in `stockpot.scores.SCORERS` where it has one.
        range: What the numbers mean, in a few words, for reports.
        needs: What must be on disk; empty for those that need nothing.
        uses_prompt: Whether it looks at prompts; if not, they may be left out.
        deterministic: Whether the same picture always gets the same score.
        pointwise: Whether the score of a picture is its own; False where pictures are compared
            with each other, so that all must be given at once.
        scale: Mean and SD that its authors published; None where there are none.
        batch_size: How many pictures `_score` gets at once at most.
    """

    name: str
    range: str
    needs: ClassVar[tuple[Need, ...]] = ()
    uses_prompt: bool = True
    deterministic: bool = True
    pointwise: bool = True
    scale: Scale | None = None
    batch_size: int = 16

    @classmethod
    def make(cls, setting: Setting) -> Self:
        """Make one from what `stockpot.scores.make_scorer` was given.

        Args:
            setting: A scorer takes of it what concerns it.

        Returns:
            The scorer, loaded.
        """
        return cls()

    def score(
        self,
        images: Images,
        prompts: Sequence[str] | None = None,
        *,
        score_prompts: Sequence[str | None] | None = None,
        strip: Callable[[str], str] = plain_prompt,
    ) -> Scores:
        """Score pictures.

        Args:
            images: uint8 RGB, `[n, height, width, 3]`, or a list of pictures of any sizes; `n` may
                be 0. They are not changed.
            prompts: What each picture was asked to show, `n` of them. They may be left out where
                the scorer does not use them.
            score_prompts: Where one is given, it is scored instead of the prompt, word for word.
            strip: Takes prompt syntax away; called with each prompt that is used.

        Returns:
            float64 `[n]`; higher is better; see `range`.

        Raises:
            ScorerError: The pictures' dtype or shape, or the number of prompts, is wrong; a prompt
                says nothing that this scorer can look for; or the scorer gave no finite numbers.

        Warns:
            UnreadPromptWarning: The scorer does not see all of a prompt.
        """
        n_prompts = len(images) if prompts is None else len(prompts)
        pictures = check_images(images, n_prompts)
        if prompts is None and self.uses_prompt and score_prompts is None:
            raise ScorerError(f"{self.name} needs a prompt for each picture, but got none")
        texts = _texts(prompts, score_prompts, len(pictures), strip)
        if self.uses_prompt:
            for text in dict.fromkeys(texts):
                self._warn_of_unread(text)
        return self.score_texts(pictures, texts)

    def read(self, text: str) -> Reading:
        """Say how much of a prompt this scorer sees.

        Args:
            text: A prompt whose syntax is stripped.

        Returns:
            The prompt and the end of it that is left out.
        """
        return Reading(text)

    def score_texts(self, pictures: Sequence[Picture], texts: Sequence[str]) -> Scores:
        """Score checked pictures for texts as they stand; `score` is what callers want.

        Args:
            pictures: From `check_images`.
            texts: One a picture; syntax is stripped already.

        Returns:
            float64 `[n]`.

        Raises:
            ScorerError: The scorer cannot score them, or gave something other than n numbers.
        """
        if not len(pictures):
            return np.zeros(0, dtype=np.float64)
        step = self.batch_size if self.pointwise else len(pictures)
        parts = []
        for start in range(0, len(pictures), step):
            some = list(pictures[start : start + step])
            parts.append(self._checked(some, list(texts[start : start + step]), start))
        return np.concatenate(parts)

    def _checked(self, pictures: list[Picture], texts: list[str], start: int) -> Scores:
        found = self._score(pictures, texts)
        try:
            scores = np.asarray(found, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ScorerError(
                f"{self.name} must give numbers, but gave {type(found).__name__}: {error}"
            ) from error
        if scores.shape != (len(pictures),):
            raise ScorerError(
                f"{self.name} must give one number a picture, {len(pictures)} of them, but gave "
                f"the shape {list(scores.shape)}"
            )
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise ScorerError(
                f"{self.name} must give finite numbers, but gave {scores[bad[0]]} for picture "
                f"{start + int(bad[0])} (counted from 0)"
            )
        return scores

    def _warn_of_unread(self, text: str) -> None:
        left_out = self.read(text).left_out
        if left_out:
            warnings.warn(
                f"{self.name} does not see the end of a prompt: {left_out!r}; give a shorter "
                "score prompt",
                UnreadPromptWarning,
                stacklevel=4,
            )

    @abstractmethod
    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        """Score at least one picture; the arguments are already checked.

        Args:
            pictures: uint8 RGB, each `[height, width, 3]`; not to be changed.
            texts: As many, stripped of syntax.

        Returns:
            `[n]`.
        """


def _texts(
    prompts: Sequence[str] | None,
    score_prompts: Sequence[str | None] | None,
    n: int,
    strip: Callable[[str], str],
) -> list[str]:
    if score_prompts is not None and len(score_prompts) != n:
        raise ScorerError(
            f"there must be one score prompt a picture, or None: {n} and {len(score_prompts)}"
        )
    texts = []
    for i in range(n):
        own = None if score_prompts is None else score_prompts[i]
        texts.append(own if own is not None else "" if prompts is None else strip(prompts[i]))
    return texts


def check_images(images: Images, n_prompts: int) -> list[Picture]:
    """Check that pictures are RGB bytes, one for each prompt.

    Args:
        images: Anything.
        n_prompts: How many pictures there must be.

    Returns:
        The pictures, as a list; nothing is copied.

    Raises:
        ScorerError: They are not.
    """
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise ScorerError(_WANTED.format(f"{images.dtype} {list(images.shape)}"))
    pictures = list(images)
    for picture in pictures:
        dtype, shape = getattr(picture, "dtype", type(picture).__name__), np.shape(picture)
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or not min(shape):
            whole = images.shape if isinstance(images, np.ndarray) else shape
            raise ScorerError(_WANTED.format(f"{dtype} {list(whole)}"))
    if len(pictures) != n_prompts:
        raise ScorerError(f"There must be one prompt a picture: {len(pictures)} and {n_prompts}.")
    return pictures


_WANTED = "`images` must be uint8 RGB of shape [n, height, width, 3], but got {}."
