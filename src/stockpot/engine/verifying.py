"""Whether a file is what it says: its bytes, its recipe, and the inputs that it names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import stockpot
from stockpot.checkpoints import Source, content_hash, hash_tensors
from stockpot.engine.history import History, Step, read_history
from stockpot.engine.labels import RECIPE_LABEL, model_key, step_label
from stockpot.engine.merging import Settings
from stockpot.engine.progress import Meter, ProgressCallback
from stockpot.engine.remaking import find_damage
from stockpot.engine.replaying import Route, find_route, recompute
from stockpot.engine.shelf import Shelf, as_seen
from stockpot.engine.stopping import heeding
from stockpot.errors import CheckpointError, Problem, StockpotError
from stockpot.layouts import get_layout
from stockpot.recipes import fold, parse_recipe

__all__ = ["InputFound", "Verdict", "verify"]


@dataclass(frozen=True, slots=True)
class InputFound:
    """Where a model that the last step read is now.

    Attributes:
        name: In the recipe.
        state: ``found``; ``made again`` from its own inputs; or ``missing``.
        path: The file; empty where there is none.
    """

    name: str
    state: Literal["found", "made again", "missing"]
    path: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a check of a file found.

    Attributes:
        answer: ``agrees``, ``no recipe``, or the gravest fault: ``differs`` (the bytes are not
            those recorded), ``edited`` (the record or a recipe was changed by hand), ``inputs``
            (a model is missing, or another has its name), ``recipe`` (the recipe makes other
            weights).
        problems: All faults.
        recorded: Hash of each component, as the file says.
        actual: Hash of each component, as its bytes say.
        inputs: The last step's models; empty where no pool was searched.
        recomputed: Whether the recipe was run again, on every tensor.
        damaged: Tensors that are not what was written, where the file says what each was.
    """

    answer: Literal["agrees", "no recipe", "differs", "edited", "inputs", "recipe"]
    problems: tuple[Problem, ...] = ()
    recorded: Mapping[str, str] = field(default_factory=dict)
    actual: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[InputFound, ...] = ()
    recomputed: bool = False
    damaged: tuple[str, ...] = ()


_GRAVEST = ("differs", "edited", "inputs", "recipe")


def verify(
    file: Source,
    folder: str | os.PathLike[str] | None = None,
    *,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    progress: ProgressCallback | None = None,
) -> Verdict:
    """Compare a file with what it says of itself.

    Args:
        file: The checkpoint; all of it is read.
        folder: Where its inputs are, under any names. With it, every input is compared with the
            hashes recorded for it, and the recipe is run again in full, not on a sample, its
            result compared with the file's. Nothing is written but temporary files.
        settings: Memory and threads of that run.
        progress: Is told how far each stage is.

    Returns:
        What agrees and what does not.

    Raises:
        CheckpointError: The file cannot be read, or its record is not well-formed.
    """
    file = as_seen(file)
    history = read_history(file.metadata, file.name)
    step = history.last if history is not None else None
    n_bytes = sum(info.n_bytes for info in file.tensors.values())
    if history is None or step is None or step.content is None:
        return Verdict("no recipe")
    layout = get_layout(step.layout)
    told = heeding(progress, settings.stop)
    digests = hash_tensors(file, progress=Meter("reading", n_bytes, told).add)
    keys: dict[str, list[str]] = {component.name: [] for component in layout.components}
    for key in file.tensors:
        keys[layout.cell_of(key).component].append(key)
    actual = {
        component: content_hash(
            {key: file.tensors[key] for key in members}, digests, layout.relative_key
        )
        for component, members in keys.items()
        if members
    }
    problems = [*_bytes(step, actual, content_hash(file.tensors, digests)), *_record(file, history)]
    inputs: tuple[InputFound, ...] = ()
    recomputed = False
    if folder is not None:
        shelf = Shelf(folder, file.files[0] if len(file.files) == 1 else None, told)
        route = find_route(history, shelf)
        inputs = tuple(_inputs(route))
        problems += _strangers(route, shelf, inputs)
        if not route.missing:
            recomputed = True
            problems += _rerun(route, file.metadata, settings, progress)
    codes = {problem.code for problem in problems}
    answer = next((code for code in _GRAVEST if code in codes), "agrees")
    damaged = (find_damage(file.metadata, digests) or ()) if answer == "differs" else ()
    return Verdict(
        answer, tuple(problems), step.components, actual, inputs, recomputed, damaged  # type: ignore[arg-type]
    )  # fmt: skip


def _bytes(step: Step, actual: Mapping[str, str], content: str) -> Iterator[Problem]:
    wrong = [name for name in step.components if actual.get(name) != step.components[name]]
    for name in wrong:
        now = (actual.get(name) or "nothing")[:16]
        was = step.components[name][:16]
        yield Problem("differs", f"its recipe made {was}, but here is {now}", name)
    for name in actual:
        if name not in step.components:
            yield Problem("differs", "its recipe makes none, but there is one", name)
    if not wrong and actual.keys() == step.components.keys() and content != step.content:
        yield Problem("differs", "keys were renamed, or the record contradicts itself", "content")


def _record(file: Source, history: History) -> Iterator[Problem]:
    if not history.intact:
        yield Problem("edited", "the recipe, or the record beside it, was changed after the merge")
    label = file.metadata.get(RECIPE_LABEL)
    # How a step is said in A1111's terms may change from version to version.
    if label is not None and history.last.version == stockpot.__version__:
        try:
            told, expected = json.loads(label), _label(history.last)
        except (ValueError, RecursionError, StockpotError):
            return
        if told != expected:
            yield Problem("edited", "it does not say what the recipe says", RECIPE_LABEL)


def _label(step: Step) -> object:
    recipe = parse_recipe(step.recipe)
    keys = {
        name: model_key(recipe.pool[name].sha256, record) for name, record in step.inputs.items()
    }
    return json.loads(json.dumps(step_label(fold(recipe, get_layout(step.layout)), keys)))


def _inputs(route: Route) -> Iterator[InputFound]:
    possible: set[str] = set()
    for key in route.rebuilt:
        inputs = route.history.earlier[key].inputs
        if all((key, n) in route.found or r.made in possible for n, r in inputs.items()):
            possible.add(key)
    for name, record in sorted(route.history.last.inputs.items()):
        book = route.found.get(("", name))
        if book is not None:
            yield InputFound(name, "found", str(book.path))
        elif record.made in possible:
            yield InputFound(name, "made again")
        else:
            yield InputFound(name, "missing")


def _strangers(route: Route, shelf: Shelf, inputs: tuple[InputFound, ...]) -> list[Problem]:
    problems = [
        Problem("inputs", problem.message, problem.where, problem.remedy)
        for problem in route.missing
    ]
    told = {problem.where for problem in route.missing}
    for found in inputs:
        where = f"model {found.name!r}"
        if found.state != "found" and where not in told:
            problems += [
                Problem("inputs", f"{path} has its name and holds something else", where)
                for path in shelf.named(found.name)
            ]
    return problems


def _rerun(
    route: Route,
    metadata: Mapping[str, str],
    settings: Settings,
    progress: ProgressCallback | None,
) -> Iterator[Problem]:
    recorded = route.history.last.content
    try:
        made = recompute(route, metadata, settings=settings, progress=progress)
    except CheckpointError as error:
        yield Problem("recipe", str(error))
        return
    except StockpotError as error:
        yield Problem("recipe", f"it cannot be run on these inputs: {error}")
        return
    if made != recorded:
        yield Problem("recipe", f"it should make {str(recorded)[:16]}, but makes {made[:16]}")
