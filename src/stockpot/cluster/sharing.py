"""A crew of Ray actors: one on each node, or several; looked after while they work.

A worker that dies is replaced on its node, a node that is lost is done without, one that joins is
taken in. What a lost worker was doing is handed out again; all else it had done is done.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

from stockpot.cluster.handing import Desk
from stockpot.cluster.hosting import Answer, Host
from stockpot.engine import Crew, Opening, Stop
from stockpot.errors import ClusterError, LostWorkerError, StoppedError

__all__ = ["Node", "RayCrew"]

Item = TypeVar("Item")
Take = Callable[[Item, Callable[[Any], Iterator[Any]]], None]

_LOOK_S = 0.25
_NODES_S = 2.0
_MOST_STARTS = 3  # of a worker that finishes nothing
_PAUSE_S = 2.0  # before a worker is started again; longer each time
_PATIENCE_S = 60.0  # without any worker
_SILENT_S = 20.0  # before somebody is told what is waited for


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        key: Ray's name for it.
        name: Its name for people.
        cpus: Its processors, as Ray counts them.
        gpus: Its graphics cards.
    """

    key: str
    name: str
    cpus: int
    gpus: int


@dataclass
class _Place:
    """Where a worker is, was, or is to be."""

    node: Node
    number: int
    actor: Any = None
    opened: Any = None  # the answer that tells that it is ready
    lanes: list[threading.Thread] = field(default_factory=list)
    ready: bool = False
    first: bool = True  # the node was there from the beginning
    lost: bool = False
    gone: bool = False  # no further attempt
    n_starts: int = 0
    since: float = 0.0
    told: bool = False


@final
class RayCrew(Crew):
    """Workers on a Ray cluster. Made by `open_cluster`.

    Args:
        workers: Workers on each node; 0: one for each graphics card where they use one, else one.
        gpus: Whether each worker needs a graphics card of its own.
        tell: Is told sentences that people want to know at once.
    """

    def __init__(
        self, workers: int = 0, *, gpus: bool = False, tell: Callable[[str], None] | None = None
    ) -> None:
        self._workers, self._gpus = workers, gpus
        self._tell = tell or (lambda text: None)
        self._tickets = itertools.count()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that can work, in the order of their names."""
        import ray

        list_nodes: Any = ray.nodes  # which says nothing of types
        found = []
        for told in list_nodes():
            resources = told["Resources"]
            node = Node(
                told["NodeID"], _name(told), int(resources.get("CPU", 0)),
                int(resources.get("GPU", 0)),
            )  # fmt: skip
            if told["Alive"] and node.cpus >= 1 and self.workers_on(node):
                found.append(node)
        return tuple(sorted(found, key=lambda node: (node.name, node.key)))

    @property
    def n_workers(self) -> int:
        """How many workers all nodes together have."""
        return sum(self.workers_on(node) for node in self.nodes)

    def workers_on(self, node: Node) -> int:
        """How many workers a node gets."""
        if self._gpus:
            return min(self._workers or node.gpus, node.gpus)
        return min(self._workers or 1, node.cpus)

    def share(
        self,
        opening: Opening,
        items: Iterable[Item],
        take: Take[Item],
        *,
        may_begin: Callable[[Item], bool] = lambda item: True,
        stop: Stop | None = None,
    ) -> None:
        """Have all items done; see `Crew.share`."""
        import ray

        desk = Desk(items, may_begin, stop or Stop())
        places: list[_Place] = []
        looked = alone_since = -1.0
        try:
            while not desk.finished:
                now = time.monotonic()
                if now - looked >= _NODES_S:
                    self._take_in(places, first=looked < 0)
                    looked = now
                for place in places:
                    self._look_after(place, opening, desk, take)
                if desk.error is not None:
                    break
                if all(place.gone for place in places):
                    alone_since = now if alone_since < 0 else alone_since
                    if now - alone_since > _PATIENCE_S:
                        raise ClusterError(
                            "the cluster has no worker left, and none came in "
                            f"{_PATIENCE_S:.0f} s; start nodes with `ray start`, and give the "
                            "same command again"
                        )
                else:
                    alone_since = -1.0
                desk.wait(_LOOK_S)
        finally:
            desk.halt()
            for place in places:
                for lane in place.lanes:
                    lane.join()
                if place.actor is not None:
                    with suppress(ray.exceptions.RayError, ConnectionError, RuntimeError):
                        ray.kill(place.actor)
        if desk.error is not None:
            raise desk.error

    def _take_in(self, places: list[_Place], first: bool) -> None:
        """Note nodes that are new, and those that are no more."""
        nodes = self.nodes
        known = {place.node.key for place in places}
        there = {node.key for node in nodes}
        for place in places:
            at_work = place.ready and not place.lost
            if place.node.key not in there and not at_work and not place.gone:
                place.gone = True
                self._tell(f"node {place.node.name} is lost; the others go on")
        for node in nodes:
            if node.key not in known:
                if not first:
                    self._tell(f"node {node.name} joined")
                for number in range(self.workers_on(node)):
                    places.append(_Place(node, number, first=first))

    def _look_after(
        self, place: _Place, opening: Opening, desk: Desk[Item], take: Take[Item]
    ) -> None:
        """Start a worker where one is missing, and put one to work that is ready."""
        import ray

        if place.gone or desk.halted:
            return
        if place.lost and not any(lane.is_alive() for lane in place.lanes):
            place.actor, place.ready, place.lost, place.lanes = None, False, False, []
        if place.actor is None:
            if time.monotonic() - place.since < _PAUSE_S * place.n_starts:
                return
            if place.n_starts >= _MOST_STARTS:
                place.gone = True
                self._tell(f"node {place.node.name}: no worker of it lives; the others go on")
                return
            self._start(place, opening)
        if place.ready:
            return
        if not ray.wait([place.opened], timeout=0)[0]:
            if not place.told and time.monotonic() - place.since > _SILENT_S:
                place.told = True
                self._tell(f"node {place.node.name}: waiting for its worker to start; the node "
                           "may be busy with other work")  # fmt: skip
            return
        try:
            answer: Answer = ray.get(place.opened)
        except ray.exceptions.RayError as error:
            place.actor = None
            if _is_missing(error):
                desk.halt(ClusterError(
                    f"node {place.node.name}: {_is_missing(error)}; install the same packages "
                    "there, with the same Python"
                ))  # fmt: skip
            return
        if answer.fault is not None:
            found = answer.fault.error(place.node.name)
            if place.first:
                desk.halt(found)
            else:
                place.gone = True
                self._tell(f"{found}; the others go on")
            return
        place.ready = True
        for _ in range(answer.values[0]):
            lane = threading.Thread(target=self._lane, args=(place, desk, take), daemon=True)
            place.lanes.append(lane)
            lane.start()

    def _start(self, place: _Place, opening: Opening) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        n_threads = max(1, place.node.cpus // self.workers_on(place.node))
        host = ray.remote(Host).options(
            num_cpus=n_threads, num_gpus=int(self._gpus), max_restarts=0, max_task_retries=0,
            max_concurrency=n_threads + 2,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node.key, soft=False),
        )  # fmt: skip
        place.actor = host.remote(opening, n_threads)
        place.opened = place.actor.open.remote()
        place.n_starts += 1
        place.since = time.monotonic()

    def _lane(self, place: _Place, desk: Desk[Item], take: Take[Item]) -> None:
        """Do items until there are no more, or the worker is gone."""

        while not place.lost and (item := desk.next()) is not None:

            def ask(request: Any, item: Item = item[0]) -> Iterator[Any]:
                yield from self._ask(place, desk, request)
                # Whoever finishes something is no worker that dies of what it does.
                place.n_starts = 0
                desk.forgive(item)

            try:
                take(item[0], ask)
            except LostWorkerError as error:
                if not place.lost and not desk.halted:
                    self._tell(f"{error}; what it was doing is done again")
                place.lost = True
                desk.put_back(item[0], error)
            except BaseException as error:
                desk.fail(error)
            else:
                desk.done(item[0])

    def _ask(self, place: _Place, desk: Desk[Item], request: Any) -> Iterator[Any]:
        import ray

        ticket, actor = next(self._tickets), place.actor
        waiting = actor.begin.remote(ticket, request)
        ended = False
        try:
            while True:
                answer = self._answer(place, desk, waiting)
                ended = answer.ended or answer.fault is not None
                if not ended:
                    # While this one is taken, the next is under way.
                    waiting = actor.go_on.remote(ticket)
                yield from answer.values
                if answer.fault is not None:
                    raise answer.fault.error(place.node.name)
                if ended:
                    return
        finally:
            if not ended and not place.lost:
                try:
                    actor.drop.remote(ticket)
                except ray.exceptions.RayError:
                    place.lost = True

    def _answer(self, place: _Place, desk: Desk[Item], waiting: Any) -> Answer:
        import ray

        while True:
            if desk.halted:
                raise StoppedError("stopped")
            try:
                answer: Answer = ray.get(waiting, timeout=_LOOK_S)
                return answer
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayTaskError as error:
                raise ClusterError(
                    f"node {place.node.name}: a worker failed: {error.cause}; --debug shows where"
                ) from error
            except ray.exceptions.RayError as error:
                raise LostWorkerError(
                    f"node {place.node.name}: a worker was lost ({type(error).__name__})"
                ) from error


def _name(told: dict[str, Any]) -> str:
    """What people call a node: its host, its address, and its own name where it has one."""
    host, address, name = told["NodeManagerHostname"], told["NodeManagerAddress"], told["NodeName"]
    return f"{host} ({address})" if name in (host, address, "") else f"{name} ({address})"


def _is_missing(error: BaseException) -> str:
    """The line that says which package a node lacks; empty where it is something else."""
    lines = str(error).splitlines()
    found = [line.strip() for line in lines if "ModuleNotFoundError" in line]
    return found[-1] if found else ""
