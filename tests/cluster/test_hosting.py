"""What a worker answers, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stockpot.cluster.hosting import Host
from stockpot.engine import Post
from stockpot.errors import CheckpointError


@dataclass
class Big:
    n_bytes: int


class Counting(Post):
    """Counts as far as it is asked to."""

    lanes = 3

    def __init__(self, gathers: bool) -> None:
        self.gathers = gathers
        self.closed = self.dropped = 0

    def work(self, request: Any) -> Iterator[Any]:
        try:
            for i in range(request):
                yield Big(3 << 20) if request == 5 else i
            if request == 2:
                raise CheckpointError("a: two is too many")
        except GeneratorExit:
            self.dropped += 1
            raise

    def close(self) -> None:
        self.closed += 1


def opened(gathers: bool = True) -> tuple[Host, Counting]:
    post = Counting(gathers)
    host = Host(lambda n: post, 4)
    answer = host.open()
    assert answer.values[0] == 3 and answer.fault is None
    return host, post


def test_small_values_travel_together_and_large_ones_do_not() -> None:
    host, _ = opened()
    assert host.begin(1, 3).values == (0, 1, 2)
    assert host.begin(2, 0).ended
    sizes, answer = list[int](), host.begin(3, 5)
    while not answer.ended:
        sizes.append(len(answer.values))
        answer = host.go_on(3)
    assert sizes == [2, 2] and len(answer.values) == 1


def test_marks_come_one_by_one() -> None:
    host, _ = opened(gathers=False)
    assert host.begin(1, 3).values == (0,)
    assert host.go_on(1).values == (1,)
    assert host.go_on(1).values == (2,)
    last = host.go_on(1)
    assert last.values == () and last.ended


def test_what_came_before_a_fault_is_not_lost() -> None:
    host, _ = opened()
    answer = host.begin(1, 2)
    assert answer.values == (0, 1) and answer.fault is not None
    assert str(answer.fault.error("n")) == "a: two is too many"


def test_what_is_dropped_is_closed() -> None:
    host, post = opened(gathers=False)
    host.begin(1, 3)
    host.drop(1)
    host.drop(1)
    assert post.dropped == 1
    host.close()
    assert post.closed == 1


def test_a_post_that_cannot_be_opened_says_why() -> None:
    def refuse(n_threads: int) -> Post:
        raise CheckpointError("no such file")

    fault = Host(refuse, 1).open().fault
    assert fault is not None and fault.text == "no such file"
