"""Re-basin in a plan: which order of units matches two rows, found once for each layer.

A layer's order depends on several tensors, which threads make at different times; the first of them
that comes reads them all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stockpot.engine.graph import Apply, Graph
from stockpot.engine.plan import Plan, TensorPlan
from stockpot.layouts import Symmetry, UnitsOf, symmetries_of
from stockpot.methods import Doubles, order_blocks

__all__ = ["Matcher", "Orders"]

Orders: TypeAlias = "tuple[tuple[int, npt.NDArray[np.int64]], ...]"
#: Reads one whole row of a tensor's graph: key, its plan, the row's node.
RowReader = Callable[[str, TensorPlan, int], Doubles]


class Matcher:
    """Finds orders for the tensors of a plan.

    Args:
        plan: What is done.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._by_key: dict[str, list[Symmetry]] = {}
        self._known: dict[tuple[int, int, str], list[npt.NDArray[np.int64]]] = {}
        # One layer at a time, and a call within a call comes back here.
        self._guard = threading.RLock()
        for symmetry in symmetries_of(plan.layout.name):
            for key in symmetry.keys:
                self._by_key.setdefault(key, []).append(symmetry)

    def orders(self, key: str, graph: Graph, apply: int, read: RowReader) -> Orders:
        """Give the order of each axis of a tensor.

        Args:
            key: Canonical key.
            graph: Of the tensor.
            apply: The call's node.
            read: Reads rows of the tensors of the layer.

        Returns:
            Axes, and the place in the second input of each of their elements. None where the
            tensor has no units that may change places, or where the call does not make all of
            the layer.
        """
        found = []
        for symmetry in self._by_key.get(key, ()):
            orders = self._solved(symmetry, graph, apply, read)
            for units, order in zip(symmetry.units, orders, strict=False):
                for place in units.places:
                    if place.key == key:
                        found.append((place, order))
        length = self._plan.tensors[key].info.shape if found else ()
        result = []
        for axis in sorted({place.axis for place, _ in found}):
            index = np.arange(length[axis])
            for place, order in found:
                if place.axis == axis:
                    for start in place.starts:
                        index[start : start + len(order)] = start + order
            result.append((axis, index))
        return tuple(result)

    def _solved(
        self, symmetry: Symmetry, graph: Graph, apply: int, read: RowReader
    ) -> list[npt.NDArray[np.int64]]:
        known = (id(graph), apply, symmetry.name)
        with self._guard:
            if known not in self._known:
                self._known[known] = self._solve(symmetry, graph, apply, read)
            return self._known[known]

    def _solve(
        self, symmetry: Symmetry, graph: Graph, apply: int, read: RowReader
    ) -> list[npt.NDArray[np.int64]]:
        node = graph.nodes[apply]
        assert isinstance(node, Apply)
        plans: Mapping[str, TensorPlan] = self._plan.tensors
        if any(key not in plans or plans[key].graph is not graph for key in symmetry.keys):
            return []
        profits = []
        for units in symmetry.units:
            profit = np.zeros((units.n, units.n))
            for place in units.places:
                rows = [read(place.key, plans[place.key], j) for j in node.inputs]
                shape = plans[place.key].info.shape
                for start in place.starts:
                    a, b = (_units(row.reshape(shape), place, start, units.n) for row in rows)
                    profit += a @ b.T
            profits.append(profit)
        return order_blocks(profits, symmetry.n_blocks)


def _units(tensor: Doubles, place: UnitsOf, start: int, n: int) -> Doubles:
    """One row for each unit."""
    part = np.take(tensor, range(start, start + n), axis=place.axis)
    return np.moveaxis(part, place.axis, 0).reshape(n, -1)
