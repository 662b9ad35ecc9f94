"""Searches and selections whose pictures others draw: nothing is lost or counted twice. No Ray."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stockpot.errors import LostWorkerError, ScorerError, StoppedError
from stockpot.recipes import Recipe, make_recipe
from stockpot.tune import (
    CallableExaminer,
    CrewExaminer,
    Examiner,
    Mark,
    Task,
    examine_on_crew,
    open_store,
    run_search,
)

from tests.cluster.conftest import load  # type: ignore[import-not-found] # isort: skip

surrogate = load("surrogate", Path(__file__).parents[1] / "tune")
N_TRIALS = 8
N_ALL = N_TRIALS + len(surrogate.baselines())


def opened(sleep: float = 0.0) -> Examiner:
    return surrogate.examiner(sleep)  # type: ignore[no-any-return]


def failing() -> Examiner:
    def refuse(recipe: Recipe, task: Task) -> float:
        raise ScorerError("no score today")

    return CallableExaminer(refuse)


def search(study: Path, examiner: Examiner, **options: Any) -> None:
    with open_store(study) as store, surrogate.make_search(store, N_TRIALS, **options) as one:
        run_search(one, examiner)


def told(study: Path) -> Any:
    with open_store(study) as store:
        return surrogate.told(store)


def marks(study: Path) -> Counter[tuple[str, str]]:
    with open_store(study) as store:
        return Counter((mark.candidate, mark.task) for mark in store.book.marks())


def test_one_worker_that_is_lost_again_and_again_finds_what_one_process_finds(
    tmp_path: Path, imagined: Any
) -> None:
    search(tmp_path / "here.db", opened())
    crew = imagined(1, losses=0.1, seed=4)
    examine_on_crew(crew, opened, partial(search, tmp_path / "there.db"))
    assert crew.n_lost >= 3
    assert told(tmp_path / "there.db") == told(tmp_path / "here.db")
    assert set(marks(tmp_path / "there.db").values()) == {1}


def test_two_workers_lose_no_trial_and_count_none_twice(tmp_path: Path, imagined: Any) -> None:
    study, crew = tmp_path / "two.db", imagined(2, losses=0.1, seed=5)
    examine_on_crew(crew, opened, partial(search, study, stop_p=None))
    trials = told(study)
    assert crew.n_lost >= 3
    assert [trial[0] for trial in trials] == list(range(N_ALL))
    assert {trial[3] for trial in trials} == {"COMPLETE"}
    found = marks(study)
    assert set(found.values()) == {1}
    assert len(found) == len({trial[4] for trial in trials}) * surrogate.N_TASKS


def test_a_candidate_that_cannot_be_drawn_fails_and_its_worker_goes_on(
    tmp_path: Path, imagined: Any
) -> None:
    study = tmp_path / "failing.db"
    with pytest.raises(Exception, match="all of 10 candidates failed.*no score today"):
        examine_on_crew(imagined(1), failing, partial(search, study))


def test_a_stopped_search_fails_no_trial(tmp_path: Path, imagined: Any) -> None:
    class Stopping(Examiner):
        def examine(self, *args: Any, **options: Any) -> Iterator[Mark]:
            raise StoppedError("stopped")

        def close(self) -> None:
            pass

    study = tmp_path / "stopped.db"
    with pytest.raises(StoppedError):
        search(study, Stopping())
    assert [trial[3] for trial in told(study)] == ["RUNNING"]
    search(study, opened())
    assert [trial[0] for trial in told(study)] == list(range(N_ALL))


def test_all_workers_draw_one_candidate_together(imagined: Any) -> None:
    crew = imagined(3, losses=0.1, seed=6)
    tasks = surrogate.exam(20).tasks
    recipe = make_recipe("0.3*a + 0.7*b", {"a": "a.ckpt", "b": "b.ckpt"})
    with CrewExaminer(crew, opened, 3) as examiner:
        for _ in range(3):
            found = {mark.task: dict(mark.scores) for mark in examiner.examine(recipe, tasks)}
            assert found == {task.name: {"score": surrogate.score(recipe, task)} for task in tasks}
        assert list(examiner.examine(recipe, ())) == []
    assert crew.n_lost >= 1
    assert threading.active_count() < 10


def test_an_error_of_one_worker_comes_out_and_the_next_candidate_can_be_drawn(
    imagined: Any,
) -> None:
    recipe = make_recipe("a", {"a": "a.ckpt"})
    with CrewExaminer(imagined(2), failing, 2) as examiner:
        for _ in range(2):
            with pytest.raises(ScorerError, match="no score today"):
                list(examiner.examine(recipe, surrogate.exam(2).tasks))


def unopened() -> Examiner:
    raise ScorerError("the weights are not there")


def test_workers_that_cannot_open_say_why(imagined: Any) -> None:
    recipe = make_recipe("a", {"a": "a.ckpt"})
    with CrewExaminer(imagined(2), unopened, 2) as examiner:
        with pytest.raises(ScorerError, match="the weights are not there"):
            list(examiner.examine(recipe, surrogate.exam(2).tasks))
    assert issubclass(LostWorkerError, Exception)
