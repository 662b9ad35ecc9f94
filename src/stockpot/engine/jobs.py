"""What a worker is told of a merge, and what it says: plain data that can be pickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stockpot.engine.plan import Plan
from stockpot.engine.resuming import facts_of
from stockpot.engine.settings import Settings
from stockpot.errors import ClusterError

__all__ = ["Made", "MergeJob", "Piece", "facts_for_workers", "job_of"]


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
