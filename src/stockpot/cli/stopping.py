"""Ctrl-C and SIGTERM in a long command: what is done is kept, and it is said how to go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

from stockpot.cli.output import note
from stockpot.errors import StoppedError

if TYPE_CHECKING:
    from stockpot.engine import Stop

__all__ = ["stoppable"]


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Let signals ask what runs inside to stop, and end the program as they should.

    The first Ctrl-C finishes the tensors under way, the second leaves them, the third is the
    system's. SIGTERM leaves them, since whoever sends it will not wait long.

    Yields:
        What to give to the engine.

    Raises:
        typer.Exit: It was stopped: 130 after Ctrl-C, 143 after SIGTERM, as shells count.
    """
    from stockpot.engine import Stop

    stop = Stop()
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            _say("stopping after the tensors under way; Ctrl-C again stops at once")
            stop.ask()
            return
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    def terminate(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop.ask(now=True)

    with _handling({signal.SIGINT: interrupt, signal.SIGTERM: terminate}):
        try:
            yield stop
        except StoppedError as error:
            note(str(error))
            raise typer.Exit(_code(came)) from error
        except KeyboardInterrupt as error:
            for line in getattr(error, "__notes__", ["stopped; nothing was saved"]):
                note(line)
            raise typer.Exit(_code(came)) from error


def _code(came: list[int]) -> int:
    return 128 + (came[-1] if came else signal.SIGINT)


def _say(text: str) -> None:
    """Print from inside a handler, where the streams of Python may be in use."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{text}\n".encode())


@contextmanager
def _handling(handlers: dict[signal.Signals, object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is told of signals
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
