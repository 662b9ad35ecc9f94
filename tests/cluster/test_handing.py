"""The desk: every item is done once, whatever is lost on the way."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.cluster.handing import Desk
from stockpot.engine import Stop
from stockpot.errors import ClusterError, LostWorkerError


def always(item: object) -> bool:
    return True


@given(st.integers(0, 30), st.integers(1, 5), st.integers(0, 99))
def test_every_item_is_done_exactly_once_however_many_workers_are_lost(
    n: int, lanes: int, seed: int
) -> None:
    desk: Desk[int] = Desk(iter(range(n)), always, Stop())
    chance, done = random.Random(seed), list[int]()

    def lane() -> None:
        while (found := desk.next()) is not None:
            if chance.random() < 0.3:
                desk.put_back(found[0], LostWorkerError("lost"))
                desk.forgive(found[0])
            else:
                done.append(found[0])
                desk.done(found[0])

    threads = [threading.Thread(target=lane) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(n))
    assert desk.finished and desk.error is None


def test_what_came_back_goes_first() -> None:
    desk: Desk[str] = Desk(["a", "b", "c"], always, Stop())
    assert desk.next() == ("a",)
    assert desk.next() == ("b",)
    desk.put_back("a", LostWorkerError("lost"))
    assert desk.next() == ("a",)
    assert desk.next() == ("c",)


def test_an_item_that_loses_worker_after_worker_ends_it() -> None:
    desk: Desk[str] = Desk(["big"], always, Stop())
    for _ in range(4):
        assert desk.next() == ("big",)
        desk.put_back("big", LostWorkerError("node n: a worker was lost"))
    assert desk.next() is None
    with pytest.raises(ClusterError, match="4 workers were lost over big.*--memory"):
        raise desk.error or AssertionError


def test_once_stop_is_asked_nothing_is_handed_out_and_what_is_under_way_ends() -> None:
    stop = Stop()
    desk: Desk[int] = Desk(range(3), always, stop)
    assert desk.next() == (0,)
    stop.ask()
    assert desk.next() is None
    assert not desk.finished and not desk.halted
    desk.done(0)
    assert desk.finished
    stop.ask(now=True)
    assert desk.halted


def test_items_wait_until_they_may_begin() -> None:
    allowed = threading.Event()
    desk: Desk[int] = Desk([7], lambda item: allowed.is_set(), Stop())
    threading.Timer(0.05, allowed.set).start()
    assert desk.next() == (7,)
    assert allowed.is_set()


def test_the_first_reason_counts() -> None:
    desk: Desk[int] = Desk([1, 2], always, Stop())
    desk.next(), desk.next()
    desk.fail(ValueError("first"))
    desk.fail(ValueError("second"))
    assert str(desk.error) == "first" and desk.next() is None
