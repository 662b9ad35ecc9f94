"""Run a plan: pull panels from the sources, push rows into the sink, on several threads.

A thread takes one tensor at a time and walks through it chunk by chunk, so every hash sees its
bytes in order, and memory is `threads × (models + 1) × chunk` whatever the size of the models.
Where methods take part, the walk is repeated for their statistics (`computing`).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from blake3 import blake3

from stockpot.checkpoints import Sink, Source, hash_tensors
from stockpot.engine.budget import Chunking
from stockpot.engine.computing import Computation
from stockpot.engine.matching import Matcher, Orders
from stockpot.engine.notes import note_of
from stockpot.engine.plan import Plan, TensorPlan
from stockpot.engine.progress import Meter, ProgressCallback
from stockpot.engine.stopping import Halt, Stop
from stockpot.errors import CheckpointError
from stockpot.methods import (
    HAS_COMPILED_KERNEL,
    Device,
    Doubles,
    Row,
    RowFacts,
    combine,
    find_nonfinite,
    narrow,
    one_blas_thread,
)

_TOLD_BYTES = 1 << 22  # of reads, before the progress is told

__all__ = ["Digests", "Worker", "run_plan"]


@dataclass(frozen=True)
class Digests:
    """BLAKE3 of every tensor that a run touched.

    Attributes:
        outputs: By key of the output.
        inputs: By model and key in its file.
    """

    outputs: dict[str, str]
    inputs: dict[tuple[str, str], str]


def run_plan(
    plan: Plan,
    sink: Sink,
    chunking: Chunking,
    *,
    hashes: bool = True,
    allow_nonfinite: bool = False,
    compiled: bool = HAS_COMPILED_KERNEL,
    device: Device | None = None,
    progress: ProgressCallback | None = None,
    done: Collection[str] = frozenset(),
    stop: Stop | None = None,
) -> Digests:
    """Compute every tensor of a plan and write it.

    Args:
        plan: What to do.
        sink: Where rows go; it is neither committed nor aborted here.
        chunking: How to cut the work.
        hashes: Hash every tensor that is read or written, on the way.
        allow_nonfinite: Let NaN and infinities through instead of refusing them.
        compiled: Use the C kernel; torch gives the same bytes.
        device: Where methods that have a form for it run; None: here.
        progress: Is told how far the run is.
        done: Tensors that need not be made.
        stop: Ends the run early, after the tensors under way or at once.

    Returns:
        The hashes of what was made; empty without `hashes`.

    Raises:
        CheckpointError: A source cannot be read, or holds NaN or infinities.
        OutputError: The sink cannot take a row.
        StoppedError: Somebody asked for it. What the sink has been told is done is so.
    """
    wanted = {key: tensor for key, tensor in plan.tensors.items() if key not in done}
    n_bytes = sum(t.read_bytes * t.n_passes + t.info.n_bytes for t in wanted.values())
    meter = Meter("merging", n_bytes, progress)
    digests = Digests({}, {})
    halt = Halt(stop)
    computes = any(tensor.graph is not None for tensor in wanted.values())
    items = list(wanted.items())
    if computes:
        # The longest first, so that no thread is left alone with it at the end.
        items.sort(key=lambda item: -item[1].read_bytes * item[1].n_passes)
    queue = iter(items)
    guard = threading.Lock()
    matcher = Matcher(plan)

    def work() -> None:
        worker = Worker(
            plan, sink, chunking, hashes, allow_nonfinite, compiled, meter, matcher, device
        )
        while not halt.asked:
            with guard:
                item = next(queue, None)
            if item is None:
                return
            worker.tensor(*item, stop=halt)
            with guard:
                digests.outputs.update(worker.outputs)
                digests.inputs.update(worker.inputs)

    with ExitStack() as stack:
        stack.enter_context(one_blas_thread() if computes else nullcontext())
        stack.enter_context(nullcontext() if device is None else device.at_work())
        if chunking.threads == 1:
            work()
            halt.tell()
            return digests
        pool = stack.enter_context(
            ThreadPoolExecutor(chunking.threads, thread_name_prefix="stockpot")
        )
        futures: list[Future[None]] = [pool.submit(work) for _ in range(chunking.threads)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            halt.set()
        for future in futures:
            future.result()
    halt.tell()
    return digests


class Worker:
    """One thread's buffers and its way through a tensor.

    Args:
        plan: What to do.
        sink: Where rows go.
        chunking: How to cut the work.
        hashes: Hash all that is read and written.
        allow_nonfinite: Let NaN and infinities through.
        compiled: Use the C kernel.
        meter: Counts bytes.
        matcher: Finds the order of units, for all threads.
        device: Where methods that have a form for it run; None: here.

    Attributes:
        outputs: Hash of the tensor that was made last.
        inputs: Hashes of what was read for it.
    """

    def __init__(
        self,
        plan: Plan,
        sink: Sink,
        chunking: Chunking,
        hashes: bool,
        allow_nonfinite: bool,
        compiled: bool,
        meter: Meter,
        matcher: Matcher,
        device: Device | None = None,
    ) -> None:
        self._matcher, self._device = matcher, device
        self._plan, self._sink, self._chunk = plan, sink, chunking.chunk_elements
        self._panel = chunking.panel_elements
        self._hashes, self._compiled, self._meter = hashes, compiled, meter
        self._allow_nonfinite = allow_nonfinite
        self._buffers: list[memoryview] = []
        self.outputs: dict[str, str] = {}
        self.inputs: dict[tuple[str, str], str] = {}

    def tensor(self, key: str, plan: TensorPlan, stop: Halt) -> None:
        """Make one tensor.

        Args:
            key: Its key in the output.
            plan: How.
            stop: Set when another thread failed, or somebody asks: leave early.
        """
        self.outputs, self.inputs = {}, {}
        out_hash = self._hasher()
        if plan.action == "make":
            self._sink.write(key, 0, memoryview(plan.value))
            self._note(out_hash, memoryview(plan.value))
            self._meter.add(len(plan.value))
        elif plan.graph is not None:
            with np.errstate(all="ignore"):
                try:
                    if not self._compute(key, plan, out_hash, stop):
                        return
                except (IndexError, AssertionError) as error:
                    # What one reading found the next did not: counts no longer add up.
                    names = ", ".join(self._plan.sources[term.model].name for term in plan.terms)
                    raise CheckpointError(
                        f"{names}: {key}: two readings of an input contradict each other; it was "
                        "changed meanwhile, or the disk or the memory is failing; run this again "
                        "(where that does not help, this is a fault of ours: see --debug)"
                    ) from error
        else:
            in_hashes = [self._hasher() for _ in plan.terms]
            readers = [self._plan.sources[term.model] for term in plan.terms]
            for start in range(0, plan.info.n_elements, self._chunk):
                if stop.is_set():
                    return
                end = min(start + self._chunk, plan.info.n_elements)
                self._chunk_of(key, plan, readers, start, end, out_hash, in_hashes)
            if plan.action == "copy":
                out_hash = in_hashes[0]
            if self._hashes:
                self.inputs = {
                    (term.model, term.key): hasher.hexdigest()
                    for term, hasher in zip(plan.terms, in_hashes, strict=True)
                }
        digest = out_hash.hexdigest() if self._hashes else None
        if digest is not None:
            self.outputs = {key: digest}
            read = [self.inputs[term.model, term.key] for term in plan.terms]
            self._sink.remember(key, note_of(digest, read))
        self._sink.tensor_done(key, digest)

    def _compute(self, key: str, plan: TensorPlan, out_hash: blake3, stop: Halt) -> bool:
        """Make a tensor with methods in it; False when it was left."""
        assert plan.graph is not None
        readers = [self._plan.sources[term.model] for term in plan.terms]
        hashes: dict[int, str] = {}
        keys = [term.key for term in plan.terms]
        sizes = [term.dtype.itemsize for term in plan.terms]
        longest = min(self._panel, plan.info.n_elements)
        buffers = [self._buffer(i, longest * size) for i, size in enumerate(sizes)]
        counted, uncounted = plan.n_passes * plan.read_bytes, 0

        def read(i: int, start: int, end: int) -> memoryview:
            nonlocal counted, uncounted
            data = buffers[i][: (end - start) * sizes[i]]
            readers[i].read_into(keys[i], start, end, data)
            uncounted += data.nbytes
            if uncounted > _TOLD_BYTES:
                self._meter.add(min(counted, uncounted))
                counted, uncounted = max(0, counted - uncounted), 0
            return data

        def complain(i: int, start: int, row: Row) -> NoReturn:
            self._refuse_nonfinite(
                TensorPlan(plan.info, plan.cell, "combine", plan.terms[i : i + 1]),
                [row], readers[i : i + 1], start,
            )  # fmt: skip
            raise AssertionError("the kernel found a value that is not finite")

        computation = Computation(
            plan.graph, self._plan.layout.canonical_key(key), plan.info.shape,
            tuple(term.dtype for term in plan.terms), read, compiled=self._compiled,
            allow_nonfinite=self._allow_nonfinite, complain=complain,
            orders=lambda i: self._orders(key, plan, i), device=self._device,
        )  # fmt: skip
        if plan.graph.needs_identities or self._hashes:
            hashers = [self._hasher() for _ in plan.terms]

            def look(i: int, data: memoryview) -> None:
                hashers[i].update(data)

            if not computation.look_first(self._panel, look, stop.is_set):
                return False
            hashes = {i: hasher.hexdigest() for i, hasher in enumerate(hashers)}
        if not computation.prepare(self._panel, hashes, stop.is_set):
            return False
        for start, end in _cuts(plan.info.n_elements, self._panel):
            if stop.is_set():
                return False
            values = computation.row(start, end)
            result = self._buffer(len(readers), (end - start) * plan.info.dtype.itemsize)
            facts = narrow(values, Row(result, plan.info.dtype), compiled=self._compiled)
            self._check(key, plan, facts)
            self._sink.write(key, start, result)
            self._note(out_hash, result)
            self._meter.add(result.nbytes)
        self._meter.add(counted)
        if self._hashes:
            self.inputs = {(term.model, term.key): hashes[i] for i, term in enumerate(plan.terms)}
        return True

    def _orders(self, key: str, plan: TensorPlan, apply: int) -> Orders:
        assert plan.graph is not None
        return self._matcher.orders(key, plan.graph, apply, self._whole_row)

    def _whole_row(self, key: str, plan: TensorPlan, node: int) -> Doubles:
        """One row of a tensor's graph, for the matching of units."""
        assert plan.graph is not None
        readers = [self._plan.sources[term.model] for term in plan.terms]
        hashes = {}
        if plan.graph.needs_identities:
            for i, term in enumerate(plan.terms):
                hashes[i] = hash_tensors(readers[i], [term.key])[term.key]

        def read(i: int, start: int, end: int) -> memoryview:
            term = plan.terms[i]
            data = memoryview(bytearray((end - start) * term.dtype.itemsize))
            readers[i].read_into(term.key, start, end, data)
            return data

        def complain(i: int, start: int, row: Row) -> NoReturn:
            self._refuse_nonfinite(
                replace(plan, terms=plan.terms[i : i + 1]), [row], readers[i : i + 1], start
            )
            raise AssertionError("the kernel found a value that is not finite")

        row = Computation(
            plan.graph, key, plan.info.shape, tuple(term.dtype for term in plan.terms), read,
            compiled=self._compiled, allow_nonfinite=self._allow_nonfinite, complain=complain,
            root=node, orders=lambda i: self._orders(key, plan, i), device=self._device,
        )  # fmt: skip
        row.prepare(self._panel, hashes)
        result = np.empty(plan.info.n_elements)
        for start, end in _cuts(plan.info.n_elements, self._panel):
            result[start:end] = row.row(start, end)
        return result

    def _check(self, key: str, plan: TensorPlan, facts: RowFacts) -> None:
        if (facts.nonfinite_input or facts.overflow) and not self._allow_nonfinite:
            raise CheckpointError(
                f"{key}: a result is too large for {plan.info.dtype} (its largest number is "
                f"{plan.info.dtype.max_value:g}); save in a wider type with --dtype, or check "
                "the ratios"
            )

    def _chunk_of(
        self,
        key: str,
        plan: TensorPlan,
        readers: list[Source],
        start: int,
        end: int,
        out_hash: blake3,
        in_hashes: list[blake3],
    ) -> None:
        rows: list[Row] = []
        moved = 0
        for i, (term, reader) in enumerate(zip(plan.terms, readers, strict=True)):
            data = self._buffer(i, (end - start) * term.dtype.itemsize)
            reader.read_into(term.key, start, end, data)
            self._note(in_hashes[i], data)
            rows.append(Row(data, term.dtype))
            moved += data.nbytes
        if plan.action == "copy":
            # The bytes stay as they are; only integers may hold any pattern.
            if plan.info.dtype.is_float and not self._allow_nonfinite:
                self._refuse_nonfinite(plan, rows, readers, start)
            result = rows[0].data
        else:
            result = self._buffer(len(rows), (end - start) * plan.info.dtype.itemsize)
            weights = [term.weight for term in plan.terms]
            facts = combine(rows, weights, Row(result, plan.info.dtype), compiled=self._compiled)
            if (facts.nonfinite_input or facts.overflow) and not self._allow_nonfinite:
                self._refuse_nonfinite(plan, rows, readers, start)
            self._check(key, plan, facts)
        self._sink.write(key, start, result)
        if plan.action != "copy":  # its bytes were hashed when they were read
            self._note(out_hash, result)
        self._meter.add(moved + result.nbytes)

    def _refuse_nonfinite(
        self, plan: TensorPlan, rows: list[Row], readers: list[Source], start: int
    ) -> None:
        for row, term, reader in zip(rows, plan.terms, readers, strict=True):
            found = find_nonfinite(row.data, row.dtype)
            if found.any():
                raise CheckpointError(
                    f"{reader.name}: {term.key}: values must be finite, but element "
                    f"{start + int(found.argmax())} is NaN or infinite; the file is damaged: "
                    "leave it out, or keep such values with --allow-nonfinite"
                )

    def _buffer(self, index: int, n_bytes: int) -> memoryview:
        while len(self._buffers) <= index:
            self._buffers.append(memoryview(b""))
        if self._buffers[index].nbytes < n_bytes:
            self._buffers[index] = np.empty(n_bytes, np.uint8).data.cast("B")
        return self._buffers[index][:n_bytes]

    def _hasher(self) -> blake3:
        return blake3()

    def _note(self, hasher: blake3, data: memoryview) -> None:
        if self._hashes:
            hasher.update(data)


def _cuts(n_elements: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, n_elements, step):
        yield start, min(start + step, n_elements)
