"""Work that other processes do: the contract between who has work and who has machines.

Whoever has work says how it is opened where it is done (a post), and what comes back for each item.
Whoever has machines (a crew) opens posts on them, hands out items, and hands an item out again when
its worker is lost. Neither knows of the other, so a merge on many machines is the merge of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

from stockpot.engine.stopping import Stop

__all__ = ["Ask", "Crew", "Opening", "Post"]

Item = TypeVar("Item")


class Post(ABC):
    """Does work in a worker's process; opened there once, and asked many times.

    Attributes:
        lanes: How many threads may ask at once.
        gathers: Whether several small answers may travel together. What is wanted one at a time,
            since it may be the last, must not.
    """

    lanes: int = 1
    gathers: bool = True

    @abstractmethod
    def work(self, request: Any) -> Iterator[Any]:
        """Do one piece of work.

        Args:
            request: What to do; was pickled.

        Yields:
            What was found, in pieces that can be pickled. Those that have `n_bytes` are taken for
            so large. An iterator that is dropped half way is closed.

        Raises:
            StockpotError: It cannot be done, here or anywhere.
        """

    def close(self) -> None:  # noqa: B027 - most posts hold nothing
        """Let go of files."""


Opening: TypeAlias = "Callable[[int], Post]"
"""Opens a post for so many threads; can be pickled, such as a `functools.partial` of a function."""

Ask: TypeAlias = "Callable[[Any], Iterator[Any]]"
"""Asks the post of one worker; raises `LostWorkerError` where the worker is gone."""


class Crew(ABC):
    """Workers, and the way to them."""

    @abstractmethod
    def share(
        self,
        opening: Opening,
        items: Iterable[Item],
        take: Callable[[Item, Ask], None],
        *,
        may_begin: Callable[[Item], bool] = lambda item: True,
        stop: Stop | None = None,
    ) -> None:
        """Have all items done.

        Args:
            opening: Opens the post in each worker.
            items: What is to be done, begun in this order; asked for one at a time, as lanes are
                free.
            take: Does one item: asks, and takes what comes. Called from several threads, which
                `take` must expect. Where it raises `LostWorkerError`, the item is handed out again,
                before all others.
            may_begin: Whether an item may be begun now; looked at again and again.
            stop: Begins nothing more once it is asked; leaves what is under way if it says so.

        Raises:
            ClusterError: No worker is left, cannot open its post, or loses the same item again and
                again.
            StockpotError: What `take` raised; the first one.
        """
