"""From an open checkpoint to all findings about it: its header, and its values where asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stockpot.checkpoints import (
    SafetensorsFile,
    Source,
    Stamps,
    TensorInfo,
    content_hash,
    file_hashes,
    hash_tensors,
)
from stockpot.errors import Problem
from stockpot.inspect.codes import CODES
from stockpot.inspect.header_checks import (
    check_header,
    find_traits,
    find_waste,
    is_wide,
    limited,
    position_ids,
)
from stockpot.inspect.identity import Identity, identify
from stockpot.inspect.inspection import ComponentFacts, Inspection, Waste

if TYPE_CHECKING:
    from stockpot.inspect.values import TensorValues

__all__ = ["Wanted", "inspect_checkpoint"]

_HALF = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much to read of a file; a header is always read.

    Attributes:
        components: Content hashes of the whole and of each component: reads every tensor once.
        file: Hashes of the whole file, as other tools have them: reads the file once more.
        deep: Look at the values: NaN, infinities, overflow, zeros, width. Gives the content
            hashes too, which cost little then.
        toolkit: The toolkit's numbers.

    Example:
        >>> Wanted(deep=True).covers(Wanted(components=True))
        True
    """

    components: bool = False
    file: bool = False
    deep: bool = False
    toolkit: bool = False

    @property
    def values(self) -> bool:
        """Whether tensors are read at all."""
        return self.components or self.deep or self.toolkit

    def covers(self, other: Wanted) -> bool:
        """Whether findings made with this tell all that is asked with another.

        Args:
            other: What is asked.
        """
        return (
            (self.values or not other.values)
            and (self.file or not other.file)
            and (self.deep or not other.deep)
            and (self.toolkit or not other.toolkit)
        )

    def __or__(self, other: Wanted) -> Wanted:
        return Wanted(
            self.components or other.components,
            self.file or other.file,
            self.deep or other.deep,
            self.toolkit or other.toolkit,
        )


def inspect_checkpoint(
    source: Source,
    wanted: Wanted = Wanted(),  # noqa: B008 - frozen
    *,
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> Inspection:
    """Find out what a checkpoint is and holds.

    Args:
        source: The open checkpoint. Only its header and its position ids are read unless more is
            wanted.
        wanted: How much to read.
        progress: Called with the bytes that were just read.

    Returns:
        The findings.

    Raises:
        CheckpointError: The tensors cannot be read.

    Example:
        >>> from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo
        >>> info = TensorInfo("a", DTYPES["F16"], (2,))
        >>> found = inspect_checkpoint(MemorySource({"a": (info, bytes(4))}))
        >>> found.architecture, found.components["model"].n_params
        ('generic', 2)
    """
    identity = identify({key: info.shape for key, info in source.tensors.items()}, source.metadata)
    found = _from_header(source, identity)
    if wanted.values:
        found = _with_values(source, identity, found, wanted, progress)
    # A checkpoint of several files has no hash that other tools would know.
    if wanted.file and len(source.files) == 1:
        found = replace(found, file_hashes=file_hashes(source.files[0]))
        # It was opened by its name again.
        Stamps([source]).check(by_name=True)
    return found


def _from_header(source: Source, identity: Identity) -> Inspection:
    members: dict[str, list[TensorInfo]] = {
        component.name: [] for component in identity.layout.components
    }
    for key, info in source.tensors.items():
        members.setdefault(identity.component_of(key), []).append(info)
    missing_in = identity.detection.fit.missing_in
    components = {
        name: ComponentFacts(
            name,
            len(infos),
            sum(info.n_elements for info in infos),
            sum(info.n_bytes for info in infos),
            dict(Counter(info.dtype.name for info in infos).most_common()),
            len(missing_in.get(name, ())),
        )
        for name, infos in members.items()
        if infos
    }
    counters, problems = position_ids(source, identity)
    traits = find_traits(source, identity, counters)
    problems += check_header(source, identity, members, traits)
    problems += (Problem("file", note) for note in source.notes)
    is_whole = identity.kind == "checkpoint"
    return Inspection(
        source.name,
        identity.kind,
        identity.title,
        identity.architecture,
        identity.evidence,
        sum(info.n_bytes for info in source.tensors.values()),
        components,
        identity.detection.fit.missing_components if is_whole else (),
        {one.title: len(one.keys) for one in identity.foreign},
        identity.facts,
        traits,
        find_waste(members),
        _sorted(problems),
        dict(source.metadata),
    )


def _sorted(problems: list[Problem]) -> tuple[Problem, ...]:
    order = {code: number for number, code in enumerate(CODES)}
    return tuple(sorted(problems, key=lambda problem: order[problem.code]))


def _with_values(
    source: Source,
    identity: Identity,
    found: Inspection,
    wanted: Wanted,
    progress: Callable[[int], None],
) -> Inspection:
    # numpy takes a while to load, and a header needs none.
    from stockpot.inspect.toolkit import Toolkit
    from stockpot.inspect.values import Survey

    survey = Survey() if wanted.deep else None
    toolkit = (
        Toolkit(
            identity.architecture,
            lambda key: (identity.component_of(key), identity.relative_key(key)),
        )
        if wanted.toolkit
        else None
    )
    watchers = [one.watch for one in (survey, toolkit) if one is not None]

    def watch(info: TensorInfo, piece: memoryview) -> None:
        for look in watchers:
            look(info, piece)

    digests = hash_tensors(source, _in_order(source), progress, watch if watchers else None)
    members: dict[str, dict[str, TensorInfo]] = {}
    for key, info in source.tensors.items():
        members.setdefault(identity.component_of(key), {})[key] = info
    components = {
        name: replace(facts, hash=content_hash(members[name], digests, identity.relative_key))
        for name, facts in found.components.items()
    }
    found = replace(
        found,
        components=components,
        content_hash=content_hash(source.tensors, digests),
        toolkit=toolkit.text() if toolkit else None,
    )
    return _with_survey(source, identity, found, survey.found) if survey else found


def _in_order(source: Source) -> list[str]:
    """Keys as they stand in the file, so that a disk reads from end to end."""
    if isinstance(source, SafetensorsFile):
        return sorted(source.tensors, key=source.header.offsets.__getitem__)
    return list(source.tensors)


def _with_survey(
    source: Source, identity: Identity, found: Inspection, seen: dict[str, TensorValues]
) -> Inspection:
    problems: dict[str, list[Problem]] = {}

    def add(code: str, message: str, key: str) -> None:
        remedy = "stockpot repair --base takes them from another file"
        problems.setdefault(code, []).append(
            Problem(code, message, key, remedy if CODES[code].repair else "")
        )

    lossless = lossless_tensors = 0
    for key, values in seen.items():
        info = source.tensors[key]
        n = info.n_elements
        for code, count in (("nan", values.n_nan), ("inf", values.n_inf)):
            if count:
                add(code, f"{count:,} of {n:,} values", key)
        if values.n_over:
            message = f"{values.n_over:,} of {n:,} values are above 65504 and become infinite"
            add("fp16-overflow", f"{message} in fp16", key)
        spec = identity.layout.spec_of(identity.prefix + key)
        if values.all_zero and n > 1 and (spec is None or spec.role == "weight"):
            add("all-zero", f"all {n:,} values are zero", key)
        if values.fits_half and is_wide(identity.component_of(key), info):
            lossless += info.n_bytes - n * _HALF
            lossless_tensors += 1
    if lossless:
        problems["lossless-fp16"] = [
            Problem(
                "lossless-fp16",
                f"{lossless_tensors} tensors hold nothing that fp16 would not hold; they would "
                f"take {lossless:,} bytes less",
                "",
                "stockpot merge -e a --dtype fp16 makes them narrower",
            )
        ]
    listed = [one for code, many in problems.items() for one in limited(code, many)]
    waste = Waste(found.waste.ema, found.waste.wide, lossless)
    return replace(found, problems=_sorted([*found.problems, *listed]), waste=waste, deep=True)
