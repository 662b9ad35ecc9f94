"""One tensor through its graph: passes for statistics, then rows, panel by panel in doubles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from stockpot.checkpoints import DType
from stockpot.engine.graph import Apply, Graph, Load, Pick, Sum
from stockpot.engine.matching import Orders
from stockpot.methods import (
    Device,
    Feed,
    Row,
    Task,
    Work,
    begin,
    find_nonfinite,
    is_finite,
    widen,
    with_zeros,
)

__all__ = ["Computation", "Reader"]

Doubles = npt.NDArray[np.float64]

#: Reads elements ``start … stop`` of a term; the bytes are valid until the term's next call.
Reader = Callable[[int, int, int], memoryview]
_ID_BYTES = 28


@dataclass(frozen=True)
class _Order:
    """How the inputs of a method are taken.

    Attributes:
        inputs: Its rows' nodes in the order in which they stand in its panels.
        place: Where each output of the recipe's order is found.
        chosen: For each place in the panels, which of the recipe's inputs stands there.
        whole: The method whose panel of results is this one's panel as it is; else None.
    """

    inputs: tuple[int, ...]
    place: tuple[int, ...]
    chosen: tuple[int, ...]
    whole: int | None


class Computation:
    """Makes one tensor.

    Args:
        graph: Its steps.
        key: Its canonical name.
        shape: Its shape.
        dtypes: Element type of each term.
        read: Reads a part of a term.
        compiled: Use the C kernel.
        allow_nonfinite: Let NaN and infinities through: a column that holds one in any input is
            left out of statistics, and its result is NaN.
        complain: Called with a term, the first element and the bytes where something is not
            finite and must be; raises.
        root: The row to make; by default the tensor's.
        orders: Says for the node of a method that matches units how these are put in order.
        device: Where methods that have a form for it run; None: here.
    """

    def __init__(
        self,
        graph: Graph,
        key: str,
        shape: tuple[int, ...],
        dtypes: tuple[DType, ...],
        read: Reader,
        *,
        compiled: bool,
        allow_nonfinite: bool,
        complain: Callable[[int, int, Row], None],
        root: int | None = None,
        orders: Callable[[int], Orders] = lambda apply: (),
        device: Device | None = None,
    ) -> None:
        self._graph, self._key, self._shape, self._dtypes = graph, key, shape, dtypes
        self._read, self._compiled, self._complain = read, compiled, complain
        self._allow, self._find_orders = allow_nonfinite, orders
        self._device = device
        self._root = graph.root if root is None else root
        self._n = int(np.prod(shape, dtype=np.int64))
        self._orders: dict[int, _Order] = {}
        self._works: dict[int, Work] = {}
        self._sums: dict[int, tuple[tuple[float, int], ...]] = {}
        self._bytes: dict[int, memoryview] = {}
        self._raw: dict[int, Row] = {}
        self._loads: dict[int, Doubles] = {}
        self._panels: dict[int, Doubles] = {}
        self._feeds: dict[int, Feed | None] = {}
        # Of a method's inputs: the terms that they read, and of which each is made.
        self._pairs: dict[int, tuple[tuple[int, ...], tuple[tuple[int, int], ...]] | None] = {}
        # Where each term was last looked at for what is not finite; later passes read it again.
        self._finite = [0] * len(dtypes)
        self._bad: npt.NDArray[np.bool_] | None = None
        self._start = self._stop = 0

    def look_first(
        self, step: int, look: Callable[[int, memoryview], None], stop: Callable[[], bool]
    ) -> bool:
        """Read all inputs before their contents are known, for their hashes.

        Methods whose first pass does not depend on the order of inputs have it at once.

        Args:
            step: Elements of a panel.
            look: Called with each term and its next bytes.
            stop: Asked between panels whether to give up.

        Returns:
            Whether `prepare` may follow; False when it was stopped.
        """
        for i in self._graph.applies:
            node = self._apply(i)
            if node.method.looks_first and self._graph.reads_only(i):
                n = len(node.inputs)
                self._orders[i] = _Order(node.inputs, tuple(range(n)), tuple(range(n)), None)
                task = Task(self._key, self._shape, n, node.parameters, compiled=self._compiled)
                work = begin(node.method, task, self._device)
                if work.wants_pass:
                    self._works[i] = work
        for j, below in enumerate(self._graph.nodes):
            if isinstance(below, Sum):
                self._sums[j] = tuple((float(weight), k) for weight, k in below.parts)
        for start in range(0, self._n, step):
            if stop():
                return False
            self._begin(start, min(start + step, self._n))
            for term in range(len(self._dtypes)):
                look(term, self._unread(term))
            for i in self._works:
                self._gather(i)
        return True

    def _gather(self, i: int) -> None:
        feed = self._feed(i)
        if feed is None:
            self._works[i].gather(self._start, self._inputs(i))
        else:
            self._works[i].gather_feed(feed)

    def prepare(
        self, step: int, tensor_hashes: Mapping[int, str], stop: Callable[[], bool] = lambda: False
    ) -> bool:
        """Run all passes before the last.

        Args:
            step: Elements of a panel, a multiple of 64.
            tensor_hashes: Tensor hash of each term; needed where the graph needs identities.
            stop: Asked between panels whether to give up.

        Returns:
            Whether rows can be made; False when it was stopped.
        """
        identities = self._identify(tensor_hashes)
        tasks = {
            i: Task(
                self._key,
                self._shape,
                len(order.inputs),
                self._apply(i).parameters,
                tuple(identities[j] for j in order.inputs)
                if self._apply(i).method.needs_identities
                else (),
                self._compiled,
            )
            for i, order in self._orders.items()
        }
        for i, work in self._works.items():
            work.put_in_order(self._orders[i].chosen, tasks[i].identities)
            work.finish_pass()
        settled: set[int] = set()
        applies = self._applies_below(self._root)
        while len(settled) < len(applies):
            ready = []
            for i in applies:
                if i in settled or not self._below(i) <= settled:
                    continue
                if i not in self._works:
                    method, task = self._apply(i).method, tasks[i]
                    if method.matches:
                        task = replace(task, orders=self._find_orders(i))
                    self._works[i] = begin(method, task, self._device)
                if self._works[i].wants_pass:
                    ready.append(i)
                else:
                    settled.add(i)
            for start in range(0, self._n if ready else 0, step):
                if stop():
                    return False
                self._begin(start, min(start + step, self._n))
                for i in ready:
                    self._gather(i)
            for i in ready:
                self._works[i].finish_pass()
        return True

    def row(self, start: int, stop: int) -> Doubles:
        """Compute elements of the tensor; `prepare` comes first.

        Args:
            start: First element.
            stop: One past the last.

        Returns:
            Shape ``[stop - start]``.
        """
        self._begin(start, stop)
        result = np.empty(stop - start)
        self._fill(self._root, result)
        if self._bad is not None:
            result[self._bad] = np.nan
        return result

    def _apply(self, i: int) -> Apply:
        node = self._graph.nodes[i]
        assert isinstance(node, Apply)
        return node

    def _applies_below(self, root: int) -> list[int]:
        """All methods that a row needs, those that others read first."""
        found: set[int] = set()
        pending = [root]
        while pending:
            node = self._graph.nodes[pending.pop()]
            if isinstance(node, Sum):
                pending += [j for _, j in node.parts]
            elif isinstance(node, Pick) and node.apply not in found:
                found.add(node.apply)
                pending += self._apply(node.apply).inputs
        return sorted(found)

    def _below(self, i: int) -> set[int]:
        """Methods that a method's inputs come from."""
        found: set[int] = set()
        pending = list(self._apply(i).inputs)
        while pending:
            node = self._graph.nodes[pending.pop()]
            if isinstance(node, Pick):
                found.add(node.apply)
            elif isinstance(node, Sum):
                pending += [j for _, j in node.parts]
        return found

    def _identify(self, tensor_hashes: Mapping[int, str]) -> list[bytes]:
        """Give each row a name that says what it is, and order inputs by these names."""
        names: list[bytes] = []
        for i, node in enumerate(self._graph.nodes):
            if isinstance(node, Load):
                # Where no order matters nobody asked for hashes, and places do.
                content = tensor_hashes.get(node.term)
                names.append(bytes.fromhex(content) if content else node.term.to_bytes(32, "big"))
            elif isinstance(node, Sum):
                parts = sorted((names[j], str(weight), j) for weight, j in node.parts)
                self._sums[i] = tuple(
                    (float(weight), j)
                    for weight, j in sorted(
                        node.parts, key=lambda part: (names[part[1]], part[0], part[1])
                    )
                )
                hasher = blake3(b"sum")
                for name, weight_text, _ in parts:
                    hasher.update(name + weight_text.encode() + b"\0")
                names.append(hasher.digest())
            elif isinstance(node, Apply):
                names.append(self._order(i, node, names))
            else:
                position = self._place(node)
                names.append(names[node.apply][:_ID_BYTES] + position.to_bytes(4, "big"))
        return names

    def _order(self, i: int, node: Apply, names: list[bytes]) -> bytes:
        free = range(node.first_free, len(node.inputs))
        chosen = [*range(node.first_free), *sorted(free, key=lambda k: names[node.inputs[k]])]
        inputs = tuple(node.inputs[k] for k in chosen)
        place = [0] * len(chosen)
        for position, k in enumerate(chosen):
            place[k] = position
        self._orders[i] = _Order(inputs, tuple(place), tuple(chosen), self._whole_of(inputs))
        self._pairs.pop(i, None)
        hasher = blake3(f"{node.method.name}\0{node.method.function.version}\0".encode())
        for name, value in sorted(node.parameters.items()):
            hasher.update(f"{name}={value}\0".encode())
        for j in inputs:
            hasher.update(names[j])
        return hasher.digest()

    def _whole_of(self, inputs: tuple[int, ...]) -> int | None:
        """The method whose results, all of them and in their order, are the inputs."""
        nodes = [self._graph.nodes[j] for j in inputs]
        first = nodes[0]
        if not isinstance(first, Pick) or self._apply(first.apply).n_outputs != len(inputs):
            return None
        for position, node in enumerate(nodes):
            if not isinstance(node, Pick) or node.apply != first.apply:
                return None
            if self._place(node) != position:
                return None
        return first.apply

    def _place(self, node: Pick) -> int:
        """Which row of the method's results it is."""
        many = self._apply(node.apply).n_outputs > 1
        return self._orders[node.apply].place[node.output] if many else 0

    def _begin(self, start: int, stop: int) -> None:
        self._bytes, self._raw = {}, {}
        self._loads, self._panels, self._feeds = {}, {}, {}
        self._start, self._stop = start, stop
        self._bad = None
        if self._allow:
            rows = [self._read_term(term) for term in range(len(self._dtypes))]
            bad = np.logical_or.reduce([find_nonfinite(row.data, row.dtype) for row in rows])
            self._bad = bad if bad.any() else None
            if self._bad is not None:
                where = np.flatnonzero(bad)
                self._raw = {
                    term: Row(with_zeros(row.data, row.dtype, where), row.dtype)
                    for term, row in enumerate(rows)
                }

    def _unread(self, term: int) -> memoryview:
        """The bytes of a term as the file has them."""
        if term not in self._bytes:
            self._bytes[term] = self._read(term, self._start, self._stop)
        return self._bytes[term]

    def _read_term(self, term: int) -> Row:
        """What a term has here; every term is read once a panel."""
        if term not in self._raw:
            row = Row(self._unread(term), self._dtypes[term])
            if self._compiled and not self._allow and self._finite[term] < self._stop:
                if not is_finite(row):
                    self._complain(term, self._start, row)
                self._finite[term] = self._stop
            self._raw[term] = row
        return self._raw[term]

    def _feed(self, i: int) -> Feed | None:
        """A method's inputs as a feed, where all are read or differences of two that are."""
        if i not in self._feeds:
            self._feeds[i] = self._make_feed(i) if self._compiled else None
        return self._feeds[i]

    def _make_feed(self, i: int) -> Feed | None:
        order = self._orders[i]
        if order.whole is not None:
            below = self._feed(order.whole)
            return None if below is None else self._works[order.whole].pass_on(below)
        if i not in self._pairs:
            self._pairs[i] = self._find_pairs(order.inputs)
        known = self._pairs[i]
        if known is None:
            return None
        terms, pairs = known
        rows = tuple([self._read_term(term) for term in terms])
        return Feed(rows, pairs, self._start, self._stop - self._start)

    def _find_pairs(
        self, inputs: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]] | None:
        found = [pair for pair in map(self._graph.pair, inputs) if pair is not None]
        if len(found) < len(inputs):
            return None
        terms = tuple(dict.fromkeys(term for pair in found for term in pair if term >= 0))
        place = {term: k for k, term in enumerate(terms)} | {-1: -1}
        return terms, tuple((place[one], place[other]) for one, other in found)

    def _inputs(self, i: int) -> Doubles:
        order = self._orders[i]
        feed = self._feed(i)
        if feed is not None:
            return feed.panel()
        if order.whole is not None:
            return self._results(order.whole)
        panel = np.empty((len(order.inputs), self._stop - self._start))
        for j, out in zip(order.inputs, panel, strict=True):
            self._fill(j, out)
        return panel

    def _results(self, i: int) -> Doubles:
        if i not in self._panels:
            feed = self._feed(i)
            self._panels[i] = (
                self._works[i].rows(self._start, self._inputs(i))
                if feed is None
                else self._works[i].rows_of_feed(feed)
            )
        return self._panels[i]

    def _fill(self, i: int, out: Doubles) -> None:
        """Compute a row."""
        node = self._graph.nodes[i]
        if isinstance(node, Load):
            if node.term in self._graph.shared:
                out[:] = self._shared(node.term)
            else:
                self._load(node.term, out)
        elif isinstance(node, Pick):
            out[:] = self._results(node.apply)[self._place(node)]
        else:
            self._add_up(i, out)

    def _add_up(self, i: int, out: Doubles) -> None:
        parts = self._sums[i]
        if len(parts) == 2 and self._is_shared(parts[0][1]):
            parts = (parts[1], parts[0])  # two numbers have one sum: copy the one that is not kept
        if not parts:
            out[:] = 0  # adapters that lack the key
        scratch: Doubles | None = None
        for number, (weight, j) in enumerate(parts):
            if number and abs(weight) == 1 and self._is_shared(j):
                load = self._graph.nodes[j]
                assert isinstance(load, Load)
                part = self._shared(load.term)
            else:
                if number and scratch is None:
                    scratch = np.empty_like(out)
                part = out if scratch is None or not number else scratch
                self._fill(j, part)
                if abs(weight) != 1 or (weight == -1 and not number):
                    part *= weight
                    weight = 1.0
            if number and weight == -1:
                np.subtract(out, part, out=out)
            elif number:
                np.add(out, part, out=out)

    def _is_shared(self, i: int) -> bool:
        node = self._graph.nodes[i]
        return isinstance(node, Load) and node.term in self._graph.shared

    def _shared(self, term: int) -> Doubles:
        if term not in self._loads:
            self._loads[term] = np.empty(self._stop - self._start)
            self._load(term, self._loads[term])
        return self._loads[term]

    def _load(self, term: int, out: Doubles) -> None:
        row = self._read_term(term)
        if not widen(row, out, compiled=self._compiled) and not self._allow:
            self._complain(term, self._start, row)
