"""Asking a run to end early, without losing what it did."""

from __future__ import annotations

from typing import final

from stockpot.engine.progress import Progress, ProgressCallback
from stockpot.errors import StoppedError

__all__ = ["Halt", "Stop", "heeding"]


@final
class Stop:
    """Lets somebody ask a run to end early; may be asked from a signal handler, or any thread.

    Attributes:
        asked: Begin nothing more.
        now: Leave also what is under way.

    Example:
        >>> stop = Stop()
        >>> stop.ask()
        >>> stop.asked, stop.now
        (True, False)
    """

    def __init__(self) -> None:
        self.asked = self.now = False

    def ask(self, *, now: bool = False) -> None:
        """Ask the run to end.

        Args:
            now: Do not even finish the tensors under way.
        """
        self.asked = True
        self.now = self.now or now


def heeding(progress: ProgressCallback | None, stop: Stop | None) -> ProgressCallback | None:
    """Let a stage that has nothing to keep end where it is when somebody asks for it.

    Args:
        progress: Is told how far the stage is.
        stop: Who may ask.

    Returns:
        What to give to the stage instead; it raises `StoppedError` from there.
    """
    if stop is None:
        return progress

    def show(told: Progress) -> None:
        if stop.asked:
            raise StoppedError("stopped")
        if progress is not None:
            progress(told)

    return show


@final
class Halt:
    """Whether threads should end: because one of them failed, or because somebody asks.

    Args:
        stop: Who may ask.
    """

    def __init__(self, stop: Stop | None) -> None:
        self._failed, self._stop = False, stop or Stop()

    @property
    def asked(self) -> bool:
        """Whether to begin nothing more."""
        return self._failed or self._stop.asked

    def set(self) -> None:
        """A thread failed, or all is done."""
        self._failed = True

    def is_set(self) -> bool:
        """Whether to leave also what is under way."""
        return self._failed or self._stop.now

    def tell(self) -> None:
        """Raise `StoppedError` where somebody asked."""
        if self._stop.asked:
            raise StoppedError("stopped")
