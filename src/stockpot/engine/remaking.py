"""Mending a damaged file: only the tensors that broke are made again, from the recipe in it.

All else is copied. Nothing is taken on trust: the copy gets its name only when its content hash is
the recorded one, and then it is, byte for byte, what was written once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stockpot.checkpoints import (
    FileSink,
    RenamingSink,
    SafetensorsFile,
    Sink,
    Source,
    content_hash,
    hash_tensors,
)
from stockpot.engine.forms import arranged
from stockpot.engine.history import History, read_history
from stockpot.engine.merging import Settings, compute
from stockpot.engine.planning import make_plan
from stockpot.engine.progress import Meter, ProgressCallback
from stockpot.engine.replaying import find_route, prepared
from stockpot.engine.retelling import Discarded
from stockpot.engine.shelf import Shelf, as_seen
from stockpot.engine.stopping import heeding
from stockpot.engine.tensor_tables import read_table
from stockpot.errors import (
    CheckpointError,
    OutputExistsError,
    PreflightError,
    Problem,
    VerificationError,
)

__all__ = ["Remade", "find_damage", "remake"]

_CHUNK_BYTES = 1 << 22
_DIGITS = 16


@dataclass(frozen=True)
class Remade:
    """What a repair made.

    Attributes:
        path: The mended file.
        remade: Tensors that were made again.
        n_tensors: Of how many.
        content_hash: Of the mended file, as it was recorded.
    """

    path: Path
    remade: tuple[str, ...]
    n_tensors: int
    content_hash: str


def find_damage(metadata: Mapping[str, str], digests: Mapping[str, str]) -> tuple[str, ...] | None:
    """Find the tensors of a file that are not what was written.

    Args:
        metadata: Of the file.
        digests: Hash of each of its tensors now, by the key that it has in a checkpoint.

    Returns:
        Their keys; None where the file does not say what each tensor was.
    """
    table = read_table(metadata, digests.keys())
    if table is None:
        return None
    return tuple(key for key, value in digests.items() if value[:_DIGITS] != table[key])


def remake(
    file: SafetensorsFile,
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    progress: ProgressCallback | None = None,
) -> Remade:
    """Write a file as it was before some of its tensors were damaged.

    Inputs are taken by their names and headers first, and their tensors are read only where they
    are needed; where the result is not what was recorded, they are looked for by what they hold.

    Args:
        file: The damaged file, whose header is whole; it is closed before `output` gets its name.
        folder: Where its inputs are; searched with the folders below.
        output: The mended file. With `settings.overwrite` it may be the damaged one: that is
            replaced in one step, when the mended one is complete.
        settings: Memory, threads, checks.
        progress: Is told how far each stage is.

    Returns:
        What was made again.

    Raises:
        CheckpointError: The file carries no recipe that can be trusted, or its tensors are others.
        PreflightError: Nothing is damaged, or inputs are missing.
        OutputExistsError: The output is there already.
        VerificationError: The recipe makes other weights than those recorded; nothing was saved.
    """
    history = _history(file)
    path = Path(output)
    if path.exists() and not settings.overwrite:
        raise OutputExistsError(f"{path}: the file exists; choose another name, or --overwrite")
    settings = replace(settings, hashes=True, sha256=False)
    told = heeding(progress, settings.stop)
    seen = as_seen(file)
    n_bytes = sum(info.n_bytes for info in seen.tensors.values())
    digests = hash_tensors(seen, progress=Meter("reading", n_bytes, told).add)
    if content_hash(seen.tensors, digests) == history.last.content:
        raise PreflightError(
            [Problem("nothing-to-repair", "every tensor is what its recipe made", file.name)]
        )
    damaged = find_damage(file.metadata, digests)
    if damaged is not None and not damaged:
        raise CheckpointError(
            f"{file.name}: its table of tensors and its record contradict each other, so somebody "
            "edited them; `stockpot replay` makes the file again"
        )
    own = file.files[0]
    for by_name in (True, False):
        shelf = Shelf(folder, own, told, by_name=by_name)
        try:
            return _remade(file, seen, history, shelf, digests, damaged, path, settings, progress)
        except (VerificationError, PreflightError):
            if not by_name:
                raise
    raise AssertionError("the second try returns or raises")


def _remade(
    file: SafetensorsFile,
    seen: Source,
    history: History,
    shelf: Shelf,
    digests: Mapping[str, str],
    damaged: tuple[str, ...] | None,
    path: Path,
    settings: Settings,
    progress: ProgressCallback | None,
) -> Remade:
    route = find_route(history, shelf)
    with prepared(route, file.metadata, path.parent, settings, progress) as (recipe, sources, rest):
        plan, arrangement = arranged(make_plan(recipe, sources))
        names = {key: key for key in plan.tensors}
        if arrangement is not None:
            names = {key: places[0].key for key, places in arrangement.places.items() if places}
        if plan.infos != dict(seen.tensors) or set(names.values()) != set(file.tensors):
            raise CheckpointError(
                f"{file.name}: it has other tensors than its recipe makes, which is more than "
                "damage; `stockpot replay` makes the file again"
            )
        if damaged is None:
            # An older file does not say what each tensor was: only making all of them tells.
            made = compute(plan, Discarded(plan.infos), rest, progress).outputs
            damaged = tuple(key for key, value in digests.items() if made[key] != value)
        part = replace(plan, tensors={key: plan.tensors[key] for key in damaged})
        sink = FileSink(
            path, file.tensors, file.metadata, overwrite=settings.overwrite,
            header_bytes=file.header.n_bytes,
        )  # fmt: skip
        rows: Sink = sink
        if arrangement is not None:
            rows = RenamingSink({"": sink}, arrangement, plan.infos)
        try:
            outputs = {**digests, **compute(part, rows, rest, progress).outputs}
            content = content_hash(plan.infos, outputs)
            if content != history.last.content:
                raise VerificationError(
                    f"{file.name}: with the damaged tensors made again the content hash should be "
                    f"{history.last.content}, but is {content}; nothing was saved"
                )
            whole = [key for key in plan.tensors if key not in part.tensors]
            _copy(file, sink, {names[key]: digests[key] for key in whole}, settings, progress)
            check = Meter("checking", plan.written_bytes, heeding(progress, settings.stop))
            file.close()
            sink.commit(file.metadata, check.add)
        except BaseException:
            sink.abort()
            raise
    return Remade(path, damaged, len(plan.tensors), content)


def _copy(
    file: SafetensorsFile,
    sink: FileSink,
    digests: Mapping[str, str],
    settings: Settings,
    progress: ProgressCallback | None,
) -> None:
    """Take over what is whole; the re-read check compares it with the hashes of before."""
    n_bytes = sum(file.tensors[key].n_bytes for key in digests)
    meter = Meter("copying", n_bytes, heeding(progress, settings.stop))
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    for key, digest in digests.items():
        info = file.tensors[key]
        step = _CHUNK_BYTES // info.dtype.itemsize
        for start in range(0, info.n_elements, step):
            stop = min(start + step, info.n_elements)
            piece = buffer[: (stop - start) * info.dtype.itemsize]
            file.read_into(key, start, stop, piece)
            sink.write(key, start, piece)
            meter.add(piece.nbytes)
        sink.tensor_done(key, digest)


def _history(file: SafetensorsFile) -> History:
    history = read_history(file.metadata, file.name)
    if history is None or history.last.content is None:
        raise CheckpointError(
            f"{file.name}: there is no recipe with hashes in it, so nobody knows what its tensors "
            "should be; `stockpot repair --base` fills in another model's"
        )
    if not history.intact:
        raise CheckpointError(
            f"{file.name}: its recipe, or the record beside it, was changed after the merge, so "
            "nothing can be made from it; get the file again"
        )
    return history
