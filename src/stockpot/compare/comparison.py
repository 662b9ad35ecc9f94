"""What one walk over a pool of checkpoints found: everything later questions are answered from.

Numbers are kept by *group*: tensors of one place (a block, a component, or a key) that the same
models have, with the same shape and finite values. Within a group every inner product is of whole
rows, so nothing is ever filled with zeros: a pair's distance sums over the groups that hold both,
and the number of elements that this covers stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.errors import UnknownNameError
from stockpot.methods import Gram, sum_grams

__all__ = ["WEIGHTS", "Comparison", "Exclusion", "Group", "ModelFacts", "Pairs", "Place"]

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

WEIGHTS = ("unet", "te", "te0", "te1", "vae", "model")
"""Components that make pictures; EMA copies, schedules and unknown keys stand aside."""


@final
@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where tensors stand: a component, a block of it, or one key.

    Attributes:
        component: Such as ``unet``.
        block: Such as ``IN00``; empty for the whole component.
        key: Canonical key; empty for more than one.
    """

    component: str
    block: str = ""
    key: str = ""

    def __str__(self) -> str:
        return self.key or (f"{self.component}.{self.block}" if self.block else self.component)


@final
@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of one model besides its inner products.

    Attributes:
        name: Its name in the pool.
        path: Where it was read, relative to the comparison's file where that is possible; empty
            for what was no file.
        layout: Name of its architecture.
        content: Content hash of the whole.
        components: Content hash of each component, its prefix taken off.
        dtypes: Element type that most elements of each component have.
    """

    name: str
    path: str
    layout: str
    content: str
    components: Mapping[str, str]
    dtypes: Mapping[str, str]


@final
@dataclass(frozen=True, slots=True)
class Exclusion:
    """Tensors of a model that could not be compared.

    Attributes:
        model: Its index.
        component: Where they stand.
        reason: ``absent`` (the whole component is not there), ``missing`` (keys that others
            have), ``shape`` (another shape than most), ``nonfinite`` (NaN or infinities).
        n_keys: How many.
        n_elements: Their elements.
        keys: The first few.
    """

    model: int
    component: str
    reason: str
    n_keys: int
    n_elements: int
    keys: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class Group:
    """Tensors of one place that the same models have.

    Attributes:
        place: Where they stand.
        members: Indices of the models, ascending.
        n_tensors: How many tensors.
        gram: Inner products of the members' rows, in their order.
        rounding: Expected squared length of the rounding error that a member has from being
            stored in its type, shape ``[m]``; estimated from a fixed part of the elements.
        kurtosis: Mean over weight matrices of m₄/m₂², shape ``[m]``; from the same part.
        n_matrices: How many matrices that is the mean of.
    """

    place: Place
    members: tuple[int, ...]
    n_tensors: int
    gram: Gram
    rounding: Doubles
    kurtosis: Doubles
    n_matrices: int


@final
@dataclass(frozen=True, eq=False)
class Pairs:
    """Numbers for every pair of models, with what they rest on.

    Attributes:
        squared: ‖xᵢ − xⱼ‖² over what both have, shape ``[n, n]``; NaN where that is nothing.
        products: ⟨xᵢ, xⱼ⟩ over the same.
        lengths: ‖xᵢ‖² over what i shares with j, shape ``[n, n]``: not symmetric.
        compared: Elements that both have, shape ``[n, n]``.
        sizes: Elements that each model has here, comparable or not, shape ``[n]``.
    """

    squared: Doubles
    products: Doubles
    lengths: Doubles
    compared: Counts
    sizes: Counts

    def distances(self) -> Doubles:
        """Euclidean distances.

        Returns:
            Shape ``[n, n]``; NaN where a pair has nothing in common.
        """
        result: Doubles = np.sqrt(self.squared)
        return result

    def cosines(self) -> Doubles:
        """Cosine distances, 1 − cos.

        Returns:
            Shape ``[n, n]``, from 0 to 2; exactly 0 for equal rows; NaN where a pair has nothing
            in common, or where one is all zeros.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.sqrt(self.lengths) * np.sqrt(self.lengths.T)
            # 1 − cos = (‖a − b‖² − (‖a‖ − ‖b‖)²) / 2‖a‖‖b‖ keeps the digits of near models.
            gap = (np.sqrt(self.lengths) - np.sqrt(self.lengths.T)) ** 2
            result: Doubles = np.clip((self.squared - gap) / (2 * scale), 0.0, 2.0)
        return result

    def coverage(self) -> Doubles:
        """Which share of the larger model of each pair was compared.

        Returns:
            Shape ``[n, n]``, from 0 to 1; 1 where neither has anything here.
        """
        largest = np.maximum(self.sizes[:, None], self.sizes)
        result: Doubles = np.where(largest > 0, self.compared / np.maximum(largest, 1), 1.0)
        return result


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """What one walk over a pool found.

    Attributes:
        models: The pool, in its order.
        base: Index of the base whose deltas are asked for; None without one.
        by: How fine the groups are: ``component``, ``block`` or ``tensor``.
        layout: Name of the layout that most models have.
        groups: Inner products; see the module.
        sizes: By component and block: elements of each model there, shape ``[n]``.
        exclusions: What was not compared.

    Example:
        >>> import numpy as np
        >>> from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo
        >>> from stockpot.compare import compare
        >>> def pool(value):
        ...     data = np.full(4, value, np.float32).tobytes()
        ...     return MemorySource({"w": (TensorInfo("w", DTYPES["F32"], (4,)), data)})
        >>> found = compare({"a": pool(1), "b": pool(3)})
        >>> found.pairs().distances().tolist()
        [[0.0, 4.0], [4.0, 0.0]]
    """

    models: tuple[ModelFacts, ...]
    base: int | None
    by: str
    layout: str
    groups: tuple[Group, ...]
    sizes: Mapping[tuple[str, str], Counts]
    exclusions: tuple[Exclusion, ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, in order."""
        return tuple(model.name for model in self.models)

    @property
    def components(self) -> tuple[str, ...]:
        """Components that at least one model has, in the layout's order."""
        return tuple(dict.fromkeys(component for component, _ in self.sizes))

    def blocks(self, component: str) -> tuple[str, ...]:
        """Blocks of a component that are kept apart, in the layout's order.

        Args:
            component: Such as ``unet``.

        Returns:
            Names; empty where the comparison was made by component.
        """
        return tuple(
            block for name, block in self.sizes if name == component and self.by != "component"
        )

    def index(self, name: str) -> int:
        """Find a model by its name.

        Args:
            name: Its name in the pool.

        Returns:
            Its index.

        Raises:
            UnknownNameError: No model has it.
        """
        if name not in self.names:
            raise UnknownNameError("model", name, self.names)
        return self.names.index(name)

    def within(self, place: Place | None) -> Callable[[Place], bool]:
        """Make the test for whether a group counts for a place.

        Args:
            place: A component, block or key; None for all components that make pictures.

        Returns:
            A function of a group's place.
        """

        def counts(other: Place) -> bool:
            if place is None:
                return other.component in WEIGHTS
            return (
                other.component == place.component
                and place.block in ("", other.block)
                and place.key in ("", other.key)
            )

        return counts

    def pairs(self, place: Place | None = None) -> Pairs:
        """Sum up every pair over what both models have.

        Args:
            place: Where; None for all components that make pictures.

        Returns:
            The sums.
        """
        n = len(self.models)
        squared, products, lengths = (np.zeros((n, n)) for _ in range(3))
        compared = np.zeros((n, n), np.int64)
        counts = self.within(place)
        for group in self.groups:
            if not counts(group.place):
                continue
            here = np.ix_(group.members, group.members)
            inner = group.gram.products()
            squared[here] += group.gram.squared
            products[here] += inner
            lengths[here] += inner.diagonal()[:, None]
            compared[here] += group.gram.n_elements
        nothing = compared == 0
        for matrix in (squared, products, lengths):
            matrix[nothing] = np.nan
        return Pairs(squared, products, lengths, compared, self.sizes_at(place))

    def sizes_at(self, place: Place | None = None) -> Counts:
        """Count the elements that each model has somewhere.

        Args:
            place: Where; a key counts as its block.

        Returns:
            Shape ``[n]``.
        """
        total = np.zeros(len(self.models), np.int64)
        for (component, block), sizes in self.sizes.items():
            if self.within(place and Place(place.component, place.block))(Place(component, block)):
                total = total + sizes
        return total

    def gram(
        self, models: Sequence[int], place: Place | None = None
    ) -> tuple[Gram | None, Doubles, int]:
        """Sum up the inner products of some models over what all of them have.

        Args:
            models: Their indices, in the order wanted.
            place: Where; None for all components that make pictures.

        Returns:
            Inner products, None where the models have nothing in common; the squared rounding
            errors to expect of each, shape ``[len(models)]``; and the number of elements.
        """
        counts = self.within(place)
        grams, rounding = [], np.zeros(len(models))
        for group in self.groups:
            if counts(group.place) and set(models) <= set(group.members):
                rows = [group.members.index(model) for model in models]
                grams.append(_repivoted(group.gram.pick(rows)))
                rounding += group.rounding[rows]
        if not grams:
            return None, rounding, 0
        total = sum_grams(grams)
        return total, rounding, total.n_elements


def _repivoted(gram: Gram) -> Gram:
    """The same with row 0 as the pivot, so that groups with other pivots can be added."""
    if gram.pivot == 0:
        return gram
    products = gram.products()
    return Gram(
        0,
        gram.n_elements,
        gram.deltas(0),
        products[0] - products[0, 0],
        float(products[0, 0]),
        gram.squared,
    )
