"""Studies on disk: written whole, read by others, claims that only one worker holds."""

from __future__ import annotations

import dataclasses
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stockpot.errors import MissingExtraError, StudyError
from stockpot.tune import Claims, KeptMark, StudyStore, Worker, open_store, shown_address


@pytest.fixture(params=["study.db", "study.journal"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StudyStore]:
    with open_store(tmp_path / request.param) as opened:
        yield opened


def mark(candidate: str = "c", task: str = "t", score: float = 0.1) -> KeptMark:
    return KeptMark(candidate, task, f"{task}#0", {"clip": score, "judge": 2.5}, {"contrast": 1.0},
                    0.25)  # fmt: skip


def test_a_mark_comes_back_as_it_was_and_only_once(store: StudyStore) -> None:
    assert store.book.put_mark(mark(), b"png")
    assert not store.book.put_mark(mark(score=0.9), b"other")
    assert store.book.put_mark(mark(task="u"))
    assert store.book.marks("c") == [mark(), mark(task="u")] == store.book.marks()
    assert store.book.marks("d") == []
    assert store.book.picture("c", "t") == b"png"
    assert store.book.picture("c", "u") is None
    assert store.book.count_marks({"t", "v"}) == 1
    assert store.book.count_marks({"t", "u"}, {"c", "d"}) == 2
    assert store.book.count_marks({"t", "u"}, {"d"}) == 0


def test_notes_and_candidates(store: StudyStore) -> None:
    assert store.book.note("x") is None
    store.book.put_note("x", "1")
    store.book.put_note("x", "2")
    assert store.book.note("x") == "2"
    store.book.put_candidate("c", "recipe")
    store.book.put_candidate("c", "recipe")
    assert store.book.candidate("c") == "recipe"
    assert store.book.candidate("d") is None


def test_a_claim_has_one_holder_until_it_dies(store: StudyStore) -> None:
    first, second = Claims(store.book, 0), Claims(store.book, 0)
    assert first.take("trial 1") and first.take("trial 1")
    assert not second.take("trial 1")
    assert second.holder("trial 1") == first.me.name
    first.close()
    assert second.holder("trial 1") is None
    assert second.take("trial 1")
    third = Claims(store.book, 0)
    assert not third.take("trial 1")


def test_a_process_that_is_gone_holds_nothing(store: StudyStore) -> None:
    gone = dataclasses.replace(Worker.here(), started="before the last start")
    store.book.put_worker(gone)
    assert gone.lives_here is False
    from stockpot.tune.claims import Claimed

    assert store.book.put_claim("trial 1", Claimed(0, gone.name))
    assert Claims(store.book, 0).take("trial 1")


def test_a_worker_of_another_machine_is_dead_when_its_counter_stands_still(
    store: StudyStore,
) -> None:
    from stockpot.tune.claims import Claimed

    away = dataclasses.replace(Worker.here(), machine="elsewhere")
    assert away.lives_here is None
    store.book.put_worker(away)
    store.book.put_claim("trial 1", Claimed(0, away.name))
    patient, hasty = Claims(store.book, 0, 60.0), Claims(store.book, 0, 0.0)
    assert hasty.holder("trial 1") == away.name  # just seen for the first time
    assert hasty.holder("trial 1") is None
    assert not patient.take("trial 1")
    store.book.put_beat(away.name, 1)
    assert hasty.holder("trial 1") == away.name


def test_of_many_who_claim_at_once_one_wins(store: StudyStore) -> None:
    workers = [Claims(store.book, 0) for _ in range(8)]
    won = []

    def claim(worker: Claims) -> None:
        if worker.take("trial 5"):
            won.append(worker.me.name)

    threads = [threading.Thread(target=claim, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert Claims(store.book, 0).holder("trial 5") == won[0]


def test_a_trial_is_created_with_all_that_belongs_to_it(store: StudyStore) -> None:
    from optuna.distributions import FloatDistribution

    store.study_id(1)
    ranges = {"x": FloatDistribution(0.0, 1.0)}
    running = store.add_trial({"x": 0.25}, ranges, {"candidate": "c"}, {"cma": "state"})
    store.add_trial({"x": 0.5}, ranges, {"imported": "t.csv row 1"}, values=[0.75])
    trials = store.all_trials()
    assert [trial.state.name for trial in trials] == ["RUNNING", "COMPLETE"]
    assert trials[0].params == {"x": 0.25} and trials[0].system_attrs == {"cma": "state"}
    assert store.finish_trial(running, "pruned", [0.5], n_drawn=3)
    assert not store.finish_trial(running, "complete", [0.9], n_drawn=9)
    again = store.all_trials()[0]
    assert (again.values, again.user_attrs["n_drawn"]) == ([0.5], 3)


def test_objectives_are_part_of_a_study(store: StudyStore) -> None:
    store.study_id(2)
    with pytest.raises(StudyError, match="2 objectives, but 1"):
        store.study_id(1)


def test_sql_can_read_a_study(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with open_store(path) as store:
        store.book.put_mark(mark())
        with sqlite3.connect(path) as connection:  # while it is open
            rows = connection.execute("SELECT candidate, scorer, score FROM stockpot_scores")
            assert rows.fetchall() == [("c", "clip", 0.1), ("c", "judge", 2.5)]
        connection.close()


def test_what_is_no_study_is_told(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n and more")
    with pytest.raises(StudyError, match="something else"):
        open_store(tmp_path / "picture.png")
    with pytest.raises(StudyError, match="no such study"):
        open_store(tmp_path / "none.db", create=False)
    with pytest.raises(StudyError, match="no folder"):
        open_store(tmp_path / "none" / "study.db")
    assert not (tmp_path / "none.db").exists()


MARKUP = "<img src=x onerror=alert(1)>"
DAMAGE = {
    "a number of a trial": ("trial_values", "value", MARKUP),
    "a trial without its score": ("trial_values", "trial_id", -5),
    "a dial": ("trial_params", "param_value", MARKUP),
    "a dial's range": ("trial_params", "distribution_json", '{"a": ['),
    "what a trial says of itself": ("trial_user_attributes", "value_json", "[1]"),
    "no JSON": ("trial_user_attributes", "value_json", '{"a": ['),
    "a mark's facts": ("stockpot_marks", "facts", "[1, 2]"),
    "a mark's facts, cut": ("stockpot_marks", "facts", '{"contrast": '),
    "a mark's time": ("stockpot_marks", "elapsed_s", MARKUP),
    "a score": ("stockpot_scores", "score", MARKUP),
    "a result": ("stockpot_notes", "text", '{"text": [1]}'),
    "a result, cut": ("stockpot_notes", "text", '{"text": '),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_study_is_told(tmp_path: Path, kind: str) -> None:
    from optuna.distributions import FloatDistribution

    path = tmp_path / "study.db"
    with open_store(path) as store:
        store.study_id(1)
        ranges = {"x": FloatDistribution(0.0, 1.0)}
        store.add_trial({"x": 0.5}, ranges, {"candidate": "c"}, values=[0.75])
        store.book.put_mark(mark())
        assert len(store.all_trials()) == len(store.book.marks()) == 1
        store.book.put_note("result", "{}")
    table, column, value = DAMAGE[kind]
    with sqlite3.connect(path) as connection:
        assert connection.execute(f'UPDATE "{table}" SET "{column}" = ?', (value,)).rowcount
    connection.close()
    with (
        pytest.raises(StudyError, match="damaged"),
        open_store(path, create=False) as store,
    ):
        store.all_trials(), store.book.marks(), store.result()


def test_a_database_by_its_address(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'base.db'}"
    with pytest.raises(StudyError, match="there is no such study"):
        open_store(address, create=False)
    with open_store(address) as store:
        # Names of trees and their nodes stand in keys.
        long = "tree " + 200 * "x"
        store.book.put_note(long, "1")
        store.book.put_mark(mark())
    with open_store(address, create=False) as store:
        assert store.book.note(long) == "1" and store.book.marks() == [mark()]


def test_no_message_has_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "postgresql://me:sec@ret/x@nowhere.invalid:1/studies?password=secret&sslmode=off"
    assert shown_address(address) == (
        "postgresql://me:***@nowhere.invalid:1/studies?password=***&sslmode=off"
    )
    assert shown_address("postgresql://me@host:5432/x") == "postgresql://me@host:5432/x"
    for broken in ("nosuch://me:secret@host/x", "sqlite://me:secret@host/no/such"):
        with pytest.raises(StudyError) as caught:
            open_store(broken)
        assert "secret" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"stockpot\[postgres\]"):
        open_store("postgresql://me:secret@host/x")
