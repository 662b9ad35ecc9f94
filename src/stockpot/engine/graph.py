"""How one tensor is made where methods take part: loads, exact sums and methods, as a graph.

A graph comes from a row of the folded recipe, and keys of a cell share it: it names the inputs by
their places among the tensor's terms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeAlias

from stockpot.errors import Problem, RecipeError
from stockpot.methods import Method, get_method, runs_on_devices
from stockpot.recipes import Called, Invocation, Row, models_in

__all__ = ["Apply", "Graph", "Load", "Node", "Pick", "Sum", "make_graph"]

_ONE = Fraction(1)
_MOST_DEEP = 50


@dataclass(frozen=True, slots=True)
class Load:
    """A row that is read.

    Attributes:
        term: Which of the tensor's terms.
    """

    term: int


@dataclass(frozen=True, slots=True)
class Sum:
    """A row that is a weighted sum of rows.

    Attributes:
        parts: Exact weights, and nodes that are rows.
    """

    parts: tuple[tuple[Fraction, int], ...]


@dataclass(frozen=True, slots=True)
class Pick:
    """A row that is one of the results of a method.

    Attributes:
        apply: The method's node.
        output: Which of its results.
    """

    apply: int
    output: int


@dataclass(frozen=True, slots=True)
class Apply:
    """A method over rows.

    Attributes:
        method: What runs.
        parameters: The call's numbers and words.
        inputs: Nodes that are rows.
        first_free: Where the inputs begin whose order is without meaning.
    """

    method: Method
    parameters: Mapping[str, Fraction | str]
    inputs: tuple[int, ...]
    first_free: int

    @property
    def n_outputs(self) -> int:
        """How many rows it gives."""
        return len(self.inputs) if self.method.function.gives == "list" else 1


Node: TypeAlias = Load | Sum | Pick | Apply


@dataclass(frozen=True, eq=False)
class Graph:
    """The steps that make a tensor.

    Attributes:
        models: Names of the models to read; `Load.term` counts them.
        nodes: The steps, each after those that it reads.
        root: The node whose row is the tensor.
    """

    models: tuple[str, ...]
    nodes: tuple[Node, ...]
    root: int

    @cached_property
    def applies(self) -> tuple[int, ...]:
        """The nodes that are methods, those that others read first."""
        return tuple(i for i, node in enumerate(self.nodes) if isinstance(node, Apply))

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names of its methods, each once."""
        nodes = (node for node in self.nodes if isinstance(node, Apply))
        return tuple(dict.fromkeys(node.method.name for node in nodes))

    @cached_property
    def runs_on_devices(self) -> bool:
        """Whether a method of it has a form for devices."""
        return any(map(runs_on_devices, self.methods))

    @cached_property
    def widest(self) -> int:
        """The most inputs that a method has."""
        return max((len(n.inputs) for n in self.nodes if isinstance(n, Apply)), default=0)

    @cached_property
    def needs_identities(self) -> bool:
        """Whether contents must be known before anything is computed.

        Masks are drawn from them; and where several rows are summed as doubles, the order of the
        contents is taken, so that no other order can show.
        """
        for node in self.nodes:
            if isinstance(node, Sum) and len(node.parts) > 2:
                return True
            if isinstance(node, Apply) and (
                node.method.needs_identities or len(node.inputs) > node.first_free + 1
            ):
                return True
        return False

    @cached_property
    def n_passes(self) -> int:
        """How often the inputs are read, the pass that makes rows and the one for hashes counted.

        A method that may look before contents are known has its first pass with the hashes.
        """
        hashing = int(self.needs_identities)
        passes = [hashing] * len(self.nodes)
        for i, node in enumerate(self.nodes):
            if isinstance(node, Apply):
                below = max((passes[j] for j in node.inputs), default=hashing)
                own = node.method.n_passes(node.parameters)
                early = hashing and own and node.method.looks_first and self.reads_only(i)
                passes[i] = below + own - int(bool(early))
            elif isinstance(node, Sum):
                passes[i] = max((passes[j] for _, j in node.parts), default=hashing)
            elif isinstance(node, Pick):
                passes[i] = passes[node.apply]
        return passes[self.root] + 1

    def pair(self, i: int) -> tuple[int, int] | None:
        """What a row is, where it is read or a difference of two that are.

        Args:
            i: A node that is a row.

        Returns:
            Its term, and the one that is subtracted, or −1; None for other rows.
        """
        return self._pairs[i]

    @cached_property
    def _pairs(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(self._pair_of(node) for node in self.nodes)

    def _pair_of(self, node: Node) -> tuple[int, int] | None:
        if isinstance(node, Load):
            return node.term, -1
        if isinstance(node, Sum) and len(node.parts) == 2:
            parts = {weight: self.nodes[j] for weight, j in node.parts}
            one, other = parts.get(_ONE), parts.get(-_ONE)
            if isinstance(one, Load) and isinstance(other, Load):
                return one.term, other.term
        return None

    def reads_only(self, i: int) -> bool:
        """Whether all inputs of a method are read, or differences of two that are.

        Args:
            i: The method's node.
        """
        node = self.nodes[i]
        assert isinstance(node, Apply)
        return all(self.pair(j) is not None for j in node.inputs)

    def fed(self, i: int) -> bool:
        """Whether a method's inputs are rows that need not be made; see `stockpot.methods.Feed`.

        Args:
            i: The method's node.
        """
        node = self.nodes[i]
        assert isinstance(node, Apply)
        below = self._below(node)
        if below is None:
            return self.reads_only(i)
        inner = self.nodes[below]
        assert isinstance(inner, Apply)
        return inner.method.passes_on and self.fed(below)

    def _below(self, node: Apply) -> int | None:
        """The method whose results, all of them, are the inputs."""
        picks = [self.nodes[j] for j in node.inputs]
        found = {pick.apply for pick in picks if isinstance(pick, Pick)}
        if len(found) != 1 or not all(isinstance(pick, Pick) for pick in picks):
            return None
        below = found.pop()
        inner = self.nodes[below]
        assert isinstance(inner, Apply)
        whole = inner.n_outputs == len(picks) == len(set(node.inputs))
        return below if whole and node.first_free == inner.first_free == 0 else None

    def width(self, compiled: bool) -> int:
        """Doubles for each element of a panel: all that is alive at once, at most.

        Args:
            compiled: Whether C runs, and methods that can walk over rows that were not made.
        """
        applies = {i: self.nodes[i] for i in self.applies}
        lazy = {i for i in applies if compiled and self.fed(i)}
        below_of = {}  # a method that does not make its inputs, and the one that they come from
        panels = scratch = 0
        for i, node in applies.items():
            assert isinstance(node, Apply)
            if i in lazy and (node.method.feeds or node.method.passes_on):
                below_of[i] = self._below(node)
            else:
                panels += len(node.inputs)
        unmade = {i for i in below_of.values() if i is not None and self._readers(i) == 1}
        for i, node in applies.items():
            assert isinstance(node, Apply)
            walks = i in lazy and (node.method.feeds or i in unmade)
            needs = node.method.walking if walks and node.method.feeds else node.method.scratch
            scratch = max(scratch, 2 if i in unmade else needs(len(node.inputs)))
            panels += 0 if i in unmade else node.n_outputs
        return panels + scratch + len(self.shared) + 4

    def _readers(self, i: int) -> int:
        """How many nodes read results of a method."""
        picks = {
            j for j, node in enumerate(self.nodes) if isinstance(node, Pick) and node.apply == i
        }
        found = 0
        for node in self.nodes:
            if isinstance(node, Apply):
                found += not picks.isdisjoint(node.inputs)
            elif isinstance(node, Sum):
                found += not picks.isdisjoint(j for _, j in node.parts)
        return found + (self.root in picks)

    @cached_property
    def shared(self) -> frozenset[int]:
        """Terms that several nodes read: such rows stay for as long as the panel."""
        uses: dict[int, int] = {}
        for node in self.nodes:
            reads = (
                node.inputs
                if isinstance(node, Apply)
                else [j for _, j in node.parts]
                if isinstance(node, Sum)
                else ()
            )
            for j in reads:
                below = self.nodes[j]
                if isinstance(below, Load):
                    uses[below.term] = uses.get(below.term, 0) + 1
        return frozenset(term for term, count in uses.items() if count > 1)

    def held(self, shape: tuple[int, ...]) -> int:
        """Bytes that methods keep between passes.

        Args:
            shape: Of the tensor.
        """
        nodes = (node for node in self.nodes if isinstance(node, Apply))
        return sum(node.method.held(len(node.inputs), shape, node.parameters) for node in nodes)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all of it."""
        parts = []
        for node in self.nodes:
            if isinstance(node, Apply):
                function = node.method.function
                options = sorted((name, str(value)) for name, value in node.parameters.items())
                parts.append(f"{function.name} {function.version} {options} {node.inputs}")
            elif isinstance(node, Sum):
                parts.append(f"sum {[(str(weight), j) for weight, j in node.parts]}")
            else:
                parts.append(repr(node))
        return hashlib.sha256(f"{self.models} {self.root} {parts}".encode()).hexdigest()


def make_graph(row: Row) -> Graph:
    """Turn a folded row into the steps that make its tensors.

    Args:
        row: Shares of models and of methods' results.

    Returns:
        The graph.

    Raises:
        RecipeError: Methods nest too deep.

    Example:
        >>> from stockpot.layouts import Cell, get_layout
        >>> from stockpot.recipes import fold, make_recipe
        >>> pool = {name: f"{name}.safetensors" for name in "abc"}
        >>> table = fold(make_recipe("ties(a, b, c)", pool), get_layout("sd1"))
        >>> graph = make_graph(table.rows[Cell("unet", "IN00")])
        >>> [graph.nodes[i].method.name for i in graph.applies], graph.n_passes
        (['trimmed', 'elected', 'kept_mean'], 2)
    """
    return _Builder(tuple(dict.fromkeys(models_in(row)))).build(row)


class _Builder:
    def __init__(self, models: tuple[str, ...]) -> None:
        self.models = tuple(sorted(models))
        self.places = {name: i for i, name in enumerate(self.models)}
        self.nodes: list[Node] = []
        self.known: dict[object, int] = {}

    def build(self, row: Row) -> Graph:
        root = self.row(row, 0)
        return Graph(self.models, tuple(self.nodes), root)

    def node(self, key: object, node: Node) -> int:
        if key not in self.known:
            self.known[key] = len(self.nodes)
            self.nodes.append(node)
        return self.known[key]

    def row(self, row: Row, depth: int) -> int:
        # Rows and invocations of a fold are one object where they are equal.
        if id(row) in self.known:
            return self.known[id(row)]
        parts = [(weight, self.atom(atom, depth)) for atom, weight in row.items()]
        if len(parts) == 1 and parts[0][0] == _ONE:
            self.known[id(row)] = parts[0][1]
            return parts[0][1]
        return self.node(id(row), Sum(tuple(parts)))

    def atom(self, atom: str | Called, depth: int) -> int:
        if isinstance(atom, str):
            return self.node(atom, Load(self.places[atom]))
        apply = self.apply(atom.invocation, depth + 1)
        return self.node((apply, atom.output), Pick(apply, atom.output))

    def apply(self, call: Invocation, depth: int) -> int:
        if depth > _MOST_DEEP:
            raise RecipeError(
                [Problem("too-deep", f"methods may nest {_MOST_DEEP} deep, but these nest deeper",
                         "mix", "save intermediates, and merge those")]
            )  # fmt: skip
        if id(call) in self.known:
            return self.known[id(call)]
        inputs = tuple(self.row(row, depth) for row in call.inputs)
        method = get_method(call.function)
        function = method.function
        first = len(function.inputs) - 1 if function.symmetric else len(inputs)
        return self.node(id(call), Apply(method, call.parameters, inputs, first))
