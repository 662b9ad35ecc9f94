"""What runs in a worker's process: one post, and the answers of it, a few at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

from stockpot.cluster.faults import Fault, fault_of
from stockpot.engine import Opening, Post

__all__ = ["Answer", "Host"]

_TOGETHER_BYTES = 4 << 20  # of small values that travel in one answer
_TOGETHER = 64


@dataclass(frozen=True)
class Answer:
    """What a worker says.

    Attributes:
        values: The next values, in order.
        ended: Whether there are no more.
        fault: What went wrong, after these values.
    """

    values: tuple[Any, ...] = ()
    ended: bool = False
    fault: Fault | None = None


@final
class Host:
    """A worker; its methods are called from other machines, several at once.

    Args:
        opening: Opens the post.
        n_threads: How many threads it may use.
    """

    def __init__(self, opening: Opening, n_threads: int) -> None:
        self._opening, self._n_threads = opening, n_threads
        self._post: Post | None = None
        self._running: dict[int, Iterator[Any]] = {}
        self._guard = threading.Lock()

    def open(self) -> Answer:
        """Open the post.

        Returns:
            How many lanes it has, and this process's number; or why it cannot be opened.
        """
        try:
            self._post = self._opening(self._n_threads)
        except Exception as error:
            return Answer(fault=fault_of(error))
        return Answer((self._post.lanes, os.getpid()), True)

    def begin(self, ticket: int, request: Any) -> Answer:
        """Begin a piece of work.

        Args:
            ticket: A number that names it.
            request: What to do.

        Returns:
            Its first values.
        """
        assert self._post is not None
        with self._guard:
            self._running[ticket] = self._post.work(request)
        return self.go_on(ticket)

    def go_on(self, ticket: int) -> Answer:
        """Ask for more.

        Args:
            ticket: As it was begun.

        Returns:
            The next values.
        """
        assert self._post is not None
        iterator = self._running[ticket]
        values: list[Any] = []
        n_bytes = 0
        try:
            for value in iterator:
                values.append(value)
                n_bytes += getattr(value, "n_bytes", 0)
                full = n_bytes >= _TOGETHER_BYTES or len(values) >= _TOGETHER
                if full or not self._post.gathers:
                    return Answer(tuple(values))
        except Exception as error:
            self.drop(ticket)
            return Answer(tuple(values), fault=fault_of(error))
        self.drop(ticket)
        return Answer(tuple(values), True)

    def drop(self, ticket: int) -> None:
        """Want no more of a piece of work.

        Args:
            ticket: As it was begun; one that has ended does no harm.
        """
        with self._guard:
            iterator = self._running.pop(ticket, None)
        close = getattr(iterator, "close", None)
        if close is not None:
            with suppress(ValueError):  # it is just being asked: its thread ends it
                close()

    def close(self) -> None:
        """Let go of files."""
        if self._post is not None:
            self._post.close()
