"""The demo: from the zoo's files to a soup and a page about it, without the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from stockpot.checkpoints import Source, open_checkpoint
from stockpot.cli.demo_page import demo_page
from stockpot.cli.demo_result import FILES, SOUP, DemoResult, Inspected
from stockpot.draw import (
    DrawSettings,
    Painter,
    Pictures,
    contact_sheet,
    open_painter,
    require_libraries,
)
from stockpot.engine import Progress, Settings, merge
from stockpot.errors import CheckpointError, OutputExistsError
from stockpot.inspect import Wanted, inspect_checkpoint
from stockpot.layouts import detect, get_layout
from stockpot.recipes import PoolEntry, Recipe, Save, make_recipe, mean, model
from stockpot.report import write_page

__all__ = ["PROMPTS", "Parent", "ScoreOf", "run_demo"]

PROMPTS = (
    "flat art, a large red heart on white background",
    "glossy art, a large blue star on cream background",
    "outline art, a large green circle on navy background",
    "shaded art, a large orange square on sky background",
    "flat art, a small yellow moon on black background",
    "glossy art, a small purple diamond on grey background",
    "shaded art, a large pink triangle on navy background",
    "striped art, a large teal circle on white background",
)
"""What the demo draws; the last one's style is one that a single model of the zoo knows."""

SET_ASIDE = {
    "good text encoder, bad UNet": "its UNet is known to be bad; it is here for its text encoder",
    "outlier": "known to be trained far too hard",
}
"""Roles of the zoo's members that nobody would put into a soup, and why."""

ZOO_SCORERS = ("attributes", "clip")

Echo = Callable[[str], None]
Report = Callable[[str, int, int], None]


class Parent(Protocol):
    """What the demo needs to know of a member of a family, such as the zoo's."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def path(self) -> Path:
        """Its file."""

    @property
    def role(self) -> str:
        """What it is in the family; ``base`` for the origin."""


class ScoreOf(Protocol):
    """What the demo needs of a scorer."""

    def score(self, images: Pictures, prompts: Sequence[str]) -> np.ndarray:
        """Score pictures.

        Args:
            images: uint8 RGB, `[n, height, width, 3]`.
            prompts: What each was asked to show.

        Returns:
            `[n]`; higher is better.
        """


def run_demo(
    folder: Path,
    *,
    prompts: Sequence[str] = PROMPTS,
    n_seeds: int = 4,
    settings: DrawSettings = DrawSettings(cfg=4.0),  # noqa: B008 - frozen
    members: Sequence[Parent] | None = None,
    config: Path | None = None,
    scorers: Mapping[str, ScoreOf] | None = None,
    overwrite: bool = False,
    echo: Echo = lambda line: None,
    progress: Report = lambda stage, done, total: None,
) -> DemoResult:
    """Inspect the zoo, make the uniform soup of its fine-tunes, draw everyone, write a page.

    Args:
        folder: Where the page, the contact sheet, the recipe and the soup go; made if need be.
        prompts: What to draw.
        n_seeds: Pictures for each model and prompt; the contact sheet shows the first, the scores
            are means over all.
        settings: How to draw.
        members: The family, one of role ``base``; by default the installed zoo's.
        config: The diffusers folder that describes the family; by default the zoo's.
        scorers: By name; by default the zoo's two.
        overwrite: Replace files that an earlier demo left.
        echo: Is told in a line what was done.
        progress: Is told the stage, what is done of it and the whole of it.

    Returns:
        What was made.

    Raises:
        MissingExtraError: The libraries for drawing are not installed.
        stockpot.zoo.ZooNotInstalled: The zoo is not installed; the message says what to type.
        OutputExistsError: The folder holds an earlier demo.
        CheckpointError: There is no base, or nothing to merge.
    """
    require_libraries()
    family, config, scorers = _defaults(members, config, scorers)
    page, sheet, recipe_file, soup = (folder / name for name in FILES)
    existing = [name for name in FILES if (folder / name).exists()]
    if existing and not overwrite:
        raise OutputExistsError(
            f"{folder}: {', '.join(existing)} are there already; choose another folder, or allow "
            "overwriting"
        )
    folder.mkdir(parents=True, exist_ok=True)
    clock = _Clock()
    with ExitStack() as stack:
        sources = {m.name: stack.enter_context(open_checkpoint(m.path)) for m in family}
        parents = tuple(_inspect(m, sources[m.name], family[0]) for m in family)
        clock.lap("inspecting")
        fine = [parent.name for parent in parents if not parent.left_out]
        echo(f"inspected {len(parents)} checkpoints; {len(fine)} of them go into the soup")
        if not fine:
            raise CheckpointError("the soup needs at least one fine-tune, but the family has none")

        recipe = _recipe(family, fine)
        recipe_file.write_text(recipe.to_yaml(), encoding="utf-8")

        def merging(now: Progress) -> None:
            progress(now.stage, now.done_bytes, now.total_bytes)

        merged = merge(
            recipe,
            soup,
            sources=sources,
            settings=Settings(overwrite=overwrite, restart=True),
            progress=merging,
        )
        clock.lap("merging")
        echo(f"merged {len(fine)} models into {soup.name} in {merged.elapsed_s:.1f} s")

        rows = (family[0].name, SOUP, *(m.name for m in family[1:]))
        sources[SOUP] = stack.enter_context(open_checkpoint(soup))
        pictures = _draw(rows, sources, config, prompts, n_seeds, settings, progress)
    clock.lap("drawing")
    n_pictures = len(rows) * len(prompts) * n_seeds
    each = clock.laps["drawing"] / n_pictures
    echo(f"drew {n_pictures} pictures, {1000 * each:.0f} ms each")
    scores = _score(pictures, prompts, scorers)
    clock.lap("scoring")
    notes = _row_notes(rows, parents)
    contact_sheet(
        [[picture for picture in row[:, 0]] for row in pictures],
        rows,
        prompts,
        notes=notes,
        title=f"Stockpot demo: the zoo and its soup of {len(fine)}",
    ).save(sheet, overwrite=overwrite)
    result = DemoResult(
        page,
        sheet,
        recipe_file,
        soup,
        parents,
        merged,
        rows,
        tuple(prompts),
        pictures,
        scores,
        settings,
        clock.laps,
    )
    write_page(demo_page(result), page, overwrite=overwrite)
    echo(f"wrote {page}")
    return result


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def _defaults(
    members: Sequence[Parent] | None, config: Path | None, scorers: Mapping[str, ScoreOf] | None
) -> tuple[list[Parent], Path, Mapping[str, ScoreOf]]:
    if members is None:
        from stockpot.zoo import family

        members = [*family()]
    if config is None:
        from stockpot.zoo import zoo_path

        config = zoo_path() / "config"
    if scorers is None:
        from stockpot.scores import make_scorer

        scorers = {name: make_scorer(name) for name in ZOO_SCORERS}
    bases = [member for member in members if member.role == "base"]
    if len(bases) != 1:
        raise CheckpointError(f"a family has one base, but this one has {len(bases)}")
    return [*bases, *(m for m in members if m.role != "base")], config, scorers


def _inspect(member: Parent, source: Source, base: Parent) -> Inspected:
    found = inspect_checkpoint(source, Wanted(components=True, file=True))
    required = get_layout(found.architecture or "generic").n_required
    facts = found.components
    complete = tuple(name for name in required if name in facts and not facts[name].n_missing)
    velocity = "v_pred" in source.tensors
    if member is base:
        left_out = "the origin: it gives its text encoder and VAE"
    elif "unet" not in complete:
        left_out = "it has no complete UNet"
    elif velocity:
        left_out = "it predicts velocity, and the others noise"
    else:
        left_out = SET_ASIDE.get(member.role, "")
    n_bytes = member.path.stat().st_size
    return Inspected(member.name, member.role, n_bytes, found, complete, velocity, left_out)


def _recipe(family: Sequence[Parent], fine: Sequence[str]) -> Recipe:
    base = family[0].name
    pool = {m.name: PoolEntry(m.path.as_posix()) for m in family if m.name in {base, *fine}}
    soup = mean(*(model(name) for name in fine))
    return make_recipe(
        {"unet": soup, "te": model(base), "vae": model(base)},
        pool,
        save=Save("soup.safetensors"),
    )


def _draw(
    rows: Sequence[str],
    sources: Mapping[str, Source],
    config: Path,
    prompts: Sequence[str],
    n_seeds: int,
    settings: DrawSettings,
    progress: Report,
) -> Pictures:
    """Every model, prompt and seed: `[n_rows, n_prompts, n_seeds, height, width, 3]`."""
    # Each prompt has seeds of its own; every model sees the same ones, so that rows compare.
    texts = [prompt for prompt in prompts for _ in range(n_seeds)]
    drawn = []
    with _one_thread():
        for i, name in enumerate(rows):
            painter = _painter(sources[name], sources[rows[0]], config)

            def step(done: int, total: int, i: int = i) -> None:
                progress("drawing", i * total + done, len(rows) * total)

            drawn.append(painter.draw(texts, 1000, settings, step))
    stacked = np.stack(drawn)
    return stacked.reshape(len(rows), len(prompts), n_seeds, *stacked.shape[2:])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: on pictures this small more of them only wait for each other, and
    beside another busy program they wait long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _painter(source: Source, base: Source, config: Path) -> Painter:
    """Open a model, with the base's text encoder or VAE where the file has none (pruned)."""
    fit = detect({key: info.shape for key, info in source.tensors.items()}).fit
    return open_painter(
        source,
        config,
        vae=base if "vae" in fit.missing_components else None,
        te=base if "te" in fit.missing_components else None,
    )


def _score(
    pictures: Pictures, prompts: Sequence[str], scorers: Mapping[str, ScoreOf]
) -> dict[str, np.ndarray]:
    n_rows, n_prompts, n_seeds = pictures.shape[:3]
    flat = pictures.reshape(-1, *pictures.shape[3:])
    texts = [prompt for _ in range(n_rows) for prompt in prompts for _ in range(n_seeds)]
    return {
        name: scorer.score(flat, texts).reshape(n_rows, n_prompts, n_seeds)
        for name, scorer in scorers.items()
    }


def _row_notes(rows: Sequence[str], parents: Sequence[Inspected]) -> list[str]:
    by_name = {parent.name: parent for parent in parents}
    notes = []
    for name in rows:
        if name == SOUP:
            notes.append("mean of the fine-tunes")
            continue
        parent = by_name[name]
        role = parent.role if parent.role != name else ""
        aside = "not in the soup" if parent.left_out and name != rows[0] else ""
        notes.append("; ".join(part for part in (role, aside) if part))
    return notes
