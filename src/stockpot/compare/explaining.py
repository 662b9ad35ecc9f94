"""What a checkpoint is made of: ratios of a pool's models that explain it, place by place.

The mix x is sought as Σ wⱼ·θⱼ with wⱼ ≥ 0: the nearest point to x in the models' hull (Σ wⱼ = 1),
or, with a base b, x − b as Σ wⱼ·(θⱼ − b), where the base's share 1 − Σ wⱼ may take either sign
(task arithmetic, 2212.04089; add difference). Both are least squares on inner products alone, so
that the files are read once whatever is asked.

How sure a ratio is follows from what is left over. Rounding to the mix's type leaves a known
residual (a step²/12 an element); what exceeds a few such roundings comes from something that the
pool does not hold, and then the bound is the worst case: the ratio's change if all that is left
pointed the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from stockpot.compare.comparison import Comparison, Place
from stockpot.errors import MissingExtraError

__all__ = ["Explanation", "Part", "explain"]

Doubles = npt.NDArray[np.float64]

# Up to so many times the squared error of one rounding counts as a chain of roundings.
_CHAIN = 8.0
# Three standard deviations, with room for rounding errors being larger where weights are.
_WIDE = 5.0
# Rounding pulls ratios towards the nearest model by at most this, in (noise/distance)²; measured by
# bench/explain_noise.py, with room to spare.
_PULL = 0.4
_NOTHING = 1e-24
# Bounds above this tell that ratios cannot be told apart.
_LOST = 0.05
# Less than this share of what sets the mix apart is not worth a warning.
_SLIGHT = 0.02


@final
@dataclass(frozen=True, eq=False)
class Part:
    """What one place of a mix is made of.

    Attributes:
        place: A component, or a block of one.
        ratios: Share of each model; those that were not candidates here are absent.
        confidence: How far each ratio may be off, some three standard deviations; at most 1.
        residual: Distance of the mix from the best explanation, in weight units.
        noise: What one rounding to the mix's type leaves, in weight units.
        spread: Distance of the mix from the base, or else from the nearest model.
        identical: Models whose component is this one by hash (components only).
        ties: Sets of models that cannot be told apart here.
        compared: Elements that this rests on.
        size: Elements that the mix has here.
        left_out: Models that lack something here, so that they were no candidates.
    """

    place: Place
    ratios: Mapping[str, float]
    confidence: Mapping[str, float]
    residual: float
    noise: float
    spread: float
    identical: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...]
    compared: int
    size: int
    left_out: tuple[str, ...]

    @property
    def n_roundings(self) -> float:
        """The residual as a number of roundings; infinite where rounding leaves nothing."""
        if self.residual == 0:
            return 0.0
        return (self.residual / self.noise) ** 2 if self.noise > 0 else float("inf")

    @property
    def is_explained(self) -> bool:
        """Whether rounding can have left what is left, or it is hardly anything."""
        return bool(self.ratios) and (
            self.n_roundings <= _CHAIN or self.residual <= _SLIGHT * self.spread
        )

    @property
    def unexplained(self) -> float:
        """Residual over spread: the share of the way from there to the mix that is left."""
        return self.residual / self.spread if self.spread > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The same as plain data.

        Returns:
            ``ratios``, ``confidence``, ``residual`` and what they rest on.
        """
        return {
            "ratios": dict(self.ratios),
            "confidence": dict(self.confidence),
            "residual": self.residual,
            "noise_floor": self.noise,
            "n_roundings": None if np.isinf(self.n_roundings) else self.n_roundings,
            "unexplained": self.unexplained,
            "explained": self.is_explained,
            "identical": list(self.identical),
            "cannot_be_told_apart": [list(tie) for tie in self.ties],
            "compared_elements": self.compared,
            "elements": self.size,
            "left_out": list(self.left_out),
        }


@final
@dataclass(frozen=True, eq=False)
class Explanation:
    """What a checkpoint is made of.

    Attributes:
        mix: Its name.
        pool: Names of the models that it was explained by, the base among them.
        base: Name of the base; empty without one.
        components: By component.
        blocks: By component and block, where the comparison was made by block.
    """

    mix: str
    pool: tuple[str, ...]
    base: str
    components: Mapping[str, Part]
    blocks: Mapping[str, Mapping[str, Part]]

    def is_by_block(self, component: str) -> bool:
        """Whether a component was mixed at ratios of its own in each block.

        Args:
            component: Such as ``unet``.

        Returns:
            True where its blocks are explained and the whole is not, or where a block's ratio
            cannot be the component's.
        """
        whole, parts = self.components[component], self.blocks.get(component, {})
        if len(parts) > 1 and not whole.is_explained:
            return all(part.is_explained for part in parts.values())
        return any(
            abs(ratio - whole.ratios.get(name, 0.0))
            > 0.002 + min(part.confidence[name] + whole.confidence.get(name, 0.0), 0.02)
            for part in parts.values()
            if part.is_explained and not part.ties
            for name, ratio in part.ratios.items()
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain data.

        Returns:
            ``components``: by component ``ratios``, ``confidence`` and ``residual`` with what
            they rest on, and the same by block under ``blocks``.
        """
        return {
            "mix": self.mix,
            "pool": list(self.pool),
            "base": self.base or None,
            "components": {
                name: part.to_json()
                | {"by_block": self.is_by_block(name)}
                | {"blocks": {b: p.to_json() for b, p in self.blocks.get(name, {}).items()}}
                for name, part in self.components.items()
            },
        }


def explain(
    comparison: Comparison,
    mix: str,
    *,
    pool: Sequence[str] | None = None,
    base: str | None = None,
    sum_to_one: bool = True,
) -> Explanation:
    """Find which models, at which ratios, a checkpoint is made of.

    Args:
        comparison: Holds the mix, the pool and the base.
        mix: Name of the checkpoint to explain.
        pool: Names of possible parents; by default all others.
        base: Name of the base: the others then count as differences to it, and its own share may
            be negative. By default there is none.
        sum_to_one: Without a base, whether shares must sum to 1. Otherwise they are free, above
            zero.

    Returns:
        The explanation.

    Raises:
        UnknownNameError: A name is not in the comparison.
        MissingExtraError: scipy is not installed.
        ValueError: The pool is empty, or holds the mix.

    Example:
        >>> from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo
        >>> from stockpot.compare import compare
        >>> def source(*values):
        ...     data = np.array(values, np.float32).tobytes()
        ...     return MemorySource({"w": (TensorInfo("w", DTYPES["F32"], (3,)), data)})
        >>> found = compare({"a": source(1, 0, 2), "b": source(0, 1, 2), "m": source(.25, .75, 2)})
        >>> part = explain(found, "m").components["model"]
        >>> {name: round(ratio, 9) for name, ratio in part.ratios.items()}
        {'a': 0.25, 'b': 0.75}
    """
    names = [name for name in comparison.names if name != mix] if pool is None else list(pool)
    if base is not None and base not in names:
        names.append(base)
    if mix in names or not names:
        raise ValueError("a mix is explained by a pool of other models, at least one")
    solver = _Solver(comparison, comparison.index(mix), [comparison.index(n) for n in names],
                     None if base is None else comparison.index(base), sum_to_one)  # fmt: skip
    components, blocks = {}, {}
    for component in comparison.models[solver.mix].components:
        if component not in comparison.components:
            continue  # it holds nothing but integers
        components[component] = solver.part(Place(component))
        found = [Place(component, block) for block in comparison.blocks(component)]
        found = [place for place in found if comparison.sizes_at(place)[solver.mix]]
        if found:
            blocks[component] = {place.block: solver.part(place) for place in found}
    return Explanation(mix, tuple(names), base or "", components, blocks)


class _Solver:
    def __init__(
        self, comparison: Comparison, mix: int, pool: list[int], base: int | None, sum_to_one: bool
    ) -> None:
        self._comparison, self._pool, self._base = comparison, pool, base
        self._sum_to_one = sum_to_one
        self.mix = mix

    def part(self, place: Place) -> Part:
        """Explain one place."""
        comparison, mix = self._comparison, self.mix
        models = comparison.models
        pairs = comparison.pairs(place)
        # Who lacks keys that the mix has would make all forgo them; a model with most of them may.
        has = [j for j in self._pool if pairs.compared[mix, j] >= 0.5 * pairs.compared[mix, mix]]
        has = [j for j in has if pairs.compared[mix, j] > 0]
        left_out = tuple(models[j].name for j in self._pool if j not in has)
        digest = None if place.block else models[mix].components.get(place.component)
        identical = tuple(
            models[j].name
            for j in self._pool
            if digest and models[j].components.get(place.component) == digest
        )
        size = int(comparison.sizes_at(place)[mix])
        gram, rounding, compared = comparison.gram([mix, *has], place)
        if not has or gram is None:
            return Part(place, {}, {}, 0.0, 0.0, 0.0, identical, (), 0, size, left_out)
        squared = gram.squared
        base = has.index(self._base) if self._base in has else None
        # Equal rows share one place in the sum: the base, or who has the mix's hash, or the first
        # stands for all.
        twins = _equal_rows(squared[1:, 1:])
        rank = [(i != base, models[j].name not in identical, i) for i, j in enumerate(has)]
        leaders = [min(group, key=rank.__getitem__) for group in twins]
        rows = [0, *(1 + i for i in leaders)]
        found = _solve(
            squared[np.ix_(rows, rows)],
            gram.products()[np.ix_(rows, rows)],
            None if base is None else leaders.index(base),
            self._sum_to_one,
        )
        ratios = np.zeros(len(has))
        ratios[leaders] = found.ratios
        noise = float(rounding[0])
        expected = noise + float((ratios**2 * rounding[1:]).sum())
        sigma = _deviations(found, expected, compared, float(squared[0, 1:].min()))
        confidence = np.zeros(len(has))
        confidence[leaders] = np.minimum(sigma, 1.0)
        twins = [[j for j in range(len(has)) if squared[1 + i, 1 + j] == 0] for i in leaders]
        for group in twins:
            if len(group) > 1:
                confidence[group] = np.maximum(confidence[group], abs(ratios[group]).max())
        spread = squared[0, 1 + base] if base is not None else squared[0, 1:].min()
        return Part(
            place,
            {models[j].name: float(ratio) for j, ratio in zip(has, ratios, strict=True)},
            {models[j].name: float(bound) for j, bound in zip(has, confidence, strict=True)},
            float(np.sqrt(found.left)),
            float(np.sqrt(noise)),
            float(np.sqrt(spread)),
            identical,
            _ties([[models[has[j]].name for j in group] for group in twins], found, sigma),
            compared,
            size,
            left_out,
        )


@dataclass(frozen=True)
class _Found:
    """Ratios of the leaders, what is left over, and how the ratios answer to changes of the mix."""

    ratios: Doubles
    left: float
    response: Doubles  # covariance of the ratios for unit noise in each element


def _solve(squared: Doubles, products: Doubles, base: int | None, sum_to_one: bool) -> _Found:
    """Least squares for row 0 by the others; all rows differ from each other."""
    n = len(squared) - 1
    free = base is None and not sum_to_one
    if free:
        inner, target = products[1:, 1:], products[1:, 0]
        ratios = _nnls(inner, target)
        left = float(products[0, 0] - 2 * ratios @ target + ratios @ inner @ ratios)
        return _Found(ratios, max(left, 0.0), _inverse(inner))
    # ⟨θᵢ − x, θⱼ − x⟩: the digits that matter are kept, for the mix lies among the models.
    to_mix = squared[0, 1:]
    around = (to_mix[:, None] + to_mix - squared[1:, 1:]) / 2
    if base is None:
        # The nearest point of the hull: the sum may be left to a term of its own, since its
        # minimiser is the constrained one times a number.
        scale = max(float(np.diag(around).max()), 1e-300)
        ratios = _nnls(around / scale + 1.0, np.ones(n))
        ratios = ratios / ratios.sum()
    else:
        others = [j for j in range(n) if j != base]
        to_base = squared[1 + base]
        deltas = (to_base[:, None] + to_base - squared) / 2
        ratios = np.zeros(n)
        rows = [1 + j for j in others]
        ratios[others] = _nnls(deltas[np.ix_(rows, rows)], deltas[rows, 0])
        ratios[base] = 1.0 - ratios.sum()
    left = float(ratios @ around @ ratios)
    # What doubles cannot tell from nothing is nothing.
    left = left if left > _NOTHING * float(np.diag(around).max()) else 0.0
    return _Found(ratios, left, _response(squared[1:, 1:]))


def _response(squared: Doubles) -> Doubles:
    """Covariance of ratios that sum to 1, for unit noise in each element of the mix."""
    n = len(squared)
    if n == 1:
        return np.zeros((1, 1))
    to_first = squared[0]
    deltas = ((to_first[:, None] + to_first - squared) / 2)[1:, 1:]
    inverse = _inverse(deltas)
    spread = np.vstack([-np.ones(n - 1), np.eye(n - 1)])
    result: Doubles = spread @ inverse @ spread.T
    return result


def _deviations(found: _Found, expected: float, n_elements: int, nearest: float) -> Doubles:
    """Half widths of the ratios' intervals; `nearest` is the squared distance to the next model."""
    unit = np.sqrt(np.maximum(np.diag(found.response), 0.0))
    left = max(found.left, expected)
    # Rounding errors of different elements know nothing of each other.
    scattered = _WIDE * np.sqrt(left / max(n_elements, 1)) * unit
    if found.left > _CHAIN * expected:
        # What else is left may point in any direction, also along a model.
        worst: Doubles = np.maximum(scattered, np.sqrt(found.left) * unit)
        return worst
    # Near a model, whose values are numbers of the type, rounding pulls towards it: elements that
    # should move by less than half a step do not move at all.
    pull = _PULL * left / np.sqrt(max(nearest, left)) if left > 0 else 0.0
    result: Doubles = scattered + pull * unit
    return result


def _equal_rows(squared: Doubles) -> list[list[int]]:
    groups: list[list[int]] = []
    for i in range(len(squared)):
        for group in groups:
            if squared[i, group[0]] == 0:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _ties(twins: list[list[str]], found: _Found, sigma: Doubles) -> tuple[tuple[str, ...], ...]:
    """Models that are equal here, and pairs whose ratios can be traded against each other."""
    ties = [
        tuple(group)
        for group, ratio in zip(twins, found.ratios, strict=True)
        if len(group) > 1 and ratio
    ]
    scale = np.sqrt(np.maximum(np.diag(found.response), 1e-300))
    correlation = found.response / scale[:, None] / scale
    used = found.ratios > 0
    for i in range(len(sigma)):
        for j in range(i):
            lost = min(sigma[i], sigma[j]) > _LOST and correlation[i, j] < -0.9
            if lost and (used[i] or used[j]):
                ties.append((twins[j][0], twins[i][0]))
    return tuple(ties)


def _nnls(inner: Doubles, target: Doubles) -> Doubles:
    """argmin ‖Fw − y‖², w ≥ 0, from FᵀF and Fᵀy (Lawson and Hanson)."""
    try:
        from scipy.optimize import nnls
    except ImportError as error:
        raise MissingExtraError("explaining models", "compare") from error
    if not len(target):
        return np.zeros(0)
    values, vectors = np.linalg.eigh(_symmetric(inner))
    keep = values > max(float(values[-1]), 0.0) * 1e-14
    if not keep.any():
        return np.zeros(len(target))
    roots = np.sqrt(values[keep])
    factor = roots[:, None] * vectors[:, keep].T
    goal = (vectors[:, keep].T @ target) / roots
    scale = float(roots.max())
    found: Doubles = nnls(factor / scale, goal / scale)[0]
    return found


def _inverse(matrix: Doubles) -> Doubles:
    result = np.linalg.pinv(_symmetric(matrix), rcond=1e-13)
    return np.asarray(result, np.float64)


def _symmetric(matrix: Doubles) -> Doubles:
    result: Doubles = (matrix + matrix.T) / 2
    return result
