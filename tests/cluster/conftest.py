"""A crew without Ray, whose workers are lost at will; small pools; two nodes for those with Ray."""

from __future__ import annotations

import importlib.util
import pickle
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stockpot.cluster import RayCrew, open_cluster
from stockpot.cluster.handing import Desk
from stockpot.engine import Crew, Opening, Stop
from stockpot.errors import LostWorkerError

HERE = Path(__file__).parent


def through_pickle(value: Any) -> Any:
    """What arrives in another process."""
    return pickle.loads(pickle.dumps(value))


class ImaginedCrew(Crew):
    """Workers that are threads; all that goes to them and comes back goes through pickle.

    Args:
        n_workers: How many.
        losses: How likely a worker is lost at each value that it sends.
        seed: Of the losses.
    """

    def __init__(self, n_workers: int = 2, losses: float = 0.0, seed: int = 0) -> None:
        self.n_workers, self.losses = n_workers, losses
        self.chance = random.Random(seed)
        self.n_lost = self.n_values = 0
        self.at_value: dict[int, Callable[[], None]] = {}

    def share(
        self,
        opening: Opening,
        items: Iterable[Any],
        take: Callable[[Any, Callable[[Any], Iterator[Any]]], None],
        *,
        may_begin: Callable[[Any], bool] = lambda item: True,
        stop: Stop | None = None,
    ) -> None:
        """Have all items done; a lost worker's post is opened anew."""
        desk: Desk[Any] = Desk(items, may_begin, stop or Stop())

        def lane() -> None:
            try:
                post = through_pickle(opening)(1)
            except BaseException as error:
                desk.halt(error)
                return

            def ask(request: Any) -> Iterator[Any]:
                for value in post.work(through_pickle(request)):
                    self.n_values += 1
                    self.at_value.get(self.n_values, lambda: None)()
                    if self.chance.random() < self.losses:
                        self.n_lost += 1
                        raise LostWorkerError("lost")
                    yield through_pickle(value)
                desk.forgive(item)

            while (found := desk.next()) is not None:
                (item,) = found
                try:
                    take(item, ask)
                except LostWorkerError as error:
                    desk.put_back(item, error)
                    desk.forgive(item)
                except BaseException as error:
                    desk.fail(error)
                else:
                    desk.done(item)
            post.close()

        threads = [threading.Thread(target=lane) for _ in range(self.n_workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if desk.error is not None:
            raise desk.error


@pytest.fixture
def imagined() -> type[ImaginedCrew]:
    """Give the class to tests."""
    return ImaginedCrew


def load(name: str, folder: Path = HERE) -> ModuleType:
    """A helper that lies beside tests."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """Two Ray nodes, for all tests of a process; a third may come and go."""
    with load("nodes").start_nodes() as started:
        yield started


@pytest.fixture(scope="session")
def crew(nodes: Any) -> Iterator[RayCrew]:
    """A crew on these."""
    with open_cluster(nodes.address) as joined:
        yield joined
