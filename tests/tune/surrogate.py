"""A search whose pictures are a formula, to be run in this process or in one that gets killed.

python surrogate.py STUDY [--trials N] [--sleep S] [--stop P] [--optimiser NAME]
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from stockpot.draw import Request
from stockpot.layouts import get_layout
from stockpot.recipes import Call, Items, Name, Number, Recipe, make_recipe
from stockpot.tune import (
    Baseline,
    CallableExaminer,
    Exam,
    Examiner,
    Limits,
    Search,
    SearchSettings,
    StudyStore,
    Task,
    find_holes,
    make_baselines,
    make_space,
    open_store,
    run_search,
)

N_TASKS = 6
TARGET = (0.9, 0.1, 0.6, 0.3)
RECIPE = make_recipe(
    "linear([a, b], [search(0, 1, 0.05), search(0, 1, 0.05)]) + search(0, 1)*(b - a)"
    " + search(0, 1)*(a - b)",
    {"a": "a.ckpt", "b": "b.ckpt"},
)


def exam(n: int = N_TASKS) -> Exam:
    """Some tasks that nobody draws."""
    return Exam(tuple(Task(f"p{i}#0", f"p{i}", Request(f"prompt {i}", i)) for i in range(n)))


def numbers(recipe: Recipe) -> tuple[float, ...]:
    """The numbers of a candidate, wherever they stand."""
    found = []
    stack = list(recipe.mix.values())
    while stack:
        node = stack.pop()
        if isinstance(node, Number):
            found.append(float(node.value))
        elif isinstance(node, Call):
            stack += [*node.args, *(value for _, value in node.options)]
        elif isinstance(node, Items):
            stack += node.items
        elif isinstance(node, Name):
            found.append(hash_of(node.name) / 7)
    return tuple(found)


def hash_of(text: str) -> int:
    """A small number that is the same in every process."""
    return sum(text.encode()) % 5


def score(recipe: Recipe, task: Task) -> float:
    """A hilly formula: near a target is good, tasks differ, and there is a little noise."""
    values = numbers(recipe)
    near = -sum((x - TARGET[i % 4]) ** 2 for i, x in enumerate(values)) / len(values)
    hard = random.Random(task.name).gauss(0, 0.3)
    noise = random.Random(f"{values}{task.name}").gauss(0, 0.01)
    return near + hard + noise


def examiner(sleep: float = 0.0) -> Examiner:
    """What scores by the formula, and takes its time."""

    def slow(recipe: Recipe, task: Task) -> float:
        time.sleep(sleep)
        return score(recipe, task)

    return CallableExaminer(slow)


def baselines() -> tuple[Baseline, ...]:
    """Both models alone, the uniform mix, the middle."""
    return make_baselines(RECIPE, find_holes(RECIPE), get_layout("sd1"))


def make_search(store: StudyStore, n_trials: int, **options: object) -> Search:
    """The search that all tests run."""
    limits = Limits(n_trials, **{k: options.pop(k) for k in ("patience", "n_images")
                                 if k in options})  # type: ignore[arg-type]  # fmt: skip
    settings = SearchSettings(
        ("score",), ("score",), **{"optimiser": "random", "stop_p": 0.1, **options}  # type: ignore[arg-type]
    )  # fmt: skip
    space = make_space(find_holes(RECIPE))
    return Search(store, RECIPE, space, exam(), settings, limits, baselines=baselines())


def told(store: StudyStore) -> list[tuple[object, ...]]:
    """All that must be the same however often a study was killed."""
    return [
        (t.number, dict(t.params), t.values, t.state.name, t.user_attrs["candidate"],
         t.user_attrs.get("n_drawn"))
        for t in store.all_trials()
    ]  # fmt: skip


def main() -> None:
    """Run the search; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--stop", type=float, default=0.1)
    parser.add_argument("--optimiser", default="random")
    options = parser.parse_args()
    with open_store(options.study) as store:
        with make_search(store, options.trials, optimiser=options.optimiser,
                         stop_p=options.stop or None) as search:  # fmt: skip
            print("begun", flush=True)
            run_search(search, examiner(options.sleep))


if __name__ == "__main__":
    main()
