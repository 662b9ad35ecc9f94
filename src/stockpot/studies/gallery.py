"""Pictures of candidates, kept on disk: every study shares them, and a stopped run goes on.

A file is one picture of one candidate, a PNG that carries its marks. Its name says what decides
it: the candidate by the contents of its models, and the task. No weights are ever written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from stockpot.checkpoints import Source
from stockpot.draw import from_png, read_parameters, to_png, write_file
from stockpot.errors import OutputError, Problem, RequestError
from stockpot.recipes import Recipe, canonical, print_expression
from stockpot.scores import Picture, Scorer
from stockpot.tune import Examiner, Mark, picture_facts

if TYPE_CHECKING:
    from stockpot.select import Pool
    from stockpot.tune import Task

__all__ = ["Gallery", "Made"]


@dataclass(frozen=True)
class Made:
    """Models that are computed for one candidate, and are in no file.

    Attributes:
        key: Words that identify them; equal words, equal weights.
        make: Computes them, by the name that the recipe calls each; called only when a picture
            is missing.
    """

    key: str
    make: Callable[[], Mapping[str, Source]] = field(compare=False)


@final
class Gallery:
    """Draws what is missing, and remembers it.

    Args:
        folder: Where pictures are kept; made if need be.
        pool: The models that recipes name, with the hashes of their parts.
        opening: Opens an examiner on given models; with None on the whole pool, once.
        scorers: Whose marks are wanted; a kept picture that lacks one's mark is scored, not drawn
            again. The examiner has the same.
        setup: Whatever else decides all pictures, in words: types, a VAE from elsewhere.
        adapters: Hashes of LoRAs and embeddings by the names that prompts give; they count for
            the tasks that name them.
        progress: Is told a line after each candidate.

    Attributes:
        n_drawn: Pictures that were drawn in this run.
        n_kept: Pictures that were asked for and were there.
    """

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        opening: Callable[[Mapping[str, Source] | None], Examiner],
        *,
        scorers: Mapping[str, Scorer] = MappingProxyType({}),
        setup: str = "",
        adapters: Mapping[str, str] = MappingProxyType({}),
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.pool, self._setup = folder, pool, setup
        self._adapters = dict(adapters)
        self._opening, self._scorers, self._progress = opening, dict(scorers), progress
        self._examiner: Examiner | None = None
        self.n_drawn = self.n_kept = 0

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the examiner."""
        if self._examiner is not None:
            self._examiner.close()
            self._examiner = None

    def key(self, recipe: Recipe, made: Made | None = None) -> str:
        """Identify a candidate by its recipe and the contents of its models.

        Args:
            recipe: The candidate; the names in its pool are the gallery's pool's, or made ones.
            made: What was computed for it.

        Returns:
            32 hex digits.
        """
        ordered = canonical(recipe)
        known = {one.name: one for one in self.pool.members}
        parts = [
            [[key, print_expression(value)] for key, value in ordered.let.items()],
            [[key, print_expression(value)] for key, value in ordered.mix.items()],
            [
                [name, known[name].unet, known[name].encoder, known[name].vae]
                for name in ordered.pool
                if name in known
            ],
            made.key if made is not None else "",
            self._setup,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def n_missing(self, recipe: Recipe, tasks: Sequence[Task], made: Made | None = None) -> int:
        """Count the pictures that would have to be drawn."""
        key = self.key(recipe, made)
        return sum(not self._file(key, task).exists() for task in tasks)

    def pictures(
        self, recipe: Recipe, tasks: Sequence[Task], *, made: Made | None = None
    ) -> Iterator[Picture]:
        """Give a candidate's pictures, one after the other; draws what is missing first.

        Args:
            recipe: The candidate.
            tasks: What to draw.
            made: Models of it that are in no file.

        Yields:
            uint8 RGB, `[height, width, 3]`, in the order of the tasks.

        Raises:
            StockpotError: The candidate cannot be mixed or drawn.
            OutputError: The pictures cannot be kept.
        """
        key = self._ensure(recipe, tasks, made)
        for task in tasks:
            yield _picture(self._file(key, task))

    def marks(
        self, recipe: Recipe, tasks: Sequence[Task], *, made: Made | None = None
    ) -> dict[str, Mark]:
        """Give a candidate's marks by task, without pictures; see `pictures`."""
        key = self._ensure(recipe, tasks, made)
        return {task.name: self._read(key, task) for task in tasks}

    def scores(
        self, recipe: Recipe, tasks: Sequence[Task], scorer: str, *, made: Made | None = None
    ) -> dict[str, float]:
        """Give a candidate's scores by task, as they count: minus them where a task is reversed.

        Args:
            recipe: The candidate.
            tasks: What to draw.
            scorer: Whose marks.
            made: Models of it that are in no file.

        Raises:
            RequestError: There are no such marks.
        """
        marks = self.marks(recipe, tasks, made=made)
        found = {}
        for task in tasks:
            own = marks[task.name].scores
            if scorer not in own:
                raise RequestError(
                    [Problem("scorer", f"this study needs marks of {scorer!r}, but pictures have "
                             f"those of {', '.join(own) or 'none'}", task.name,
                             "name a scorer with --score")]
                )  # fmt: skip
            found[task.name] = (-1 if task.reverse else 1) * own[scorer]
        return found

    def _file(self, key: str, task: Task) -> Path:
        said = f"{task.request.prompt}\n{task.request.settings.negative}"
        named = sorted(digest for name, digest in self._adapters.items() if name in said)
        more = f"-{hashlib.sha256(','.join(named).encode()).hexdigest()[:12]}" if named else ""
        return self.folder / key / f"{task.key}{more}.png"

    def _read(self, key: str, task: Task) -> Mark:
        """A picture's marks; those of a scorer that is new are added to the file."""
        file = self._file(key, task)
        try:
            value = json.loads(read_parameters(file))
            scores = {str(name): float(score) for name, score in value["scores"].items()}
            facts = {str(name): float(fact) for name, fact in value["facts"].items()}
        except (RequestError, ValueError, KeyError, TypeError, AttributeError):
            raise _damaged(file, "carries its marks, but this one does not") from None
        missing = [name for name in self._scorers if name not in scores]
        if missing:
            picture = _picture(file)
            for name in missing:
                (score,) = self._scorers[name].score(
                    [picture], [task.request.prompt], score_prompts=[task.score_prompt]
                )
                scores[name] = float(score)
            self._write(key, task, picture, scores, facts)
        return Mark(task.name, scores, facts)

    def _write(
        self, key: str, task: Task, picture: Picture, scores: Mapping[str, float],
        facts: Mapping[str, float],
    ) -> None:  # fmt: skip
        text = json.dumps({"scores": dict(scores), "facts": dict(facts)})
        file = self._file(key, task)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, to_png(picture, text))
        except OSError as error:
            raise OutputError(f"{file}: pictures cannot be kept: {error.strerror}") from error

    def _ensure(self, recipe: Recipe, tasks: Sequence[Task], made: Made | None) -> str:
        key = self.key(recipe, made)
        # Tasks that ask for the same picture are drawn once.
        missing = {task.key: task for task in tasks if not self._file(key, task).exists()}
        self.n_kept += len(tasks) - len(missing)
        if not missing:
            return key
        by_name = {task.name: task for task in missing.values()}
        for mark in self._shown(recipe, list(missing.values()), made):
            task = by_name[mark.task]
            if mark.picture is None:
                raise TypeError("a gallery needs an examiner that hands its pictures over")
            facts = mark.facts or picture_facts(mark.picture)
            self._write(key, task, mark.picture, mark.scores, facts)
            self.n_drawn += 1
        self._progress(f"{self.n_drawn} pictures drawn")
        return key

    def _shown(self, recipe: Recipe, tasks: list[Task], made: Made | None) -> Iterator[Mark]:
        if made is None:
            if self._examiner is None:
                self._examiner = self._opening(None)
            yield from self._examiner.examine(recipe, tasks, pictures=True)
            return
        # Not two painters at once: memory is for one.
        self.close()
        with self._opening(made.make()) as examiner:
            yield from examiner.examine(recipe, tasks, pictures=True)


def _picture(file: Path) -> Picture:
    try:
        return from_png(file.read_bytes())
    except (OSError, ValueError):
        raise _damaged(file, "is a PNG file, but this one cannot be read") from None


def _damaged(file: Path, rule: str) -> RequestError:
    remedy = "remove it, and it will be drawn again"
    return RequestError([Problem("gallery", f"a picture of the gallery {rule}", str(file), remedy)])
