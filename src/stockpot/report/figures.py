"""What a figure shows, as plain data: drawn on pages, as PNG files, and written as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Band", "Chart", "Curve", "Dendrogram", "Heat", "Joint", "Link", "MapChart", "Mark"]


@dataclass(frozen=True, slots=True)
class Mark:
    """One point of a map.

    Attributes:
        label: Its name.
        x: Place.
        y: Place.
        group: Number of its colour.
        kind: ``model``; ``mix`` for one that was computed and not read; ``base``.
        note: Shown when pointed at.
    """

    label: str
    x: float
    y: float
    group: int = 0
    kind: Literal["model", "mix", "base"] = "model"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A line between two points of a map.

    Attributes:
        start: Index of a mark.
        end: Index of another.
        open: Whether it is uncertain, and drawn with dashes.
        arrow: Whether it has a direction.
    """

    start: int
    end: int
    open: bool = False
    arrow: bool = False


@dataclass(frozen=True, slots=True)
class MapChart:
    """Points on a plane, whose axes mean nothing.

    Attributes:
        title: What it shows.
        marks: The points.
        links: Lines between them.
        bar: Length of the scale bar, in the points' unit; 0 for none.
        unit: What the bar counts.
    """

    title: str
    marks: Sequence[Mark]
    links: Sequence[Link] = ()
    bar: float = 0.0
    unit: str = ""

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """The numbers: heading and lines."""
        lines = [[m.label, m.x, m.y, m.kind, m.group, m.note] for m in self.marks]
        return ["name", "x", "y", "kind", "group", "note"], lines


@dataclass(frozen=True, slots=True)
class Heat:
    """Numbers in rows and columns, with a colour behind each.

    Attributes:
        title: What it shows.
        rows: Labels at the side.
        columns: Labels on top.
        values: One list a row; NaN is left blank.
        unit: What the numbers count.
        signed: Whether zero is the middle of the colours.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    unit: str = ""
    signed: bool = False

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """The numbers: heading and lines."""
        lines = [
            [label, *(None if math.isnan(value) else value for value in row)]
            for label, row in zip(self.rows, self.values, strict=True)
        ]
        return ["name", *self.columns], lines


@dataclass(frozen=True, slots=True)
class Joint:
    """One joint of a dendrogram.

    Attributes:
        left: Index of a leaf, or the number of leaves plus that of an earlier joint.
        right: The other side.
        height: Distance at which the two meet.
    """

    left: int
    right: int
    height: float


@dataclass(frozen=True, slots=True)
class Dendrogram:
    """Who is near whom, as nested pairs.

    Attributes:
        title: What it shows.
        leaves: Names.
        order: Indices of the leaves as they stand side by side.
        joints: One fewer than leaves, lowest first.
        groups: Number of each leaf's colour.
        unit: What the heights count.
    """

    title: str
    leaves: Sequence[str]
    order: Sequence[int]
    joints: Sequence[Joint]
    groups: Sequence[int] = ()
    unit: str = ""

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """The numbers: heading and lines."""
        lines = [[joint.left, joint.right, joint.height] for joint in self.joints]
        return ["left", "right", "height"], lines

    def brackets(self) -> list[list[tuple[float, float]]]:
        """The lines to draw: four corners for each joint, as (height, position) pairs."""
        place = {leaf: float(i) for i, leaf in enumerate(self.order)}
        height = dict.fromkeys(place, 0.0)
        lines = []
        for number, joint in enumerate(self.joints):
            a, b = joint.left, joint.right
            lines.append(
                [(height[a], place[a]), (joint.height, place[a]), (joint.height, place[b]),
                 (height[b], place[b])]
            )  # fmt: skip
            made = len(self.leaves) + number
            place[made], height[made] = (place[a] + place[b]) / 2, joint.height
        return lines


@dataclass(frozen=True, slots=True)
class Band:
    """A range around a curve.

    Attributes:
        label: What it is.
        low: Lower edge at each place.
        high: Upper edge.
    """

    label: str
    low: Sequence[float]
    high: Sequence[float]


_MOST_NUMBERS = 16


@dataclass(frozen=True, slots=True)
class Curve:
    """Numbers along an axis, as one or more lines.

    Attributes:
        title: What it shows.
        places: Labels along the axis.
        lines: Names and values; the first is the one that the figure is about.
        bands: Ranges behind them.
        axis: What the places are.
        unit: What the values count.
        dots: Names of lines that are drawn as dots, since nothing leads from one value to the next.
        from_zero: Whether the axis of values starts at 0, so that heights can be compared; with
            values below 0 it never does.
    """

    title: str
    places: Sequence[str]
    lines: Sequence[tuple[str, Sequence[float]]]
    bands: Sequence[Band] = field(default_factory=tuple)
    axis: str = ""
    unit: str = ""
    dots: frozenset[str] = frozenset()
    from_zero: bool = True

    @property
    def starts_at_zero(self) -> bool:
        """Whether the axis of values does: it is asked for, and nothing lies below."""
        values = [values for _, values in self.lines] + [band.low for band in self.bands]
        return self.from_zero and all(not value < 0 for own in values for value in own)

    def labelled(self) -> list[int]:
        """Which places have their label written: all names, but some of many numbers."""
        n = len(self.places)
        if n <= _MOST_NUMBERS or not all(place.isdigit() for place in self.places):
            return list(range(n))
        step = -(-n // _MOST_NUMBERS)
        return [i for i, place in enumerate(self.places) if not int(place) % step]

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """The numbers: heading and lines."""
        columns = [values for _, values in self.lines]
        names = [name for name, _ in self.lines]
        for band in self.bands:
            names += [f"{band.label}, low", f"{band.label}, high"]
            columns += [band.low, band.high]
        lines = [
            [place, *(column[i] if i < len(column) else None for column in columns)]
            for i, place in enumerate(self.places)
        ]
        return [self.axis or "place", *names], lines


Chart = MapChart | Heat | Dendrogram | Curve
"""Whatever can be drawn."""
