"""What a method is to the engine: statistics over a tensor first, then rows, panel by panel.

A method never sees a whole tensor unless it says so. It asks for passes over its inputs, gathers
what it needs from their panels, and then turns panels into rows. Panels are doubles, ``[n, m]``:
n inputs, m neighbouring elements. What it computes for an element must not depend on how panels
are cut, so sums over elements run in fixed blocks (`gram`), and sums over inputs go row by row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.methods.feeds import Feed
from stockpot.methods.gram import BLOCK_ELEMENTS, Gram, GramAccumulator
from stockpot.methods.ranking import ranked
from stockpot.recipes import Function

__all__ = [
    "Doubles",
    "GramWork",
    "Method",
    "Parameters",
    "Task",
    "Work",
    "by_element",
    "by_gram",
    "by_ranks",
    "by_tensor",
    "weighted_rows",
]

Doubles = npt.NDArray[np.float64]
Parameters = Mapping[str, Fraction | str]


@dataclass(frozen=True, slots=True)
class Task:
    """One tensor for a method to work on.

    Attributes:
        key: Canonical name of the tensor.
        shape: Of the tensor.
        n_inputs: Rows of every panel.
        parameters: The call's numbers, exactly, and words; none is left out.
        identities: Says of each input what it is; equal for equal contents. Empty unless the
            method asks for them.
        compiled: Whether C may be used where it was built; the bits are the same.
        orders: For a method that matches units: axes, and where in the last input each of their
            elements comes from.
    """

    key: str
    shape: tuple[int, ...]
    n_inputs: int
    parameters: Parameters
    identities: tuple[bytes, ...] = ()
    compiled: bool = True
    orders: tuple[tuple[int, npt.NDArray[np.int64]], ...] = ()

    @property
    def n_elements(self) -> int:
        """Number of elements of the tensor."""
        return int(np.prod(self.shape, dtype=np.int64))

    def number(self, name: str) -> float:
        """A parameter as a double.

        Args:
            name: Of a number.
        """
        return float(self.parameters[name])


class Work(ABC):
    """A method at work on one tensor: some passes, then rows.

    Panels come in the order of elements, in every pass from the first to the last one.

    Attributes:
        wants_pass: Whether another pass over the inputs is needed before rows can be made.
    """

    wants_pass = False

    def gather(self, start: int, panel: Doubles) -> None:  # noqa: B027 - not all have passes
        """Look at a panel during a pass.

        Args:
            start: Index of its first element in the flattened tensor.
            panel: Shape ``[n, m]``; not to be changed or kept.
        """

    def gather_feed(self, feed: Feed) -> None:
        """Look at a panel that was not made yet; by default it is made.

        Args:
            feed: Of n rows.
        """
        self.gather(feed.start, feed.panel())

    def put_in_order(self, order: Sequence[int], identities: tuple[bytes, ...]) -> None:  # noqa: B027
        """Learn in which order the inputs stand, after a first pass that came before it was known.

        Args:
            order: For each place, the row of the first pass that belongs there.
            identities: As `Task.identities`, in this order.
        """

    def finish_pass(self) -> None:  # noqa: B027
        """Draw conclusions at the end of a pass; sets `wants_pass`."""

    @abstractmethod
    def rows(self, start: int, panel: Doubles) -> Doubles:
        """Compute results; may be called for a panel more than once, in any order.

        Args:
            start: Index of the first element.
            panel: Shape ``[n, m]``; not to be changed.

        Returns:
            Shape ``[1, m]``, or ``[n, m]`` for a method that gives a list.
        """

    def rows_of_feed(self, feed: Feed) -> Doubles:
        """Compute results from a panel that was not made yet; by default it is made.

        Args:
            feed: Of n rows.

        Returns:
            As `rows`.
        """
        return self.rows(feed.start, feed.panel())

    def pass_on(self, feed: Feed) -> Feed | None:
        """Give the results as a feed, so that they need not be made either.

        Args:
            feed: Of n rows.

        Returns:
            The feed, or None where results must be made.
        """
        return None


def _nothing(n: int, shape: tuple[int, ...], parameters: Parameters) -> int:
    return 0


@final
@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    Attributes:
        function: How it is called in recipes: name, options, formula, source, version.
        start: Begins the work on a tensor.
        passes: How often the inputs are read before the pass that makes rows, or a function that
            says so from the call's parameters.
        scratch: Doubles that `rows` and `gather` need besides the panel and the result, for each
            element of a panel of n rows.
        held: Bytes that are kept from pass to pass, for n inputs of a shape and the call's
            parameters.
        memory: The same for people.
        needs_identities: Whether it asks for its inputs' identities.
        matches: Whether it asks for the order in which units of its last input match the first's.
        effort: Seconds of a core for a tensor of a shape, besides its passes; a rough guess.
        feeds: Whether it walks over feeds, so that no panel is made of them.
        walking: As `scratch`, where it walks over a feed.
        passes_on: Whether its results can be a feed; then they are not made for one that walks
            over feeds.
        looks_first: Whether its first pass may come before the order of its inputs is known; then
            it has `Work.put_in_order`.
    """

    function: Function
    start: Callable[[Task], Work]
    passes: int | Callable[[Parameters], int] = 0
    scratch: Callable[[int], int] = lambda n: n
    held: Callable[[int, tuple[int, ...], Parameters], int] = _nothing
    memory: str = "a panel"
    needs_identities: bool = False
    matches: bool = False
    effort: Callable[[tuple[int, ...]], float] = lambda shape: 0.0
    feeds: bool = False
    walking: Callable[[int], int] = lambda n: 2
    passes_on: bool = False
    looks_first: bool = False

    @property
    def name(self) -> str:
        """What it is called."""
        return self.function.name

    def n_passes(self, parameters: Parameters) -> int:
        """How often the inputs are read before the pass that makes rows.

        Args:
            parameters: The call's.
        """
        return self.passes if isinstance(self.passes, int) else self.passes(parameters)


def by_element(
    function: Function,
    rows: Callable[[Doubles, Parameters], Doubles],
    scratch: Callable[[int], int] = lambda n: 2 * n,
) -> Method:
    """Make a method that treats every element on its own.

    Args:
        function: How it is called.
        rows: From a panel ``[n, m]`` and parameters to ``[m]``, or to ``[n, m]`` for a list.
        scratch: Doubles for each element of a panel of n rows.

    Returns:
        The method; it needs no pass of its own.
    """
    return Method(function, lambda task: _ByElement(task, rows), scratch=scratch)


@final
class _ByElement(Work):
    def __init__(self, task: Task, rows: Callable[[Doubles, Parameters], Doubles]) -> None:
        self._parameters, self._rows = task.parameters, rows

    def rows(self, start: int, panel: Doubles) -> Doubles:
        return np.atleast_2d(self._rows(panel, self._parameters))


def by_ranks(
    function: Function,
    places: Callable[[int, Parameters], tuple[int, int]],
    rows: Callable[[Doubles, Parameters], Doubles],
    walking: Callable[[int], int],
) -> Method:
    """Make a method that depends on the values of each element only, and not on whose they are.

    Args:
        function: How it is called.
        places: From the number of inputs and parameters to the places of the order that count:
            the first, from 0, and one past the last.
        rows: From the values at these places, least first, shape ``[last - first, m]``, and
            parameters to ``[m]``.
        walking: Doubles for each element of n rows, those at the places among them.

    Returns:
        The method; it needs no pass of its own, and no panel.
    """
    return Method(
        function,
        lambda task: _ByRanks(task, places, rows),
        scratch=lambda n: n + walking(n),
        feeds=True,
        walking=walking,
    )


@final
class _ByRanks(Work):
    def __init__(
        self,
        task: Task,
        places: Callable[[int, Parameters], tuple[int, int]],
        rows: Callable[[Doubles, Parameters], Doubles],
    ) -> None:
        self._parameters, self._rows, self._compiled = task.parameters, rows, task.compiled
        self._places = places(task.n_inputs, task.parameters)

    def rows(self, start: int, panel: Doubles) -> Doubles:
        values = ranked(panel, *self._places, compiled=self._compiled)
        return self._rows(values, self._parameters)[None]

    def rows_of_feed(self, feed: Feed) -> Doubles:
        return self._rows(ranked(feed, *self._places), self._parameters)[None]


def by_gram(function: Function, weights: Callable[[Gram, Parameters], Sequence[float]]) -> Method:
    """Make a method whose result is a weighted sum, the weights following from inner products.

    Args:
        function: How it is called.
        weights: From the inner products of the inputs in a tensor to a weight for each input.

    Returns:
        The method; it needs one pass.
    """
    return Method(
        function,
        lambda task: GramWork(task, weights),
        passes=1,
        scratch=lambda n: 2,
        held=lambda n, shape, _: 16 * n * BLOCK_ELEMENTS + 400 * n * n,
        memory="a panel, and an n×n matrix",
        feeds=True,
        looks_first=True,
    )


@final
class GramWork(Work):
    """The work of a method that `by_gram` makes.

    Args:
        task: The tensor.
        weights: As `by_gram`.
        elsewhere: As `GramAccumulator`.
    """

    def __init__(
        self,
        task: Task,
        weights: Callable[[Gram, Parameters], Sequence[float]],
        elsewhere: Callable[[Feed], tuple[Doubles, Doubles]] | None = None,
    ) -> None:
        self._parameters, self._solve = task.parameters, weights
        # A pivot would be one of the rows, and which is first is not known before all are read.
        self._sums: GramAccumulator | None = GramAccumulator(
            task.n_inputs, -1, compiled=task.compiled, elsewhere=elsewhere
        )
        self._order: Sequence[int] = range(task.n_inputs)
        self._weights: Sequence[float] = ()
        self._end = task.n_elements
        self.wants_pass = True

    def gather(self, start: int, panel: Doubles) -> None:
        """Look at a panel; see `Work.gather`."""
        assert self._sums is not None
        self._sums.add(panel)

    def gather_feed(self, feed: Feed) -> None:
        """Look at a panel that was not made; see `Work.gather_feed`."""
        assert self._sums is not None
        self._sums.add_feed(feed, last=feed.start + feed.n_elements == self._end)

    def put_in_order(self, order: Sequence[int], identities: tuple[bytes, ...]) -> None:
        """Sort what was summed; see `Work.put_in_order`."""
        self._order = order

    def finish_pass(self) -> None:
        """Find the weights; see `Work.finish_pass`."""
        assert self._sums is not None
        gram = self._sums.finish().pick(list(self._order))
        self._weights = self._solve(gram, self._parameters)
        self._sums = None
        self.wants_pass = False

    def rows(self, start: int, panel: Doubles) -> Doubles:
        """Compute results; see `Work.rows`."""
        return weighted_rows(panel, self._weights)[None]

    def rows_of_feed(self, feed: Feed) -> Doubles:
        """Compute results; see `Work.rows_of_feed`."""
        return feed.weigh(self._weights)[None]


def weighted_rows(panel: Doubles, weights: Sequence[float]) -> Doubles:
    """Sum weighted rows, one after the other: the order of sums never depends on the cut.

    Args:
        panel: Shape ``[n, m]``.
        weights: A weight for each row; rows of weight 0 are skipped.

    Returns:
        Shape ``[m]``.

    Example:
        >>> weighted_rows(np.array([[1.0, 2.0], [3.0, 4.0]]), [0.5, 1.0]).tolist()
        [3.5, 5.0]
    """
    total = np.zeros(panel.shape[1])
    scratch = np.empty_like(total)
    for row, weight in zip(panel, weights, strict=True):
        if weight == 1:
            total += row
        elif weight:
            np.multiply(row, weight, out=scratch)
            total += scratch
    return total


def by_tensor(
    function: Function,
    change: Callable[[Doubles, Parameters], Doubles],
    factor: int,
    effort: Callable[[tuple[int, ...]], float] = lambda shape: 0.0,
) -> Method:
    """Make a method that needs its one input as a whole tensor.

    Args:
        function: How it is called.
        change: From a tensor of doubles, of its own shape, and parameters to one of that shape.
        factor: How many doubles an element it takes at most, input and result among them.
        effort: Seconds for a tensor of a shape, roughly.

    Returns:
        The method; it needs one pass.
    """
    return Method(
        function,
        lambda task: _ByTensor(task, change),
        passes=1,
        scratch=lambda n: 0,
        held=lambda n, shape, _: 8 * factor * int(np.prod(shape, dtype=np.int64)),
        memory=f"one whole tensor, {8 * factor} bytes an element",
        effort=effort,
    )


@final
class _ByTensor(Work):
    def __init__(self, task: Task, change: Callable[[Doubles, Parameters], Doubles]) -> None:
        self._task, self._change = task, change
        self._whole = np.empty(task.n_elements)
        self.wants_pass = True

    def gather(self, start: int, panel: Doubles) -> None:
        self._whole[start : start + panel.shape[1]] = panel[0]

    def finish_pass(self) -> None:
        tensor = self._whole.reshape(self._task.shape)
        self._whole = np.ascontiguousarray(self._change(tensor, self._task.parameters)).reshape(-1)
        self.wants_pass = False

    def rows(self, start: int, panel: Doubles) -> Doubles:
        return self._whole[None, start : start + panel.shape[1]]
