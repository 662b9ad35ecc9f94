"""What a merged file says of itself: the recipe, hashes of what was read, and what came before.

The metadata depend on the recipe and on the inputs alone: no date, no path, no order of arguments,
so that the same merge gives the same file. `history` has the form in which steps are kept, `labels`
what other programs read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import stockpot
from stockpot.checkpoints import Source, content_hash, hash_tensors
from stockpot.engine.history import (
    PROVENANCE_KEY,
    History,
    InputRecord,
    Part,
    Step,
    read_history,
)
from stockpot.engine.labels import (
    MODELS_LABEL,
    Labels,
    a1111_labels,
    model_key,
    modelspec_labels,
    read_labels,
    step_label,
)
from stockpot.engine.plan import Plan
from stockpot.engine.running import Digests
from stockpot.engine.tensor_tables import TENSORS_KEY, table_of
from stockpot.errors import CheckpointError, Problem
from stockpot.layouts import Layout
from stockpot.recipes import PoolEntry, Recipe, canonical, find_function, functions_in

__all__ = [
    "Ancestry",
    "Read",
    "component_hashes",
    "describe",
    "hash_the_rest",
    "stand_in",
    "tell",
    "trace",
    "untold",
]

_NO_HASH = "0" * 64
# What a merge does not read of a component that it reads, such as position ids, is hashed too
# while it is this small, so that the hash is the component's own.
_SMALL_BYTES = 1 << 20
_V_MARKER = "v_pred"
# The exact rational sum, rounded once, ties to even.
_LINEAR_VERSION = 1


@dataclass(frozen=True, slots=True)
class Read:
    """What a plan reads of one component of one model, as far as it is recorded.

    Attributes:
        keys: Tensors whose hash counts, as the file names them.
        part: Which these are, where they are not all that the model has of the component.
    """

    keys: tuple[str, ...]
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Ancestry:
    """What is known of a plan's inputs before they are read.

    Attributes:
        histories: How inputs say that they were made, by name; those that say nothing are absent.
        labels: What inputs say in other programs' terms.
        reads: What is recorded, by model and component.
        notes: What could not be read of all that.
    """

    histories: Mapping[str, History]
    labels: Mapping[str, Labels]
    reads: Mapping[str, Mapping[str, Read]]
    notes: tuple[Problem, ...]


def trace(plan: Plan) -> Ancestry:
    """Look up what the inputs of a plan say of themselves; reads metadata only.

    Args:
        plan: What will be done.

    Returns:
        Their histories, and which hashes will be recorded.
    """
    histories, labels, notes = {}, {}, []
    for name, source in plan.sources.items():
        try:
            history = read_history(source.metadata, source.name)
            if history is not None and not history.intact:
                raise CheckpointError(f"{source.name}: somebody edited its recipe or its record")
            if history is not None and history.last.content is not None:
                histories[name] = history
            labels[name] = read_labels(source.metadata, source.name)
        except CheckpointError as error:
            notes.append(Problem("history", str(error), remedy="it is not carried on"))
    return Ancestry(histories, labels, _reads(plan), tuple(notes))


def hash_the_rest(plan: Plan, ancestry: Ancestry, digests: Digests) -> None:
    """Hash the small tensors that belong to what was read and that no row needed.

    Args:
        plan: What was done.
        ancestry: Of the plan.
        digests: Hashes of all that was read; completed in place.
    """
    for name, components in ancestry.reads.items():
        for read in components.values():
            rest = [key for key in read.keys if (name, key) not in digests.inputs]
            hashes = hash_tensors(plan.sources[name], rest)
            digests.inputs.update({(name, key): value for key, value in hashes.items()})


def describe(plan: Plan, ancestry: Ancestry, digests: Digests) -> dict[str, str]:
    """Metadata for the output.

    Args:
        plan: What was done.
        ancestry: Of the plan.
        digests: Hashes of all tensors; empty where hashing was off, and then no hash is claimed
            and no history is carried on.

    Returns:
        Strings only: ``format``, ``stockpot.*``, A1111's and ModelSpec's fields.
    """
    known = digests if digests.outputs else None
    records = {}
    for name in sorted(plan.sources):
        record = _record(plan, name, ancestry.reads[name], known)
        history = ancestry.histories.get(name)
        if known and history is not None and _agrees(history.last, record):
            record = replace(record, made=history.last.content)
        records[name] = record
    last = Step(
        _portable(plan.fold.recipe).to_yaml(),
        stockpot.__version__,
        plan.layout.name,
        records,
        component_hashes(plan, digests) if known else {},
        content_hash(plan.infos, digests.outputs) if known else None,
        methods=_method_versions(plan.fold.recipe),
        dtypes=_dtypes(plan),
        device=plan.device,
    )
    told = tell(plan, ancestry, last)
    return {**told, TENSORS_KEY: table_of(digests.outputs)} if known else told


def tell(plan: Plan, ancestry: Ancestry, last: Step) -> dict[str, str]:
    """Metadata for the output of a step that is known in every part.

    Args:
        plan: What was done.
        ancestry: Of the plan.
        last: The step.

    Returns:
        As `describe`.
    """
    earlier: dict[str, Step] = {}
    labels = {}
    for name, record in sorted(last.inputs.items()):
        if record.made is not None and name in ancestry.histories:
            history = ancestry.histories[name]
            earlier |= {record.made: history.last, **history.earlier}
        # What an input says in other programs' terms holds while its weights are those it had.
        if record.made is not None or PROVENANCE_KEY not in plan.sources[name].metadata:
            labels[name] = ancestry.labels.get(name, Labels())
    pool = plan.fold.recipe.pool
    keys = {name: model_key(pool[name].sha256, record) for name, record in last.inputs.items()}
    predicts_v = _V_MARKER in plan.tensors
    return {
        "format": "pt",
        **modelspec_labels(plan.layout.name, sorted(last.inputs), predicts_v, labels),
        **a1111_labels(step_label(plan.fold, keys), keys, labels),
        **History(last, earlier).to_metadata(),
    }


def stand_in(plan: Plan, ancestry: Ancestry, hashes: bool) -> dict[str, str]:
    """Metadata of at least the length that `describe` will give, to reserve room with.

    Args:
        plan: What will be done.
        ancestry: Of the plan.
        hashes: Whether hashes will be computed.

    Returns:
        Strings only.
    """
    if not hashes:
        return describe(plan, ancestry, Digests({}, {}))
    outputs = dict.fromkeys(plan.tensors, _NO_HASH)
    inputs = {
        (name, key): _NO_HASH
        for name, components in ancestry.reads.items()
        for read in components.values()
        for key in read.keys
    }
    # Whether a history holds is known only when its model was read: the longest case counts.
    hopeful = {
        name: replace(history, last=replace(history.last, components={}))
        for name, history in ancestry.histories.items()
    }
    told = describe(plan, replace(ancestry, histories=hopeful), Digests(outputs, inputs))
    room = sum(len(history.to_json()) for history in ancestry.histories.values())
    # A model may then be told in our own words, where a parent's were expected; twice as long,
    # since quotes and backslashes are escaped once more in the header.
    more = sum(2 * len(a1111_labels({}, {n: _NO_HASH}, {})[MODELS_LABEL]) for n in plan.sources)
    return {
        **told,
        PROVENANCE_KEY: told[PROVENANCE_KEY] + " " * room,
        MODELS_LABEL: told[MODELS_LABEL] + " " * more,
    }


def untold(plan: Plan, ancestry: Ancestry, metadata: Mapping[str, str]) -> tuple[Problem, ...]:
    """Name the inputs whose history was not carried on, because they are not what it says.

    Args:
        plan: What was done.
        ancestry: Of the plan.
        metadata: What `describe` gave.

    Returns:
        A note for each of them.
    """
    written = read_history(metadata)
    if written is None or written.last.content is None:
        return ()
    return tuple(
        Problem(
            "changed-since",
            "its weights are not those that its recipe made: another program changed them, "
            "and its history is not carried on",
            plan.sources[name].name,
        )
        for name in ancestry.histories
        if written.last.inputs[name].made is None
    )


def component_hashes(plan: Plan, digests: Digests) -> dict[str, str]:
    """Content hash of each component of the output, with the components' prefixes taken off.

    Args:
        plan: What was done.
        digests: Hashes of all tensors.

    Returns:
        Hash by component, in the layout's order.
    """
    found = {}
    for component in plan.layout.components:
        infos = {
            key: tensor.info
            for key, tensor in plan.tensors.items()
            if tensor.cell.component == component.name
        }
        if infos:
            found[component.name] = content_hash(infos, digests.outputs, plan.layout.relative_key)
    return found


def _record(
    plan: Plan, name: str, reads: Mapping[str, Read], digests: Digests | None
) -> InputRecord:
    """What was read of one model; without digests no hash is claimed."""
    source, hashes, sizes = plan.sources[name], {}, {}
    for component, read in reads.items():
        infos = {key: source.tensors[key] for key in read.keys}
        found = {key: digests.inputs[name, key] for key in read.keys} if digests else None
        hashes[component] = content_hash(infos, found, plan.layout.relative_key) if found else None
        sizes[component] = (len(infos), sum(info.n_bytes for info in infos.values()))
    parts = {component: read.part for component, read in reads.items() if read.part is not None}
    return InputRecord(hashes, None, sizes, parts)


def _agrees(step: Step, record: InputRecord) -> bool:
    """Whether what was read is what a step made; parts of components cannot be compared."""
    return all(
        step.components.get(component, value) == value
        for component, value in record.components.items()
        if component not in record.parts
    )


def _reads(plan: Plan) -> dict[str, dict[str, Read]]:
    read: dict[str, dict[str, set[str]]] = {name: {} for name in plan.sources}
    for tensor in plan.tensors.values():
        for term in tensor.terms:
            read[term.model].setdefault(tensor.cell.component, set()).add(term.key)
    found: dict[str, dict[str, Read]] = {}
    for name, components in read.items():
        source = plan.sources[name]
        held: dict[str, list[str]] = {component: [] for component in components}
        for key in source.tensors:
            component = plan.layout.cell_of(key).component
            if component in held:
                held[component].append(key)
        found[name] = {
            component: _whole_or_part(plan.layout, source, sorted(held[component]), keys)
            for component, keys in sorted(components.items())
        }
    return found


def _whole_or_part(layout: Layout, source: Source, held: list[str], read: set[str]) -> Read:
    """All keys of a component where little else is in it; otherwise those that were read."""
    if sum(source.tensors[key].n_bytes for key in held if key not in read) <= _SMALL_BYTES:
        return Read(tuple(held))
    blocks: dict[str, list[str]] = defaultdict(list)
    for key in held:
        blocks[layout.cell_of(key).block].append(key)
    whole = {block for block, keys in blocks.items() if read.issuperset(keys)}
    single = [key for key in read if layout.cell_of(key).block not in whole]
    part = Part(tuple(sorted(whole)), tuple(sorted(map(layout.relative_key, single))))
    return Read(tuple(sorted(read)), part)


def _method_versions(recipe: Recipe) -> dict[str, int]:
    """Version of the meaning of each method that a recipe calls; sums count as one method."""
    rows = (find_function(name) for name in sorted(functions_in(recipe)))
    # A row without a version has not come to mean anything else yet.
    called = {row.name: int(getattr(row, "version", 1)) for row in rows if row and not row.linear}
    return {"linear": _LINEAR_VERSION, **called}


def _dtypes(plan: Plan) -> dict[str, str]:
    """Element types of each component, the most frequent first; integers have no say."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for tensor in plan.tensors.values():
        if tensor.info.dtype.is_float:
            found[tensor.cell.component][tensor.info.dtype.spoken] += 1
    return {
        component: "+".join(sorted(kinds, key=lambda kind: (-kinds[kind], kind)))
        for component, kinds in sorted(found.items())
    }


def _portable(recipe: Recipe) -> Recipe:
    """The recipe without paths; entries keep their names, which the expressions use."""
    recipe = canonical(recipe)
    pool = {
        name: PoolEntry(f"{name}.safetensors", entry.hash, entry.sha256)
        for name, entry in recipe.pool.items()
    }
    return replace(recipe, pool=pool, save=replace(recipe.save, file=None), origin=None)
