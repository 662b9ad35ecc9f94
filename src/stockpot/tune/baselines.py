"""What a search must beat: every model alone, the uniform mix, the ends and the middle of holes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from stockpot.errors import StockpotError, StudyError
from stockpot.layouts import Layout
from stockpot.recipes import (
    POOL,
    Call,
    Fold,
    Items,
    Name,
    Recipe,
    Save,
    fold,
    mean,
    models_below,
    names_in,
)
from stockpot.tune.holes import Hole, expression_at, fill_holes
from stockpot.tune.settings import Baseline
from stockpot.tune.spaces import make_space

__all__ = [
    "UNIFORM", "each_once", "make_baselines", "make_fillings", "nearness_to_uniform",
    "sums_of_models",
]  # fmt: skip

#: The baseline that verdicts name first.
UNIFORM = "uniform mix"
_DRAWING = ("unet", "te", "vae", "model")


def sums_of_models(
    recipe: Recipe, holes: Sequence[Hole], layout: Layout | None = None
) -> tuple[str, ...]:
    """Find the weights that must sum to 1: those of a `linear` of models, where all are holes.

    Weights of differences may be anything, and stay numbers of their own.

    Args:
        recipe: With holes.
        holes: Of the recipe.
        layout: Of the pool; without it only names of the pool count as models.

    Returns:
        Values of `Hole.sum`.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> from stockpot.tune import find_holes
        >>> text = "linear([a, b], [search(0, 1), search(0, 1)])"
        >>> recipe = make_recipe(text, {"a": "a.ckpt", "b": "b.ckpt"})
        >>> sums_of_models(recipe, find_holes(recipe))
        ('mix.model:',)
    """
    lows = fill_holes(recipe, {hole.name: hole.low for hole in holes})
    found = []
    for place in dict.fromkeys(hole.sum for hole in holes if hole.sum):
        node = expression_at(lows, place)
        models = node.args[0] if isinstance(node, Call) else None
        items = models.items if isinstance(models, Items) else ()
        whole = all(
            (isinstance(item, Name) and item.name in recipe.pool)
            or _is_model(replace(lows, mix={"model": item}), layout)
            for item in items
        )
        labels = {hole.label for hole in holes if hole.sum == place}
        n_found = sum(hole.sum == place for hole in holes)
        if items and whole and n_found == len(items) * len(labels):
            found.append(place)
    return tuple(found)


def _is_model(recipe: Recipe, layout: Layout | None) -> bool:
    if layout is None:
        return False
    try:
        table = fold(recipe, layout)
        row = table.coefficients(layout.cells[0])
    except StockpotError:
        return False
    return sum(share for atom, share in row.items() if isinstance(atom, str)) == 1


def make_baselines(
    recipe: Recipe,
    holes: Sequence[Hole],
    layout: Layout | None = None,
    *,
    sums: Sequence[str] = (),
    fixed: Mapping[str, Fraction] | None = None,
    known: Mapping[str, Mapping[str, Fraction]] | None = None,
) -> tuple[Baseline, ...]:
    """List what is examined before anything is searched.

    Args:
        recipe: With holes; the pool's globs resolved.
        holes: Of the recipe.
        layout: Of the pool; with it, baselines that make the same model are one.
        sums: See `sums_of_models`.
        fixed: Holes that do not move.
        known: Weights that somebody found good, by a name for them; for all holes that move.

    Returns:
        Every model alone, the uniform mix, all holes at the low end, at the high end, in the
        middle, and what is known, each once. Those that are a filling of the recipe say so, and
        the optimiser learns from them.

    Raises:
        StudyError: Known weights lack a hole.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> from stockpot.tune import find_holes
        >>> recipe = make_recipe("lerp(a, b, search(0, 1))", {"a": "a.ckpt", "b": "b.ckpt"})
        >>> from stockpot.layouts import get_layout
        >>> found = make_baselines(recipe, find_holes(recipe), get_layout("sd1"))
        >>> [(b.name, {n: str(v) for n, v in b.values.items()}) for b in found]
        [('a alone', {'t': '0'}), ('b alone', {'t': '1'}), ('uniform mix', {'t': '1/2'})]
    """
    fixed = dict(fixed or {})
    plain = replace(recipe, let={}, save=Save(dtype=recipe.save.dtype), origin=None)
    read = {n for e in (*recipe.let.values(), *recipe.mix.values()) for n in names_in(e)}
    used = [n for n in recipe.pool if n in read or "pool" in read] or list(recipe.pool)
    made = [Baseline(f"{n} alone", replace(plain, mix={"model": Name(n)})) for n in used]
    several = mean(*map(Name, used)) if len(used) < len(recipe.pool) else mean(POOL)
    if len(used) > 1:
        made.append(Baseline(UNIFORM, replace(plain, mix={"model": several})))
    made += make_fillings(recipe, holes, sums=sums, fixed=fixed, known=known)
    return each_once(made, layout)


def make_fillings(
    recipe: Recipe,
    holes: Sequence[Hole],
    *,
    sums: Sequence[str] = (),
    fixed: Mapping[str, Fraction] | None = None,
    known: Mapping[str, Mapping[str, Fraction]] | None = None,
) -> list[Baseline]:
    """List the baselines that are fillings of the holes; see `make_baselines`.

    Args:
        recipe: With holes.
        holes: Of the recipe.
        sums: See `sums_of_models`.
        fixed: Holes that do not move.
        known: Weights by a name for them; for all holes that move.

    Raises:
        StudyError: Known weights lack a hole.
    """
    fixed = dict(fixed or {})
    space = make_space(holes, "each", fixed=fixed, sums=sums)
    fillings = {"middle": space.fill(space.start)}
    free = [hole for hole in holes if hole.name not in fixed]
    if not any(hole.sum in sums for hole in free):
        fillings = {
            "low ends": fixed | {hole.name: hole.low for hole in free},
            "high ends": fixed | {hole.name: hole.snap(hole.high) for hole in free},
            **fillings,
        }
    else:
        for name, values in _corners(holes, sums, fillings["middle"]).items():
            fillings.setdefault(name, values)
    for name, given in (known or {}).items():
        values = {**fillings["middle"], **fixed, **given}
        lacking = [hole.name for hole in free if hole.name not in given]
        if lacking:
            raise StudyError(f"{name}: the weights lack {len(lacking)} holes, such as {lacking[0]}")
        fillings[name] = values
    return [Baseline(name, fill_holes(recipe, values), values) for name, values in fillings.items()]


def _corners(
    holes: Sequence[Hole], sums: Sequence[str], middle: Mapping[str, Fraction]
) -> dict[str, dict[str, Fraction]]:
    """Every part of a sum alone; other holes stay in the middle."""
    found: dict[str, dict[str, Fraction]] = {}
    for place in sums:
        parts = [hole for hole in holes if hole.sum == place]
        for part in range(parts[0].n_parts):
            values = dict(middle)
            for hole in parts:
                rest = 1 - sum(h.low for h in parts if h.label == hole.label)
                values[hole.name] = hole.low + (rest if hole.part == part else 0)
            found[f"weight {part + 1} of {parts[0].place} alone"] = values
    return found


def each_once(made: Sequence[Baseline], layout: Layout | None) -> tuple[Baseline, ...]:
    """Leave out baselines that draw the same as one before; that one takes their values.

    Schedules, EMA copies and the like do not draw, so that models that differ there are the same.

    Args:
        made: In their order.
        layout: Of the pool; without it only equal recipes are the same.
    """
    kept: list[tuple[Baseline, Fold | None]] = []
    for baseline in made:
        table = None
        if layout is not None:
            try:
                table = fold(baseline.recipe, layout)
            except StockpotError:
                table = None
        for index, (other, others) in enumerate(kept):
            same = table is not None and others is not None and _draw_the_same(table, others)
            if same or baseline.recipe == other.recipe:
                if other.values is None:
                    kept[index] = (replace(other, values=baseline.values), others)
                break
        else:
            kept.append((baseline, table))
    return tuple(baseline for baseline, _ in kept)


def _draw_the_same(one: Fold, other: Fold) -> bool:
    if one.calls or other.calls:
        return one.same(other)
    drawing = [{c: table.coefficients(c) for c in table.rows if c.component.startswith(_DRAWING)}
               for table in (one, other)]  # fmt: skip
    return drawing[0] == drawing[1] if drawing[0] else one.same(other)


def nearness_to_uniform(recipe: Recipe, layout: Layout) -> Callable[[Recipe], float]:
    """Make the objective that keeps a search near the uniform mix.

    Args:
        recipe: With holes; it must be linear in the pool's models.
        layout: Of the pool.

    Returns:
        From a candidate to minus the mean, over blocks, of half the sum of how far the models'
        shares are from equal ones: 0 for the uniform mix, about -1 for what shares nothing with it.

    Raises:
        StudyError: When it is asked of a candidate that uses methods: shares say little then.
    """
    read = models_below(recipe)
    used = [name for name in recipe.pool if name in read]
    n_models = len(used)

    def nearness(candidate: Recipe) -> float:
        table = fold(candidate, layout)
        if table.calls:
            raise StudyError("nearness to the uniform mix is known for linear recipes only, but "
                             f"this one uses {table.calls[0].function}")  # fmt: skip
        cells = [c for c in layout.cells if c.component.startswith(_DRAWING)]
        total = Fraction(0)
        for cell in cells:
            row = table.coefficients(cell)
            shares = [row.get(name, Fraction(0)) for name in used]
            total += sum((abs(s - Fraction(1, n_models)) for s in shares), Fraction(0)) / 2
        return -float(total / len(cells))

    return nearness
