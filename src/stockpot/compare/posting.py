"""A comparison whose tensors are summed by a crew: what workers are told, and their side of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import final

import stockpot
from stockpot.checkpoints import Source, differences, open_checkpoint
from stockpot.compare.summing import By, Found, Summer, take_memory
from stockpot.compare.units import survey_pool
from stockpot.engine import Meter, Post, Stop, facts_of_source
from stockpot.errors import CheckpointError, ClusterError, PreflightError, Problem
from stockpot.methods import one_blas_thread

__all__ = ["ComparisonJob", "ComparisonPost", "Summed", "job_of", "open_comparison"]


@dataclass(frozen=True)
class ComparisonJob:
    """What a worker needs to know of a comparison.

    Attributes:
        paths: The models' files by name; absolute.
        base: Index of the base, or None.
        by: How fine sums are kept.
        memory: Ceiling in bytes for a worker, whatever its threads.
        threads: Of a worker; 0 means as many as it has processors.
        facts: What tells whether files are the same.
    """

    paths: Mapping[str, str]
    base: int | None
    by: By
    memory: int
    threads: int
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Summed:
    """What one tensor gave.

    Attributes:
        found: Its sums; None where it is only hashed.
        digests: Model, key and hash of what was read.
        nonfinite: Models in which it is not finite.
    """

    found: Found | None
    digests: list[tuple[int, str, str]]
    nonfinite: list[int]


def job_of(
    sources: Mapping[str, Source], base: str | None, by: By, memory: int, threads: int
) -> ComparisonJob:
    """Say what workers need to know.

    Args:
        sources: The models.
        base: Name of the base.
        by: How fine sums are kept.
        memory: Of a worker.
        threads: Of a worker.

    Raises:
        ClusterError: A model is no file, so that nobody else can read it.
    """
    index = None if base is None else list(sources).index(base)
    paths = {name: os.path.abspath(source.name) for name, source in sources.items()}
    return ComparisonJob(paths, index, by, memory, threads, _facts(sources))


def _facts(sources: Mapping[str, Source]) -> dict[str, str]:
    facts = {"the program": f"stockpot {stockpot.__version__}"}
    for name, source in sources.items():
        told = facts_of_source(source) if source.files else None
        if told is None:
            raise ClusterError(
                f"{name}: workers read models from files that all of them see, but this one is in "
                "memory; save it first, or compare without --cluster"
            )
        facts[f"input {name}"] = told
    return facts


def open_comparison(job: ComparisonJob, n_threads: int) -> ComparisonPost:
    """Open a comparison's files in a worker, and survey them again.

    Args:
        job: What the one who adds up knows.
        n_threads: How many threads there are to use; the job may say fewer.

    Raises:
        PreflightError: The worker does not see the files.
        ClusterError: It sees others.
        MemoryBudgetError: The pool needs more memory than it may have.
    """
    problems = []
    with ExitStack() as stack:
        sources = {}
        for name, path in job.paths.items():
            try:
                sources[name] = stack.enter_context(open_checkpoint(path))
            except CheckpointError as error:
                problems.append(Problem("unreadable", str(error)))
        if problems:
            raise PreflightError(problems)
        changed = differences(job.facts, _facts(sources))
        if changed:
            raise ClusterError(
                "a worker must see what the others see, but here it is something else: "
                f"{'; '.join(changed)}; put the files into a folder that all machines share, and "
                "the same version of Stockpot on each"
            )
        stack.enter_context(one_blas_thread())
        return ComparisonPost(list(sources.values()), job, n_threads, stack.pop_all())


@final
class ComparisonPost(Post):
    """Sums tensors of a pool; see `open_comparison`.

    Args:
        sources: The models.
        job: How.
        n_threads: How many threads there are to use.
        closing: What to close at the end.

    Attributes:
        lanes: How many tensors may be summed at once.
    """

    def __init__(
        self, sources: list[Source], job: ComparisonJob, n_threads: int, closing: ExitStack
    ) -> None:
        self._sources, self._job, self._closing = sources, job, closing
        self._survey = survey_pool(dict(zip(job.paths, sources, strict=True)))
        threads = min(job.threads or n_threads, n_threads)
        self._cut = take_memory(self._survey, len(sources), job.by, job.memory, threads)
        self.lanes = self._cut.threads
        self._guard = threading.Lock()
        self._idle: list[Summer] = []

    def work(self, request: int) -> Iterator[Summed]:
        """Read, hash and sum one tensor.

        Args:
            request: Its number in the survey.

        Yields:
            What it gave; one thing.
        """
        with self._guard:
            summer = self._idle.pop() if self._idle else self._new()
        found = summer.tensor(self._survey.units[request])
        yield Summed(found, summer.digests, summer.nonfinite)
        with self._guard:
            self._idle.append(summer)

    def _new(self) -> Summer:
        meter = Meter("", 0, None)
        return Summer(self._sources, self._job.base, self._cut.n_blocks, meter, Stop())

    def close(self) -> None:
        """Close the files."""
        self._closing.close()
