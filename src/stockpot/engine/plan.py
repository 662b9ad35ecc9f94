"""A plan: for every tensor of the output, what to read and do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from stockpot.checkpoints import DType, Source, TensorInfo
from stockpot.engine.graph import Graph
from stockpot.errors import Problem
from stockpot.layouts import Cell, Detection, Layout
from stockpot.recipes import Fold

__all__ = ["Plan", "TensorPlan", "Term"]


@dataclass(frozen=True, slots=True)
class Term:
    """One input of a tensor.

    Attributes:
        model: Name in the pool.
        key: Name of the tensor in that model's file.
        dtype: Its element type there.
        weight: Its exact share; 0 for one that methods alone read.
    """

    model: str
    key: str
    dtype: DType
    weight: Fraction


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How one tensor of the output is made.

    Attributes:
        info: Its facts in the output.
        cell: Where it stands in the model.
        action: ``combine`` sums weighted inputs; ``compute`` runs `graph`; ``copy`` takes the bytes
            of the only input; ``make`` writes `value`.
        terms: The inputs; empty for ``make``.
        value: The bytes for ``make``.
        graph: The steps for ``compute``; its loads count the terms.
    """

    info: TensorInfo
    cell: Cell
    action: Literal["combine", "compute", "copy", "make"]
    terms: tuple[Term, ...] = ()
    value: bytes = b""
    graph: Graph | None = None

    @property
    def n_passes(self) -> int:
        """How often the inputs are read."""
        return 1 if self.graph is None else self.graph.n_passes

    @property
    def read_bytes(self) -> int:
        """Bytes of the inputs, read once."""
        return sum(self.info.n_elements * term.dtype.itemsize for term in self.terms)


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first tensor is read.

    Attributes:
        layout: The layout of the output.
        tensors: What to do, by key of the output, in the order of the file.
        sources: The checkpoints that are read, by name in the pool.
        fold: The recipe's table.
        detections: What each source was found to be.
        notes: What deserves to be known and is no error, such as dropped keys.
        device: What computes methods in the processor's place, in words; empty where nothing does.
    """

    layout: Layout
    tensors: Mapping[str, TensorPlan]
    sources: Mapping[str, Source]
    fold: Fold
    detections: Mapping[str, Detection] = field(repr=False)
    notes: tuple[Problem, ...] = ()
    device: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that take part, sorted."""
        graphs = (tensor.graph for tensor in self.tensors.values() if tensor.graph is not None)
        return tuple(sorted({name for graph in graphs for name in graph.methods}))

    @property
    def runs_on_devices(self) -> bool:
        """Whether a device would have anything to do."""
        return any(t.graph is not None and t.graph.runs_on_devices for t in self.tensors.values())

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Facts of the output's tensors, in the order of the file."""
        return {key: tensor.info for key, tensor in self.tensors.items()}

    @property
    def read_bytes(self) -> int:
        """Bytes that will be read from the inputs, all passes counted."""
        return sum(tensor.read_bytes * tensor.n_passes for tensor in self.tensors.values())

    @property
    def n_passes(self) -> int:
        """How often the tensor that needs most passes is read."""
        return max((tensor.n_passes for tensor in self.tensors.values()), default=1)

    @property
    def written_bytes(self) -> int:
        """Bytes of the output's tensors."""
        return sum(tensor.info.n_bytes for tensor in self.tensors.values())

    @property
    def digest(self) -> str:
        """A fingerprint of all that is planned, for the journal."""
        hasher = hashlib.sha256()
        for key, tensor in self.tensors.items():
            hasher.update(repr((key, tensor.info.dtype.name, tensor.info.shape)).encode())
            for term in tensor.terms:
                hasher.update(repr((term.model, term.key, str(term.weight))).encode())
            if tensor.graph is not None:
                hasher.update(tensor.graph.fingerprint.encode())
        return hasher.hexdigest()
