"""Whether two folds make the same model, and where they differ."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from stockpot.layouts import Cell

from .folding import Fold, namers

__all__ = ["Difference", "compare_folds"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two tables differ.

    Attributes:
        label: First and last cell of a run.
        model: Its name in the first recipe, or in the second where the first lacks it.
        first: Its share in the one.
        second: Its share in the other.
    """

    label: str
    model: str
    first: Fraction
    second: Fraction


def compare_folds(first: Fold, second: Fold) -> list[Difference]:
    """List where two recipes differ: empty exactly where `Fold.same` holds.

    Args:
        first: A fold.
        second: Another, over the same layout.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> from stockpot.recipes import fold, make_recipe
        >>> pool, sd1 = {"a": "a.ckpt", "b": "b.ckpt"}, get_layout("sd1")
        >>> one = fold(make_recipe({"vae": "a"}, pool), sd1)
        >>> other = fold(make_recipe({"vae": "lerp(a, b, 0.25)"}, pool), sd1)
        >>> [(d.label, d.model, str(d.second - d.first)) for d in compare_folds(one, other)]
        [('vae.encoder … vae.decoder', 'a', '-1/4'), ('vae.encoder … vae.decoder', 'b', '1/4')]
    """
    mine, theirs = namers(first, second)
    names: dict[object, str] = {}
    for namer, side in ((theirs, second), (mine, first)):
        for atom in reversed((*side.recipe.pool, *side.atoms)):
            (name,) = namer.row({atom: Fraction(1)})
            names[name] = str(atom)
    runs: list[tuple[list[Cell], dict[object, tuple[Fraction, Fraction]]]] = []
    cells = [*first.rows, *(cell for cell in second.rows if cell not in first.rows)]
    for cell in cells:
        a = mine.row(first.rows.get(cell, {}))
        b = theirs.row(second.rows.get(cell, {}))
        zero = Fraction(0)
        found = {key: (a.get(key, zero), b.get(key, zero)) for key in (*a, *b)
                 if a.get(key, zero) != b.get(key, zero)}  # fmt: skip
        if runs and runs[-1][1] == found and runs[-1][0][-1].component == cell.component:
            runs[-1][0].append(cell)
        else:
            runs.append(([cell], found))
    return [
        Difference(str(run[0]) if len(run) == 1 else f"{run[0]} … {run[-1]}", names[key], *shares)
        for run, found in runs
        for key, shares in found.items()
    ]
