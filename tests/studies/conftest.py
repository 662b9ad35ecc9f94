"""A world whose pictures are known functions of weights, so that answers are known too."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.checkpoints import Source, open_checkpoint
from stockpot.draw import DrawSettings, Request
from stockpot.engine import Settings, merge_in_memory
from stockpot.recipes import Recipe
from stockpot.select import Pool, survey_members
from stockpot.studies import Gallery, Setting
from stockpot.studies.detail import shares_of
from stockpot.tune import CallableExaminer, Exam, Mark, Task, picture_facts
from stockpot.zoo import member

SIDE = 32
GAIN = 400.0
NAMES = ("base", "style-outline", "style-glossy", "content-warm", "te-trained", "outlier")


class World:
    """Draws a mix as a random projection of its weights, with a little of the task's own noise.

    Distances of pictures are those of weights, up to rounding and a few per cent. The score is
    minus how far a mix is from the mean of the good models.
    """

    def __init__(self, sources: Mapping[str, Source], good: Sequence[str]) -> None:
        self.sources = dict(sources)
        self.n_merged = 0
        self._sketches: dict[str, np.ndarray] = {}
        self.origin = self._sketch(sources["base"])
        self.centre = np.mean([self._sketch(sources[name]) for name in good], axis=0)

    def opening(self, made: Mapping[str, Source] | None) -> CallableExaminer:
        """What a gallery opens."""
        sources = self.sources if made is None else {**self.sources, **made}
        known: dict[str, np.ndarray] = {}

        def draw(recipe: Recipe, task: Task) -> Mark:
            text = recipe.to_yaml()
            if text not in known:
                needed = {name: sources[name] for name in recipe.pool}
                mix = merge_in_memory(recipe, needed, settings=Settings(hashes=False))
                known[text] = self._sketch(mix)
                self.n_merged += 1
            noise = np.random.default_rng(task.request.seed).normal(0, 8, SIDE * SIDE * 3)
            values = 128 + GAIN * (known[text] - self.origin) + noise
            picture = np.clip(np.rint(values), 0, 255).astype(np.uint8).reshape(SIDE, SIDE, 3)
            score = -float(np.linalg.norm(known[text] - self.centre))
            return Mark(task.name, {"near": score}, {}, 0.0, picture)

        return CallableExaminer(draw)

    def _sketch(self, source: Source) -> np.ndarray:
        """A count sketch of UNet and text encoder: an unbiased, nearly isometric projection."""
        total = np.zeros(SIDE * SIDE * 3)
        for key in sorted(source.tensors):
            if not key.startswith(("model.diffusion_model.", "cond_stage_model.")):
                continue
            info = source.tensors[key]
            if info.dtype.name not in ("F16", "F32"):
                continue
            kind = np.float16 if info.dtype.name == "F16" else np.float32
            values = np.frombuffer(source.read_bytes(key), kind).astype(np.float64)
            rng = np.random.default_rng(abs(hash_of(key)))
            place = rng.integers(len(total), size=len(values))
            sign = rng.integers(2, size=len(values)) * 2 - 1
            total += np.bincount(place, sign * values, len(total))
        return total


def hash_of(text: str) -> int:
    """The same number in every process."""
    return int.from_bytes(text.encode()[-8:], "little") + 31 * len(text)


def make_tasks(n: int) -> Exam:
    """So many requests of n // 2 payloads."""
    settings = DrawSettings(steps=4, width=SIDE, height=SIDE)
    return Exam(tuple(
        Task(f"p{i // 2}#{i % 2}", f"p{i // 2}", Request("a thing", 100 + i, settings))
        for i in range(n)
    ))  # fmt: skip


@pytest.fixture(scope="session")
def sources() -> Iterator[dict[str, Source]]:
    """Models of the zoo, open."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(open_checkpoint(member(name).path)) for name in NAMES}


@pytest.fixture(scope="session")
def pool(sources: dict[str, Source]) -> Pool:
    """What they are."""
    return survey_members(sources, {name: str(member(name).path) for name in NAMES})


@pytest.fixture(scope="session")
def world(sources: dict[str, Source]) -> World:
    """Who draws."""
    return World(sources, [name for name in NAMES if name not in ("base", "outlier")])


@pytest.fixture(scope="session")
def setting(
    pool: Pool, sources: dict[str, Source], world: World, tmp_path_factory: pytest.TempPathFactory
) -> Setting:
    """All of it; tests that change a thing use `replace`."""
    gallery = Gallery(tmp_path_factory.mktemp("gallery"), pool, world.opening)
    return Setting(pool, sources, make_tasks(12), gallery, "near", "base", ("outlier",),
                   n_permutations=200, n_mixes=16)  # fmt: skip


@pytest.fixture
def fresh(setting: Setting, world: World, tmp_path: Path) -> Callable[..., Setting]:
    """The same with an empty gallery of its own."""

    def make(**changes: object) -> Setting:
        gallery = Gallery(tmp_path / "gallery", setting.pool, world.opening)
        return replace(setting, gallery=gallery, **changes)  # type: ignore[arg-type]

    return make


@dataclass(frozen=True)
class Canvas:
    """What is to be painted: shares of models, by UNet and text encoder, and the request."""

    unet: Mapping[str, float]
    te: Mapping[str, float]
    task: Task

    @property
    def is_mix(self) -> bool:
        return len(self.unet) > 1

    @property
    def name(self) -> str:
        """The model, or ``mix``."""
        return "mix" if self.is_mix else next(iter(self.unet))

    def noise(self, *words: object) -> np.random.Generator:
        """Chance that depends on the words and on nothing else."""
        return np.random.default_rng(zlib.crc32("/".join(map(str, words)).encode()))


Paint = Callable[[Canvas], tuple[np.ndarray, float]]


@pytest.fixture
def painted(setting: Setting, tmp_path: Path) -> Callable[..., Setting]:
    """Make a setting whose pictures are planted: `paint` gives values and a score."""

    def make(paint: Paint, **changes: Any) -> Setting:
        return paint_gallery(setting, tmp_path / f"{len(list(tmp_path.iterdir()))}", paint, changes)

    return make


def paint_gallery(
    setting: Setting, folder: Path, paint: Paint, changes: Mapping[str, Any]
) -> Setting:
    """A gallery of pictures that are functions of what a recipe is made of: nothing is merged."""
    folder.mkdir()

    def draw(recipe: Recipe, task: Task) -> Mark:
        unet, te = (shares_of(setting, recipe, part) for part in ("unet", "te"))
        assert unet is not None and te is not None
        values, score = paint(Canvas(unet, te, task))
        picture = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return Mark(task.name, {"near": score}, picture_facts(picture), 0.0, picture)

    gallery = Gallery(folder, setting.pool, lambda made: CallableExaminer(draw))
    return replace(setting, gallery=gallery, **changes)
