"""A study on a cluster: each worker holds the pool, and is one more hand in the same study."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.cli.clustering import crew_of
from stockpot.cli.output import note
from stockpot.cli.tuning_run import Wishes, open_wished, search_stage, stages_of

if TYPE_CHECKING:
    from stockpot.layouts import Layout
    from stockpot.recipes import Recipe
    from stockpot.tune import Exam, Examiner

__all__ = ["tune_on_cluster"]


def tune_on_cluster(wishes: Wishes, recipe: Recipe, layout: Layout, exam: Exam, held: Exam) -> None:
    """Search and hold out on all workers of a cluster; what they find is in the study.

    Args:
        wishes: The options.
        recipe: With holes; its pool's paths absolute.
        layout: Of the pool.
        exam: What candidates draw.
        held: The same for the verdict.
    """
    from stockpot.tune import examine_on_crew, hold_out, open_store

    def use(examiner: Examiner) -> None:
        # As a further process of the command would: the study tells it what is left to do.
        with ExitStack() as stack:
            store = stack.enter_context(open_store(wishes.study))
            done = [
                search_stage(stage, examiner, False, last=False)
                for stage in stages_of(wishes, store, recipe, layout, exam, stack)
            ]
            hold_out(done, examiner, held, wishes.finalists, _say_held_out)

    workers = wishes.workers if wishes.workers > 1 else 0
    with crew_of(
        wishes.cluster, threads=max(1, workers), workers=workers,
        gpus=wishes.device.startswith("cuda"),
    ) as crew:  # fmt: skip
        assert crew is not None
        examine_on_crew(crew, partial(open_wished, _absolute(wishes), recipe.to_yaml()), use)


def _absolute(wishes: Wishes) -> Wishes:
    """The same with paths that mean the same in every folder."""
    found: dict[str, Any] = {}
    for field in fields(Wishes):
        value = getattr(wishes, field.name)
        if isinstance(value, Path):
            found[field.name] = value.absolute()
    return replace(wishes, **found)


def _say_held_out(name: str) -> None:
    note(f"held out: {name}")
