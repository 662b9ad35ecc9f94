"""How far a run is: counted by many threads, told to one listener."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Meter", "Progress", "ProgressCallback"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: ``merging`` or ``checking``.
        done_bytes: Bytes read and written so far in this stage.
        total_bytes: Bytes that the stage will read and write.
        elapsed_s: Seconds since the stage began.
    """

    stage: str
    done_bytes: int
    total_bytes: int
    elapsed_s: float

    @property
    def rate(self) -> float:
        """Bytes a second so far."""
        return self.done_bytes / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float:
        """Seconds that the rest takes at this rate; infinite before anything is known."""
        rest = self.total_bytes - self.done_bytes
        return rest / self.rate if self.rate > 0 else float("inf")


class ProgressCallback(Protocol):
    """Is told how far a run is, now and then, from any thread."""

    def __call__(self, progress: Progress, /) -> None:
        """Show it.

        Args:
            progress: How far the run is.
        """


class Meter:
    """Counts bytes from many threads and reports at most ten times a second."""

    def __init__(self, stage: str, total_bytes: int, report: ProgressCallback | None) -> None:
        self._stage, self._total, self._report = stage, total_bytes, report
        self._start = self._last = time.monotonic()
        self._done = 0
        self._guard = threading.Lock()

    def add(self, n_bytes: int) -> None:
        """Count bytes.

        Args:
            n_bytes: How many more were moved.
        """
        with self._guard:
            self._done += n_bytes
            now = time.monotonic()
            due = now - self._last >= 0.1 or self._done >= self._total
            if due:
                self._last = now
            progress = Progress(self._stage, self._done, self._total, now - self._start)
        if due and self._report is not None:
            self._report(progress)
