"""The merge of files, from a recipe to a verified checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from stockpot.checkpoints import (
    MemorySink,
    MemorySource,
    Sink,
    Source,
    Stamps,
    TensorInfo,
    content_hash,
    encode_header,
    file_bytes,
)
from stockpot.engine.again import check_again
from stockpot.engine.budget import Chunking, give_back_memory
from stockpot.engine.forms import Form, Pipeline, arranged, in_form, make_sink
from stockpot.engine.history import PROVENANCE_KEY, RECIPE_KEY, Step
from stockpot.engine.jobs import job_of
from stockpot.engine.labels import with_sha256
from stockpot.engine.output_place import check_output
from stockpot.engine.plan import Plan
from stockpot.engine.planning import make_plan
from stockpot.engine.pools import open_pool
from stockpot.engine.progress import Meter, ProgressCallback
from stockpot.engine.provenance import (
    Ancestry,
    component_hashes,
    describe,
    hash_the_rest,
    stand_in,
    tell,
    trace,
    untold,
)
from stockpot.engine.resuming import (
    facts_of,
    is_worth_keeping,
    recall,
    recheck_inputs,
    told_of_kept,
)
from stockpot.engine.running import Digests, run_plan
from stockpot.engine.settings import Settings, chunking_of, compiled_of, device_of
from stockpot.engine.sharing import run_on_crew
from stockpot.engine.stopping import heeding
from stockpot.engine.tensor_tables import TENSORS_KEY, table_of
from stockpot.errors import DeviceError, Problem, StoppedError, UnconfirmedError
from stockpot.recipes import Recipe

__all__ = [
    "Again",
    "MergeResult",
    "Settings",
    "compute",
    "merge",
    "merge_in_memory",
    "open_pool",
]


@dataclass(frozen=True)
class MergeResult:
    """What a merge made.

    Attributes:
        path: The new file.
        plan: What was done, with its notes.
        content_hash: Of the output; None where hashing was off.
        components: Hash of each component; empty where hashing was off.
        n_bytes: Size of the file.
        elapsed_s: Seconds from the plan to the final name.
        chunking: How the work was cut.
        notes: What deserves to be known and is no error.
        n_resumed: How many tensors a stopped run had finished.
    """

    path: Path
    plan: Plan
    content_hash: str | None
    components: Mapping[str, str]
    n_bytes: int
    elapsed_s: float
    chunking: Chunking
    notes: tuple[Problem, ...] = ()
    n_resumed: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """A step that was done before, and whose file is to come out again byte for byte.

    Attributes:
        step: What is recorded of it.
        header_bytes: Length of the file's header; 0 where that is not known.
        table: Whether the file has a table of its tensors, which older ones have not.
    """

    step: Step
    header_bytes: int = 0
    table: bool = True


def merge(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str] = ".",
    sources: Mapping[str, Source] | None = None,
    dtype: str | Mapping[str, str] | None = None,
    form: Form | None = None,
    pipeline: Pipeline = Pipeline(),  # noqa: B008 - frozen
    settings: Settings = Settings(),  # noqa: B008 - frozen
    metadata: Mapping[str, str] = MappingProxyType({}),
    progress: ProgressCallback | None = None,
    again: Again | None = None,
) -> MergeResult:
    """Merge checkpoints into a new file, in one pass.

    A run that was stopped, by whatever, is gone on from where recipe, inputs and output are the
    same; the file then has the same bytes as if nothing had happened.

    Args:
        recipe: What to merge; its globs resolved.
        output: Name of the new file. It appears only when complete, synced and verified.
        folder: Where the pool's relative paths start.
        sources: Open checkpoints by name, instead of the pool's files.
        dtype: Element type of the output, one for all or by component; by default what the recipe
            says, else what the inputs share.
        form: In which form it is written: ``checkpoint``; ``bare``: a file of one component, its
            keys without the component's prefix; ``diffusers``: a folder. By default what the
            recipe says, else ``checkpoint``.
        pipeline: What a diffusers folder holds besides weights.
        settings: Memory, threads, checks.
        metadata: Strings to store besides, in place of those that a merge writes where both have
            a key; the recipe and the history are always the merge's own.
        progress: Is told how far the merge is.
        again: What was made before and must come out again, or nothing is saved.

    Returns:
        What was made.

    Raises:
        RecipeError: The recipe says something impossible.
        PreflightError: The inputs do not fit; nothing was read or written.
        VerificationError: The output is not what was expected; nothing was saved.
        OutputExistsError: The output is there already.
        UnfinishedError: A stopped run left something else under the output's name.
        OutputError: The output cannot be written.
        CheckpointError: An input cannot be read or holds NaN; nothing was saved.
        MemoryBudgetError: The plan needs more memory than it may have.
        StoppedError: `settings.stop` asked for it.
        DeviceError: There is no such device, or a crew is to use one.
        ClusterError: `settings.crew` has no workers, or they do not see the inputs.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> recipe = make_recipe("mean(a, b)", {"a": "a.safetensors", "b": "b.safetensors"})
        >>> merge(recipe, "soup.safetensors", folder="nowhere")
        Traceback (most recent call last):
        ...
        stockpot.errors.PreflightError: pool: a: nowhere/a.safetensors: the file cannot be ...
    """
    if sources is None:
        with open_pool(recipe, folder) as opened:
            return merge(
                recipe,
                output,
                sources=opened,
                dtype=dtype,
                form=form,
                pipeline=pipeline,
                settings=settings,
                metadata=metadata,
                progress=progress,
                again=again,
                folder=folder,
            )
    start = time.monotonic()
    path = Path(output)
    if form is not None:
        recipe = in_form(recipe, form)
    stamps = Stamps(sources.values())
    if settings.sha256:
        n_files = sum(file.stat().st_size for source in sources.values() for file in source.files)
        hashing = heeding(progress, settings.stop)
        recipe = with_sha256(recipe, sources, Meter("sha256", n_files, hashing).add)
        stamps.check(by_name=True)
    plan, arrangement = arranged(make_plan(recipe, sources, dtype), pipeline)
    # A tensor that is cut or transposed on its way out is held whole.
    held = settings.n_threads * (arrangement.buffer_bytes(plan.infos) if arrangement else 0)
    chunking = chunking_of(plan, replace(settings, memory=settings.memory - held))
    plan = _placed(plan, settings)
    ancestry = trace(plan)
    files = arrangement.infos(plan.infos) if arrangement else {"": plan.infos}
    if again is None:
        reserved = _with(stand_in(plan, ancestry, settings.hashes), metadata)
    else:
        # The header of a folder's file says nothing of the others'.
        room = again.header_bytes if list(files) == [""] else 0
        nothing = dict.fromkeys(plan.tensors, "0" * 64)
        reserved = _roomy(files, _again(plan, ancestry, again, nothing), room)
    if arrangement is None:
        n_bytes = file_bytes(plan.infos, reserved)
    else:
        n_bytes = arrangement.n_bytes(plan.infos, reserved)
    check_output(plan, path, n_bytes)
    facts = settings.journal and facts_of(
        plan, reserved, hashes=settings.hashes, allow_nonfinite=settings.allow_nonfinite
    )
    sink = make_sink(
        path,
        plan,
        arrangement,
        reserved,
        overwrite=settings.overwrite,
        verify=settings.verify,
        facts=facts or None,
        restart=settings.restart,
        recheck=settings.recheck,
    )
    kept, known = recall(plan, sink.done, settings.hashes)
    saving = False
    try:
        if kept and settings.tell is not None:
            settings.tell(
                f"{path}: going on from a run that was stopped: {len(kept)} of "
                f"{len(plan.tensors)} tensors are done"
            )
        if settings.recheck:
            recheck_inputs(plan, known, heeding(progress, settings.stop))
        if settings.crew is None:
            digests = compute(plan, sink, settings, progress, chunking, kept)
        else:
            digests = run_on_crew(
                settings.crew, plan, sink, job_of(plan, folder, settings), progress=progress,
                done=kept, stop=settings.stop,
            )  # fmt: skip
        digests.outputs.update(known.outputs)
        digests.inputs.update(known.inputs)
        if settings.hashes:
            hash_the_rest(plan, ancestry, digests)
        stamps.check()
        content = content_hash(plan.infos, digests.outputs) if settings.hashes else None
        told = describe(plan, ancestry, digests)
        if again is not None:
            check_again(again.step, told, str(path))
            # Equal in all that was computed: which version computed it is told as it was.
            told = _again(plan, ancestry, again, digests.outputs)
        n_bytes_left = sum(info.n_bytes for key, info in plan.infos.items() if key not in kept)
        check = Meter("checking", n_bytes_left, heeding(progress, settings.stop))
        saving = True
        sink.commit(_with(told, metadata), check.add)
    except UnconfirmedError:
        raise  # all is done, and nothing of it is to be kept or taken away
    except BaseException as error:
        if not is_worth_keeping(error, saving):
            sink.abort()
            raise
        told_kept = told_of_kept(path, sink.pause(), len(plan.tensors))
        if isinstance(error, StoppedError):
            raise StoppedError(f"stopped; {told_kept}") from error
        error.add_note(told_kept)
        raise
    finally:
        give_back_memory()
    return MergeResult(
        path,
        plan,
        content,
        component_hashes(plan, digests) if settings.hashes else {},
        n_bytes,
        time.monotonic() - start,
        chunking,
        (*plan.notes, *ancestry.notes, *untold(plan, ancestry, told)),
        len(kept),
    )


def merge_in_memory(
    recipe: Recipe,
    sources: Mapping[str, Source],
    *,
    dtype: str | Mapping[str, str] | None = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    progress: ProgressCallback | None = None,
) -> MemorySource:
    """Merge checkpoints into memory: the same bytes as a file's, and no file.

    Args:
        recipe: What to merge.
        sources: Open checkpoints by name.
        dtype: Element type of the output; see `merge`.
        settings: Memory (for buffers; the result comes on top), threads, checks.
        progress: Is told how far the merge is.

    Returns:
        The merged checkpoint.

    Raises:
        RecipeError: The recipe says something impossible.
        PreflightError: The inputs do not fit.
    """
    if settings.sha256:
        recipe = with_sha256(recipe, sources)
    plan, _ = arranged(make_plan(recipe, sources, dtype))
    plan = _placed(plan, settings)
    sink = MemorySink(plan.infos)
    digests = compute(plan, sink, settings, progress)
    ancestry = trace(plan)
    if settings.hashes:
        hash_the_rest(plan, ancestry, digests)
    sink.commit(describe(plan, ancestry, digests))
    return sink.source("merge")


def compute(
    plan: Plan,
    sink: Sink,
    settings: Settings,
    progress: ProgressCallback | None = None,
    chunking: Chunking | None = None,
    done: Collection[str] = frozenset(),
) -> Digests:
    """Run a plan as the settings say.

    Args:
        plan: What to do.
        sink: Where rows go; it is neither committed nor aborted here.
        settings: Memory, threads, checks.
        progress: Is told how far the run is.
        chunking: How to cut the work; by default so that it fits the memory.
        done: Tensors that need not be made.

    Returns:
        Hashes of all that was read and written.
    """
    return run_plan(
        plan,
        sink,
        chunking or chunking_of(plan, settings),
        hashes=settings.hashes,
        allow_nonfinite=settings.allow_nonfinite,
        compiled=compiled_of(settings),
        device=device_of(plan, settings),
        progress=progress,
        done=done,
        stop=settings.stop,
    )


def _placed(plan: Plan, settings: Settings) -> Plan:
    """The plan with the device that its methods run on."""
    device = device_of(plan, settings)
    if device is not None and settings.crew is not None:
        raise DeviceError("a cluster's nodes merge on their processors; leave out --device")
    return plan if device is None else replace(plan, device=device.told)


def _again(
    plan: Plan, ancestry: Ancestry, again: Again, outputs: Mapping[str, str]
) -> dict[str, str]:
    told = tell(plan, ancestry, again.step)
    return {**told, TENSORS_KEY: table_of(outputs)} if again.table else told


def _roomy(
    files: Mapping[str, Mapping[str, TensorInfo]], metadata: dict[str, str], header_bytes: int
) -> dict[str, str]:
    """Metadata that make the header of the only file at least so long."""
    spare = header_bytes - sum(len(encode_header(infos, metadata)) for infos in files.values())
    return {**metadata, "format": metadata["format"] + " " * max(0, spare)}


def _with(told: Mapping[str, str], metadata: Mapping[str, str]) -> dict[str, str]:
    own = (RECIPE_KEY, PROVENANCE_KEY, TENSORS_KEY)
    return {**told, **{key: text for key, text in metadata.items() if key not in own}}
