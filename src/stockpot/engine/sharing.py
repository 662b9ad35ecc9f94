"""A merge whose tensors are made by a crew: what is told to workers, and what comes back.

A worker is told the recipe, and makes the same plan from the same files; facts show that both are.
It sends the bytes of each tensor in pieces, and the hashes of all that it read. Only this process
writes, so that the output is what it always was: one writer, one journal, all or nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from functools import partial

from stockpot.checkpoints import Sink
from stockpot.engine.crews import Ask, Crew
from stockpot.engine.jobs import Made, MergeJob, Piece
from stockpot.engine.notes import read_note
from stockpot.engine.plan import Plan
from stockpot.engine.posting import open_merge
from stockpot.engine.progress import Meter, ProgressCallback
from stockpot.engine.running import Digests
from stockpot.engine.stopping import Stop
from stockpot.errors import LostWorkerError, StoppedError

__all__ = ["run_on_crew"]


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
