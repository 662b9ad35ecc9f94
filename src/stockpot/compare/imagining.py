"""Mixes that nobody wrote, placed among the models: their inner products follow from the fold.

A linear mix v = Σ cⱼθⱼ has ⟨v, θᵢ⟩ = Σ cⱼ⟨θⱼ, θᵢ⟩. So every intermediate of a recipe can be put on
the map from the pool's comparison alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import final

import numpy as np

from stockpot.compare.comparison import Comparison, Doubles, Group, ModelFacts
from stockpot.compare.convergence import mixed_distances
from stockpot.errors import RecipeError
from stockpot.layouts import Cell, get_layout
from stockpot.methods import Gram
from stockpot.recipes import Atom, Fold, MissingModelError, Recipe, fold, model, names_in

__all__ = ["Stage", "add_mixes", "list_stages"]


@final
@dataclass(frozen=True)
class Stage:
    """One intermediate of a recipe, or its result.

    Attributes:
        name: Its name in `let`; ``mix`` and the component's key for results.
        level: The longest way up to it from the pool: 1 for what reads models only.
        reads: What its expression reads: models and other stages.
        recipe: Makes it as a whole model.
    """

    name: str
    level: int
    reads: tuple[str, ...]
    recipe: Recipe


def list_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """List what a recipe makes on its way.

    Args:
        recipe: Any recipe; its globs resolved.

    Returns:
        Intermediates by level, then the results.

    Raises:
        RecipeError: Intermediates go round in a circle.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> pool = {"a": "a.ckpt", "b": "b.ckpt", "c": "c.ckpt"}
        >>> chain = make_recipe("lerp(ab, c, 1/3)", pool, let={"ab": "mean(a, b)"})
        >>> [(stage.name, stage.level, stage.reads) for stage in list_stages(chain)]
        [('ab', 1, ('a', 'b')), ('mix', 2, ('ab', 'c'))]
    """
    results = {_result(key): key for key in recipe.mix}
    texts = {**recipe.let, **{name: recipe.mix[key] for name, key in results.items()}}
    reads = {
        name: tuple(dict.fromkeys(n for n in names_in(value) if n in {*recipe.let, *recipe.pool}))
        for name, value in texts.items()
    }
    levels: dict[str, int] = {}
    waiting = dict(reads)
    while waiting:
        ready = [
            name for name, below in waiting.items()
            if all(n in levels or n not in recipe.let for n in below)
        ]  # fmt: skip
        if not ready:
            break  # a circle, which folding names
        for name in ready:
            levels[name] = 1 + max((levels.get(n, 0) for n in waiting.pop(name)), default=0)
    stages = []
    for name in sorted(levels, key=lambda name: (name not in recipe.let, levels[name])):
        mix = {"model": model(name)} if name in recipe.let else {results[name]: texts[name]}
        # Only what it needs, so that a step that cannot be folded spoils no other.
        needed = _below(reads, name) | {name}
        let = {other: recipe.let[other] for other in recipe.let if other in needed}
        stages.append(Stage(name, levels[name], reads[name], replace(recipe, mix=mix, let=let)))
    return tuple(stages)


def _below(reads: Mapping[str, tuple[str, ...]], name: str) -> set[str]:
    found: set[str] = set()
    stack = [name]
    while stack:
        for other in reads.get(stack.pop(), ()):
            if other not in found:
                found.add(other)
                stack.append(other)
    return found


def _result(key: str) -> str:
    return "mix" if key == "model" else f"mix ({key})"


def add_mixes(
    comparison: Comparison,
    stages: Iterable[Stage],
    called: Mapping[str, str] = MappingProxyType({}),
) -> Comparison:
    """Put mixes among the models without making them.

    Args:
        comparison: Of the pool.
        stages: What to add. One that reads a model that is not in the comparison, or that is not
            linear, is left out.
        called: What the recipe calls a model of the comparison, where it has another name there.

    Returns:
        The comparison with more models, whose hashes are empty. They have the exact values, before
        any rounding.

    Raises:
        ValueError: A stage differs between blocks, and the comparison was made by component.
    """
    layout = get_layout(comparison.layout)
    names = [called.get(name, name) for name in comparison.names]
    folds: list[tuple[Stage, Fold]] = []
    for stage in stages:
        try:
            folded = fold(stage.recipe, layout)
        except RecipeError:
            continue
        if set(folded.models) <= set(names) and stage.name not in {*names, *comparison.names}:
            folds.append((stage, folded))
    groups = tuple(_extended(group, names, [f for _, f in folds]) for group in comparison.groups)
    sizes = dict(comparison.sizes)
    n = len(names)
    for key, row in sizes.items():
        extra = np.zeros(len(folds), np.int64)
        for group in groups:
            if (group.place.component, group.place.block) == key:
                for member in group.members:
                    if member >= n:
                        extra[member - n] += group.gram.n_elements
        sizes[key] = np.concatenate([row, extra])
    models = tuple(ModelFacts(stage.name, "", comparison.layout, "", {}, {}) for stage, _ in folds)
    return replace(comparison, models=(*comparison.models, *models), groups=groups, sizes=sizes)


def _extended(group: Group, all_names: list[str], folds: list[Fold]) -> Group:
    n = len(all_names)
    members = list(group.members)
    names = [all_names[member] for member in members]
    made, rows = [], []
    for number, folded in enumerate(folds):
        shares = _shares(folded, group, names)
        if shares is not None:
            made.append(n + number)
            rows.append([float(shares.get(name, 0)) for name in names])
    if not made:
        return group
    shares_of = np.vstack([np.eye(len(members)), np.array(rows)])
    return replace(
        group,
        members=(*group.members, *made),
        gram=_mixed(group.gram, shares_of),
        rounding=np.concatenate([group.rounding, np.zeros(len(made))]),
        kurtosis=np.concatenate([group.kurtosis, np.full(len(made), group.kurtosis.mean())]),
    )


def _shares(folded: Fold, group: Group, names: list[str]) -> Mapping[Atom, Fraction] | None:
    """The mix's coefficients here; None where it cannot be made from the group's members."""
    cells = [
        cell
        for cell in folded.rows
        if cell.component == group.place.component and group.place.block in ("", cell.block)
    ]
    if not cells:
        return None
    try:
        found = [_read(folded, cell, names) for cell in cells]
    except MissingModelError:
        return None
    if any(one != found[0] for one in found):
        raise ValueError(
            "this recipe differs between blocks, but the comparison was made by component; "
            "compare again with --by block"
        )
    return found[0] if set(found[0]) <= set(names) else None


def _read(folded: Fold, cell: Cell, names: list[str]) -> dict[Atom, Fraction]:
    return dict(folded.coefficients(cell, frozenset(names)))


def _mixed(gram: Gram, shares: Doubles) -> Gram:
    """Inner products of rows that are sums of rows."""
    sums = shares.sum(axis=1)
    extra = sums - 1.0  # of the pivot, beside the differences to it
    cross = shares @ gram.cross
    inner = shares @ gram.inner @ shares.T
    inner += extra[:, None] * cross + cross[:, None] * extra
    inner += extra[:, None] * extra * gram.pivot_square
    own = inner.diagonal()
    squared = own[:, None] + own - 2 * inner
    balanced = abs(sums[:, None] - sums) < 1e-12
    squared = np.where(balanced, mixed_distances(gram.squared, shares), squared)
    m = len(gram.squared)
    squared[:m, :m] = gram.squared
    squared = np.maximum((squared + squared.T) / 2, 0.0)
    np.fill_diagonal(squared, 0.0)
    # Below what doubles can tell, two mixes are the same.
    squared[squared < 1e-24 * float(squared.max(initial=0.0))] = 0.0
    cross = cross + extra * gram.pivot_square
    return Gram(gram.pivot, gram.n_elements, inner, cross, gram.pivot_square, squared)
