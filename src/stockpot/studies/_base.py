"""What a study is, what it is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import Source
from stockpot.engine import DEFAULT_MEMORY
from stockpot.errors import Problem, RequestError
from stockpot.recipes import Expr, PoolEntry, Recipe, make_recipe, mean, model, names_in
from stockpot.report import Chart, Section
from stockpot.scores import Picture
from stockpot.select import Choice, Pool
from stockpot.studies.classifying import Classifier
from stockpot.studies.gallery import Gallery
from stockpot.tune import Exam, Task

__all__ = [
    "Answer", "Embed", "Setting", "Study", "average", "groups_of", "own_encoders", "plain_data",
]  # fmt: skip

Embed = Callable[[Sequence[Picture]], npt.NDArray[np.float32]]
"""From pictures to unit vectors, float32 `[n, width]`: a network of the user's."""


@dataclass(frozen=True)
class Setting:
    """What a study is given. Not every study uses all of it.

    Attributes:
        pool: The models, and what identifies their parts.
        sources: They themselves, open.
        exam: What is drawn of each candidate.
        gallery: Who draws, and remembers.
        score: Name of the scorer that decides what is better; empty where none was named.
        base: Name of the model that the others were trained from; None where it is not known.
        outliers: Models that are expected to spoil a mix; they are in no mix but those of the
            studies about them.
        tuned: A tuned mix of the pool, for studies that ask about one.
        embed: A network for features of pictures.
        loras: Files of LoRAs by the name that prompts give.
        embeddings: Files of embeddings by the word that calls them.
        homes: By LoRA or embedding, the model that it was trained on; the base where none is said.
        classifier: Says what pictures show, for studies of concepts.
        seed: Of all that is drawn at random, besides pictures.
        n_permutations: Relabellings, resampled orders.
        n_mixes: How many mixes a study may draw to follow random orders.
        memory: Bytes for merging and comparing, besides what the gallery takes.
        progress: Is told a line now and then.
    """

    pool: Pool
    sources: Mapping[str, Source]
    exam: Exam
    gallery: Gallery
    score: str = ""
    base: str | None = None
    outliers: tuple[str, ...] = ()
    tuned: Recipe | None = None
    embed: Embed | None = None
    loras: Mapping[str, Path] = field(default_factory=dict)
    embeddings: Mapping[str, Path] = field(default_factory=dict)
    seed: int = 0
    n_permutations: int = 1000
    n_mixes: int = 64
    memory: int = DEFAULT_MEMORY
    progress: Callable[[str], None] = field(default=lambda line: None, compare=False)
    homes: Mapping[str, str] = field(default_factory=dict)
    classifier: Classifier | None = None

    def __post_init__(self) -> None:
        known = [one.name for one in self.pool.members]
        problems = [
            Problem("model", f"{what} must be a model of the pool, but the pool has "
                    f"{', '.join(known)}", name)
            for what, names in (("the base", [self.base] if self.base is not None else []),
                                ("an outlier", self.outliers),
                                ("the home of a LoRA or embedding", self.homes.values()),
                                ("what a tuned mix reads", self.tuned.pool if self.tuned else ()))
            for name in names if name not in known
        ]  # fmt: skip
        adapters = {**self.loras, **self.embeddings}
        problems += [
            Problem("adapter", "a home is that of a LoRA or embedding that is given, which are "
                    f"{', '.join(adapters) or 'none'}", name)
            for name in self.homes if name not in adapters
        ]  # fmt: skip
        if problems:
            raise RequestError(problems)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are mixed: whole, and neither the base, nor an outlier, nor set aside.

        Of models whose UNets and text encoders are the same ones, the first.
        """
        seen: set[tuple[str, str]] = set()
        found = []
        for name in self.whole:
            one = self.pool.member(name)
            if name == self.base or name in self.outliers or (one.unet, one.encoder) in seen:
                continue
            seen.add((one.unet, one.encoder))
            found.append(name)
        return tuple(found)

    @property
    def whole(self) -> tuple[str, ...]:
        """All models with a UNet and a text encoder that are not set aside."""
        encoders = set(self.pool.with_part("te"))
        return tuple(name for name in self.pool.with_part("unet") if name in encoders)

    def alone(self, name: str) -> Recipe:
        """One model as it is, with the VAE that all candidates have."""
        return self.mix((name,))

    def mix(self, unets: Sequence[str] = (), encoders: Sequence[str] = ()) -> Recipe:
        """The uniform mix of models.

        Args:
            unets: Whose UNets; by default those of `models`.
            encoders: Whose text encoders; by default those of the same models.
        """
        unets = tuple(unets) or self.models
        return self.pool.recipe(Choice(tuple(unets), tuple(encoders) or tuple(unets)))

    def mixes(self) -> dict[str, Recipe]:
        """The uniform mix and, where one was given, the tuned one, by what answers call them.

        The tuned mix has the VAE that all candidates have: differences are not those of VAEs.
        """
        found = {"the mix": self.mix()}
        if self.tuned is not None:
            mix = {**self.tuned.mix, "vae": model(self.pool.vae)}
            entries = {**self.tuned.pool, self.pool.vae: PoolEntry(self.pool.files[self.pool.vae])}
            found["the tuned mix"] = make_recipe(mix, entries, let=self.tuned.let)
        return found

    def recipe(
        self,
        unet: Expr,
        te: Expr,
        *,
        let: Mapping[str, Expr] = MappingProxyType({}),
        made: Sequence[str] = (),
    ) -> Recipe:
        """A candidate from expressions, with the VAE that all candidates have.

        Args:
            unet: Over names of models, of `let` and of `made`.
            te: The same for text encoders.
            let: Named intermediates.
            made: Names of models that are computed for it; see `Made`.
        """
        said = [unet, te, *let.values()]
        needed = {name for one in said for name in names_in(one)} | {self.pool.vae}
        files = {name: file for name, file in self.pool.files.items() if name in needed}
        entries = {name: PoolEntry(file) for name, file in files.items()}
        entries |= {name: PoolEntry("(in memory)") for name in made}
        return make_recipe({"unet": unet, "te": te, "vae": model(self.pool.vae)}, entries, let=let)

    def tasks(self, n: int | None = None) -> list[Task]:
        """The exam's first tasks; all of them with None."""
        return list(self.exam.tasks if n is None else self.exam.tasks[:n])


@dataclass(frozen=True)
class Answer:
    """What a study found.

    Attributes:
        words: The answer, as sentences; the first one is the whole of it in short. "Cannot tell"
            is an answer.
        sections: Tables and the like, for its page.
        charts: Figures, by file name.
        data: All numbers, as JSON's kinds of values.
    """

    words: Sequence[str]
    sections: Sequence[Section] = ()
    charts: Mapping[str, Chart] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes:
        name: What people type.
        letter: Its place among the questions that the author of AstolfoMix left open.
        question: In one sentence.
        needs: What must be given besides a pool and payloads, for people.
        missing: From a setting to what it lacks, as a sentence; empty where nothing is missing.
        cost: From a setting to the number of pictures, those in the gallery not taken off.
        run: From a setting to the answer.
    """

    name: str
    letter: str
    question: str
    needs: str
    missing: Callable[[Setting], str]
    cost: Callable[[Setting], int]
    run: Callable[[Setting], Answer]


def average(names: Sequence[str]) -> Expr:
    """The uniform mean of models, as an expression; of one model, itself.

    Args:
        names: At least one.
    """
    return model(names[0]) if len(names) == 1 else mean(*(model(name) for name in names))


def groups_of(tasks: Sequence[Task]) -> list[str]:
    """Each task's payload, in order: what `bootstrap_means` resamples first."""
    return [task.payload for task in tasks]


def own_encoders(setting: Setting, most: int) -> tuple[str, ...]:
    """Models whose text encoder is not the base's, outliers last; of equal encoders the first.

    Args:
        setting: With a base.
        most: How many are looked at.
    """
    assert setting.base is not None
    theirs = setting.pool.member(setting.base).encoder
    names = [*setting.models, *(n for n in setting.outliers if n in setting.whole)]
    found: dict[str, str] = {}
    for name in names:
        encoder = setting.pool.member(name).encoder
        if encoder != theirs:
            found.setdefault(encoder, name)
    return tuple(found.values())[:most]


def plain_data(value: Any) -> Any:
    """Turn numbers of numpy, NaN, infinities and tuples into JSON's kinds of values.

    Args:
        value: Data of any depth.

    Example:
        >>> plain_data({"a": (np.float64(1.0), float("nan"))})
        {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain_data(value.tolist())
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
