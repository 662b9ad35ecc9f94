"""Which tensors of which models meet: decided from headers, before anything is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stockpot.checkpoints import Source, TensorInfo
from stockpot.compare.comparison import Exclusion, Place
from stockpot.layouts import Cell, Layout, detect

__all__ = ["Survey", "Unit", "survey_pool"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Unit:
    """One tensor, in all models that have it with the same number of elements in the same order.

    Attributes:
        key: Canonical key.
        cell: Its place in the layout.
        members: Index, own key and header's facts of each model that has it.
        n_elements: Of the tensor.
        n_axes: Of the tensor.
        compared: Whether it holds floats that mean something; else it is only hashed.
    """

    key: str
    cell: Cell
    members: tuple[tuple[int, str, TensorInfo], ...]
    n_elements: int
    n_axes: int
    compared: bool

    @property
    def indices(self) -> tuple[int, ...]:
        """Indices of the models."""
        return tuple(index for index, _, _ in self.members)

    def place(self, by: str) -> Place:
        """Where its sums go.

        Args:
            by: ``component``, ``block`` or ``tensor``.

        Returns:
            The place.
        """
        if by == "component":
            return Place(self.cell.component)
        return Place(self.cell.component, self.cell.block, self.key if by == "tensor" else "")


@dataclass(frozen=True)
class Survey:
    """What the headers of a pool say.

    Attributes:
        layouts: Of each model.
        units: All tensors, in the order of the layout's places and then of keys.
        n_bytes: Of all tensors of all models.
        n_tensors: Of all models.
    """

    layouts: tuple[Layout, ...]
    units: tuple[Unit, ...]
    n_bytes: int
    n_tensors: int

    def exclusions(self, nonfinite: Sequence[tuple[int, Unit]]) -> Iterator[Exclusion]:
        """List what cannot be compared.

        Args:
            nonfinite: Models and tensors in which the walk met NaN or infinities.

        Yields:
            For each model, component and reason one entry.
        """
        shapes: dict[str, list[Unit]] = {}
        for unit in self.units:
            if unit.compared:
                shapes.setdefault(unit.key, []).append(unit)
        n = len(self.layouts)
        found: dict[tuple[int, str, str], list[Unit]] = {}
        has: set[tuple[int, str]] = {
            (index, unit.cell.component) for unit in self.units for index in unit.indices
            if unit.compared
        }  # fmt: skip
        for units in shapes.values():
            usual = max(units, key=lambda unit: len(unit.members))
            component = usual.cell.component
            odd = [(index, unit) for unit in units if unit is not usual for index in unit.indices]
            for index, unit in odd:
                found.setdefault((index, component, "shape"), []).append(unit)
            absent = set(range(n)) - {index for unit in units for index in unit.indices}
            for index in absent:
                reason = "missing" if (index, component) in has else "absent"
                found.setdefault((index, component, reason), []).append(usual)
        for index, unit in nonfinite:
            found.setdefault((index, unit.cell.component, "nonfinite"), []).append(unit)
        for (index, component, reason), units in sorted(found.items(), key=lambda item: item[0]):
            units = sorted(units, key=lambda unit: unit.key)
            yield Exclusion(
                index,
                component,
                reason,
                len(units),
                sum(unit.n_elements for unit in units),
                tuple(unit.key for unit in units[:_SHOWN]),
            )


def survey_pool(sources: Mapping[str, Source]) -> Survey:
    """Find out which tensors meet.

    Args:
        sources: Open checkpoints by name.

    Returns:
        The survey.
    """
    layouts = []
    table: dict[tuple[str, tuple[int, ...], bool], list[tuple[int, str, TensorInfo]]] = {}
    cells: dict[str, Cell] = {}
    for index, source in enumerate(sources.values()):
        layout = detect({key: info.shape for key, info in source.tensors.items()}).layout
        layouts.append(layout)
        for key, info in source.tensors.items():
            canonical, shape, compared = key, info.shape, info.dtype.is_float
            spec = layout.spec_of(key)
            if spec is not None and (spec.key == key or spec.key not in source.tensors):
                canonical = spec.key
                compared = compared and spec.role in ("weight", "buffer")
                shape = spec.shape if spec.accepts(info.shape) and spec.shape else info.shape
            cells.setdefault(canonical, layout.cell_of(key))
            table.setdefault((canonical, shape, compared), []).append((index, key, info))
    order = {cell: i for layout in layouts for i, cell in enumerate(layout.cells)}
    units = [
        Unit(
            key,
            cells[key],
            tuple(members),
            members[0][2].n_elements,
            len(shape),
            compared and members[0][2].n_elements > 0,
        )
        for (key, shape, compared), members in table.items()
    ]
    units.sort(key=lambda unit: (order.get(unit.cell, len(order)), unit.key, unit.indices))
    return Survey(
        tuple(layouts),
        tuple(units),
        sum(info.n_bytes for unit in units for _, _, info in unit.members),
        sum(len(source.tensors) for source in sources.values()),
    )
