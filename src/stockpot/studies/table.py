"""The table of studies: what `stockpot study` knows by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from stockpot.errors import UnknownNameError
from stockpot.studies._base import Study
from stockpot.studies.adapters import ADAPTERS
from stockpot.studies.associative import ASSOCIATIVE
from stockpot.studies.breakdown import BREAKDOWN
from stockpot.studies.concepts import CONCEPTS
from stockpot.studies.detail import DETAIL
from stockpot.studies.distance import DISTANCE
from stockpot.studies.encoder import ENCODER
from stockpot.studies.growth import CONVERGENCE
from stockpot.studies.parents import PARENTS
from stockpot.studies.span import RANGE
from stockpot.studies.variance import VARIANCE

__all__ = ["STUDIES", "find_studies"]

_ROWS: Iterable[Study] = (
    DISTANCE,
    ASSOCIATIVE,
    CONVERGENCE,
    BREAKDOWN,
    DETAIL,
    VARIANCE,
    CONCEPTS,
    RANGE,
    ADAPTERS,
    PARENTS,
    ENCODER,
)

#: Every study, by name, in the order of their letters.
STUDIES: Mapping[str, Study] = MappingProxyType(
    {row.name: row for row in sorted(_ROWS, key=lambda row: row.letter)}
)


def find_studies(names: Iterable[str]) -> tuple[Study, ...]:
    """Look studies up.

    Args:
        names: Names or letters; ``all`` for every one.

    Returns:
        Each once, in the table's order.

    Raises:
        UnknownNameError: There is no such study.

    Example:
        >>> [study.name for study in find_studies(["a"])]
        ['distance']
    """
    by_letter = {row.letter: row for row in STUDIES.values()}
    wanted = set()
    for name in names:
        if name == "all":
            return tuple(STUDIES.values())
        found = STUDIES.get(name) or by_letter.get(name)
        if found is None:
            raise UnknownNameError("study", name, [*STUDIES, "all"])
        wanted.add(found.name)
    return tuple(row for row in STUDIES.values() if row.name in wanted)
