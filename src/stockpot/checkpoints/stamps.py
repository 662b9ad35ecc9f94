"""Whether files stayed what they were while they were read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import final

from stockpot.checkpoints.sources import Source
from stockpot.errors import CheckpointError

__all__ = ["Stamps"]


@final
class Stamps:
    """Size and time of change of the files of checkpoints, to be compared after the reading.

    A file that another program writes to while it is read gives neither its old nor its new
    content. A file whose name was given to another one meanwhile is read to its end as it was,
    which is in order.

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
            if (stamp := _stamp(file)) is not None
        }

    def check(self) -> None:
        """Require that no file was written to.

        Raises:
            CheckpointError: One was; what was read of it is worth nothing.
        """
        for file, (name, before) in self._before.items():
            now = _stamp(file)
            if now is not None and now != before and now[:2] == before[:2]:
                raise CheckpointError(
                    f"{name}: {file.name} was changed while it was read, so what was read is "
                    "neither the old file nor the new one; wait until the other program is done, "
                    "and run this again"
                )


def _stamp(file: Path) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
