"""What draws and scores for a search: here, or on the machines of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.cli.sizes import memory_bytes
from stockpot.cli.tuning_crew import draw_on_cluster, with_absolute_paths
from stockpot.cli.tuning_options import SearchOptions
from stockpot.errors import ScorerError

if TYPE_CHECKING:
    from stockpot.recipes import Recipe
    from stockpot.tune import Examiner, Task

__all__ = ["examiner_of", "memory_of", "open_wished", "opened_examiner", "scorers_of"]


@contextmanager
def opened_examiner(
    options: SearchOptions,
    recipe: Recipe,
    folder: Path,
    hand: Callable[[Examiner], None],
    first: Recipe | None,
) -> Iterator[Examiner]:
    """Open what draws and scores; with ``--cluster`` all is drawn there first.

    A mix that cannot be drawn is an error here, of the whole search, and not of each candidate.

    Args:
        options: Of the command.
        recipe: Whose pool is mixed.
        folder: Where its paths start.
        hand: Draws with an examiner what the study has left to draw, as a further process of the
            command does. Called in a thread for each worker of the cluster, and not without one.
        first: A mix to open the painter on; None leaves that to the first candidate.

    Yields:
        The examiner. After a cluster has drawn, one that has nothing left to draw.
    """
    if options.cluster is None:
        with examiner_of(options, recipe, folder, first) as examiner:
            yield examiner
        return
    from stockpot.tune import CallableExaminer

    first_text = None if first is None else first.to_yaml()
    opening = partial(open_wished, with_absolute_paths(options), recipe.to_yaml(), first_text,
                      folder.absolute())  # fmt: skip
    draw_on_cluster(options.cluster, options.workers, options.device, opening, hand)
    # What is there after a cluster did it needs no models to be read.
    yield CallableExaminer(_refuse)


def examiner_of(
    options: SearchOptions, recipe: Recipe, folder: Path, first: Recipe | None = None
) -> Examiner:
    """Open what draws and scores.

    Args:
        options: Of the command.
        recipe: Whose pool is mixed.
        folder: Where its paths start.
        first: A mix to open the painter on; None leaves that to the first candidate.

    Raises:
        StockpotError: The pool cannot be opened, or `first` cannot be mixed or drawn.
    """
    from stockpot.scores import Setting, make_scorer, read_scales
    from stockpot.tune import open_examiner

    n_bytes = memory_of(options)
    setting = Setting(options.files, options.device)
    known = read_scales(options.scales) if options.scales is not None else None
    scorers = {n: make_scorer(n, setting, known) for n in scorers_of(options)}
    for name, scorer in scorers.items():
        if not scorer.pointwise:
            raise ScorerError(
                f"{name}: it compares pictures with each other, so its scores of one candidate say "
                "nothing about another; use it with `stockpot score`"
            )
    examiner = open_examiner(
        recipe, scorers, folder=folder, memory=n_bytes,
        threads=options.threads, batch=options.batch, vae=options.vae, te=options.te,
        config=options.config, device=options.device, dtype=options.dtype,
        tokenizer=options.tokenizer,
    )  # fmt: skip
    try:
        if first is not None:
            examiner.show(first)
    except BaseException:
        examiner.close()
        raise
    return examiner


def open_wished(
    options: SearchOptions, recipe_text: str, first_text: str | None, folder: Path
) -> Examiner:
    """Open what draws and scores where a worker of a cluster runs.

    Args:
        options: Of the command.
        recipe_text: Whose pool is mixed.
        first_text: A mix to open the painter on, if any.
        folder: Where its paths start.
    """
    from stockpot.recipes import parse_recipe

    first = None if first_text is None else parse_recipe(first_text)
    return examiner_of(options, parse_recipe(recipe_text), folder, first)


def memory_of(options: SearchOptions) -> int | None:
    """Read ``--memory``.

    Args:
        options: Of the command.

    Returns:
        Bytes; None without the option.
    """
    return None if options.memory is None else memory_bytes(options.memory)


def scorers_of(options: SearchOptions) -> tuple[str, ...]:
    """Name all scorers that see the pictures, each once.

    Args:
        options: Of the command.
    """
    return tuple(dict.fromkeys([*options.score, *(options.record or [])]))


def _refuse(recipe: Recipe, task: Task) -> float:
    raise AssertionError(f"{task.name}: the workers have left this one undone")
