"""What is to be done, what is under way, and what came back because its worker was lost."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar, final

from stockpot.engine import Stop
from stockpot.errors import ClusterError

__all__ = ["Desk"]

Item = TypeVar("Item")

_LOOK_S = 0.2
_MOST_LOSSES = 4


@final
class Desk(Generic[Item]):
    """Hands out items to lanes: those that came back first, then the next.

    Args:
        items: What is to be done; asked for one at a time.
        may_begin: Whether an item may be begun now.
        stop: Nothing more is handed out once it is asked.
    """

    def __init__(
        self, items: Iterable[Item], may_begin: Callable[[Item], bool], stop: Stop
    ) -> None:
        self._items, self._may_begin, self._stop = iter(items), may_begin, stop
        self._waiting: deque[Item] = deque()
        self._losses: Counter[int] = Counter()  # by id: items need not be hashable
        self._known: dict[int, Item] = {}  # keeps items alive, and their ids theirs
        self._turn = threading.Condition()
        self._n_open, self._exhausted, self._halted = 0, False, False
        self.error: BaseException | None = None

    @property
    def halted(self) -> bool:
        """Whether lanes shall leave what they do."""
        return self._halted or self._stop.now

    @property
    def finished(self) -> bool:
        """Whether nothing is left, or nothing more may be begun and nothing is under way."""
        with self._turn:
            nothing = self._exhausted and not self._waiting
            return not self._n_open and (nothing or self._stop.asked or self._halted)

    def next(self) -> tuple[Item] | None:
        """Get something to do; waits while what is under way might come back.

        Returns:
            The item; None when there is no more, or lanes shall end.
        """
        with self._turn:
            while not (self._halted or self._stop.asked):
                if not self._waiting and not self._exhausted:
                    try:
                        self._waiting.append(next(self._items))
                    except StopIteration:
                        self._exhausted = True
                        self._turn.notify_all()
                if self._waiting and self._may_begin(self._waiting[0]):
                    self._n_open += 1
                    return (self._waiting.popleft(),)
                if not self._waiting and not self._n_open:
                    return None
                self._turn.wait(_LOOK_S)
            return None

    def done(self, item: Item) -> None:
        """Note that an item is done."""
        with self._turn:
            self._n_open -= 1
            self._turn.notify_all()

    def put_back(self, item: Item, error: BaseException) -> None:
        """Take an item back whose worker was lost; another gets it before all others."""
        with self._turn:
            self._n_open -= 1
            self._known[id(item)] = item
            self._losses[id(item)] += 1
            if self._losses[id(item)] >= _MOST_LOSSES:
                self.error = self.error or ClusterError(
                    f"{_MOST_LOSSES} workers were lost over {item}; the last time: {error}; is "
                    "their memory enough? allow less with --memory and --threads"
                )
                self._halted = True
            self._waiting.appendleft(item)
            self._turn.notify_all()

    def forgive(self, item: Item) -> None:
        """Forget that an item's worker was lost before: the one that has it now does well."""
        with self._turn:
            self._losses.pop(id(item), None)

    def fail(self, error: BaseException) -> None:
        """Note that all shall end, and why; the first reason counts."""
        with self._turn:
            self.error = self.error or error
            self._n_open -= 1
            self._halted = True
            self._turn.notify_all()

    def halt(self, error: BaseException | None = None) -> None:
        """Let all lanes end."""
        with self._turn:
            self.error = self.error or error
            self._halted = True
            self._turn.notify_all()

    def wait(self, seconds: float) -> None:
        """Sleep until something happens, or so long."""
        with self._turn:
            self._turn.wait(seconds)
