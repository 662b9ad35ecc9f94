"""From payloads to an exam."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from stockpot.draw import Wildcards, parse_payload, read_json, split_request
from stockpot.errors import Problem, RequestError
from stockpot.tune.exam import Exam, Task, filled, hashed_seed, repeated_name, reseeded
from stockpot.tune.varying import check_variants, list_variants

__all__ = ["WILDCARD_TYPES", "read_exam"]

WILDCARD_TYPES = ("none", "random", "combinatorial")
"""What a payload's ``wildcard_type`` may say: its prompts as they stand; one of the prompts that
they stand for, by the task's seed; or these one after the other. AutoMBW has two more: ``jinja2``
(a programming language) and ``lucky`` (prompts from a web site), which are refused."""


def read_exam(
    paths: Iterable[Path],
    *,
    repeats: int = 1,
    seed: int | None = None,
    size: tuple[int, int] | None = None,
    size_scale: float | None = None,
    steps: int | None = None,
    hires: bool = True,
    lists: Wildcards | None = None,
) -> Exam:
    """Read payloads as an exam.

    Each payload gives ``n_iter × batch_size`` tasks, with the seeds that a web UI gives their
    pictures. Besides a request's own fields a payload may have ``score_prompt``, and AutoMBW's
    ``wildcard_type`` (see `WILDCARD_TYPES`; each of its ``n_iter`` batches has its own prompt) and
    ``reverse_scoring``.

    Args:
        paths: JSON files, each with one payload or a list of them, and folders of such files.
        repeats: Draw each picture so many times, with further seeds. More repeats keep the tasks
            that fewer have.
        seed: Derive all seeds from this one; None keeps the payloads' own.
        size: Width and height of all pictures (of the first pass), instead of the payloads'.
        size_scale: Multiply all sizes, for models that draw smaller pictures; rounded to
            multiples of 8.
        steps: Of all pictures, in both passes, instead of the payloads'.
        hires: False leaves the second pass out.
        lists: Lines for ``__name__``, by name; see `stockpot.draw.read_wildcards`.

    Returns:
        The exam.

    Raises:
        RequestError: A file cannot be read, or asks for the impossible; all problems at once.
    """
    if repeats < 1:
        raise RequestError([Problem("repeats", f"must be at least 1, but got {repeats}")])
    problems: list[Problem] = []
    notes: list[Problem] = []
    rows: list[list[list[Task]]] = []
    for name, payload, where in _payloads(paths, problems):
        try:
            made, told = _tasks(name, payload, where, lists or {})
            made = [_changed(task, size, size_scale, steps, hires) for task in made]
        except RequestError as error:
            problems += error.problems
            continue
        notes += told
        rows.append([[_again(task, len(made), n, seed) for n in range(repeats)] for task in made])
    if not rows and not problems:
        problems.append(Problem("empty", "an exam needs at least one payload, but there is none",
                                remedy="name JSON files, or folders that hold some"))  # fmt: skip
    if problems:
        raise RequestError(problems)
    order = [
        row[number][again]
        for again in range(repeats)
        for number in range(max(map(len, rows)))
        for row in rows
        if number < len(row)
    ]
    return Exam(tuple(filled(task, lists or {}) for task in order), tuple(notes), lists)


def _payloads(
    paths: Iterable[Path], problems: list[Problem]
) -> list[tuple[str, Mapping[str, Any], str]]:
    """Name, content, and place for messages, of each payload of all files."""
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            problems.append(Problem("empty", "the folder has no .json file", str(path)))
        files.update(dict.fromkeys(inside))
    found: list[tuple[str, Mapping[str, Any], str]] = []
    for file, name in zip(files, _names(list(files)), strict=True):
        try:
            content = read_json(file)
        except RequestError as error:
            problems.extend(error.problems)
            continue
        several = isinstance(content, list)
        for number, payload in enumerate(content if several else [content]):
            place = f"{file}: {number}" if several else str(file)
            if not isinstance(payload, dict):
                problems.append(Problem("no-object", "a payload is one JSON object, or a list of "
                                        "such, but this is not", place))  # fmt: skip
                continue
            found.append((f"{name}:{number}" if several else name, payload, place))
    return found


def _names(files: Sequence[Path]) -> list[str]:
    """File names; with as many folders in front as tell them apart."""
    names = [file.name for file in files]
    for depth in range(2, max((len(file.parts) for file in files), default=0) + 1):
        twins = {name for name in names if names.count(name) > 1}
        if not twins:
            break
        names = ["/".join(file.parts[-depth:]) if name in twins else name
                 for file, name in zip(files, names, strict=True)]  # fmt: skip
    return names


def _tasks(
    name: str, payload: Mapping[str, Any], where: str, lists: Wildcards
) -> tuple[list[Task], list[Problem]]:
    """One task for each picture of a payload, wildcards of kind ``random`` not yet filled."""
    problems: list[Problem] = []
    kind = payload.get("wildcard_type") or "none"
    if kind not in WILDCARD_TYPES:
        problems.append(Problem(
            "wildcard", f"`wildcard_type` must be one of {', '.join(WILDCARD_TYPES)}, but is "
            f"{kind!r}", f"{where}: wildcard_type", "write the prompts out"))  # fmt: skip
    reverse = payload.get("reverse_scoring") or False
    if not isinstance(reverse, bool):
        problems.append(Problem("payload", f"true or false is needed, but got {reverse!r}",
                                f"{where}: reverse_scoring"))  # fmt: skip
    asked = payload.get("score_prompt")
    if asked is not None and not isinstance(asked, str):
        problems.append(Problem("payload", f"a text is needed, but got {asked!r}",
                                f"{where}: score_prompt"))  # fmt: skip
    own = ("wildcard_type", "reverse_scoring", "score_prompt")
    try:
        read = parse_payload({k: v for k, v in payload.items() if k not in own}, where)
    except RequestError as error:
        raise RequestError([*error.problems, *problems]) from error
    if problems:
        raise RequestError(problems)
    request, notes = read.request, list(read.notes)
    if request.seed < 0:
        request = replace(request, seed=hashed_seed(f"seed of {name}"))
        notes.append(Problem("seed", "a payload without a seed gets one from its name, so that all "
                             f"candidates draw the same: {request.seed}", where))  # fmt: skip
    # How many at once is the examiner's business.
    batch = request.settings.batch
    request = replace(request, settings=replace(request.settings, batch=1))
    pairs = [(request.prompt, request.settings.negative)]
    n_prompts = request.n_pictures // batch
    for text in pairs[0] if kind != "none" else ():
        check_variants(text, lists)
    if kind == "combinatorial":
        prompts = list(islice(list_variants(pairs[0][0], lists), n_prompts))
        negatives = list(islice(list_variants(pairs[0][1], lists), n_prompts))
        n = max(len(prompts), len(negatives))
        pairs = [(prompts[i % len(prompts)], negatives[i % len(negatives)]) for i in range(n)]
        if n < n_prompts:
            notes.append(Problem("wildcard", f"{n_prompts} prompts are asked for, and there are "
                                 f"{n}; each is drawn once", where))  # fmt: skip
    tasks = []
    for i, single in enumerate(split_request(request)[0]):
        if kind == "combinatorial" and i // batch >= len(pairs):
            break
        prompt, negative = pairs[i // batch % len(pairs)]
        single = replace(
            single, prompt=prompt, settings=replace(single.settings, negative=negative)
        )
        template = (prompt, negative) if kind == "random" else None
        tasks.append(Task(f"{name}#{i}", name, single, asked, reverse, template))
    return tasks, notes


def _changed(
    task: Task,
    size: tuple[int, int] | None,
    size_scale: float | None,
    steps: int | None,
    hires: bool,
) -> Task:
    request = task.request
    second = request.settings.hires if hires else None
    if second is not None and second.steps and steps:
        second = replace(second, steps=steps)
    if second is not None and size is not None:  # what it enlarges by stays
        second = replace(second, width=0, height=0)
    try:
        width, height = size or (request.settings.width, request.settings.height)
        settings = replace(request.settings, hires=second, width=width, height=height,
                           steps=steps or request.settings.steps)  # fmt: skip
    except ValueError as error:
        raise RequestError([Problem("settings", str(error), task.name)]) from error
    request = replace(request, settings=settings)
    return replace(task, request=request.scaled(size_scale, 8) if size_scale else request)


def _again(task: Task, n_pictures: int, again: int, seed: int | None) -> Task:
    """A repeat: its seed goes on where the payload's pictures end."""
    name = repeated_name(task.name, again)
    if seed is not None:
        return replace(reseeded(task, hashed_seed(f"{seed}/{name}")), name=name)
    further = again * n_pictures
    settings = task.request.settings
    if settings.variation:
        settings = replace(settings, variation_seed=settings.variation_seed + further)
        return replace(task, name=name, request=replace(task.request, settings=settings))
    request = replace(task.request, seed=task.request.seed + further)
    return replace(task, name=name, request=request)
