"""Searches that others ran, as trials: AutoMBW's tables of 27 weights and a score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stockpot.errors import StudyError
from stockpot.recipes import Recipe
from stockpot.recipes.importers import table_rows
from stockpot.tune.holes import Hole
from stockpot.tune.proposing import distributions_of
from stockpot.tune.spaces import Space
from stockpot.tune.storing import StudyStore

__all__ = ["ImportedRows", "import_rows"]

_LABELS = 27


@dataclass(frozen=True, slots=True)
class ImportedRows:
    """What came of a table.

    Attributes:
        n_rows: Evaluations in the table.
        n_new: Those that the study did not have yet.
        n_outside: Of those, the ones that the space does not hold; the optimiser cannot learn
            from them.
    """

    n_rows: int
    n_new: int
    n_outside: int


def import_rows(store: StudyStore, recipe: Recipe, space: Space, table: Path) -> ImportedRows:
    """Add the evaluations of an AutoMBW table to a study, each once.

    They are no candidates of this study: they are not counted, cannot win, and stop nothing. An
    optimiser takes their scores as they are, so the same scorer and payloads must have given them.

    Args:
        store: The study; one objective.
        recipe: With 27 holes in one list of block weights of the profile ``autombw`` or
            ``autombw-recipe``.
        space: Of the search.
        table: The CSV file: columns ``0`` … ``26`` and ``score``.

    Returns:
        How many there were.

    Raises:
        RecipeError: The table cannot be read.
        StudyError: The recipe's holes are no such weights.
    """
    rows = table_rows(table.read_text(encoding="utf-8-sig"), str(table))
    names = _names(space.holes)
    store.study_id(1)
    known = {trial.user_attrs.get("imported") for trial in store.all_trials()}
    ranges = distributions_of(space.dials)
    n_new = n_outside = 0
    for number, (weights, score) in enumerate(rows, start=1):
        source = f"{table.name} row {number}"
        if source in known:
            continue
        values = dict(space.fixed) | dict(zip(names, weights, strict=True))
        dials = space.find(values)
        n_new += 1
        n_outside += dials is None
        attrs = {"imported": source, "values": {n: str(v) for n, v in values.items()}}
        store.add_trial(dials or {}, ranges if dials else {}, attrs, values=[score])
    return ImportedRows(len(rows), n_new, n_outside)


def _names(holes: tuple[Hole, ...]) -> list[str]:
    """Names of the holes in the order of the table."""
    from stockpot.layouts import get_profile

    labels = get_profile("autombw").labels
    vectors = {hole.vector for hole in holes if hole.vector}
    for vector in vectors:
        mine = {hole.label: hole.name for hole in holes if hole.vector == vector}
        if set(mine) == set(labels) and len(holes) == _LABELS:
            return [mine[label] for label in labels]
    raise StudyError(
        "a table of AutoMBW needs a recipe whose holes are its 27 block weights, such as "
        'lerp(a, b, blocks("autombw", [27 times search(0, 1, 0.05)]))'
    )
