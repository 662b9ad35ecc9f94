"""The exam: the tasks that every candidate draws, the same ones with the same seeds.

Differences between candidates are then differences between pictures of one prompt and one noise
(common random numbers), which need far fewer pictures to be seen than differences of averages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from stockpot.draw import DrawSettings, Request, Wildcards
from stockpot.errors import Problem, RequestError
from stockpot.tune.varying import pick_variant

__all__ = ["Exam", "Task", "filled", "hashed_seed", "repeated_name", "reseeded"]

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
                name = repeated_name(f"{task.name}~{seed}", again)
                made.append(filled(replace(reseeded(task, fresh), name=name), self.lists or {}))
        return replace(self, tasks=tuple(made))


def repeated_name(name: str, again: int) -> str:
    """Name a task's repeat; the first one has the task's own name.

    Args:
        name: The task's.
        again: From 0.

    Returns:
        Such as ``cat#0.1``.
    """
    return f"{name}.{again}" if again else name


def reseeded(task: Task, seed: int) -> Task:
    """Give a task another noise; the second noise, where there is one, follows the first.

    Args:
        task: Any.
        seed: From 0 on.

    Returns:
        The task, its wildcards as they were.
    """
    settings = task.request.settings
    if settings.variation:
        settings = replace(settings, variation_seed=hashed_seed(f"{seed}/variation"))
    return replace(task, request=replace(task.request, seed=seed, settings=settings))


def filled(task: Task, lists: Wildcards) -> Task:
    """Choose what wildcards stand for, by the task's seed.

    Args:
        task: With a template, or without one, where nothing happens.
        lists: Lines for ``__name__``, by name.

    Returns:
        The task.
    """
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


def hashed_seed(text: str) -> int:
    """Make a seed of a text, the same on every machine.

    Args:
        text: Any.

    Returns:
        0 to 2³² - 1.
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % _SEEDS


def _fresh_seed(text: str, used: set[int]) -> int:
    counter = 0
    while (seed := hashed_seed(f"{text}/{counter}")) in used:
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
