"""From the steps of a program to rows: weights flow from the last step back to models and methods.

The weight of the whole, 1, starts at a step, and each step is passed once, so that a chain of a
thousand merges over a thousand models costs thousands of operations and not millions. It stops at
models and at results of methods; what a method reads is a flow of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

from .atoms import Atom, Called, Invocation, Row
from .functions import find_function
from .rules import Program
from .values import Arithmetic, Fill, Invoke, Leaf, Linear, Output, Scalar, at, is_zero

__all__ = ["Interned", "RowMaker", "choose", "leaves_of", "reach"]

_ONE = Fraction(1)
# What the inputs of all methods of a recipe may cost together.
_BUDGET = 5_000_000
#: A flow: shares by the name of a model, or by the step of a method's result.
_Flow = dict[str | int, Scalar]


class Interned:
    """Rows and invocations of one fold: equal ones are one object."""

    def __init__(self) -> None:
        self._rows: dict[tuple[tuple[Atom, Fraction], ...], Row] = {}
        self._calls: dict[object, Invocation] = {}
        self._results: dict[tuple[int, int], Called] = {}

    def row(self, items: Mapping[Atom, Fraction]) -> Row:
        """Find or keep a row."""
        return self._rows.setdefault(tuple(items.items()), MappingProxyType(dict(items)))

    def call(self, op: Invoke, cell: int, inputs: Sequence[Row]) -> Invocation:
        """Find or make the invocation of a step in a cell; its rows are interned."""
        numbers = tuple((name, at(value, cell)) for name, value in op.numbers)
        key = (op.function, numbers, op.words, tuple(map(id, inputs)))
        if key not in self._calls:
            function = find_function(op.function)
            assert function is not None  # the step was made from its row
            parameters: dict[str, Fraction | str] = {**dict(numbers), **dict(op.words)}
            self._calls[key] = Invocation(
                op.function, function.version, MappingProxyType(parameters), tuple(inputs), op.delta
            )
        return self._calls[key]

    def result(self, call: Invocation, index: int) -> Called:
        """Find or make one result."""
        return self._results.setdefault((id(call), index), Called(call, index))


class RowMaker:
    """Makes the rows of a program, for one choice of what fills take.

    Args:
        program: The steps.
        interned: Rows and invocations made before.
        right: Fills that take their right side.
        work: Pays for the inputs of methods; by default a budget of its own.
        without: Names that add nothing, such as adapters that lack a key.
    """

    def __init__(
        self,
        program: Program,
        interned: Interned,
        right: Mapping[int, bool] = MappingProxyType({}),
        work: Arithmetic | None = None,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self._program, self._interned, self._right = program, interned, right
        self._without = without
        self._work = work or Arithmetic(_BUDGET)
        self._flows: dict[int, _Flow] = {}
        self._needed: dict[int, list[int]] = {}
        self._rows: dict[tuple[int, int], Row] = {}
        self._uniform: dict[int, bool] = {}

    def row(self, root: int, cell: int) -> Row:
        """Make the row of a step in a cell.

        Args:
            root: The step.
            cell: Index into the layout's cells.

        Raises:
            ValueError: The recipe takes too many steps.
        """
        if root not in self._flows:
            self._flows[root] = self._flow(root, Arithmetic())
        cell = 0 if self._is_uniform(root) else cell
        if (root, cell) not in self._rows:
            calls: dict[int, Invocation] = {}
            for i in self._calls_below(root):
                op = self._program.ops[i]
                assert isinstance(op, Invoke)
                inputs = [self._made(self._flows[source], cell, calls) for source in op.inputs]
                calls[i] = self._interned.call(op, cell, inputs)
            self._rows[root, cell] = self._made(self._flows[root], cell, calls)
        return self._rows[root, cell]

    def _made(self, flow: _Flow, cell: int, calls: Mapping[int, Invocation]) -> Row:
        items: dict[Atom, Fraction] = {}
        order = self._program.order
        names = [key for key in flow if isinstance(key, str) and key not in self._without]
        names.sort(key=order.__getitem__)
        for name in names:
            if value := at(flow[name], cell):
                items[name] = value
        for step in sorted(key for key in flow if isinstance(key, int)):
            op = self._program.ops[step]
            assert isinstance(op, Output)
            if value := at(flow[step], cell):
                items[self._interned.result(calls[op.call], op.index)] = value
        return self._interned.row(items)

    def _calls_below(self, root: int) -> list[int]:
        """Steps of methods that a step needs, those that others read first."""
        if root not in self._needed:
            found: set[int] = set()
            pending = [root]
            while pending:
                for key in self._flows[pending.pop()]:
                    op = self._program.ops[key] if isinstance(key, int) else None
                    if not isinstance(op, Output) or op.call in found:
                        continue
                    found.add(op.call)
                    call = self._program.ops[op.call]
                    assert isinstance(call, Invoke)
                    for source in call.inputs:
                        if source not in self._flows:
                            self._flows[source] = self._flow(source, self._work)
                        pending.append(source)
                    self._work.spend(len(call.inputs))
            self._needed[root] = sorted(found)
        return self._needed[root]

    def _is_uniform(self, root: int) -> bool:
        """Whether a row is the same in all cells."""
        if root not in self._uniform:
            values = list(self._flows[root].values())
            for i in self._calls_below(root):
                op = self._program.ops[i]
                assert isinstance(op, Invoke)
                values += [value for _, value in op.numbers]
                values += [v for source in op.inputs for v in self._flows[source].values()]
            self._uniform[root] = not any(isinstance(value, tuple) for value in values)
        return self._uniform[root]

    def _flow(self, root: int, work: Arithmetic) -> _Flow:
        weights: dict[int, Scalar] = {root: _ONE}
        waiting = [-root]
        result: _Flow = {}

        def pour(target: int, weight: Scalar) -> None:
            if target in weights:
                weights[target] = work.add(weights[target], weight)
            else:
                weights[target] = weight
                heapq.heappush(waiting, -target)

        while waiting:
            i = -heapq.heappop(waiting)
            weight = weights.pop(i)
            if is_zero(weight):
                continue
            op = self._program.ops[i]
            if isinstance(op, Leaf):
                for name in op.names:
                    result[name] = work.add(result[name], weight) if name in result else weight
            elif isinstance(op, Output):
                result[i] = weight
            elif isinstance(op, Fill):
                pour(op.right if self._right.get(i) else op.left, weight)
            elif isinstance(op, Linear):
                for factor, source in op.terms:
                    pour(source, weight if factor == 1 else work.multiply(factor, weight))
        return result


def leaves_of(program: Program, roots: Iterable[int]) -> tuple[set[str], set[str]]:
    """Names that some steps need as adapters, and those that they need as models.

    Args:
        program: The steps.
        roots: The last ones.
    """
    below = set(roots)
    adapters, models = set[str](), set[str]()
    for i in range(len(program.ops) - 1, -1, -1):
        if i not in below:
            continue
        op = program.ops[i]
        if isinstance(op, Leaf):
            (adapters if op.adapter else models).update(op.names)
        elif isinstance(op, Fill):
            below |= {op.left, op.right}
        elif isinstance(op, Linear):
            below.update(source for _, source in op.terms)
        else:
            below.update(op.inputs if isinstance(op, Invoke) else (op.call,))
    return adapters, models


def reach(program: Program, root: int) -> set[str]:
    """Names below the fills of a step: what a key that some model lacks may read.

    Args:
        program: The steps.
        root: The step.
    """
    below, beneath_fill, result = {root}, set[int](), set[str]()
    for i in range(root, -1, -1):
        if i not in below:
            continue
        op = program.ops[i]
        filled = i in beneath_fill
        sources: tuple[int, ...]
        if isinstance(op, Leaf):
            result |= set(op.names) if filled else set()
            continue
        if isinstance(op, Fill):
            sources, filled = (op.left, op.right), True
        elif isinstance(op, Linear):
            sources = tuple(s for factor, s in op.terms if not is_zero(factor))
        else:
            sources = op.inputs if isinstance(op, Invoke) else (op.call,)
        below.update(sources)
        if filled:
            beneath_fill.update(sources)
    return result


def choose(
    program: Program, root: int, cell: int, missing: frozenset[str]
) -> tuple[dict[int, bool], set[str]]:
    """Decide for every fill which side a key takes, and what is missing all the same.

    Only the coefficients of missing models matter for that, and those are few. A method's result
    is missing where anything that it reads is.

    Args:
        program: The steps.
        root: The last of them.
        cell: Index into the layout's cells.
        missing: Names of models that lack the key.

    Returns:
        The fills that take their right side; the models without which the key cannot be made.
    """
    found: list[dict[str | int, Fraction]] = []
    right: dict[int, bool] = {}
    lacking: dict[int, set[str]] = {}
    blamed: set[str] = set()

    def names(shares: Mapping[str | int, Fraction]) -> set[str]:
        known = {key for key in shares if isinstance(key, str)}
        return known.union(*(lacking[key] for key in shares if isinstance(key, int)))

    for i, op in enumerate(program.ops[: root + 1]):
        if isinstance(op, Leaf):
            found.append({name: _ONE for name in op.names if name in missing})
        elif isinstance(op, Fill):
            right[i] = bool(found[op.left])
            found.append(found[op.right if right[i] else op.left])
            if right[i] and found[op.right]:
                blamed |= names(found[op.left])
        elif isinstance(op, Invoke):
            lacking[i] = set().union(*(names(found[source]) for source in op.inputs))
            found.append({})
        elif isinstance(op, Output):
            lacking[i] = lacking[op.call]
            found.append({i: _ONE} if lacking[i] else {})
        else:
            found.append(_summed(op, found, cell))
    return right, (names(found[root]) | blamed) if found[root] else set()


def _summed(
    op: Linear, found: Sequence[Mapping[str | int, Fraction]], cell: int
) -> dict[str | int, Fraction]:
    total: dict[str | int, Fraction] = {}
    for factor, source in op.terms:
        for key, value in found[source].items():
            total[key] = total.get(key, Fraction(0)) + at(factor, cell) * value
    return {key: value for key, value in total.items() if value}
