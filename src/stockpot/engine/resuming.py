"""Going on from what a stopped merge left: what must be the same, and what is known already.

A merge is told by facts: the recipe, the plan, and each input by size, time of change and header.
Where they are the same, so is every byte, and a tensor that is on the disk need not be made again.
What the metadata will say of a finished tensor, the hashes of all that was read for it, stands with
it in the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from blake3 import blake3

import stockpot
from stockpot.checkpoints import Source, hash_tensors
from stockpot.engine.history import RECIPE_KEY
from stockpot.engine.notes import read_note
from stockpot.engine.plan import Plan
from stockpot.engine.progress import Meter, ProgressCallback
from stockpot.engine.running import Digests
from stockpot.errors import (
    CheckpointError,
    ClusterError,
    StoppedError,
    UnfinishedError,
    VerificationError,
)

__all__ = ["facts_of", "facts_of_source", "is_worth_keeping", "recall", "recheck_inputs",
           "told_of_kept"]  # fmt: skip

_SHOWN_DIGITS = 16


def facts_of(
    plan: Plan, metadata: Mapping[str, str], *, hashes: bool, allow_nonfinite: bool
) -> dict[str, str] | None:
    """All that decides on the bytes of an output, by name.

    Args:
        plan: What will be done.
        metadata: What the output will say of itself, or a stand-in.
        hashes: Whether all that is read and written is hashed.
        allow_nonfinite: Whether NaN and infinities pass.

    Returns:
        Facts; None where an input cannot be known again, such as one that is in memory.
    """
    facts = {
        "the recipe": metadata.get(RECIPE_KEY, ""),
        "the plan": plan.digest[:_SHOWN_DIGITS],
        "the program": f"stockpot {stockpot.__version__}",
        "hashing": "on" if hashes else "off",
        "letting NaN through": "on" if allow_nonfinite else "off",
    }
    if plan.device:
        facts["the device"] = plan.device
    for name, source in plan.sources.items():
        told = facts_of_source(source)
        if told is None:
            return None
        facts[f"input {name}"] = told
    return facts


def facts_of_source(source: Source) -> str | None:
    """What tells whether a source is still the same, without reading it.

    Args:
        source: Open.

    Returns:
        Size and time of change of each file, and a hash of what the headers say; the content hash
        of a source that is known by it. None where nothing can tell.
    """
    if source.known:
        return f"content {source.known}"
    if not source.files:
        return None
    told = []
    for file in source.files:
        try:
            status = file.stat()
        except OSError as error:
            told.append(f"unreadable ({error.strerror})")
            continue
        seconds, rest = divmod(status.st_mtime_ns, 10**9)
        when = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(" ")
        told.append(f"{status.st_size} bytes of {when}.{rest:09}")
    hasher = blake3()
    for key, info in source.tensors.items():
        hasher.update(repr((key, info.dtype.name, info.shape)).encode())
    for item in source.metadata.items():
        hasher.update(repr(item).encode())
    return f"{', '.join(told)}, header {hasher.hexdigest()[:_SHOWN_DIGITS]}"


def recall(plan: Plan, done: Mapping[str, str], hashes: bool) -> tuple[set[str], Digests]:
    """Read what a stopped run knew of the tensors that it finished.

    Args:
        plan: The same plan.
        done: Finished tensors with their notes.
        hashes: Whether the run hashes; without it there is nothing to know.

    Returns:
        The tensors that need not be made again, and the hashes of all that they are and were made
        of.
    """
    keys: set[str] = set()
    digests = Digests({}, {})
    for key, note in done.items():
        if key not in plan.tensors:
            continue
        terms = plan.tensors[key].terms
        if hashes:
            found = read_note(note, len(terms))
            if found is None:
                continue
            digests.outputs[key] = found[0]
            for term, value in zip(terms, found[1:], strict=True):
                digests.inputs[term.model, term.key] = value
        keys.add(key)
    return keys, digests


def recheck_inputs(plan: Plan, known: Digests, progress: ProgressCallback | None) -> None:
    """Read again all that finished tensors were made of.

    Args:
        plan: The plan.
        known: Hashes of what was read, from `recall`.
        progress: Is told how far it is.

    Raises:
        UnfinishedError: An input holds something else now.
        CheckpointError: It cannot be read.
    """
    sizes = {(name, key): plan.sources[name].tensors[key].n_bytes for name, key in known.inputs}
    meter = Meter("checking the inputs", sum(sizes.values()), progress)
    for name, source in plan.sources.items():
        keys = [key for model, key in known.inputs if model == name]
        for key, value in hash_tensors(source, keys, meter.add).items():
            if value != known.inputs[name, key]:
                raise UnfinishedError(
                    f"{source.name}: {key}: the tensor is not what the stopped run read, so what "
                    "it finished cannot be used; put the old file back, or begin anew with "
                    "--restart"
                )


def is_worth_keeping(error: BaseException, saving: bool) -> bool:
    """Whether the same merge, given again, may come further than a run that ended with an error.

    Args:
        error: How it ended.
        saving: Whether all tensors were made, and the output was being checked and named.

    Returns:
        True for whoever asked it to stop, and for what the system refused: reading, writing,
        memory, other machines. A fault of the recipe or of an input would only come again.
    """
    if isinstance(error, UnfinishedError):
        return True
    if isinstance(error, CheckpointError) and not isinstance(error.__cause__, OSError):
        return saving and isinstance(error, VerificationError)
    return not isinstance(error, Exception) or isinstance(
        error, StoppedError | ClusterError | CheckpointError | OSError | MemoryError
    )


def told_of_kept(path: Path, n_kept: int, n_tensors: int) -> str:
    """Say what a stopped run leaves, and what can be done with it.

    Args:
        path: The output.
        n_kept: How many tensors are kept.
        n_tensors: Of how many.
    """
    if not n_kept:
        return "nothing was finished, and nothing is left behind"
    partial = path.with_name(path.name + ".partial")
    if partial.is_dir():
        what = f"{partial} is kept"
        rest = "that folder"
    else:
        what = f"{n_kept} of {n_tensors} tensors are kept in {partial.name}"
        rest = f"{partial.name} and {partial.name}.journal in {partial.parent}"
    return f"{what}: give the same command again to go on, or remove {rest} to give up"
