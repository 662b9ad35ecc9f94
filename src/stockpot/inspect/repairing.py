"""Mending what can be mended: a view of the damaged file, merged to a new one by the engine.

Names, shapes and position ids are put right from the file alone. Missing tensors come from a base
by the recipe ``file | base``; NaN and infinities are replaced, place by place, by the base's
values. All else stays bit by bit what it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, final

from stockpot.checkpoints import DTYPES, Source, TensorInfo
from stockpot.errors import CheckpointError, PreflightError, Problem
from stockpot.inspect.codes import CODES
from stockpot.inspect.identity import Identity, identify
from stockpot.inspect.inspecting import Wanted, inspect_checkpoint
from stockpot.inspect.inspection import Inspection
from stockpot.layouts import KeySpec, Layout, counter_values

if TYPE_CHECKING:
    from stockpot.engine import MergeResult, ProgressCallback, Stop

__all__ = ["RepairPlan", "plan_repair", "repair"]

_NONFINITE = {"nan", "inf"}
_FILLED = {"missing-key", "missing-component"}
_RECORD = "stockpot.repair"
_MOST_RECORDED = 200


@dataclass(frozen=True)
class RepairPlan:
    """What a repair would do.

    Attributes:
        found: The findings about the file, its values included.
        mended: Problems that will be gone.
        needs_base: Problems that only a base's values could mend, and none was given.
        left: Problems that no repair mends.
    """

    found: Inspection
    mended: tuple[Problem, ...]
    needs_base: tuple[Problem, ...]
    left: tuple[Problem, ...]


def plan_repair(source: Source, base: Source | None = None) -> RepairPlan:
    """Find out what can be mended; reads all values of the file, and writes nothing.

    Args:
        source: The damaged checkpoint.
        base: A whole one of the same architecture, to take values from.

    Returns:
        The plan.

    Raises:
        PreflightError: The base is of another architecture, or lacks what it should give.
    """
    found = inspect_checkpoint(source, Wanted(deep=True))
    # Parts that are absent on purpose are filled where a base is given, and no fault otherwise.
    optional = {p for p in found.problems if p.code == "missing-component"} if not base else set()
    mendable = [p for p in found.problems if CODES[p.code].repair and p not in optional]
    needs = [p for p in mendable if CODES[p.code].repair == "base"]
    if base is not None:
        _check_base(source, base, needs)
    mended = tuple(p for p in mendable if base is not None or p not in needs)
    return RepairPlan(
        found,
        mended,
        () if base is not None else tuple(needs),
        tuple(p for p in found.problems if not CODES[p.code].repair or p in optional),
    )


def repair(
    source: Source,
    output: Path,
    *,
    base: Source | None = None,
    plan: RepairPlan | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: ProgressCallback | None = None,
    stop: Stop | None = None,
    tell: Callable[[str], None] | None = None,
) -> MergeResult:
    """Write a mended copy; the file itself is never changed.

    Args:
        source: The damaged checkpoint.
        output: The new file; it appears only when complete, synced and verified.
        base: A whole one of the same architecture, to take values from.
        plan: From `plan_repair` with the same arguments; made here where None.
        overwrite: Replace an existing output.
        restart: Throw away what a stopped run left, instead of going on from it.
        progress: Is told how far the writing is.
        stop: Ends the writing early, with what is done kept.
        tell: Is told sentences that people want to know at once.

    Returns:
        What was written.

    Raises:
        PreflightError: There is nothing to mend, or a base is needed; nothing was written.
        CheckpointError: A file cannot be read, or the base is not finite where it is needed.
        OutputExistsError: The output is there already.
        StoppedError: `stop` asked for it.
    """
    # The engine takes a while to load, and inspection does without it.
    from stockpot.engine import Settings, in_form, merge
    from stockpot.recipes import make_recipe

    plan = plan or plan_repair(source, base)
    if plan.needs_base:
        raise PreflightError(
            Problem(p.code, p.message, f"{source.name}: {p.where}", "name a model with --base")
            for p in plan.needs_base
        )
    if not plan.mended:
        raise PreflightError(
            [Problem("nothing-to-mend", "no problem that a repair would mend", source.name)]
        )
    broken = any(p.code in _NONFINITE for p in plan.mended)
    filled = base is not None and any(p.code in _FILLED for p in plan.mended)
    mended = _Mended(source, base if broken else None)
    sources: dict[str, Source] = {"file": mended}
    pool = {"file": "file.safetensors"}
    if base is not None and filled:
        facts = plan.found.components.values()
        wanted = {one.name for one in facts if one.n_missing} | set(plan.found.missing)
        sources["base"] = _Lacking(base, mended, wanted)
        mended.add_counters(base, plan.found.missing)
        pool["base"] = "base.safetensors"
    recipe = make_recipe("file | base" if filled else "file", pool)
    identity = _identity(source)
    return merge(
        # A lone component keeps its names: its file has no other use.
        in_form(recipe, "bare") if identity.prefix else recipe,
        output,
        sources=sources,
        dtype=_dtypes(plan.found, identity.layout) if filled else None,
        settings=Settings(overwrite=overwrite, restart=restart, stop=stop, tell=tell),
        metadata=_metadata(source, plan),
        progress=progress,
    )


def _check_base(source: Source, base: Source, needs: list[Problem]) -> None:
    mine, other = _identity(source), _identity(base)
    problems = []
    if other.layout is not mine.layout and needs:
        problems.append(
            Problem(
                "architecture",
                f"a base must be of the file's architecture, but this is {other.layout.title} and "
                f"{source.name} is {mine.layout.title}",
                base.name,
                "name another",
            )
        )
        raise PreflightError(problems)
    held = _by_canonical(base, other)
    for problem in needs:
        if problem.code == "missing-component":
            if problem.where not in {other.component_of(key) for key in base.tensors}:
                problems.append(
                    Problem("missing-component", "the base lacks it too", problem.where)
                )
        elif problem.where:
            key = held.get(mine.layout.canonical_key(mine.prefix + problem.where))
            if key is None:
                problems.append(
                    Problem("missing-key", "the base lacks it too", problem.where, "name another")
                )
            elif problem.code in _NONFINITE and (
                base.tensors[key].n_elements != source.tensors[problem.where].n_elements
            ):
                problems.append(Problem("shape", "the base's has another shape", problem.where))
    if problems:
        raise PreflightError(problems)


def _identity(source: Source) -> Identity:
    return identify({key: info.shape for key, info in source.tensors.items()}, source.metadata)


def _by_canonical(source: Source, identity: Identity) -> dict[str, str]:
    """Key in the file by its canonical name, that under the usual name first."""
    held: dict[str, str] = {}
    for key in source.tensors:
        full = identity.prefix + key
        canonical = identity.layout.canonical_key(full)
        if full == canonical or canonical not in held:
            held[canonical] = key
    return held


def _dtypes(found: Inspection, layout: Layout) -> dict[str, str]:
    """Filled tensors get the type of their component, where it has one."""
    wanted = {}
    for name, facts in found.components.items():
        floats = [dtype for dtype in facts.dtypes if DTYPES[dtype].is_float]
        if len(floats) == 1 and layout.n_required.get(name):
            wanted[name] = floats[0]
    return wanted


def _metadata(source: Source, plan: RepairPlan) -> dict[str, str]:
    """What the file said of itself, and what was done to it."""
    records = [{"code": p.code, "key": p.where} for p in plan.mended[:_MOST_RECORDED]]
    return {**source.metadata, _RECORD: json.dumps(records, ensure_ascii=False)}


@final
class _Mended(Source):
    """A checkpoint under usual names and shapes, with right position ids, and finite where a base
    gives the values."""

    def __init__(self, source: Source, base: Source | None) -> None:
        self.name, self.metadata = source.name, source.metadata
        self.files = source.files + (base.files if base is not None else ())
        identity = _identity(source)
        self._source, self._base = source, base
        self._own: dict[str, str] = {}
        self._made: dict[str, bytes] = {}
        self._theirs: dict[str, str] = {}
        theirs = _by_canonical(base, _identity(base)) if base is not None else {}
        tensors: dict[str, TensorInfo] = {}
        for canonical, key in _by_canonical(source, identity).items():
            info = source.tensors[key]
            spec = identity.layout.specs.get(canonical)
            dtype, shape = info.dtype, info.shape
            if spec is not None and shape in spec.alternatives and spec.role == "weight":
                shape = spec.shape
            elif spec is not None and spec.role == "counter":
                dtype, shape = DTYPES["I64"], spec.shape
                self._made[canonical] = _counter_bytes(spec)
            tensors[canonical] = TensorInfo(canonical, dtype, shape)
            self._own[canonical] = key
            if base is not None and canonical in theirs:
                other = base.tensors[theirs[canonical]]
                if other.dtype.is_float and other.n_elements == info.n_elements:
                    self._theirs[canonical] = other.key
        self.tensors = tensors

    def add_counters(self, base: Source, components: Collection[str]) -> None:
        """Make the counters that a base has in components that are wholly absent here; a fill
        takes weights from the base, and counters are made, never taken."""
        identity = _identity(base)
        for canonical in _by_canonical(base, identity):
            spec = identity.layout.specs.get(canonical)
            if spec is not None and spec.role == "counter" and spec.cell.component in components:
                self._made[canonical] = _counter_bytes(spec)
                info = TensorInfo(canonical, DTYPES["I64"], spec.shape)
                self.tensors = {**self.tensors, canonical: info}

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Read, and replace what is not finite; see `Source.read_into`."""
        info = self.checked_range(key, start, stop, out)
        if key in self._made:
            out.cast("B")[:] = self._made[key][8 * start : 8 * stop]
            return
        self._source.read_into(self._own[key], start, stop, out)
        if self._base is not None and key in self._theirs and info.dtype.is_float:
            _replace_nonfinite(out, info, self._base, self._theirs[key], (start, stop))

    def close(self) -> None:
        """The sources belong to the caller."""


def _counter_bytes(spec: KeySpec) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in counter_values(spec))


def _replace_nonfinite(
    out: memoryview, info: TensorInfo, base: Source, key: str, span: tuple[int, int]
) -> None:
    import numpy as np

    from stockpot.methods import Row, combine, find_nonfinite

    broken = find_nonfinite(out, info.dtype)
    if not broken.any():
        return
    theirs = base.tensors[key]
    n = span[1] - span[0]
    data = memoryview(bytearray(n * theirs.dtype.itemsize))
    base.read_into(key, *span, data)
    rounded = memoryview(bytearray(out.nbytes))
    combine([Row(data, theirs.dtype)], [Fraction(1)], Row(rounded, info.dtype))
    if (find_nonfinite(rounded, info.dtype) & broken).any():
        raise CheckpointError(
            f"{base.name}: {key}: a base must be finite where it is needed, but this one is not, "
            f"or not in {info.dtype}; name another"
        )
    raw = f"u{info.dtype.itemsize}"
    np.copyto(np.frombuffer(out.cast("B"), raw), np.frombuffer(rounded, raw), where=broken)


@final
class _Lacking(Source):
    """Of some components of a base what another checkpoint lacks: the required tensors, or all of
    a component that is wholly absent."""

    def __init__(self, base: Source, other: Source, components: Collection[str]) -> None:
        self.name, self.metadata, self.files = base.name, {}, base.files
        self._base = base
        mine, theirs = _identity(base), _identity(other)
        held = _by_canonical(other, theirs)
        present = {theirs.component_of(key) for key in other.tensors}
        self._own: dict[str, str] = {}
        tensors: dict[str, TensorInfo] = {}
        for canonical, key in _by_canonical(base, mine).items():
            spec = mine.layout.specs.get(canonical)
            if spec is None or canonical in held or spec.cell.component not in components:
                continue
            if spec.optional and spec.cell.component in present:
                continue
            info = base.tensors[key]
            shape = spec.shape if info.shape in spec.alternatives else info.shape
            tensors[canonical] = TensorInfo(canonical, info.dtype, shape)
            self._own[canonical] = key
        self.tensors = tensors

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Read from the base; see `Source.read_into`."""
        self.checked_range(key, start, stop, out)
        self._base.read_into(self._own[key], start, stop, out)

    def close(self) -> None:
        """The base belongs to the caller."""
