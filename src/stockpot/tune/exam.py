"""The exam: the tasks that every candidate draws, the same ones with the same seeds.

Differences between candidates are then differences between pictures of one prompt and one noise
(common random numbers), which need far fewer pictures to be seen than differences of averages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from stockpot.draw import DrawSettings, Request, Wildcards, parse_payload, split_request
from stockpot.errors import Problem, RequestError
from stockpot.tune.varying import list_variants, pick_variant

__all__ = ["WILDCARD_TYPES", "Exam", "Task", "read_exam"]

WILDCARD_TYPES = ("none", "random", "combinatorial")
"""What a payload's ``wildcard_type`` may say: its prompts as they stand; one of the prompts that
they stand for, by the task's seed; or these one after the other. AutoMBW has two more: ``jinja2``
(a programming language) and ``lucky`` (prompts from a web site), which are refused."""

_SEEDS = 1 << 32


@dataclass(frozen=True, slots=True)
class Task:
    """One picture that every candidate is asked for.

    Attributes:
        name: Unique in the exam and stable: ``saree.json#0`` is the first picture of a payload,
            ``saree.json#0.1`` its second repeat, ``saree.json#0~7`` what the exam held out with
            seed 7 has in its place.
        payload: Its payload's name; tasks of one payload are no independent prompts.
        request: One picture, its own seed, its prompt without wildcards.
        score_prompt: What scorers are asked about, word for word; None for the request's prompt,
            which scorers strip of its syntax.
        reverse: Whether a high score is bad here: the task counts with minus its score. A
            payload's ``reverse_scoring``.
        template: Prompt and negative prompt with their wildcards, where these are filled by the
            task's seed; None where other seeds have the same prompts.
    """

    name: str
    payload: str
    request: Request
    score_prompt: str | None = None
    reverse: bool = False
    template: tuple[str, str] | None = None

    @property
    def key(self) -> str:
        """A hash of all that decides the picture, besides the model, and what it is scored for.

        Tasks of equal keys get equal marks, whatever their names and files.

        Example:
            >>> request = Request("a cat", 3)
            >>> Task("x#0", "x", request).key == Task("y#5", "y", request).key
            True
        """
        settings = _told(self.request.settings, skip=("batch",))
        said = [self.request.prompt, self.request.seed, settings, self.score_prompt, self.reverse]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Exam:
    """The tasks that every candidate draws.

    Attributes:
        tasks: In the order in which they are drawn: of every payload its first picture, then the
            second ones …, so that a candidate that is stopped early has met many prompts.
        notes: What payloads ask for and will not get, and what is worth knowing.
        lists: Lines of wildcards by name; held-out tasks are filled from them anew.

    Raises:
        RequestError: There are no tasks; two have one name; one is for several pictures, or
            leaves its seed to chance.
    """

    tasks: tuple[Task, ...]
    notes: tuple[Problem, ...] = ()
    lists: Wildcards | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        problems = [] if self.tasks else [Problem("empty", "an exam needs at least one task")]
        seen: set[str] = set()
        for task in self.tasks:
            if task.name in seen:
                problems.append(Problem("repeated", "two tasks have this name", task.name))
            seen.add(task.name)
            if task.request.n_pictures != 1 or task.request.seed < 0:
                problems.append(Problem("task", "a task is one picture with a seed from 0 on, but "
                                        f"this is {task.request.n_pictures} with the seed "
                                        f"{task.request.seed}", task.name))  # fmt: skip
        if problems:
            raise RequestError(problems)

    @property
    def payloads(self) -> tuple[str, ...]:
        """Names of the payloads, each once."""
        return tuple(dict.fromkeys(task.payload for task in self.tasks))

    @property
    def key(self) -> str:
        """A hash of all that decides pictures and scores: requests, not paths.

        Marks may be compared, and a study taken up again, where keys are equal.
        """
        keys = "\n".join(task.key for task in self.tasks)
        return hashlib.sha256(keys.encode()).hexdigest()[:32]

    def __getitem__(self, name: str) -> Task:
        """Find a task by its name; a `KeyError` where there is none."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(name)

    def take(self, n: int) -> Exam:
        """Take the first tasks.

        Args:
            n: How many, at least 1; more than there are takes all.

        Returns:
            An exam.
        """
        return replace(self, tasks=self.tasks[: max(n, 0)])

    def held_out(self, seed: int, *, repeats: int = 1, avoid: Exam | None = None) -> Exam:
        """Make the exam that a winner is judged by: the same prompts, seeds that nobody has seen.

        A search's own score is too good, since it is the best of many that were drawn with the
        same noise. Seeds come from a hash of `seed`, task and a counter, which goes on until the
        seed is new. Wildcards that are filled at random are filled anew.

        Args:
            seed: Which seeds.
            repeats: How many for each task; the interval of a verdict shrinks with the root.
            avoid: Another exam whose seeds must not occur either, such as the search's where this
                one has other payloads.

        Returns:
            An exam that shares no seed with this one.

        Example:
            >>> exam = Exam((Task("cat#0", "cat", Request("a cat", 3)),))
            >>> held = exam.held_out(7, repeats=2)
            >>> [task.name for task in held.tasks]
            ['cat#0~7', 'cat#0~7.1']
        """
        used = {s for exam in (self, avoid) if exam for task in exam.tasks for s in _noises(task)}
        made = []
        for again in range(repeats):
            for task in self.tasks:
                fresh = _fresh_seed(f"{seed}/{task.name}/{again}", used)
                used.add(fresh)
                name = _repeated(f"{task.name}~{seed}", again)
                made.append(_filled(replace(_reseeded(task, fresh), name=name), self.lists or {}))
        return replace(self, tasks=tuple(made))


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
    return Exam(tuple(_filled(task, lists or {}) for task in order), tuple(notes), lists)


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
            content = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            problems.append(Problem("unreadable", f"the payload is no JSON: {error}", str(file)))
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
        request = replace(request, seed=_hashed(f"seed of {name}"))
        notes.append(Problem("seed", "a payload without a seed gets one from its name, so that all "
                             f"candidates draw the same: {request.seed}", where))  # fmt: skip
    # How many at once is the examiner's business.
    batch = request.settings.batch
    request = replace(request, settings=replace(request.settings, batch=1))
    pairs = [(request.prompt, request.settings.negative)]
    n_prompts = request.n_pictures // batch
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
    name = _repeated(task.name, again)
    if seed is not None:
        return replace(_reseeded(task, _hashed(f"{seed}/{name}")), name=name)
    further = again * n_pictures
    settings = task.request.settings
    if settings.variation:
        settings = replace(settings, variation_seed=settings.variation_seed + further)
        return replace(task, name=name, request=replace(task.request, settings=settings))
    request = replace(task.request, seed=task.request.seed + further)
    return replace(task, name=name, request=request)


def _repeated(name: str, again: int) -> str:
    return f"{name}.{again}" if again else name


def _reseeded(task: Task, seed: int) -> Task:
    """With a noise of its own; the second noise, where there is one, follows the first."""
    settings = task.request.settings
    if settings.variation:
        settings = replace(settings, variation_seed=_hashed(f"{seed}/variation"))
    return replace(task, request=replace(task.request, seed=seed, settings=settings))


def _filled(task: Task, lists: Wildcards) -> Task:
    """Choose what wildcards stand for; pictures of one batch may differ in this too."""
    if task.template is None:
        return task
    request = task.request
    salt = f"{request.seed}/{request.settings.variation_seed}"
    prompt, negative = (
        pick_variant(text, lists, f"{salt}/{which}")
        for text, which in zip(task.template, ("prompt", "negative"), strict=True)
    )
    settings = replace(request.settings, negative=negative)
    return replace(task, request=replace(request, prompt=prompt, settings=settings))


def _noises(task: Task) -> tuple[int, ...]:
    settings = task.request.settings
    return (task.request.seed, *([settings.variation_seed] if settings.variation else []))


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % _SEEDS


def _fresh_seed(text: str, used: set[int]) -> int:
    counter = 0
    while (seed := _hashed(f"{text}/{counter}")) in used:
        counter += 1
    return seed


def _told(settings: DrawSettings, skip: Sequence[str] = ()) -> dict[str, Any]:
    """What differs from the defaults, so that a new setting does not change old keys."""
    everything = asdict(settings)
    return {
        field.name: everything[field.name]
        for field in fields(settings)
        if field.name not in skip
        and (field.default is MISSING or getattr(settings, field.name) != field.default)
    }
