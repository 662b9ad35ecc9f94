"""Spaces: how the free numbers of a search become the values of a recipe's holes.

A hole of its own is one coordinate between 0 and 1; n weights of one sum are n - 1 (see
`stockpot.tune.simplexes`). A space says how few numbers, its *dials*, move all coordinates: one
each, one for each depth of the UNet, the nodes of a smooth curve, one for each group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from stockpot.errors import Problem, RecipeError
from stockpot.tune.depths import curve_matrix, group_by_depth, group_by_part, place_on_path
from stockpot.tune.holes import Hole
from stockpot.tune.simplexes import apportion, split_shares, splits_of

__all__ = ["SPACES", "Dial", "Space", "make_space"]

#: What a space may be, and what it means.
SPACES = {
    "each": "a number for each hole",
    "depth": "a number for each resolution of the UNet, down and up alike",
    "groups": "a number for each group: --group, or the UNet's way down, middle, way up",
    "curve:K": "a smooth curve of K numbers over the UNet's blocks, in the order of data",
}


@dataclass(frozen=True, slots=True)
class Dial:
    """One free number of a search.

    Attributes:
        name: Unique in its space.
        low: Least value.
        high: Greatest value.
        whole: Whether it is a whole number: the number of steps from a hole's low end.
        start: Its value for the middle of the space, or for what the space lies around.
    """

    name: str
    low: float
    high: float
    whole: bool = False
    start: float = 0.5


@dataclass(frozen=True)
class _Unit:
    """Holes that are decided together: one alone, or the weights of one sum.

    Attributes:
        name: For people.
        holes: One, or n of a sum.
        series: Which list of block weights it is part of; empty if none.
        label: Its block there.
    """

    name: str
    holes: tuple[Hole, ...]
    series: str
    label: str

    @property
    def n_coordinates(self) -> int:
        return max(1, len(self.holes) - 1)

    @property
    def n_levels(self) -> int | None:
        return self.holes[0].n_levels if len(self.holes) == 1 else None

    def values(self, coordinates: Sequence[float]) -> list[Fraction]:
        if len(self.holes) == 1:
            hole = self.holes[0]
            return [hole.snap(hole.low + Fraction(coordinates[0]) * (hole.high - hole.low))]
        rest = 1 - sum(hole.low for hole in self.holes)
        if not rest:
            return [hole.low for hole in self.holes]
        n_units = int(rest / self.holes[0].resolution)
        shares = apportion(split_shares(coordinates), n_units)
        return [hole.low + rest * share for hole, share in zip(self.holes, shares, strict=True)]

    def coordinates(self, values: Sequence[Fraction]) -> list[float]:
        if len(self.holes) == 1:
            hole = self.holes[0]
            size = hole.high - hole.low
            return [float((values[0] - hole.low) / size) if size else 0.5]
        rest = 1 - sum(hole.low for hole in self.holes)
        pairs = zip(values, self.holes, strict=True)
        shares = [float(max(v - hole.low, Fraction(0)) / rest) if rest else 0.0
                  for v, hole in pairs]  # fmt: skip
        return splits_of(shares)


@dataclass(frozen=True)
class _Control:
    """Dials that move the same coordinate of some units.

    Attributes:
        dials: Their names.
        units: Indices of units.
        coordinate: Which coordinate of theirs.
        matrix: Rows of units, columns of dials; empty for one dial that all follow.
    """

    dials: tuple[str, ...]
    units: tuple[int, ...]
    coordinate: int
    matrix: tuple[tuple[float, ...], ...] = ()


@final
class Space:
    """Free numbers, and what they mean; made by `make_space`.

    Attributes:
        kind: As the user wrote it.
        holes: All holes, those that are fixed among them.
        dials: The free numbers.
        fixed: Values of the holes that no dial moves.
    """

    def __init__(
        self,
        kind: str,
        holes: Sequence[Hole],
        units: Sequence[_Unit],
        controls: Sequence[_Control],
        dials: Sequence[Dial],
        fixed: Mapping[str, Fraction],
        centre: Mapping[int, Sequence[float]] | None = None,
    ) -> None:
        self.kind, self.holes, self.dials = kind, tuple(holes), tuple(dials)
        self.fixed = dict(fixed)
        self._units, self._controls = tuple(units), tuple(controls)
        self._centre = dict(centre or {})
        self._by_name = {dial.name: dial for dial in self.dials}

    @property
    def start(self) -> dict[str, float]:
        """The dials in the middle, or at what the space lies around."""
        return {dial.name: dial.start for dial in self.dials}

    def fill(self, dials: Mapping[str, float]) -> dict[str, Fraction]:
        """Turn free numbers into the values of all holes.

        Args:
            dials: A number for each dial.

        Returns:
            Exact values by the holes' names, on their grids; weights of a sum sum to 1.

        Example:
            >>> hole = Hole("t", "mix.model", Fraction(0), Fraction(1), Fraction(1, 20))
            >>> make_space([hole]).fill({"t": 7})
            {'t': Fraction(7, 20)}
        """
        places: dict[tuple[int, int], float] = {}
        for control in self._controls:
            numbers = [self._coordinate(name, dials[name]) for name in control.dials]
            for row, unit in enumerate(control.units):
                weights = control.matrix[row] if control.matrix else (1.0,)
                moved = sum(w * x for w, x in zip(weights, numbers, strict=True))
                if self._centre and (control.matrix or len(control.units) > 1):
                    moved += self._centre[unit][control.coordinate]
                places[unit, control.coordinate] = min(max(moved, 0.0), 1.0)
        values = dict(self.fixed)
        for index, together in enumerate(self._units):
            found = [places[index, i] for i in range(together.n_coordinates)]
            for hole, value in zip(together.holes, together.values(found), strict=True):
                values[hole.name] = value
        return {hole.name: values[hole.name] for hole in self.holes}

    def find(self, values: Mapping[str, Fraction]) -> dict[str, float] | None:
        """Find free numbers that give these values.

        Args:
            values: For all holes.

        Returns:
            A number for each dial; None where the space does not hold these values.

        Example:
            >>> hole = Hole("t", "mix.model", Fraction(0), Fraction(1), Fraction(1, 20))
            >>> make_space([hole]).find({"t": Fraction(1, 2)})
            {'t': 10}
        """
        import numpy as np

        if any(hole.name not in values for hole in self.holes):
            return None
        places = {
            (i, c): x
            for i, unit in enumerate(self._units)
            for c, x in enumerate(unit.coordinates([values[hole.name] for hole in unit.holes]))
        }
        found: dict[str, float] = {}
        for control in self._controls:
            wanted = np.array([places[unit, control.coordinate] for unit in control.units])
            if self._centre and (control.matrix or len(control.units) > 1):
                wanted -= [self._centre[unit][control.coordinate] for unit in control.units]
            if control.matrix:
                numbers = np.linalg.lstsq(np.array(control.matrix), wanted, rcond=None)[0]
            else:
                numbers = wanted[:1]
            for name, number in zip(control.dials, numbers.tolist(), strict=True):
                dial = self._by_name[name]
                value = number * (self._n_steps(name) or 1)
                value = round(value) if dial.whole else value
                found[name] = min(max(value, dial.low), dial.high)
        return found if self.fill(found) == {h.name: values[h.name] for h in self.holes} else None

    def _n_steps(self, name: str) -> int:
        return self._steps.get(name, 0)

    @property
    def _steps(self) -> dict[str, int]:
        return {
            control.dials[0]: (self._units[control.units[0]].n_levels or 1) - 1
            for control in self._controls
            if self._by_name[control.dials[0]].whole
        }

    def _coordinate(self, name: str, value: float) -> float:
        if not self._by_name[name].whole:
            return value
        # The levels of a grid that does not end at `high` reach not quite to 1.
        unit = next(self._units[c.units[0]] for c in self._controls if name in c.dials)
        hole = unit.holes[0]
        assert hole.step is not None
        return float(value * hole.step / (hole.high - hole.low))


def make_space(
    holes: Sequence[Hole],
    kind: str = "each",
    *,
    groups: Iterable[Iterable[str]] = (),
    fixed: Mapping[str, Fraction] | None = None,
    sums: Iterable[str] = (),
    around: Mapping[str, Fraction] | None = None,
    radius: float = 0.25,
) -> Space:
    """Choose how few numbers move a recipe's holes.

    Args:
        holes: Of `find_holes`.
        kind: A key of `SPACES`; for ``curve:K`` K is at least 1. Holes that are no block weights
            have a number each in every kind.
        groups: Holes that share a number, by name; each hole in one group at most. They come
            before the kind.
        fixed: Holes that do not move, and their values.
        sums: Which sums (`Hole.sum`) are weights that sum to 1.
        around: Values to stay near, for all holes, such as the result of a search in a coarser
            space; the space then holds exactly these where all dials are at their start.
        radius: How far from there, as a fraction of each hole's range.

    Raises:
        RecipeError: The kind is none, a name is no hole's, a sum cannot be 1; all at once.

    Example:
        >>> holes = [Hole(f"IN{i:02d}", "let.w", Fraction(0), Fraction(1), None, "let.w:",
        ...               f"IN{i:02d}") for i in range(12)]
        >>> space = make_space(holes, "curve:4")
        >>> len(space.dials), set(space.fill(space.start).values())
        (4, {Fraction(1, 2)})
    """
    problems: list[Problem] = []
    fixed = dict(fixed or {})
    by_name = {hole.name: hole for hole in holes}
    grouped = [tuple(group) for group in groups]
    counts = Counter(name for group in grouped for name in group)
    for name in (*counts, *fixed):
        if name not in by_name:
            problems.append(Problem("hole", f"the recipe has no hole {name!r}", "",
                                    f"it has {', '.join(list(by_name)[:30])}"))  # fmt: skip
        elif counts[name] > 1 or (name in counts and name in fixed):
            problems.append(Problem("hole", "a hole can be in one group only, and not fixed too",
                                    name))  # fmt: skip
    units = _units(holes, fixed, frozenset(sums), problems)
    n_nodes = _nodes(kind, problems)
    if problems:
        raise RecipeError(problems)
    arranged = _arrange(units, kind, n_nodes, grouped, problems)
    if problems:
        raise RecipeError(problems)
    centre = None
    if around is not None:
        centre = {
            i: unit.coordinates([around[hole.name] for hole in unit.holes])
            for i, unit in enumerate(units)
        }
    controls, dials = _dials(units, arranged, centre, radius)
    fixed |= {h.name: h.low for h in holes if h.low == h.high and h.name not in fixed}
    return Space(kind, holes, units, controls, dials, fixed, centre)


def _units(
    holes: Sequence[Hole],
    fixed: Mapping[str, Fraction],
    sums: frozenset[str],
    problems: list[Problem],
) -> list[_Unit]:
    units: list[_Unit] = []
    seen: set[tuple[str, str]] = set()
    for hole in holes:
        if hole.sum not in sums or not hole.sum:
            if hole.name not in fixed and hole.low < hole.high:
                units.append(_Unit(hole.name, (hole,), hole.vector, hole.label))
            continue
        key = (hole.sum, hole.label)
        if key in seen:
            continue
        seen.add(key)
        parts = tuple(h for h in holes if (h.sum, h.label) == key)
        n_fixed = sum(h.name in fixed for h in parts)
        if n_fixed == len(parts):
            continue
        wrong = _sum_problem(parts, n_fixed)
        if wrong:
            problems.append(Problem("sum", wrong, hole.place))
            continue
        name = hole.label or "+".join(h.name for h in parts)
        units.append(_Unit(name, parts, hole.sum if hole.label else "", hole.label))
    return units


def _sum_problem(parts: Sequence[Hole], n_fixed: int) -> str:
    lows = sum(hole.low for hole in parts)
    unit = parts[0].resolution
    if len(parts) != parts[0].n_parts:
        return "all weights of a sum must be holes, or none"
    if n_fixed:
        return "of the weights of one sum all can be fixed, or none"
    if any(hole.low < 0 for hole in parts) or lows > 1:
        return "weights that sum to 1 need low ends of 0 or more that sum to 1 at most"
    if any(hole.high < 1 - (lows - hole.low) for hole in parts):
        return f"weights that sum to 1 need high ends that let one have all: {float(1 - lows)}"
    if any(hole.step != parts[0].step for hole in parts) or ((1 - lows) / unit).denominator != 1:
        return "weights that sum to 1 need the same step, and one that 1 is a multiple of"
    return ""


def _nodes(kind: str, problems: list[Problem]) -> int:
    name, _, number = kind.partition(":")
    if name == "curve" and number.isdigit() and int(number) >= 1:
        return int(number)
    if kind not in SPACES or kind == "curve:K":
        problems.append(Problem("space", f"a space must be one of {', '.join(SPACES)}, but got "
                                f"{kind!r}", "", "write --space curve:6, say"))  # fmt: skip
    return 0


#: Name of some dials, the units that follow, and the curve's matrix (empty: one dial for all).
_Arranged = tuple[str, tuple[int, ...], tuple[tuple[float, ...], ...]]


def _arrange(
    units: Sequence[_Unit],
    kind: str,
    n_nodes: int,
    groups: Sequence[Sequence[str]],
    problems: list[Problem],
) -> list[_Arranged]:
    arranged: list[_Arranged] = []
    taken: set[int] = set()
    for group in groups:
        members = tuple(
            i for i, unit in enumerate(units) if any(hole.name in group for hole in unit.holes)
        )
        if len({len(units[i].holes) for i in members}) > 1:
            problems.append(Problem("group", "weights of sums share a number only with weights of "
                                    "sums of as many models", ", ".join(group)))  # fmt: skip
        taken |= set(members)
        if members:
            arranged.append((_shared_name(group), members, ()))
    series: dict[str, list[int]] = {}
    for i, unit in enumerate(units):
        if i not in taken:
            series.setdefault(unit.series or f"hole {i}", []).append(i)
    for members_list in series.values():
        arranged += _one_series(units, members_list, kind, n_nodes)
    return sorted(arranged, key=lambda entry: entry[1][0])


def _shared_name(group: Sequence[str]) -> str:
    return "+".join(group) if len(group) < 4 else f"{group[0]}+…+{group[-1]}"


def _one_series(
    units: Sequence[_Unit], members: Sequence[int], kind: str, n_nodes: int
) -> list[_Arranged]:
    labels = [units[i].label for i in members]
    shared: dict[str, str] = {}
    if kind == "depth":
        shared = group_by_depth(labels)
    elif kind == "groups":
        shared = group_by_part(labels)
    elif n_nodes:
        places = place_on_path(labels)
        if len(set(places.values())) > n_nodes:
            on_path = tuple(i for i in members if units[i].label in places)
            matrix = curve_matrix([places[units[i].label] for i in on_path], n_nodes)
            rest = [i for i in members if i not in on_path]
            prefix = _prefix(units[on_path[0]])
            rows = tuple(tuple(row) for row in matrix.tolist())
            return [(f"{prefix}curve", on_path, rows), *((units[i].name, (i,), ()) for i in rest)]
    grouped: dict[str, list[int]] = {}
    for i in members:
        prefix = _prefix(units[i])
        name = shared.get(units[i].label)
        grouped.setdefault(f"{prefix}{name}" if name else units[i].name, []).append(i)
    return [(name, tuple(found), ()) for name, found in grouped.items()]


def _prefix(unit: _Unit) -> str:
    return unit.name[: -len(unit.label)] if unit.label and unit.name.endswith(unit.label) else ""


def _dials(
    units: Sequence[_Unit],
    arranged: Sequence[_Arranged],
    centre: Mapping[int, Sequence[float]] | None,
    radius: float,
) -> tuple[list[_Control], list[Dial]]:
    controls: list[_Control] = []
    dials: list[Dial] = []
    taken: set[str] = set()
    for name, members, matrix in arranged:
        first = units[members[0]]
        for coordinate in range(first.n_coordinates):
            stem = name if first.n_coordinates == 1 else f"{name} split {coordinate + 1}"
            names = [f"{stem} {i + 1}" for i in range(len(matrix[0]))] if matrix else [stem]
            made = []
            for plain in names:
                unique, count = plain, 1
                while unique in taken:
                    count += 1
                    unique = f"{plain}#{count}"
                taken.add(unique)
                made.append(unique)
            middle = None
            if centre is not None:
                middle = centre[members[0]][coordinate]
            moved = [units[i] for i in members]
            dials += [_dial(unique, moved, bool(matrix), middle, radius) for unique in made]
            controls.append(_Control(tuple(made), members, coordinate, matrix))
    return controls, dials


def _dial(
    name: str, units: Sequence[_Unit], curve: bool, middle: float | None, radius: float
) -> Dial:
    if middle is not None and (curve or len(units) > 1):
        return Dial(name, -radius, radius, start=0.0)
    low, high, start = 0.0, 1.0, 0.5
    if middle is not None:
        low, high, start = max(middle - radius, 0.0), min(middle + radius, 1.0), middle
    levels = {
        (unit.holes[0].low, unit.holes[0].high, unit.holes[0].step, unit.n_levels) for unit in units
    }
    n_levels = units[0].n_levels
    if len(levels) == 1 and n_levels is not None and not curve:
        hole = units[0].holes[0]
        assert hole.step is not None
        n_steps = float((hole.high - hole.low) / hole.step)
        edges = [x * n_steps for x in (low, high, start)]
        last = n_levels - 1
        # At least one level on either side, or there would be nothing to search.
        bottom = max(0, min(round(edges[0]), round(edges[2]) - 1)) if middle is not None else 0
        top = min(last, max(round(edges[1]), round(edges[2]) + 1)) if middle is not None else last
        return Dial(name, bottom, top, True, min(round(edges[2]), last))
    return Dial(name, low, high, start=start)
