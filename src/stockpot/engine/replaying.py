"""Making a file again from the record that it carries of itself.

The inputs are found by what they hold. A model that an earlier step made is used where it is at
hand, and else made again from its own inputs: as a view where that step only chose tensors, in
memory while the budget allows, and in a temporary file otherwise. (Folding it into the
next step would save that, and would round once where the file was rounded twice: other bytes.)
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stockpot.checkpoints import (
    MemorySource,
    SafetensorsFile,
    Source,
    content_hash,
    open_checkpoint,
)
from stockpot.engine.again import check_again, device_name
from stockpot.engine.forms import arranged
from stockpot.engine.history import History, InputRecord, Step, read_history
from stockpot.engine.labels import MODELS_LABEL, PREDICTION_LABEL
from stockpot.engine.merging import (
    Again,
    MergeResult,
    Settings,
    compute,
    merge,
    merge_in_memory,
)
from stockpot.engine.plan import Plan
from stockpot.engine.planning import make_plan
from stockpot.engine.progress import ProgressCallback
from stockpot.engine.retelling import Discarded, PlannedSource, Retold
from stockpot.engine.shelf import Book, Shelf
from stockpot.engine.stopping import heeding
from stockpot.engine.tensor_tables import TENSORS_KEY
from stockpot.errors import (
    CheckpointError,
    OutputError,
    OutputExistsError,
    PreflightError,
    Problem,
    UnknownNameError,
)
from stockpot.layouts import Layout, get_layout
from stockpot.recipes import Recipe, parse_recipe

__all__ = ["Route", "find_route", "prepared", "recompute", "replay"]

_LAST = ""
"""Name of a file's own step, among the content hashes that name the others."""

_RUN_BYTES = 128 << 20
"""What is left to the steps themselves before half of the rest holds intermediates."""


@dataclass(frozen=True)
class Route:
    """How to make a file again from what is at hand.

    Attributes:
        history: What the file says of itself.
        found: Checkpoints that are read, by step and name in its recipe.
        rebuilt: Steps to do again before the last, each after those that it reads.
        missing: Models that are not at hand and cannot be made.
    """

    history: History
    found: Mapping[tuple[str, str], Book]
    rebuilt: tuple[str, ...]
    missing: tuple[Problem, ...]

    def step(self, key: str) -> Step:
        """Look a step up.

        Args:
            key: Content hash of what it made; empty for the last one.
        """
        return self.history.earlier[key] if key else self.history.last


def find_route(history: History, shelf: Shelf) -> Route:
    """Find the inputs of a file, through as many earlier steps as are not at hand.

    Args:
        history: What the file says of itself.
        shelf: Where to look.

    Returns:
        What was found, what must be made again, and what is missing.

    Raises:
        CheckpointError: The record cannot be true, or was made without hashes.
    """
    found: dict[tuple[str, str], Book] = {}
    missing: dict[tuple[str, ...], Problem] = {}
    rebuilt: list[str] = []
    opened: set[str] = set()
    # Twice on the stack: first to look for its inputs, then, when those are settled, to be done.
    stack: list[tuple[str, bool]] = [(_LAST, False)]
    while stack:
        key, is_settled = stack.pop()
        if is_settled:
            rebuilt.append(key)
            continue
        if key in opened:
            continue
        opened.add(key)
        stack.append((key, True))
        step = history.earlier[key] if key else history.last
        layout = _layout(step)
        for name, record in sorted(step.inputs.items()):
            if None in record.components.values():
                raise CheckpointError(
                    f"the record of {name!r} has no hashes (it was merged with --no-hash), so "
                    "nothing can be found by them"
                )
            book = shelf.find(name, record, layout)
            if book is not None:
                found[key, name] = book
            elif record.made in history.earlier:
                stack.append((str(record.made), False))
            else:
                hashes = tuple(str(value) for value in record.components.values())
                missing.setdefault(hashes, _missing(name, record, shelf))
    # A hostile table may have a step that reads what is made from it.
    if _has_circle(history, rebuilt, found):
        raise CheckpointError("the record goes in a circle: a step reads what was made of it")
    return Route(history, found, tuple(rebuilt[:-1]), tuple(missing.values()))


def replay(
    file: Source,
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    progress: ProgressCallback | None = None,
    search: Shelf | None = None,
) -> MergeResult:
    """Make a file again, byte for byte, from inputs that are known by what they hold.

    Args:
        file: The checkpoint; only its metadata are read.
        folder: Where the inputs are, under any names; searched with the folders below.
        output: Name of the new file.
        settings: Memory, threads, checks. Hashes are always computed.
        progress: Is told how far each stage is.
        search: The folder's checkpoints, where they were looked up before.

    Returns:
        What was made; its content hash is the recorded one.

    Raises:
        CheckpointError: The file carries no recipe, or one that cannot be replayed.
        PreflightError: Models are missing, all of them at once.
        OutputExistsError: The output is there already.
        OutputError: The output cannot be written.
        VerificationError: The recipe makes other weights than those recorded; nothing was saved.
    """
    history = _history(file)
    path = Path(output)
    if path.exists() and not settings.overwrite:
        raise OutputExistsError(f"{path} is there already; use another name, or --overwrite")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the output's folder must exist; make it first")
    shelf = search or Shelf(folder, _own_file(file), heeding(progress, settings.stop))
    route = find_route(history, shelf)
    settings = replace(settings, hashes=True, sha256=False)
    header_bytes = file.header.n_bytes if isinstance(file, SafetensorsFile) else 0
    with prepared(route, file.metadata, path.parent, settings, progress) as (
        recipe,
        sources,
        rest,
    ):
        again = Again(history.last, header_bytes, TENSORS_KEY in file.metadata)
        return merge(recipe, output, sources=sources, settings=rest, progress=progress, again=again)


def recompute(
    route: Route,
    metadata: Mapping[str, str],
    *,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    progress: ProgressCallback | None = None,
) -> str:
    """Do what a file's recipe says, keep nothing, and hash what would have been written.

    Args:
        route: How, with nothing missing.
        metadata: Of the file.
        settings: Memory, threads.
        progress: Is told how far each stage is.

    Returns:
        The content hash of every tensor that the recipe makes; none is left out or sampled.

    Raises:
        PreflightError: Models are missing, or the recipe does not fit them.
        VerificationError: An earlier step that had to be done again makes other weights.
    """
    settings = replace(settings, hashes=True, sha256=False)
    place = Path(tempfile.gettempdir())
    with prepared(route, metadata, place, settings, progress) as (recipe, sources, rest):
        plan = _planned(recipe, sources, route.history.last)
        return content_hash(
            plan.infos, compute(plan, Discarded(plan.infos), rest, progress).outputs
        )


@contextmanager
def prepared(
    route: Route,
    metadata: Mapping[str, str],
    place: Path,
    settings: Settings,
    progress: ProgressCallback | None,
) -> Iterator[tuple[Recipe, dict[str, Source], Settings]]:
    """Open or make all that the last step reads; what was made goes away at the end.

    Args:
        route: How to come by it.
        metadata: Of the file.
        place: A folder for intermediates that do not fit the memory.
        settings: Memory, threads.
        progress: Is told how far each stage is.

    Yields:
        The last step's recipe, what it reads, and what is left of the memory.

    Raises:
        PreflightError: Models are missing.
        VerificationError: An earlier step that had to be done again makes other weights.
    """
    if route.missing:
        raise PreflightError(route.missing)
    with ExitStack() as stack:
        workshop = _Workshop(route, place, settings, progress, stack)
        for key in route.rebuilt:
            workshop.make(key)
        sources = _with_labels(workshop.sources(_LAST), metadata)
        last = route.history.last
        yield parse_recipe(last.recipe), sources, workshop.settings_of(last)


class _Workshop:
    """Makes intermediates, and keeps each until the last step that reads it is done."""

    def __init__(
        self,
        route: Route,
        place: Path,
        settings: Settings,
        progress: ProgressCallback | None,
        stack: ExitStack,
    ) -> None:
        self._route, self._place, self._progress = route, place, progress
        self._all, self._held = settings, 0
        self._stack = stack
        self._folder: Path | None = None
        self._opened: dict[tuple[Path, bool], Source] = {}
        self._made: dict[str, Source] = {}
        self._viewed: dict[str, list[str]] = {}
        self._readers = Counter(
            made for key in (*route.rebuilt, _LAST) for made in self._made_inputs(key)
        )
        stack.callback(self._close)

    @property
    def settings(self) -> Settings:
        """What is left for a step to run with."""
        return replace(self._all, memory=self._all.memory - self._held)

    def settings_of(self, step: Step) -> Settings:
        """The same on the device on which a step was done: another may give other last digits."""
        return replace(self.settings, device=device_name(step))

    def sources(self, key: str) -> dict[str, Source]:
        """What a step reads, each telling of itself what it told then."""
        history, found = self._route.history, {}
        for name, record in self._route.step(key).inputs.items():
            book = self._route.found.get((key, name))
            if book is None:
                source = self._made[str(record.made)]
            else:
                place = book.path, book.adapter
                if place not in self._opened:
                    self._opened[place] = self._stack.enter_context(book.open())
                source = self._opened[place]
            step = history.earlier.get(record.made or "")
            # Only what the last step is told ends in a file.
            told = history.of(step) if step and key == _LAST else step and History(step, {})
            # A file that was made for this will have another date when it is made once more.
            known = str(record.made) if book is None else ""
            found[name] = Retold(source, told.to_metadata() if told else {}, known)
        return dict(found)

    def make(self, key: str) -> None:
        """Do an earlier step again."""
        step, sources = self._route.step(key), self.sources(key)
        recipe = parse_recipe(step.recipe)
        plan = _planned(recipe, sources, step)
        if PlannedSource.fits(plan):
            self._made[key] = PlannedSource(plan, f"step {key[:12]}")
            self._viewed[key] = self._made_inputs(key)
            return
        if self._held + plan.written_bytes <= (self._all.memory - _RUN_BYTES) // 2:
            self._held += plan.written_bytes
            result = merge_in_memory(
                recipe, sources, settings=self.settings_of(step), progress=self._progress
            )
            check_again(step, result.metadata, f"step {key[:12]}")
            self._made[key] = result
        else:
            path = self._temporary() / f"{key}.safetensors"
            merge(
                recipe,
                path,
                sources=sources,
                settings=replace(self.settings_of(step), journal=False),
                progress=self._progress,
                again=Again(step),
            )
            self._made[key] = open_checkpoint(path)
        for made in self._made_inputs(key):
            self._release(made)

    def _made_inputs(self, key: str) -> list[str]:
        return sorted(
            {
                str(record.made)
                for name, record in self._route.step(key).inputs.items()
                if (key, name) not in self._route.found
            }
        )

    def _release(self, key: str) -> None:
        self._readers[key] -= 1
        if self._readers[key]:
            return
        source = self._made.pop(key)
        if isinstance(source, MemorySource):
            self._held -= sum(info.n_bytes for info in source.tensors.values())
        source.close()
        if self._folder is not None:
            (self._folder / f"{key}.safetensors").unlink(missing_ok=True)
        for made in self._viewed.pop(key, []):
            self._release(made)

    def _temporary(self) -> Path:
        if self._folder is None:
            name = tempfile.TemporaryDirectory(".replay", dir=self._place)
            # Before the sources are closed it could not be removed everywhere.
            self._folder = Path(self._stack.enter_context(name))
            self._stack.callback(self._close)
        return self._folder

    def _close(self) -> None:
        for source in self._made.values():
            source.close()


def _with_labels(sources: dict[str, Source], metadata: Mapping[str, str]) -> dict[str, Source]:
    """Let the inputs say what other tools recorded of them, as far as the file remembers it.

    A1111's records of raw models were in the files that were merged then; those at hand may have
    lost them. All of them stand in the file's own map.
    """
    told = {name: metadata[name] for name in (PREDICTION_LABEL,) if name in metadata}
    found: dict[str, Source] = {}
    for number, (name, source) in enumerate(sorted(sources.items())):
        more = {MODELS_LABEL: metadata[MODELS_LABEL]} if MODELS_LABEL in metadata else {}
        labels = {**told, **(more if number == 0 else {})}
        found[name] = Retold(source, {**source.metadata, **labels})
    return found


def _planned(recipe: Recipe, sources: Mapping[str, Source], step: Step) -> Plan:
    plan, _ = arranged(make_plan(recipe, sources))
    if plan.layout.name != step.layout:
        raise PreflightError(
            [
                Problem(
                    "layout",
                    f"the step was done for the layout {step.layout}, but the files at hand are "
                    f"of {plan.layout.name}",
                    remedy="put the whole checkpoints into the pool, not their components alone",
                )
            ]
        )
    return plan


def _missing(name: str, record: InputRecord, shelf: Shelf) -> Problem:
    hashes = ", ".join(f"{part} {value}" for part, value in record.components.items())
    others = ", ".join(str(path) for path in shelf.named(name))
    but = f"; {others} has its name and holds something else" if others else ""
    if shelf.notes:
        but += f"; {len(shelf.notes)} files there cannot be read, such as {shelf.notes[0].message}"
    return Problem(
        "missing-model",
        f"no file in {shelf.folder} holds it (content hashes: {hashes}){but}",
        f"model {name!r}",
        "put the file into the folder, under any name",
    )


def _has_circle(
    history: History, rebuilt: list[str], found: Mapping[tuple[str, str], Book]
) -> bool:
    done: set[str] = set()
    for key in rebuilt:
        step = history.earlier[key] if key else history.last
        needs = {str(r.made) for n, r in step.inputs.items() if (key, n) not in found}
        if not needs & history.earlier.keys() <= done:
            return True
        done.add(key)
    return False


def _history(file: Source) -> History:
    history = read_history(file.metadata, file.name)
    if history is None:
        raise CheckpointError(
            f"{file.name}: there is no recipe of Stockpot in it, so it cannot be made again; "
            "`stockpot recipe import` reads what other tools wrote"
        )
    if history.last.content is None:
        raise CheckpointError(
            f"{file.name}: its recipe has no hashes (it was merged with --no-hash), so its inputs "
            "cannot be found"
        )
    return history


def _layout(step: Step) -> Layout:
    try:
        return get_layout(step.layout)
    except UnknownNameError as error:
        raise CheckpointError(f"the record names a layout of another version: {error}") from error


def _own_file(file: Source) -> Path | None:
    return file.files[0] if len(file.files) == 1 else None
