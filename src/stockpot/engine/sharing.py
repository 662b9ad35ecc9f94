"""A merge whose tensors are made by a crew: what is told to workers, and what comes back.

A worker is told the recipe, and makes the same plan from the same files; facts show that both are.
It sends the bytes of each tensor in pieces, and the hashes of all that it read. Only this process
writes, so that the output is what it always was: one writer, one journal, all or nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import Sink
from stockpot.engine.crews import Ask, Crew
from stockpot.engine.notes import read_note
from stockpot.engine.plan import Plan
from stockpot.engine.resuming import facts_of
from stockpot.engine.running import Digests, Meter, ProgressCallback
from stockpot.engine.stopping import Stop
from stockpot.errors import ClusterError, LostWorkerError, StoppedError

if TYPE_CHECKING:
    from stockpot.engine.merging import Settings

__all__ = ["Made", "MergeJob", "Piece", "facts_for_workers", "job_of", "run_on_crew"]


@dataclass(frozen=True)
class MergeJob:
    """What a worker needs to know of a merge.

    Attributes:
        recipe: As YAML.
        folder: Where the pool's relative paths start; absolute.
        facts: All that decides on the bytes, by name; a worker's must be the same.
        memory: Ceiling in bytes for a worker, whatever its threads.
        threads: Of a worker; 0 means as many as it has processors.
        chunk_elements: Length of the pieces in which tensors are read; None lets the budget say.
        hashes: Hash all that is read and written.
        allow_nonfinite: Let NaN and infinities through.
        compiled: Use the C kernel where it was built.
    """

    recipe: str
    folder: str
    facts: Mapping[str, str]
    memory: int
    threads: int
    chunk_elements: int | None
    hashes: bool
    allow_nonfinite: bool
    compiled: bool


@dataclass(frozen=True)
class Piece:
    """A part of a tensor.

    Attributes:
        start: Its first element.
        data: Its bytes.
    """

    start: int
    data: npt.NDArray[np.uint8]

    @property
    def n_bytes(self) -> int:
        """How large it is."""
        return self.data.nbytes


@dataclass(frozen=True)
class Made:
    """All pieces of a tensor were sent.

    Attributes:
        digest: Its hash; None where nobody computes it.
        note: What a journal keeps with it (`stockpot.engine.notes`).
    """

    digest: str | None
    note: str


def facts_for_workers(plan: Plan, *, hashes: bool, allow_nonfinite: bool) -> dict[str, str]:
    """What must be the same where a tensor is made.

    Args:
        plan: What will be done.
        hashes: Whether all that is read and written is hashed.
        allow_nonfinite: Whether NaN and infinities pass.

    Returns:
        Facts by name.

    Raises:
        ClusterError: An input is no file, so that nobody else can read it.
    """
    facts = facts_of(plan, {}, hashes=hashes, allow_nonfinite=allow_nonfinite)
    if facts is None:
        raise ClusterError(
            "workers read inputs from files that all of them see, but one of these is in memory; "
            "save it first, or merge without --cluster"
        )
    return facts


def run_on_crew(
    crew: Crew,
    plan: Plan,
    sink: Sink,
    job: MergeJob,
    *,
    progress: ProgressCallback | None = None,
    done: Collection[str] = frozenset(),
    stop: Stop | None = None,
) -> Digests:
    """Have every tensor of a plan made by workers, and write it; see `stockpot.engine.run_plan`.

    Args:
        crew: The workers.
        plan: What to do.
        sink: Where rows go; it is neither committed nor aborted here.
        job: The same for the workers.
        progress: Is told how far the run is.
        done: Tensors that need not be made.
        stop: Ends the run early, after the tensors under way or at once.

    Returns:
        The hashes of what was made; empty without `job.hashes`.

    Raises:
        ClusterError: Workers cannot be had, or do not see what they must.
        StockpotError: As `run_plan` does.
    """
    # Only where it is needed: a worker's side reads files.
    from stockpot.engine.posting import open_merge

    left = [key for key in plan.tensors if key not in done]
    costs = {key: _cost(plan, key) for key in left}
    if any(plan.tensors[key].graph is not None for key in left):
        # The longest first, so that no worker is left alone with it at the end.
        left.sort(key=lambda key: -costs[key])
    meter = Meter("merging", sum(costs.values()), progress)
    digests, guard = Digests({}, {}), threading.Lock()

    def take(key: str, ask: Ask) -> None:
        told, n_bytes = 0, plan.tensors[key].info.n_bytes
        try:
            for found in ask(key):
                if isinstance(found, Piece):
                    sink.write(key, found.start, found.data.data)
                    # Reading is told of along with what comes of it.
                    share = costs[key] * found.n_bytes // max(1, n_bytes)
                    told += share
                    meter.add(share)
                else:
                    _finish(plan, sink, key, found, digests, guard)
        except LostWorkerError:
            meter.add(-told)
            raise
        meter.add(costs[key] - told)

    crew.share(partial(open_merge, job), left, take, stop=stop)
    if stop is not None and stop.asked:
        raise StoppedError("stopped")
    return digests


def _cost(plan: Plan, key: str) -> int:
    tensor = plan.tensors[key]
    return tensor.read_bytes * tensor.n_passes + tensor.info.n_bytes


def _finish(
    plan: Plan, sink: Sink, key: str, made: Made, digests: Digests, guard: threading.Lock
) -> None:
    terms = plan.tensors[key].terms
    if made.digest is not None:
        found = read_note(made.note, len(terms))
        assert found is not None  # whoever made it counted the same terms
        with guard:
            digests.outputs[key] = made.digest
            for term, value in zip(terms, found[1:], strict=True):
                digests.inputs[term.model, term.key] = value
        sink.remember(key, made.note)
    sink.tensor_done(key, made.digest)


def job_of(plan: Plan, folder: str | os.PathLike[str], settings: Settings) -> MergeJob:
    """Say what workers need to know of a merge.

    Args:
        plan: What will be done.
        folder: Where the pool's relative paths start.
        settings: How to run.

    Raises:
        ClusterError: An input is no file.
    """
    facts = facts_for_workers(
        plan, hashes=settings.hashes, allow_nonfinite=settings.allow_nonfinite
    )
    return MergeJob(
        plan.fold.recipe.to_yaml(), os.path.abspath(folder), facts, settings.memory,
        settings.threads, settings.chunk_elements, settings.hashes, settings.allow_nonfinite,
        settings.compiled,
    )  # fmt: skip
