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
from pathlib import Path
from typing import Literal

import numpy as np
from blake3 import blake3

from stockpot.checkpoints import Source, TensorInfo, content_hash
from stockpot.compare.comparison import (
    Comparison,
    Counts,
    Doubles,
    Group,
    ModelFacts,
    Place,
)
from stockpot.compare.keeping import Kept, open_kept
from stockpot.compare.sampling import Sample
from stockpot.compare.units import Survey, Unit, survey_pool
from stockpot.engine import (
    DEFAULT_MEMORY,
    Meter,
    ProgressCallback,
    Stop,
    give_back_memory,
    size_text,
)
from stockpot.errors import CheckpointError, MemoryBudgetError, StoppedError, UnknownNameError
from stockpot.methods import (
    BLOCK_ELEMENTS,
    HAS_COMPILED_KERNEL,
    Feed,
    Gram,
    GramAccumulator,
    Row,
    is_finite,
    one_blas_thread,
    widen,
)

__all__ = ["compare"]

By = Literal["component", "block", "tensor"]

_FIXED_BYTES = 48 << 20  # headers, hash states, thread stacks, the matrix library's own room
_TABLE_BYTES = 1500  # what header, survey and hashes keep of one tensor of one model
_MOST_BLOCKS = 128  # read at once from one file: 4 MiB of fp16, as many files take turns
_MOST_RAW_BYTES = 128 << 20  # of all files together, in one thread
_SAMPLED_EVERY = 32  # one block of so many is looked at for rounding and kurtosis
_AHEAD = 64  # results that may wait for their turn
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

    Returns:
        The inner products, with what was compared and what was not.

    Raises:
        CheckpointError: A file cannot be read.
        UnfinishedError: A stopped walk left sums of something else in the journal.
        OutputError: The journal cannot be written, or another process writes it.
        StoppedError: `stop` asked for it.
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
    cut = _take_memory(survey, len(sources), by, memory, threads or os.cpu_count() or 1)
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


@dataclass(frozen=True, slots=True)
class _Cut:
    threads: int
    n_blocks: int


def _take_memory(survey: Survey, n: int, by: By, memory: int, threads: int) -> _Cut:
    itemsize = max((info.dtype.itemsize for unit in survey.units for _, _, info in unit.members),
                   default=2)  # fmt: skip
    matrices = 16 * n * n
    n_groups = len({(unit.place(by), unit.indices) for unit in survey.units})
    fixed = _FIXED_BYTES + _TABLE_BYTES * survey.n_tensors + matrices * (n_groups + _AHEAD)
    blocks = 4 * 8 * n * BLOCK_ELEMENTS  # widened, differences, a partial block, a temporary
    raw = n * itemsize * BLOCK_ELEMENTS
    for n_threads in range(max(1, threads), 0, -1):
        each = (memory - fixed) // n_threads - blocks - 4 * matrices
        if each >= raw:
            most = max(1, min(_MOST_BLOCKS, _MOST_RAW_BYTES // raw))
            return _Cut(n_threads, min(most, each // raw))
    raise MemoryBudgetError(
        f"comparing {n} models needs at least {size_text(fixed + blocks + raw + 4 * matrices)}, "
        f"but --memory allows {size_text(memory)}; allow more"
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

    def add(self, found: _Found) -> None:
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


@dataclass(frozen=True)
class _Found:
    """What one tensor gave."""

    unit: Unit
    members: tuple[int, ...]
    gram: Gram
    rounding: Doubles
    kurtosis: Doubles | None


class _Run:
    """The walk: a queue of units, and results that are added in their order."""

    def __init__(
        self, sources: list[Source], survey: Survey, base: int | None, by: By, cut: _Cut, stop: Stop
    ) -> None:
        self._sources, self._survey, self._base, self._by, self._cut = (
            sources, survey, base, by, cut
        )  # fmt: skip
        self.groups: dict[tuple[Place, tuple[int, ...]], _Sums] = {}
        self.digests: list[dict[str, str]] = [{} for _ in sources]
        self.nonfinite: list[tuple[int, Unit]] = []
        self._turn = threading.Condition()
        self._waiting: dict[
            int, tuple[_Found | None, list[tuple[int, str, str]], list[tuple[int, Unit]]]
        ] = {}
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

    def walk(self, meter: Meter) -> None:
        """Work on all units; leaves the sums in `groups`."""
        try:
            self._walk(meter)
        except (StoppedError, CheckpointError, OSError):
            self._save()
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

    def _walk(self, meter: Meter) -> None:
        queue = iter(list(enumerate(self._survey.units))[self._next :])

        def work() -> None:
            worker = _Worker(self._sources, self._base, self._cut.n_blocks, meter, self._asked)
            try:
                while (item := self._take(queue)) is not None:
                    number, unit = item
                    self._put(number, worker.tensor(unit), worker)
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
            self._turn.wait_for(lambda: self._stop or item[0] < self._next + _AHEAD)
            return None if self._stop else item

    def _put(self, number: int, found: _Found | None, worker: _Worker) -> None:
        with self._turn:
            self._waiting[number] = found, worker.digests, worker.nonfinite
            while self._next in self._waiting:
                ready, digests, nonfinite = self._waiting.pop(self._next)
                self._next += 1
                for index, key, digest in digests:
                    self.digests[index][key] = digest
                self._new_digests += digests
                self.nonfinite += nonfinite
                if ready is not None:
                    place = ready.unit.place(self._by)
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


class _Worker:
    """One thread's buffers and its way through a tensor."""

    def __init__(
        self, sources: list[Source], base: int | None, n_blocks: int, meter: Meter, asked: Stop
    ) -> None:
        self._asked = asked
        self._sources, self._base, self._meter = sources, base, meter
        self._step = n_blocks * BLOCK_ELEMENTS
        self._raw: list[memoryview] = []
        self._panel = np.empty((len(sources), BLOCK_ELEMENTS))
        self.digests: list[tuple[int, str, str]] = []
        self.nonfinite: list[tuple[int, Unit]] = []

    def tensor(self, unit: Unit) -> _Found | None:
        """Walk through one tensor of all models that have it."""
        self.digests, self.nonfinite = [], []
        members = list(unit.members)
        found = self._walk(unit, members, first=True)
        if unit.compared and self.nonfinite:
            broken = {index for index, _ in self.nonfinite}
            members = [member for member in members if member[0] not in broken]
            # The pivot's NaN would be in every difference; the others' are in their own rows.
            found = self._walk(unit, members, first=False) if members else None
        return found

    def _walk(
        self, unit: Unit, members: list[tuple[int, str, TensorInfo]], first: bool
    ) -> _Found | None:
        indices = tuple(index for index, _, _ in members)
        pivot = indices.index(self._base) if self._base in indices else 0
        sums = GramAccumulator(len(members), pivot) if unit.compared else None
        sample = Sample([info for _, _, info in members], unit)
        hashers = [blake3() for _ in members]
        finite = [True] * len(members)
        for start in range(0, unit.n_elements, self._step):
            if self._asked.now:
                raise StoppedError("stopped")
            stop = min(start + self._step, unit.n_elements)
            rows = []
            for i, (index, key, info) in enumerate(members):
                data = self._buffer(i, (stop - start) * info.dtype.itemsize)
                self._sources[index].read_into(key, start, stop, data)
                if first:
                    hashers[i].update(data)
                    self._meter.add(data.nbytes)
                rows.append(data)
            if sums is None:
                continue
            self._sum(start, stop, unit.n_elements, members, rows, sums, sample, finite)
        if first:
            self.digests = [
                (index, key, hasher.hexdigest())
                for (index, key, _), hasher in zip(members, hashers, strict=True)
            ]
            self.nonfinite = [
                (index, unit) for index, good in zip(indices, finite, strict=True) if not good
            ]
        if sums is None:
            return None
        return _Found(unit, indices, sums.finish(), *sample.result())

    def _sum(
        self, start: int, stop: int, n_elements: int, members: list[tuple[int, str, TensorInfo]],
        data: list[memoryview], sums: GramAccumulator, sample: Sample, finite: list[bool],
    ) -> None:  # fmt: skip
        """Add what was read: straight from the bytes where C was built, else as panels."""
        n = len(members)
        terms = tuple(Row(data[i], info.dtype) for i, (_, _, info) in enumerate(members))
        if HAS_COMPILED_KERNEL:
            for i, row in enumerate(terms):
                finite[i] &= is_finite(row)
            feed = Feed(terms, tuple((i, -1) for i in range(n)), start, stop - start)
            sums.add_feed(feed, last=stop == n_elements)
        for begin in range(0, stop - start, BLOCK_ELEMENTS):
            sampled = (start + begin) // BLOCK_ELEMENTS % _SAMPLED_EVERY == 0
            if HAS_COMPILED_KERNEL and not sampled:
                continue
            end = min(begin + BLOCK_ELEMENTS, stop - start)
            panel = self._panel[:n, : end - begin]
            for i, row in enumerate(terms):
                size = row.dtype.itemsize
                part = Row(row.data[begin * size : end * size], row.dtype)
                finite[i] &= widen(part, panel[i])
            if not HAS_COMPILED_KERNEL:
                sums.add(panel)
            if sampled:
                sample.add(panel)

    def _buffer(self, index: int, n_bytes: int) -> memoryview:
        while len(self._raw) <= index:
            self._raw.append(memoryview(b""))
        if self._raw[index].nbytes < n_bytes:
            self._raw[index] = np.empty(n_bytes, np.uint8).data.cast("B")
        return self._raw[index][:n_bytes]


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
