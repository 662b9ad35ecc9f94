"""The one walk over a pool's files that every later question is answered from.

Each thread takes one tensor at a time, reads the same slice of it from every model, hashes the
bytes, and sums inner products. Results are added in the order of keys, so that the number of
threads does not show in them.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from stockpot.checkpoints import Source, Stamps, content_hash
from stockpot.compare.comparison import (
    Comparison,
    Counts,
    Doubles,
    Group,
    ModelFacts,
    Place,
)
from stockpot.compare.keeping import Kept, open_kept
from stockpot.compare.posting import job_of, open_comparison
from stockpot.compare.summing import AHEAD, By, Cut, Found, Summer, take_memory
from stockpot.compare.units import Survey, Unit, survey_pool
from stockpot.engine import (
    DEFAULT_MEMORY,
    Ask,
    Crew,
    Meter,
    Opening,
    ProgressCallback,
    Stop,
    give_back_memory,
)
from stockpot.errors import CheckpointError, ClusterError, StoppedError, UnknownNameError
from stockpot.methods import Gram, one_blas_thread

__all__ = ["compare"]

_SAVED_EVERY_S = 10.0


def compare(
    sources: Mapping[str, Source],
    *,
    base: str | None = None,
    by: By = "block",
    memory: int = DEFAULT_MEMORY,
    threads: int = 0,
    progress: ProgressCallback | None = None,
    journal: str | os.PathLike[str] | None = None,
    restart: bool = False,
    stop: Stop | None = None,
    tell: Callable[[str], None] | None = None,
    crew: Crew | None = None,
) -> Comparison:
    """Read every file once, and keep all inner products of the models.

    Only float tensors are compared; all are hashed. Tensors meet under their canonical keys, in
    whatever float type each is stored.

    Args:
        sources: Open checkpoints by name, at least one.
        base: Name of the model whose deltas are of interest; the others' products are then
            summed as differences to it, else to the first model that has a tensor.
        by: How fine the sums are kept. ``tensor`` makes results some 25 times as large as
            ``block``.
        memory: Ceiling in bytes for buffers and tables, above the interpreter and the libraries.
        threads: How many tensors are worked on at once; 0 means one a core. Fewer are used where
            the budget is small.
        progress: Is told how far the walk is.
        journal: A file to keep sums in every few seconds, so that a walk that is stopped, by
            whatever, is gone on from with the same result. Whoever saves the result removes it.
            Models that are no files cannot be known again, and then nothing is kept.
        restart: Throw away what a stopped walk left there.
        stop: Ends the walk early, with what is done kept.
        tell: Is told sentences that people want to know at once.
        crew: Who reads and sums; None: threads of this process. The sums are the same, bit by bit.

    Returns:
        The inner products, with what was compared and what was not.

    Raises:
        CheckpointError: A file cannot be read.
        UnfinishedError: A stopped walk left sums of something else in the journal.
        OutputError: The journal cannot be written, or another process writes it.
        StoppedError: `stop` asked for it.
        ClusterError: `crew` has no workers, or they do not see the files.
        MemoryBudgetError: The pool needs more memory than allowed.
        UnknownNameError: The base is not in the pool.
        ValueError: The pool is empty, or `by` is no such word.
    """
    if not sources:
        raise ValueError("a comparison needs at least one model")
    if by not in ("component", "block", "tensor"):
        raise ValueError(f"`by` must be component, block or tensor, but got {by!r}")
    if base is not None and base not in sources:
        raise UnknownNameError("base", base, sources)
    survey = survey_pool(sources)
    base_index = None if base is None else list(sources).index(base)
    cut = take_memory(survey, len(sources), by, memory, threads or os.cpu_count() or 1)
    run = _Run(list(sources.values()), survey, base_index, by, cut, stop or Stop())
    with ExitStack() as stack:
        kept = None if journal is None else open_kept(Path(journal), sources, base, by, restart)
        if kept is not None:
            stack.callback(kept.close)
            run.go_on_from(kept)
            if run.n_done and tell is not None:
                tell(
                    f"{kept.path}: going on from a walk that was stopped: {run.n_done} of "
                    f"{len(survey.units)} tensors are done"
                )
        stack.enter_context(one_blas_thread())
        if crew is not None:
            run.give_to(crew, partial(open_comparison, job_of(sources, base, by, memory, threads)))
        run.walk(Meter("comparing", run.n_bytes_left, progress))
    return Comparison(
        models=tuple(
            _facts(name, source, survey, i, run.digests[i])
            for i, (name, source) in enumerate(sources.items())
        ),
        base=base_index,
        by=by,
        layout=Counter(layout.name for layout in survey.layouts).most_common(1)[0][0],
        groups=tuple(group.closed() for group in run.groups.values()),
        sizes=_sizes(survey, len(sources), by),
        exclusions=tuple(survey.exclusions(run.nonfinite)),
    )


@dataclass
class _Sums:
    """A group under way."""

    place: Place
    members: tuple[int, ...]
    gram: Gram | None = None
    rounding: Doubles = field(default_factory=lambda: np.zeros(0))
    kurtosis: Doubles = field(default_factory=lambda: np.zeros(0))
    n_tensors: int = 0
    n_matrices: int = 0

    def add(self, found: Found) -> None:
        self.n_tensors += 1
        self.gram = found.gram if self.gram is None else self.gram + found.gram
        if not self.rounding.size:
            self.rounding, self.kurtosis = np.zeros((2, len(self.members)))
        self.rounding = self.rounding + found.rounding
        if found.kurtosis is not None:
            self.kurtosis = self.kurtosis + found.kurtosis
            self.n_matrices += 1

    @classmethod
    def of(cls, group: Group) -> _Sums:
        """What `open` gave, to go on with."""
        return cls(group.place, group.members, group.gram, group.rounding, group.kurtosis,
                   group.n_tensors, group.n_matrices)  # fmt: skip

    def open(self) -> Group:
        """As it stands, sums of kurtosis and all."""
        assert self.gram is not None
        return Group(self.place, self.members, self.n_tensors, self.gram, self.rounding,
                     self.kurtosis, self.n_matrices)  # fmt: skip

    def closed(self) -> Group:
        assert self.gram is not None  # a group is made when its first tensor comes
        kurtosis = self.kurtosis / max(1, self.n_matrices)
        return Group(self.place, self.members, self.n_tensors, self.gram, self.rounding, kurtosis,
                     self.n_matrices)  # fmt: skip


class _Run:
    """The walk: a queue of units, and results that are added in their order."""

    def __init__(
        self, sources: list[Source], survey: Survey, base: int | None, by: By, cut: Cut, stop: Stop
    ) -> None:
        self._sources, self._survey, self._base, self._by, self._cut = (
            sources, survey, base, by, cut
        )  # fmt: skip
        self._stamps = Stamps(sources)
        self.groups: dict[tuple[Place, tuple[int, ...]], _Sums] = {}
        self.digests: list[dict[str, str]] = [{} for _ in sources]
        self.nonfinite: list[tuple[int, Unit]] = []
        self._crew: tuple[Crew, Opening] | None = None
        self._turn = threading.Condition()
        self._waiting: dict[int, tuple[Found | None, list[tuple[int, str, str]], list[int]]] = {}
        self._next = 0
        self._stop = False
        self._asked = stop
        self._kept: Kept | None = None
        self._saved_at = time.monotonic()
        self._changed: dict[tuple[Place, tuple[int, ...]], None] = {}
        self._new_digests: list[tuple[int, str, str]] = []

    @property
    def n_done(self) -> int:
        """Units whose results were added."""
        return self._next

    @property
    def n_bytes_left(self) -> int:
        """Bytes of the others."""
        units = self._survey.units[self._next :]
        return sum(info.n_bytes for unit in units for _, _, info in unit.members)

    def go_on_from(self, kept: Kept) -> None:
        """Take over what a stopped walk kept, and keep more there."""
        self._kept = kept
        state = kept.state
        if state.n_done > len(self._survey.units):
            return
        for group in state.groups.values():
            self.groups[group.place, group.members] = _Sums.of(group)
        for index, key, digest in state.digests:
            self.digests[index][key] = digest
        self.nonfinite = [(index, self._survey.units[number]) for index, number in state.nonfinite]
        self._next = state.n_done

    def give_to(self, crew: Crew, opening: Opening) -> None:
        """Let others read and sum."""
        self._crew = crew, opening

    def walk(self, meter: Meter) -> None:
        """Work on all units; leaves the sums in `groups`."""
        try:
            self._walk(meter)
            self._stamps.check()
        except (StoppedError, CheckpointError, ClusterError, OSError):
            self._keep()
            raise
        finally:
            give_back_memory()
        self._save()
        if self._asked.asked and self._next < len(self._survey.units):
            left = "nothing is left behind" if self._kept is None or not self._next else (
                f"{self._next} of {len(self._survey.units)} tensors are kept in {self._kept.path}: "
                "give the same command again to go on, or remove that file to give up"
            )  # fmt: skip
            raise StoppedError(f"stopped; {left}")

    def _keep(self) -> None:
        """Keep what is done, unless a file was written to: then nobody knows which sums are right.

        Its time of change may be set back later, so that facts alone would not tell.
        """
        try:
            self._stamps.check()
        except CheckpointError:
            if self._kept is not None:
                self._kept.discard()
        else:
            self._save()

    def _walk(self, meter: Meter) -> None:
        if self._crew is not None:
            self._walk_on(*self._crew, meter)
            return
        queue = iter(list(enumerate(self._survey.units))[self._next :])

        def work() -> None:
            worker = Summer(self._sources, self._base, self._cut.n_blocks, meter, self._asked)
            try:
                while (item := self._take(queue)) is not None:
                    number, unit = item
                    found = worker.tensor(unit)
                    self._put(number, found, worker.digests, worker.nonfinite)
            except BaseException:
                self._halt()  # nobody shall wait for this thread's turn
                raise

        if self._cut.threads == 1:
            work()
            return
        with ThreadPoolExecutor(self._cut.threads, thread_name_prefix="stockpot") as pool:
            futures: list[Future[None]] = [pool.submit(work) for _ in range(self._cut.threads)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._halt()
            for future in futures:
                future.result()

    def _walk_on(self, crew: Crew, opening: Opening, meter: Meter) -> None:
        units = self._survey.units

        def take(number: int, ask: Ask) -> None:
            (summed,) = ask(number)
            self._put(number, summed.found, summed.digests, summed.nonfinite)
            meter.add(sum(info.n_bytes for _, _, info in units[number].members))

        crew.share(
            opening, range(self._next, len(units)), take,
            may_begin=lambda number: number < self._next + AHEAD, stop=self._asked,
        )  # fmt: skip

    def _halt(self) -> None:
        with self._turn:
            self._stop = True
            self._turn.notify_all()

    def _take(self, queue: Iterator[tuple[int, Unit]]) -> tuple[int, Unit] | None:
        with self._turn:
            item = None if self._asked.asked else next(queue, None)
            if item is None:
                return None
            # The one whose turn it is never waits here, so the walk always goes on.
            self._turn.wait_for(lambda: self._stop or item[0] < self._next + AHEAD)
            return None if self._stop else item

    def _put(
        self, number: int, found: Found | None, digests: list[tuple[int, str, str]],
        nonfinite: list[int],
    ) -> None:  # fmt: skip
        with self._turn:
            self._waiting[number] = found, digests, nonfinite
            while self._next in self._waiting:
                ready, digests, nonfinite = self._waiting.pop(self._next)
                unit = self._survey.units[self._next]
                self._next += 1
                for index, key, digest in digests:
                    self.digests[index][key] = digest
                self._new_digests += digests
                self.nonfinite += [(index, unit) for index in nonfinite]
                if ready is not None:
                    place = unit.place(self._by)
                    group = (place, ready.members)
                    self.groups.setdefault(group, _Sums(*group)).add(ready)
                    self._changed[group] = None
            if time.monotonic() - self._saved_at >= _SAVED_EVERY_S:
                self._save()
            self._turn.notify_all()

    def _save(self) -> None:
        """Keep all that was added since the last time."""
        if self._kept is None:
            return
        with self._turn:
            numbers = {id(unit): number for number, unit in enumerate(self._survey.units)}
            self._kept.save(
                self._next,
                [self.groups[group].open() for group in self._changed],
                self._new_digests,
                [(index, numbers[id(unit)]) for index, unit in self.nonfinite],
            )
            self._changed, self._new_digests = {}, []
            self._saved_at = time.monotonic()


def _facts(
    name: str, source: Source, survey: Survey, index: int, digests: Mapping[str, str]
) -> ModelFacts:
    layout = survey.layouts[index]
    hashes, dtypes = {}, {}
    members: dict[str, list[str]] = {component.name: [] for component in layout.components}
    for key in source.tensors:
        members[layout.cell_of(key).component].append(key)
    for component, keys in members.items():
        if keys:
            infos = {key: source.tensors[key] for key in keys}
            hashes[component] = content_hash(infos, digests, layout.relative_key)
            weight: Counter[str] = Counter()
            for info in infos.values():
                weight[info.dtype.name] += info.n_elements
            dtypes[component] = weight.most_common(1)[0][0]
    path = source.name if source.files else ""
    whole = content_hash(source.tensors, digests)
    return ModelFacts(name, path, layout.name, whole, hashes, dtypes)


def _sizes(survey: Survey, n: int, by: By) -> dict[tuple[str, str], Counts]:
    sizes: dict[tuple[str, str], Counts] = {}
    for unit in survey.units:
        if unit.compared:
            block = "" if by == "component" else unit.cell.block
            row = sizes.setdefault((unit.cell.component, block), np.zeros(n, np.int64))
            row[list(unit.indices)] += unit.n_elements
    return sizes
