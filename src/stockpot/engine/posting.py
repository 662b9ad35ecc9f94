"""The worker's side of a merge: the same plan from the same files, and a tensor in pieces."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np

from stockpot.checkpoints import Sink, TensorInfo, differences
from stockpot.engine.budget import Chunking
from stockpot.engine.crews import Post
from stockpot.engine.forms import arranged
from stockpot.engine.jobs import Made, MergeJob, Piece, facts_for_workers
from stockpot.engine.matching import Matcher
from stockpot.engine.plan import Plan
from stockpot.engine.planning import make_plan
from stockpot.engine.pools import open_pool
from stockpot.engine.progress import Meter
from stockpot.engine.running import Worker
from stockpot.engine.settings import Settings, chunking_of, compiled_of
from stockpot.engine.stopping import Halt
from stockpot.errors import ClusterError, MemoryBudgetError
from stockpot.methods import one_blas_thread
from stockpot.recipes import parse_recipe

__all__ = ["MergePost", "open_merge"]

PIECE_BYTES = 4 << 20
"""How much of a tensor is sent at once; less where the tensor is smaller."""
_WAITING = 2  # pieces that may wait to be fetched
_LANE_BYTES = (_WAITING + 3) * PIECE_BYTES  # these, the one that grows, and two on their way


def open_merge(job: MergeJob, n_threads: int) -> MergePost:
    """Open a merge's files in a worker, and plan it again.

    Args:
        job: What the one who writes knows.
        n_threads: How many threads there are to use; the job may say fewer.

    Returns:
        Makes tensors by their keys.

    Raises:
        PreflightError: The worker does not see the files.
        ClusterError: It sees others.
        MemoryBudgetError: The plan needs more memory than it may have.
    """
    recipe = parse_recipe(job.recipe, "the recipe of the merge")
    with ExitStack() as stack:
        sources = stack.enter_context(open_pool(recipe, Path(job.folder)))
        plan, _ = arranged(make_plan(recipe, sources))
        mine = facts_for_workers(plan, hashes=job.hashes, allow_nonfinite=job.allow_nonfinite)
        changed = differences(job.facts, mine)
        if changed:
            raise ClusterError(
                "a worker must see what the others see, but here it is something else: "
                f"{'; '.join(changed)}; put the files into a folder that all machines share, and "
                "the same version of Stockpot on each"
            )
        settings = Settings(
            threads=min(job.threads or n_threads, n_threads),
            chunk_elements=job.chunk_elements, compiled=job.compiled,
        )  # fmt: skip
        if any(tensor.graph is not None for tensor in plan.tensors.values()):
            stack.enter_context(one_blas_thread())
        return MergePost(plan, job, settings, stack.pop_all())


@final
class MergePost(Post):
    """Makes tensors of a plan; see `open_merge`.

    Args:
        plan: What to do.
        job: How.
        settings: Threads of this worker.
        closing: What to close at the end.

    Attributes:
        lanes: How many tensors may be made at once.
    """

    def __init__(self, plan: Plan, job: MergeJob, settings: Settings, closing: ExitStack) -> None:
        self._plan, self._job, self._closing = plan, job, closing
        self._compiled = compiled_of(settings)
        self._chunking = _cut(plan, settings, job.memory)
        self.lanes = self._chunking.threads
        self._matcher = Matcher(plan)
        self._guard = threading.Lock()
        self._idle: list[tuple[Worker, _Pieces]] = []

    def work(self, request: str) -> Iterator[Piece | Made]:
        """Make a tensor.

        Args:
            request: Its key.

        Yields:
            Its bytes in order, then what is known of it.
        """
        with self._guard:
            worker, sink = self._idle.pop() if self._idle else self._new()
        plan = self._plan.tensors[request]
        halt = Halt(None)
        small = plan.info.n_bytes <= PIECE_BYTES
        sink.begin(0 if small else _WAITING)
        if small:
            worker.tensor(request, plan, halt)
            yield from sink.all()
        else:
            thread = threading.Thread(
                target=sink.fill, args=(lambda: worker.tensor(request, plan, halt),), daemon=True
            )
            thread.start()
            try:
                yield from sink.come()
            finally:
                halt.set()
                sink.drop()
                thread.join()
        # One whose tensor failed half way is not used again.
        with self._guard:
            self._idle.append((worker, sink))

    def _new(self) -> tuple[Worker, _Pieces]:
        sink, job = _Pieces(self._plan.infos), self._job
        return (
            Worker(self._plan, sink, self._chunking, job.hashes, job.allow_nonfinite,
                   self._compiled, Meter("", 0, None), self._matcher),
            sink,
        )  # fmt: skip

    def close(self) -> None:
        """Close the files."""
        self._closing.close()


def _cut(plan: Plan, settings: Settings, memory: int) -> Chunking:
    """Cut a worker's work so that it fits, what waits to be fetched included."""
    for n in range(settings.threads, 1, -1):
        with suppress(MemoryBudgetError):
            return chunking_of(plan, replace(settings, memory=memory - n * _LANE_BYTES, threads=n))
    return chunking_of(plan, replace(settings, memory=memory - _LANE_BYTES, threads=1))


class _Dropped(Exception):
    """Nobody wants the rest of a tensor."""


@final
class _Pieces(Sink):
    """Gathers a tensor's rows to pieces, for somebody who takes them one by one."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self.tensors = tensors
        self.begin()

    def begin(self, waiting: int = 0) -> None:
        """Begin a tensor.

        Args:
            waiting: How many pieces may wait; 0 sets no limit.
        """
        self._ready: queue.Queue[Piece | Made | BaseException] = queue.Queue()
        self._start, self._grown, self._note = 0, bytearray(), ""
        self._room = threading.Semaphore(waiting) if waiting else None
        self._dropped = False

    def write(self, key: str, start: int, data: memoryview) -> None:
        """Add rows, which come in order."""
        if not self._grown:
            self._start = start
        self._grown += data.cast("B")
        if len(self._grown) >= PIECE_BYTES:
            self._send()

    def _send(self) -> None:
        if self._room is not None:
            self._room.acquire()
        if self._dropped:
            raise _Dropped
        self._ready.put(Piece(self._start, np.frombuffer(self._grown, np.uint8)))
        self._grown = bytearray()

    def remember(self, key: str, note: str) -> None:
        """Keep what a journal will want to know."""
        self._note = note

    def tensor_done(self, key: str, digest: str | None) -> None:
        """Send the rest."""
        if self._grown:
            self._send()
        self._ready.put(Made(digest, self._note))

    def commit(
        self, metadata: Mapping[str, str], progress: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Nothing is committed here: somebody else writes."""

    def abort(self) -> None:
        """Nothing is left behind."""

    def all(self) -> Iterator[Piece | Made]:
        """What was sent by now."""
        while not self._ready.empty():
            found = self._ready.get()
            assert not isinstance(found, BaseException)
            yield found

    def fill(self, make: Callable[[], None]) -> None:
        """Make a tensor in a thread of its own, not faster than it is fetched."""
        try:
            make()
        except _Dropped:
            return
        except BaseException as error:
            self._ready.put(error)

    def come(self) -> Iterator[Piece | Made]:
        """What is sent, until the tensor is done."""
        while True:
            found = self._ready.get()
            if isinstance(found, BaseException):
                raise found
            if isinstance(found, Piece) and self._room is not None:
                self._room.release()
            yield found
            if isinstance(found, Made):
                return

    def drop(self) -> None:
        """Want no more."""
        self._dropped = True
        if self._room is not None:
            self._room.release()
