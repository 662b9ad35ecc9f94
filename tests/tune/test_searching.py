"""Searches: baselines first, killed and taken up again, several workers, stopping early."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stockpot.draw import Request
from stockpot.errors import ScorerError, StudyError
from stockpot.recipes import Recipe, make_recipe
from stockpot.tune import (
    NEAR,
    Baseline,
    CallableExaminer,
    Exam,
    Examiner,
    Limits,
    Mark,
    Search,
    SearchSettings,
    StudyStore,
    Task,
    candidate_key,
    fill_holes,
    find_holes,
    is_worse,
    make_space,
    nearness_to_uniform,
    open_store,
    run_search,
)

_SPEC = importlib.util.spec_from_file_location(
    "surrogate", Path(__file__).with_name("surrogate.py")
)
assert _SPEC is not None and _SPEC.loader is not None
surrogate = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(surrogate)

N_BASELINES = len(surrogate.baselines())


def run(path: Path, n: int, **options: object) -> list[tuple[object, ...]]:
    with open_store(path) as store:
        with surrogate.make_search(store, n, **options) as search:
            run_search(search, surrogate.examiner())
        return surrogate.told(store)


def test_baselines_come_first_and_are_never_stopped(tmp_path: Path) -> None:
    run(tmp_path / "s.db", 5)
    with open_store(tmp_path / "s.db") as store:
        trials = store.all_trials()
        names = [trial.user_attrs.get("baseline") for trial in trials]
    assert names[:N_BASELINES] == [b.name for b in surrogate.baselines()]
    assert names[N_BASELINES:] == [None] * 5
    assert all(trial.state.name == "COMPLETE" for trial in trials[:N_BASELINES])
    assert all(len(t.user_attrs["values"]) == 4 for t in trials[N_BASELINES:])


def test_a_study_goes_on_where_it_ended_and_with_more_trials(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.db", 8)
    run(tmp_path / "parts.db", 2)
    assert run(tmp_path / "parts.db", 2) == whole[: N_BASELINES + 2]
    assert run(tmp_path / "parts.db", 8) == whole


@pytest.mark.parametrize("name", ["s.db", "s.journal"])
def test_a_killed_study_ends_as_one_that_was_not(tmp_path: Path, name: str) -> None:
    n = 5 if name == "s.db" else 2
    whole = run(tmp_path / "whole.db", n, optimiser="tpe")
    script = [sys.executable, surrogate.__file__, str(tmp_path / name), "--trials", str(n),
              "--optimiser", "tpe", "--sleep", "0.02"]  # fmt: skip
    for moment in (0.05, 0.6) if name == "s.db" else (0.4,):
        process = subprocess.Popen(script, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment)
        process.kill()
        process.wait()
        process.stdout.close()
    assert run(tmp_path / name, n, optimiser="tpe") == whole
    with open_store(tmp_path / name) as store:
        n_marks = len(store.book.marks())
    with open_store(tmp_path / "whole.db") as store:
        assert n_marks == len(store.book.marks())


def test_two_workers_share_a_study(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    script = [sys.executable, surrogate.__file__, str(path), "--trials", "8", "--stop", "0",
              "--sleep", "0.02"]  # fmt: skip
    workers = [subprocess.Popen(script, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    with open_store(path) as store:
        told, trials = surrogate.told(store), store.all_trials()
        n_marks = len(store.book.marks())
    assert [row[0] for row in told] == list(range(N_BASELINES + 8))
    assert all(row[3] == "COMPLETE" and row[5] == surrogate.N_TASKS for row in told)
    assert n_marks == surrogate.N_TASKS * len({row[4] for row in told})
    assert len({trial.user_attrs["worker"] for trial in trials}) == 2


def test_what_a_dead_worker_began_is_finished_with_its_own_numbers(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        first = surrogate.make_search(store, 2)
        begun = first.next_candidate()
        assert begun is not None
        task = first.left(begun)[0]
        (mark,) = surrogate.examiner().examine(begun.recipe, [task])
        first.record(begun, mark)
        with surrogate.make_search(store, 2) as second:
            other = second.next_candidate()
            assert other is not None and other.number == 1  # the first one lives
            first.close()
            taken = second.next_candidate()
            assert taken is not None
            assert (taken.number, taken.key, taken.recipe) == (0, begun.key, begun.recipe)
            assert list(taken.marks) == [task.name]
            assert len(second.left(taken)) == surrogate.N_TASKS - 1


def test_another_search_in_the_same_file_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "s.db", 1)
    with pytest.raises(StudyError, match="seed: the study was begun with 0, but now it is 1"):
        run(tmp_path / "s.db", 1, seed=1)
    with pytest.raises(StudyError, match="tally"):
        run(tmp_path / "s.db", 1, tally="median")


def failing(store: StudyStore, n: int, when: float) -> Search:
    """A search of which some candidates cannot be drawn."""
    holes = find_holes(make_recipe("lerp(a, b, search(0, 1))", {"a": "a", "b": "b"}))
    recipe = make_recipe("lerp(a, b, search(0, 1))", {"a": "a", "b": "b"})
    settings = SearchSettings(("score",), ("score",), optimiser="random", stop_p=None)
    search = Search(store, recipe, make_space(holes), surrogate.exam(2), settings, Limits(n))

    def draw(candidate: Recipe, task: Task) -> float:
        t = surrogate.numbers(candidate)[0]
        if t > when:
            raise ScorerError("this one cannot be drawn")
        return t

    run_search(search, CallableExaminer(draw))
    return search


def test_candidates_that_fail_are_told_and_the_search_goes_on(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        failing(store, 12, 0.5).close()
        trials = store.all_trials()
    states = {trial.state.name for trial in trials}
    assert len(trials) == 12 and states == {"COMPLETE", "FAIL"}
    errors = {t.user_attrs["error"] for t in trials if t.state.name == "FAIL"}
    assert errors == {"ScorerError: this one cannot be drawn"}


def test_a_search_in_which_all_fails_ends(tmp_path: Path) -> None:
    with open_store(tmp_path / "s.db") as store:
        with pytest.raises(StudyError, match="all of 10 candidates failed.*cannot be drawn"):
            failing(store, 50, -1.0)


def test_a_search_ends_where_nothing_but_baselines_can_be_drawn(tmp_path: Path) -> None:
    recipe = make_recipe("lerp(a, b, search(0, 1))", {"a": "a", "b": "b"})
    holes = find_holes(recipe)
    known = Baseline("half", fill_holes(recipe, {"t": 0.5}), {"t": Fraction(1, 2)})
    settings = SearchSettings(("score",), ("score",), optimiser="random", stop_p=None)

    def draw(candidate: Recipe, task: Task) -> float:
        if candidate != known.recipe:
            raise ScorerError("it lacks its keys")
        return 1.0

    with open_store(tmp_path / "s.db") as store:
        search = Search(store, recipe, make_space(holes), surrogate.exam(2), settings, Limits(40),
                        baselines=[known])  # fmt: skip
        with search, pytest.raises(StudyError, match=r"all of 10 candidates of the search failed"):
            run_search(search, CallableExaminer(draw))
        assert len(store.all_trials()) == 11


def test_limits(tmp_path: Path) -> None:
    with open_store(tmp_path / "images.db") as store:
        with surrogate.make_search(store, 50, n_images=60, stop_p=None) as search:
            run_search(search, surrogate.examiner())
        assert search.why_done == "60 pictures"
        assert 54 < len(store.book.marks()) <= 60
    with open_store(tmp_path / "patience.db") as store:
        with surrogate.make_search(store, 500, patience=4) as search:
            run_search(search, surrogate.examiner())
        values = [t.values[0] for t in store.all_trials()]
    assert "without a better one" in search.why_done
    assert max(values) == max(values[:-4]) and max(values[:-4]) not in values[-4:]


def test_stopping_saves_pictures_and_keeps_the_best(tmp_path: Path) -> None:
    stopped = run(tmp_path / "stopped.db", 12)
    whole = run(tmp_path / "whole.db", 12, stop_p=None)
    drawn = [sum(int(str(row[5])) for row in rows) for rows in (stopped, whole)]
    assert drawn[0] < 0.9 * drawn[1]
    best = [max(rows, key=lambda row: row[2][0])[0] for rows in (stopped, whole)]  # type: ignore[index]
    assert best[0] == best[1]
    n_stopped = sum(row[3] == "PRUNED" for row in stopped)
    assert n_stopped
    top = max(row[2][0] for row in stopped if row[3] == "COMPLETE")  # type: ignore[index]
    assert all(row[2][0] <= top for row in stopped)  # type: ignore[index]


def test_what_a_batch_has_drawn_is_kept_and_counted(tmp_path: Path) -> None:
    """Five at once: one that is known to be worse after four has five marks."""
    inside, drawn = surrogate.examiner(), []

    class Fives(Examiner):
        def examine(
            self, recipe: Recipe, tasks: Sequence[Task], *, pictures: bool = False
        ) -> Iterator[Mark]:
            for i in range(0, len(tasks), 5):
                batch = list(inside.examine(recipe, tasks[i : i + 5]))
                drawn.extend(batch)
                for left, mark in zip(reversed(range(len(batch))), batch, strict=True):
                    yield replace(mark, n_drawn=left)

        def close(self) -> None:
            pass

    with open_store(tmp_path / "s.db") as store:
        with surrogate.make_search(store, 12) as search:
            run_search(search, Fives())
        trials = store.all_trials()
        assert len(store.book.marks()) == len(drawn)
    stopped = [t.user_attrs["n_drawn"] for t in trials if t.state.name == "PRUNED"]
    single = [row[5] for row in run(tmp_path / "one.db", 12) if row[3] == "PRUNED"]
    assert set(single) == {4} and set(stopped) == {5}


def test_each_candidate_has_an_order_of_its_own(tmp_path: Path) -> None:
    """All tasks, one of each payload before the second ones, and again the same after a kill."""
    tasks = tuple(Task(f"p{i}#{j}", f"p{i}", Request(f"{i} {j}", 10 * i + j))
                  for j in range(2) for i in range(6))  # fmt: skip

    def orders(store: StudyStore, stop_p: float | None) -> list[list[str]]:
        settings = SearchSettings(("score",), ("score",), optimiser="random", stop_p=stop_p)
        space = make_space(find_holes(surrogate.RECIPE))
        with Search(store, surrogate.RECIPE, space, Exam(tasks), settings, Limits(6)) as search:
            found = []
            while (candidate := search.next_candidate()) is not None:
                left = search.left(candidate)
                assert set(left) == set(tasks)
                assert {task.payload for task in left[:6]} == {f"p{i}" for i in range(6)}
                assert search.left(candidate) == left
                search.record(candidate, Mark(left[0].name, {"score": 1.0}))
                assert search.left(candidate) == left[1:]
                found.append([task.name for task in left])
                search.fail(candidate, ValueError("enough is known"))
                if len(found) == 6:
                    break
        return found

    with open_store(tmp_path / "a.db") as a, open_store(tmp_path / "b.db") as b:
        shuffled = orders(a, 0.2)
        assert shuffled == orders(b, 0.2)
    assert len({tuple(names) for names in shuffled}) > 4
    with open_store(tmp_path / "whole.db") as store:
        assert {tuple(names) for names in orders(store, None)} == {tuple(t.name for t in tasks)}


def test_the_estimate_of_a_stopped_candidate_counts_tasks_that_were_not_drawn(
    tmp_path: Path,
) -> None:
    """Being worse by a tenth everywhere gives a value of a tenth less, after any tasks."""
    with open_store(tmp_path / "s.db") as store, surrogate.make_search(store, 3) as search:
        best = None
        for _ in range(N_BASELINES):
            candidate = search.next_candidate()
            assert candidate is not None
            for task in search.left(candidate):
                (mark,) = CallableExaminer(lambda r, t: 1.0 + t.request.seed).examine(
                    candidate.recipe, [task]
                )
                search.record(candidate, mark)
            search.finish(candidate)
            best = candidate
        assert best is not None
        worse = search.next_candidate()
        assert worse is not None
        for task in search.left(worse):
            (mark,) = CallableExaminer(lambda r, t: 0.9 + t.request.seed).examine(
                worse.recipe, [task]
            )
            if search.record(worse, mark):
                break
        assert 3 < len(worse.marks) < surrogate.N_TASKS
        search.finish(worse)
        trial = store.all_trials()[-1]
        assert trial.state.name == "PRUNED"
        assert trial.values[0] == pytest.approx(store.all_trials()[0].values[0] - 0.1)
        assert trial.user_attrs["value_error"] == pytest.approx(0, abs=1e-12)  # all differ alike


def test_stopping_by_hand() -> None:
    """Four of eight seen, mean -2, deviation 2: t = -2/2 * sqrt(4 * 8 / 4) = -2.828, 3 degrees.

    Its chance from a table of Student's distribution: 0.0331.
    """
    best = {f"t{i}": 1.0 for i in range(8)}
    step = math.sqrt(3.0)  # two of ±sqrt(3) each have the deviation 2
    four = {f"t{i}": -1.0 + (step if i % 2 else -step) for i in range(4)}
    assert is_worse(four, best, 0.034) and not is_worse(four, best, 0.033)
    # One more to come decides less than four: t = -2/2 * sqrt(4 * 5 / 1), a chance of 0.0103.
    nearly = dict(list(best.items())[:5])
    assert is_worse(four, nearly, 0.011) and not is_worse(four, nearly, 0.010)
    assert not is_worse(dict(list(four.items())[:3]), best, 0.9)  # too few
    assert not is_worse({**four, "t4": 20.0}, best, 0.9)  # ahead: nothing stops it
    assert not is_worse({name: 0.0 for name in best}, best, 0.9)  # nothing left to draw
    assert is_worse({f"t{i}": 0.9 for i in range(4)}, best, 0.01)  # never better, never otherwise


@given(
    st.lists(st.floats(-1, 1), min_size=4, max_size=8),
    st.integers(1, 8),
    st.floats(0.1, 10),
    st.floats(-5, 5),
    st.floats(0.02, 0.5),
)
def test_stopping_depends_on_differences_alone(
    differences: list[float], left: int, scale: float, shift: float, p: float
) -> None:
    """Other units, another level, another order: the same answer, and surer ones later."""
    n = len(differences)
    mean, spread = sum(differences) / n, max(differences) - min(differences)
    assume(abs(mean) > 1e-3 and spread > 1e-2)
    best = {f"t{i}": 0.0 for i in range(n + left)}
    mine = {f"t{i}": d for i, d in enumerate(differences)}
    answers = [is_worse(mine, best, q) for q in (p - 1e-6, p + 1e-6)]
    assume(answers[0] == answers[1])
    moved = {name: scale * d + shift for name, d in reversed(list(mine.items()))}
    assert is_worse(moved, {name: shift for name in best}, p) == answers[0]
    if answers[0]:
        assert mean < 0 and is_worse(mine, best, p + 0.1)
        assert is_worse(mine, dict(list(best.items())[: n + 1]), p)  # fewer that could save it


@pytest.mark.parametrize(("seen", "p"), [(4, 0.1), (8, 0.2), (15, 0.4)])
def test_a_chance_is_one(seen: int, p: float) -> None:
    """A level that a candidate reaches exactly is called out of reach as often as `p` says,
    whatever its mean and deviation: Student's prediction is exact for normal numbers."""
    rng = np.random.default_rng(seen)
    n = 2000
    called = 0
    for _ in range(n):
        numbers = rng.normal(rng.uniform(-3, 3), rng.uniform(0.1, 5), 16)
        scores = {f"t{i}": float(x) for i, x in enumerate(numbers)}
        reached = dict.fromkeys(scores, float(numbers.mean()))
        called += is_worse(dict(list(scores.items())[:seen]), reached, p)
    assert abs(called / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_equal_candidates_are_drawn_once(tmp_path: Path) -> None:
    calls = []

    def draw(recipe: Recipe, task: Task) -> float:
        calls.append((candidate_key(recipe), task.name))
        return 0.5

    recipe = make_recipe("lerp(a, b, search(0, 1, 1))", {"a": "a", "b": "b"})
    settings = SearchSettings(("score",), ("score",), optimiser="random", stop_p=None)
    with open_store(tmp_path / "s.db") as store:
        space = make_space(find_holes(recipe))
        with Search(store, recipe, space, surrogate.exam(3), settings, Limits(9)) as search:
            run_search(search, CallableExaminer(draw))
        assert len(store.all_trials()) == 9
    assert len(calls) == len(set(calls)) == 6


def test_several_objectives_with_nearness_to_the_uniform_mix(tmp_path: Path) -> None:
    from stockpot.layouts import get_layout
    from stockpot.tune import pareto_front

    recipe = make_recipe("lerp(a, b, search(0, 1))", {"a": "a", "b": "b"})
    nearness = nearness_to_uniform(recipe, get_layout("sd1"))
    for t, expected in ((0, -0.5), (0.5, 0.0), (1, -0.5), (0.25, -0.25)):
        assert nearness(make_recipe(f"lerp(a, b, {t})", recipe.pool)) == expected
    settings = SearchSettings(("score", NEAR), ("score",), optimiser="random")
    with open_store(tmp_path / "s.db") as store:
        space = make_space(find_holes(recipe))
        with Search(store, recipe, space, surrogate.exam(2), settings, Limits(15),
                    nearness=nearness) as search:  # fmt: skip
            run_search(search, CallableExaminer(lambda r, t: surrogate.numbers(r)[0]))
        trials = store.all_trials()
    front = pareto_front(trials)
    assert all(len(trial.values) == 2 for trial in trials)
    assert [t.values[0] for t in front] == sorted((t.values[0] for t in front), reverse=True)
    # The farther right, the better the score; left of the middle both get worse.
    assert {t.number for t in front} >= {
        t.number for t in trials if Fraction(next(iter(t.user_attrs["values"].values()))) >= 0.5
    }
