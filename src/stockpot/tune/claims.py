"""Who works on what: workers, how to tell that one is gone, and claims that only one can hold.

A claim is a row that is inserted once. A worker that died keeps its claims, and another may
supersede them; a claim of a worker that lives cannot be taken.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import final

__all__ = ["Claims", "Claimed", "Worker", "WorkerBook"]

#: A worker of another machine whose counter stands still for so long is taken for dead.
GRACE_S = 90.0
BEAT_S = 10.0


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that takes part in a study.

    Attributes:
        name: Unique.
        machine: Where it runs: processes of one machine can look for each other.
        pid: Its process.
        started: When the system says that the process began; tells it from a later one of the
            same number.
    """

    name: str
    machine: str
    pid: int
    started: str

    @classmethod
    def here(cls) -> Worker:
        """This process, under a new name."""
        pid = os.getpid()
        return cls(uuid.uuid4().hex, _machine(), pid, _started(pid))

    @property
    def lives_here(self) -> bool | None:
        """Whether its process runs on this machine; None where that cannot be told."""
        if self.machine != _machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return self.started == _started(self.pid)


def _machine() -> str:
    """A name for the machine, this boot of it, and this container's view of processes."""
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass
    return "/".join(parts)


def _started(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name of the program stands in brackets and may hold anything. A zombie runs no more.
    state, *fields = text.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim as it was written.

    Attributes:
        generation: How often it was superseded.
        worker: Who holds it.
    """

    generation: int
    worker: str


class WorkerBook(ABC):
    """Where workers and claims are written down; every write is whole or not at all."""

    @abstractmethod
    def put_worker(self, worker: Worker) -> None:
        """Write down a new worker."""

    @abstractmethod
    def put_beat(self, worker: str, beat: int) -> None:
        """Write down that a worker lives; negative once it has ended."""

    @abstractmethod
    def worker(self, name: str) -> tuple[Worker, int] | None:
        """Read a worker and its last beat."""

    @abstractmethod
    def claimed(self, what: str) -> Claimed | None:
        """Read who holds a claim; None if nobody ever did."""

    @abstractmethod
    def put_claim(self, what: str, claim: Claimed) -> bool:
        """Write a claim unless one of the same generation is there; whether it was written."""


@final
class Claims:
    """A worker's view of claims.

    Args:
        book: Where they are written.
        beat_s: Seconds between signs of life; 0 gives none.
        grace_s: How long a worker of another machine may be silent.

    Attributes:
        me: This worker.
    """

    def __init__(self, book: WorkerBook, beat_s: float = BEAT_S, grace_s: float = GRACE_S) -> None:
        self._book, self._grace_s = book, grace_s
        self.me = Worker.here()
        self._seen: dict[str, tuple[int, float]] = {}
        self._stop = threading.Event()
        book.put_worker(self.me)
        self._thread: threading.Thread | None = None
        if beat_s:
            self._thread = threading.Thread(target=self._beat, args=(beat_s,), daemon=True)
            self._thread.start()

    def _beat(self, beat_s: float) -> None:
        beat = 0
        while not self._stop.wait(beat_s):
            beat += 1
            try:
                self._book.put_beat(self.me.name, beat)
            except Exception:  # a beat that is missed is made up for by the next
                continue

    def take(self, what: str) -> bool:
        """Claim something.

        Args:
            what: Such as ``trial 3``.

        Returns:
            Whether it is mine now; False while a worker that lives holds it.
        """
        held = self._book.claimed(what)
        if held is not None and held.worker == self.me.name:
            return True
        if held is not None and self._lives(held.worker):
            return False
        claim = Claimed(0 if held is None else held.generation + 1, self.me.name)
        return self._book.put_claim(what, claim)

    def holder(self, what: str) -> str | None:
        """Name the worker that holds a claim and lives; None if nobody does."""
        held = self._book.claimed(what)
        if held is None or (held.worker != self.me.name and not self._lives(held.worker)):
            return None
        return held.worker

    def _lives(self, name: str) -> bool:
        found = self._book.worker(name)
        if found is None:
            return False
        worker, beat = found
        if beat < 0:
            return False
        here = worker.lives_here
        if here is not None:
            return here
        # Clocks of machines differ: only how long the counter stands still by our own clock counts.
        now = time.monotonic()
        last, since = self._seen.get(name, (-1, now))
        if beat != last:
            self._seen[name] = (beat, now)
            return True
        return now - since < self._grace_s

    def close(self) -> None:
        """Say that this worker has ended: its claims are free."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._book.put_beat(self.me.name, -1)
