"""Whether files stayed what they were while they were read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import final

from stockpot.checkpoints import storage
from stockpot.checkpoints.sources import Source
from stockpot.errors import CheckpointError

__all__ = ["Stamps"]


@final
class Stamps:
    """Size and time of change of the files of checkpoints, to be compared after the reading.

    A file that another program writes to while it is read gives neither its old nor its new
    content. A file whose name was given to another one meanwhile is read to its end as it was,
    which is in order, except where it is opened by its name again.

    Args:
        sources: Open checkpoints.

    Example:
        >>> from stockpot.checkpoints import MemorySource
        >>> Stamps([MemorySource({})]).check()
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._before = {
            file: (source.name, stamp)
            for source in sources
            for file in source.files
            if (stamp := source.opened.get(file) or _stamp(file))
        }

    def check(self, *, by_name: bool = False) -> None:
        """Require that no file was written to.

        Args:
            by_name: Require also that the names are still those files'.

        Raises:
            CheckpointError: One was; what was read of it is worth nothing.
        """
        for file, (name, before) in self._before.items():
            now = _stamp(file)
            is_same = now[:2] == before[:2]
            if now != before and (is_same or by_name):
                raise CheckpointError(
                    f"{name}: {file.name} was changed while it was read, so what was read is "
                    "neither the old file nor the new one; wait until the other program is done, "
                    "and run this again"
                )


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        return storage.stamp(file)
    except OSError:
        return ()
