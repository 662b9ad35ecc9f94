"""What a comparison says, in words: the sentences that a reader should not have to find alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from stockpot.compare.comparison import WEIGHTS, Comparison, Doubles, Place
from stockpot.compare.explaining import Part, explain
from stockpot.compare.grouping import (
    Duplicates,
    Families,
    Outlier,
    effective_dimension,
    find_duplicates,
    find_families,
    find_outliers,
)
from stockpot.compare.heritage import FamilyTree, find_family_tree

__all__ = ["ComponentFindings", "Findings", "delta_norms", "study"]

_MOST_EXPLAINED = 64  # pools up to this size are searched for mixes of their own members
_CLOSE = 1e-12


@final
@dataclass(frozen=True, eq=False)
class ComponentFindings:
    """What stands out in one component.

    Attributes:
        name: Of the component.
        distances: Shape ``[n, n]``; NaN where a pair has nothing in common.
        complete: Indices of the models between which every distance is known.
        outliers: Among all models.
        families: Of the complete ones, numbered as the whole pool; None for fewer than three.
        dimension: Effective dimension of the complete ones.
        tree: Who was trained from whom.
    """

    name: str
    distances: Doubles
    complete: tuple[int, ...]
    outliers: tuple[Outlier, ...]
    families: Families | None
    dimension: float
    tree: FamilyTree


@final
@dataclass(frozen=True, eq=False)
class Findings:
    """What stands out in a pool.

    Attributes:
        comparison: What it was read from.
        components: By name; those that make pictures and that more than one model has.
        duplicates: Models that are the same, wholly or in part.
        mixes: Parts of models that others of the pool make up, by model's index.
        sentences: All of it in words, the most telling first.
    """

    comparison: Comparison
    components: Mapping[str, ComponentFindings]
    duplicates: tuple[Duplicates, ...]
    mixes: Mapping[int, Part]
    sentences: tuple[str, ...] = field(default=())


def study(comparison: Comparison) -> Findings:
    """Look a comparison through for what stands out.

    Args:
        comparison: What was found.

    Returns:
        The findings.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    components = {
        name: found
        for name in comparison.components
        if name in WEIGHTS
        for found in [_component(comparison, name)]
        # What one model alone has is told in words: a matrix of it would be empty.
        if len(found.complete) > 1 or len(comparison.models) == 1
    }
    found = Findings(
        comparison, components, find_duplicates(comparison), dict(_mixes(comparison, components))
    )
    return Findings(comparison, components, found.duplicates, found.mixes, tuple(_sentences(found)))


def delta_norms(
    comparison: Comparison, base: int, component: str
) -> tuple[tuple[str, ...], Doubles]:
    """Measure where each model differs from a base.

    Args:
        comparison: What was found.
        base: Index of the base.
        component: Such as ``unet``.

    Returns:
        Names of the blocks (one empty name where the comparison was made by component); and
        ‖θ − base‖/‖base‖ of each, shape ``[n_blocks, n_models]``, NaN where nothing was compared.
    """
    blocks = comparison.blocks(component) or ("",)
    rows = []
    for block in blocks:
        pairs = comparison.pairs(Place(component, block))
        with np.errstate(invalid="ignore", divide="ignore"):
            rows.append(np.sqrt(pairs.squared[base] / pairs.lengths[base]))
    return blocks, np.array(rows)


def _component(comparison: Comparison, name: str) -> ComponentFindings:
    distances = comparison.pairs(Place(name)).distances()
    known = [i for i in range(len(distances)) if not np.isnan(distances[i, i])]
    while True:
        unknown = np.isnan(distances[np.ix_(known, known)]).sum(axis=1)
        if not unknown.any():
            break
        known.pop(int(unknown.argmax()))
    inside = distances[np.ix_(known, known)]
    families = None
    if len(known) > 2 and inside.any():
        local = find_families(inside)
        families = Families(
            tuple(tuple(known[i] for i in family) for family in local.members),
            local.silhouette,
            local.merges,
            tuple(known[i] for i in local.order),
        )
    return ComponentFindings(
        name,
        distances,
        tuple(known),
        find_outliers(distances),
        families,
        effective_dimension(inside) if len(known) > 1 else 0.0,
        find_family_tree(comparison, name),
    )


def _mixes(
    comparison: Comparison, components: Mapping[str, ComponentFindings]
) -> Iterator[tuple[int, Part]]:
    """Models whose first component lies between others, not at one of them."""
    if not components or not 3 <= len(comparison.models) <= _MOST_EXPLAINED:
        return
    name = next(iter(components))
    for i, model in enumerate(comparison.names):
        part = explain(comparison, model).components.get(name)
        if part is None or not part.ratios or part.n_roundings > 8 or part.noise == 0:
            continue
        used = [ratio for ratio in part.ratios.values() if ratio > 0.005]
        nearest = np.nanmin(np.delete(components[name].distances[i], i))
        if len(used) > 1 and nearest > 4 * part.noise and part.compared >= 0.9 * part.size:
            yield i, part


def _sentences(found: Findings) -> Iterator[str]:
    comparison = found.comparison
    names = comparison.names
    for duplicate in found.duplicates:
        name = duplicate.component
        if name and (name not in WEIGHTS or comparison.base in duplicate.models):
            continue  # what is said below of the base says it better
        listed = _listed([names[i] for i in duplicate.models])
        what = duplicate.component or "whole file"
        if duplicate.kind == "values":
            yield (
                f"{listed} have equal weights in {what}; their hashes differ by types, names or "
                "integers."
            )
        elif not duplicate.component:
            yield f"{listed} are the same model."
        elif not any(
            other.component == "" and set(other.models) >= set(duplicate.models)
            for other in found.duplicates
        ):
            yield f"{listed} share one {what}."
    for i, part in found.mixes.items():
        parents = sorted(part.ratios.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{ratio:.3g} {name}" for name, ratio in parents if ratio > 0.005)
        yield f"{names[i]} is a mix ({part.place}): {listed}."
    for component in found.components.values():
        for outlier in component.outliers:
            yield (
                f"{names[outlier.model]} stands apart in {component.name}: {outlier.ratio:.3g} "
                "times the usual distance."
            )
    for component in found.components.values():
        families = component.families
        if families is not None and len(families.members) > 1:
            groups = "; ".join(_listed([names[i] for i in family]) for family in families.members)
            yield (
                f"{component.name} falls into {len(families.members)} families "
                f"(silhouette {families.silhouette:.2f}): {groups}."
            )
    yield from _descent(found)
    if comparison.base is not None:
        yield from _untouched(found, comparison.base)
    for component in found.components.values():
        if component.dimension > _CLOSE:
            yield (
                f"{component.name} spreads in about {component.dimension:.1f} directions, of "
                f"{len(component.complete) - 1} that there could be."
            )
    yield from _not_compared(comparison)


def _descent(found: Findings) -> Iterator[str]:
    """Who was trained from whom, by the component that tells most."""
    names = found.comparison.names
    tree = next((c.tree for c in found.components.values() if len(c.tree.edges) > 1), None)
    if tree is None:
        return
    if tree.root is None:
        yield f"By {tree.component}, it stays open which model the others descend from."
        return
    yield f"By {tree.component}, the others seem to descend from {names[tree.root]}."
    for edge in tree.edges:
        if edge.parent != tree.root and edge.is_certain:
            yield f"{names[edge.child]} seems to have been trained from {names[edge.parent]}."
    open_ = [names[edge.child] for edge in tree.edges if not edge.is_certain]
    if open_:
        rival = "another model would do nearly as well"
        yield f"The parent of {_listed(open_)} is not certain: {rival}."


def _untouched(found: Findings, base: int) -> Iterator[str]:
    names = found.comparison.names
    for component in found.components.values():
        row = component.distances[base]
        equal = [names[i] for i in range(len(names)) if i != base and row[i] == 0]
        if equal:
            yield f"{component.name} is that of {names[base]} in {_listed(equal)}."
    for name in found.components:
        blocks, norms = delta_norms(found.comparison, base, name)
        if len(blocks) < 2:
            continue
        for i in range(len(names)):
            moved = [b for b, norm in zip(blocks, norms[:, i], strict=True) if norm > 0]
            if i != base and 0 < len(moved) <= len(blocks) // 2:
                yield f"{names[i]} differs from {names[base]} only in {name}: {_listed(moved)}."


def _not_compared(comparison: Comparison) -> Iterator[str]:
    words = {
        "absent": "was not compared: it has none",
        "missing": "lacks",
        "shape": "has another shape in",
        "nonfinite": "has NaN or infinities in",
    }
    absent: dict[str, list[str]] = {}
    for exclusion in comparison.exclusions:
        model = comparison.names[exclusion.model]
        if exclusion.component not in WEIGHTS:
            continue
        if exclusion.reason == "absent":
            absent.setdefault(exclusion.component, []).append(model)
        else:
            noun = "tensor" if exclusion.n_keys == 1 else "tensors"
            yield (
                f"{model} {words[exclusion.reason]} {exclusion.n_keys} {noun} of "
                f"{exclusion.component}, which were not compared ({exclusion.keys[0]}"
                f"{', …' if exclusion.n_keys > 1 else ''})."
            )
    for component, models in absent.items():
        having = [name for name in comparison.names if name not in models]
        if len(having) == 1 and len(models) > 1:
            yield f"Only {having[0]} has a {component}; there is nothing to compare it with."
        else:
            yield f"There is no {component} in {_listed(models)}."


def _listed(names: list[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    if len(names) > 12:
        return f"{', '.join(names[:11])} and {len(names) - 11} more"
    return f"{', '.join(names[:-1])} and {names[-1]}"
