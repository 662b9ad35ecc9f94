"""What the raw models at the bottom of a history have to do with the file at its top.

Each step of a history is folded, and the tables are multiplied down to the models that no step
made. So two files can be compared whose steps came in another order, or under other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from stockpot.engine.history import History, Step
from stockpot.errors import CheckpointError
from stockpot.layouts import Cell, get_layout
from stockpot.recipes import Difference, MissingModelError, fold, parse_recipe

__all__ = ["Ancestor", "compare_shares", "shares_of"]

_LAST = ""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A component of a model that no step of a history made, known by what it holds.

    Attributes:
        hash: Content hash of what was read of it.
        name: What the recipe that reads it calls its model.

    Example:
        >>> Ancestor("00", "a") == Ancestor("00", "another name")
        True
    """

    hash: str
    name: str = field(compare=False)


Shares = Mapping[Cell, Mapping[Ancestor, Fraction]]


def shares_of(history: History) -> Shares:
    """Say what each raw model contributes to each block of a file, through all its steps.

    Args:
        history: Of the file. A step that is not linear counts as a raw model.

    Returns:
        Exact shares by cell; each step is taken as exact, though its file was rounded.

    Raises:
        CheckpointError: The history goes in a circle, or was made without hashes.
        RecipeError: A step's recipe cannot be read.
        UnknownNameError: A step's layout is not known.
    """
    steps = {**history.earlier, _LAST: history.last}
    tables: dict[str, Shares | None] = {}
    begun: set[str] = set()
    stack = [_LAST]
    while stack:
        key = stack[-1]
        inputs = {record.made for record in steps[key].inputs.values() if record.made in steps}
        waiting = [made for made in inputs if made and made not in tables]
        if key in tables:
            stack.pop()
        elif not waiting:
            tables[key] = _table(steps[key], tables)
            stack.pop()
        elif key in begun:
            raise CheckpointError("the history goes in a circle: a step reads what was made of it")
        else:
            begun.add(key)
            stack.extend(waiting)
    found = tables[_LAST]
    return found if found is not None else _opaque(history.last, "the file")


def compare_shares(first: Shares, second: Shares) -> list[Difference]:
    """List where two files differ in what they are made of.

    Args:
        first: From `shares_of`.
        second: Another.

    Returns:
        Runs of blocks with equal differences; empty where both are the same mix.
    """
    zero = Fraction(0)
    runs: list[tuple[list[Cell], dict[Ancestor, tuple[Fraction, Fraction]]]] = []
    for cell in dict.fromkeys((*first, *second)):
        mine, theirs = first.get(cell, {}), second.get(cell, {})
        found = {
            ancestor: (mine.get(ancestor, zero), theirs.get(ancestor, zero))
            for ancestor in dict.fromkeys((*mine, *theirs))
            if mine.get(ancestor, zero) != theirs.get(ancestor, zero)
        }
        if runs and runs[-1][1] == found and runs[-1][0][-1].component == cell.component:
            runs[-1][0].append(cell)
        else:
            runs.append(([cell], found))
    return [
        Difference(
            str(run[0]) if len(run) == 1 else f"{run[0]} … {run[-1]}", ancestor.name, *shares
        )
        for run, found in runs
        for ancestor, shares in found.items()
    ]


def _table(step: Step, tables: Mapping[str, Shares | None]) -> Shares | None:
    """One step's table over raw models; None for a step that is not linear."""
    folded = fold(parse_recipe(step.recipe), get_layout(step.layout))
    result: dict[Cell, dict[Ancestor, Fraction]] = {}
    for cell in folded.rows:
        component = cell.component
        if component not in step.components:
            continue  # the recipe names it, and no model had it
        holders = frozenset(
            name for name, record in step.inputs.items() if component in record.components
        )
        try:
            row = folded.coefficients(cell, holders)
        except MissingModelError:
            row = folded.rows[cell]
        total: dict[Ancestor, Fraction] = {}
        for name, weight in row.items():
            if not isinstance(name, str):
                return None  # what a method makes
            for ancestor, share in _below(step, name, cell, tables).items():
                total[ancestor] = total.get(ancestor, Fraction(0)) + weight * share
        result[cell] = {ancestor: share for ancestor, share in total.items() if share}
    return result


def _below(
    step: Step, name: str, cell: Cell, tables: Mapping[str, Shares | None]
) -> Mapping[Ancestor, Fraction]:
    record = step.inputs.get(name)
    digest = record.components.get(cell.component) if record is not None else None
    if record is None or digest is None:
        raise CheckpointError(
            f"the record of {name!r} has no hash of its {cell.component} (it was merged with "
            "--no-hash, or the record was edited), so nothing can be compared"
        )
    made = tables.get(record.made or "")
    if made is not None and cell in made:
        return made[cell]
    return {Ancestor(digest, name): Fraction(1)}


def _opaque(step: Step, name: str) -> Shares:
    """A table for a file that is known by what it holds alone."""
    return {
        cell: {Ancestor(step.components[cell.component], name): Fraction(1)}
        for cell in get_layout(step.layout).cells
        if cell.component in step.components
    }
