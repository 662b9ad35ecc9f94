"""Examiners: a candidate and tasks in, marks out, one after the other so that one can stop."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from stockpot.checkpoints import Source, open_checkpoint
from stockpot.draw import (
    LiveMix,
    Vram,
    describe_picture,
    few_threads,
    hold,
    open_live,
    paint_alike,
    save_memory,
)
from stockpot.engine import Settings, open_pool, size_text
from stockpot.errors import MemoryBudgetError, ScorerError
from stockpot.recipes import Recipe
from stockpot.scores import Picture, Scorer, picture_statistics

if TYPE_CHECKING:
    from stockpot.draw import DrawSettings
    from stockpot.tune.exam import Task

__all__ = ["CallableExaminer", "Examiner", "LiveExaminer", "Mark", "open_examiner", "picture_facts"]

DEFAULT_MEMORY = 8 << 30
"""What an examiner may take where nobody says, in bytes."""

_MERGE_BYTES = 256 << 20  # what merging is given at least; the engine refuses less where it must


@dataclass(frozen=True, slots=True)
class Mark:
    """What one task of one candidate got.

    Attributes:
        task: The task's name.
        scores: By scorer, as the scorer gave them; higher is better, except for tasks that are
            reversed (see `stockpot.tune.scores_of`).
        facts: What the picture is like, whatever its scores; see `picture_facts`.
        elapsed_s: Its share of the seconds of drawing and scoring; the first one of a candidate
            has the change of the mix too.
        picture: uint8 RGB, `[height, width, 3]`, if it was asked for.
    """

    task: str
    scores: Mapping[str, float]
    facts: Mapping[str, float] = field(default_factory=dict)
    elapsed_s: float = 0.0
    picture: Picture | None = field(default=None, compare=False, repr=False)


def picture_facts(picture: Picture) -> dict[str, float]:
    """Measure what a guard watches: how a picture is, not how good.

    Args:
        picture: uint8 RGB, `[height, width, 3]`.

    Returns:
        The numbers of `stockpot.scores.picture_statistics`, and those of
        `stockpot.draw.describe_picture` that tell subject and background apart.

    Example:
        >>> import numpy as np
        >>> picture_facts(np.full((8, 8, 3), 128, np.uint8))["contrast"]
        0.0
    """
    whole, parts = picture_statistics(picture), describe_picture(picture)
    return {
        "brightness": whole.brightness,
        "contrast": whole.contrast,
        "detail": whole.detail,
        "sharpness": whole.sharpness,
        "colourfulness": whole.colourfulness,
        "subject": parts.subject,
        "subject_contrast": parts.subject_contrast,
        "subject_detail": parts.subject_detail,
        "background_contrast": parts.background_contrast,
        "background_detail": parts.background_detail,
    }


class Examiner(ABC):
    """Something that draws and scores a candidate's tasks.

    One at a time: not to be used by two threads, and what `examine` returned for one candidate is
    to be finished or dropped before the next candidate begins.
    """

    @abstractmethod
    def examine(
        self, recipe: Recipe, tasks: Sequence[Task], *, pictures: bool = False
    ) -> Iterator[Mark]:
        """Draw and score tasks, lazily: work is done when the next mark is asked for.

        Args:
            recipe: The candidate; no holes are left in it.
            tasks: What to draw.
            pictures: Whether marks hold their pictures.

        Yields:
            One mark a task. A batch of tasks is drawn at once, so that marks come in the order of
            the tasks within groups of equal settings only; each says which task it is for.

        Raises:
            StockpotError: The candidate cannot be mixed or drawn, or a scorer fails; the examiner
                can go on with another one.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of models and files; closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@final
class CallableExaminer(Examiner):
    """An examiner that asks a function: for surrogates, and for programs that draw elsewhere.

    Args:
        function: From candidate and task to a mark, to scores by scorer, or to one score, which
            is then called ``score``.

    Example:
        >>> from stockpot.draw import Request
        >>> from stockpot.recipes import make_recipe
        >>> from stockpot.tune import Task
        >>> examiner = CallableExaminer(lambda recipe, task: task.request.seed / 4)
        >>> recipe = make_recipe("a", {"a": "a.safetensors"})
        >>> task = Task("cat#0", "cat", Request("a cat", 3))
        >>> [dict(mark.scores) for mark in examiner.examine(recipe, [task])]
        [{'score': 0.75}]
    """

    def __init__(
        self, function: Callable[[Recipe, Task], Mark | Mapping[str, float] | float]
    ) -> None:
        self._function = function

    def examine(
        self, recipe: Recipe, tasks: Sequence[Task], *, pictures: bool = False
    ) -> Iterator[Mark]:
        """Call the function for each task; see `Examiner.examine`."""
        for task in tasks:
            start = time.monotonic()
            found = self._function(recipe, task)
            if isinstance(found, Mark):
                yield replace(found, task=task.name)
                continue
            scores = dict(found) if isinstance(found, Mapping) else {"score": float(found)}
            yield Mark(task.name, scores, elapsed_s=time.monotonic() - start)

    def close(self) -> None:
        """Nothing is held, so nothing happens."""


@final
class LiveExaminer(Examiner):
    """An examiner that draws on a live mix. Made by `open_examiner`.

    Args:
        open_mix: Opens the live mix on its first recipe.
        scorers: By the name that marks have for them.
        batch: How many tasks of equal settings to draw at once.
        closing: What to close at the end.
    """

    def __init__(
        self,
        open_mix: Callable[[Recipe], LiveMix],
        scorers: Mapping[str, Scorer],
        batch: int = 4,
        closing: ExitStack | None = None,
    ) -> None:
        if not scorers:
            raise ScorerError("an examiner needs at least one scorer")
        if batch < 1:
            raise ValueError(f"`batch` must be at least 1, but got {batch}")
        self.scorers = dict(scorers)
        self._open_mix, self._batch, self._closing = open_mix, batch, closing or ExitStack()
        self._live: LiveMix | None = None
        self._shown: Recipe | None = None

    def show(self, recipe: Recipe) -> LiveMix:
        """Let the painter hold a candidate; nothing happens where it already does.

        Args:
            recipe: The candidate.

        Returns:
            What draws it, until the next one is shown.

        Raises:
            StockpotError: It cannot be mixed, or it has not all that drawing needs.
        """
        if self._live is None:
            self._live = self._open_mix(recipe)
        elif self._shown != recipe:
            self._shown = None  # if this fails half way, the painter holds no candidate
            self._live.show(recipe)
        self._shown = recipe
        return self._live

    def examine(
        self, recipe: Recipe, tasks: Sequence[Task], *, pictures: bool = False
    ) -> Iterator[Mark]:
        """Change the mix in place, draw and score; see `Examiner.examine`.

        Where a scorer compares pictures with each other (`Scorer.pointwise` is False), all tasks
        are drawn before the first mark comes.
        """
        start = time.monotonic()
        whole = not all(scorer.pointwise for scorer in self.scorers.values())
        drawn: list[tuple[Task, Picture]] = []
        for group in _batches(tasks, self._batch):
            # Another candidate may have been shown since the last mark.
            live = self.show(recipe)
            drawn += zip(group, self._draw(live, group), strict=True)
            if not whole:
                yield from self._marks(drawn, start, pictures)
                drawn, start = [], time.monotonic()
        if drawn:
            yield from self._marks(drawn, start, pictures)

    def _draw(self, live: LiveMix, tasks: Sequence[Task]) -> list[Picture]:
        requests = [
            replace(r, settings=replace(r.settings, batch=self._batch))
            for r in (task.request for task in tasks)
        ]
        with few_threads(live.painter.parts):
            return list(paint_alike(live.painter, requests).pictures)

    def _marks(
        self, drawn: Sequence[tuple[Task, Picture]], start: float, keep: bool
    ) -> Iterator[Mark]:
        tasks, pictures = [task for task, _ in drawn], [picture for _, picture in drawn]
        scores = {
            name: scorer.score(
                pictures,
                [task.request.prompt for task in tasks],
                score_prompts=[task.score_prompt for task in tasks],
            )
            for name, scorer in self.scorers.items()
        }
        facts = [picture_facts(picture) for picture in pictures]
        elapsed_s = (time.monotonic() - start) / len(drawn)
        for i, (task, picture) in enumerate(drawn):
            own = {name: float(values[i]) for name, values in scores.items()}
            yield Mark(task.name, own, facts[i], elapsed_s, picture if keep else None)

    def close(self) -> None:
        """Let go of the painter, and close the files that `open_examiner` opened."""
        self._live = self._shown = None
        self._closing.close()


def _batches(tasks: Sequence[Task], batch: int) -> Iterator[list[Task]]:
    """The next task, with those after it that can be drawn along; the same groups every time."""
    waiting = list(tasks)
    while waiting:
        settings: DrawSettings = waiting[0].request.settings
        group = [task for task in waiting if task.request.settings == settings][:batch]
        chosen = {id(task) for task in group}
        waiting = [task for task in waiting if id(task) not in chosen]
        yield group


def open_examiner(
    pool: Recipe | Mapping[str, Source],
    scorers: Mapping[str, Scorer],
    *,
    folder: str | Path = ".",
    memory: int = DEFAULT_MEMORY,
    threads: int = 0,
    batch: int = 4,
    mix_dtype: str | None = None,
    vae: Source | Path | None = None,
    te: Source | Path | None = None,
    config: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    vram: Vram = "high",
    **options: Any,
) -> LiveExaminer:
    """Open an examiner on a pool. Nothing is ever written to disk.

    The painter is loaded with the first candidate, and changed in place for every other one.

    Args:
        pool: A recipe, whose pool's files are opened and are closed with the examiner; it may have
            holes. Or open checkpoints by name, which must stay open.
        scorers: By the name that marks have for them; at least one.
        folder: Where the recipe's relative paths start.
        memory: Bytes for the painter, the first mix while it is loaded, merging, and the pool:
            models are held in memory as far as they fit, in the pool's order, and are read from
            their files for every candidate otherwise. Scorers, and what drawing a picture needs,
            come on top.
        threads: For merging; 0 means one a core.
        batch: How many tasks of equal settings to draw at once; a search can stop a candidate
            after each batch.
        mix_dtype: Element type of mixes; by default what a file of one would have.
        vae: A VAE that all candidates are drawn with; a file is opened here.
        te: The same for text encoders.
        config: A diffusers folder that describes the architecture.
        device: A torch device.
        dtype: torch's name of the type to draw in.
        vram: How much memory the device has.
        **options: What else `stockpot.draw.open_painter` takes: embeddings, loras, tokenizer,
            prediction.

    Returns:
        The examiner.

    Raises:
        PreflightError: Files of the pool cannot be opened.
        CheckpointError: The VAE or the text encoder cannot be opened.
        MemoryBudgetError: Not even the painter fits.
        ScorerError: There is no scorer.
    """
    with ExitStack() as stack:
        sources = dict(
            stack.enter_context(open_pool(pool, folder)) if isinstance(pool, Recipe) else pool
        )
        parts = {
            name: stack.enter_context(open_checkpoint(given)) if isinstance(given, Path) else given
            for name, given in (("vae", vae), ("te", te))
        }
        left = memory - _painter_bytes(sources, dtype)
        if left < 0:
            raise MemoryBudgetError(
                f"drawing needs {size_text(memory - left)} for the painter and its first mix, but "
                f"--memory allows {size_text(memory)}; allow more"
            )
        held, left = _held(sources, left)
        settings = Settings(memory=left, threads=threads, hashes=False)

        def open_mix(recipe: Recipe) -> LiveMix:
            live = open_live(
                recipe, held, config, vae=parts["vae"], te=parts["te"], mix_dtype=mix_dtype,
                settings=settings, device=device, dtype=dtype, **options,
            )  # fmt: skip
            save_memory(live.painter.parts, vram)
            return live

        return LiveExaminer(open_mix, scorers, batch, stack.pop_all())


def _painter_bytes(sources: Mapping[str, Source], dtype: str) -> int:
    """The painter, and the mix that it is loaded from, which has a file's type."""
    wide = 4 if dtype == "float32" else 2
    return max(
        (
            sum(wide * info.n_elements + info.n_bytes for info in source.tensors.values())
            for source in sources.values()
        ),
        default=0,
    ) + _MERGE_BYTES  # fmt: skip


def _held(sources: Mapping[str, Source], left: int) -> tuple[dict[str, Source], int]:
    """Copies in memory of as many models as fit, and what merging has then."""
    found: dict[str, Source] = {}
    for name, source in sources.items():
        size = sum(info.n_bytes for info in source.tensors.values())
        if size <= left:
            found[name] = hold(source)
            left -= size
        else:
            found[name] = source
    return found, left + _MERGE_BYTES
