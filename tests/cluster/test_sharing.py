"""A crew on two real Ray nodes: the same bytes, lost workers, files that a node does not see."""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from stockpot.checkpoints import open_checkpoint
from stockpot.cluster import RayCrew, open_cluster
from stockpot.compare import compare, save_comparison
from stockpot.engine import Post, Progress, Settings, Stop, merge
from stockpot.errors import ClusterError, PreflightError, StoppedError
from stockpot.recipes import make_recipe

NAMES = "abc"


@pytest.fixture(scope="module", autouse=True)
def by_value() -> Iterator[None]:
    """Workers need not find this file."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three small models."""
    folder = tmp_path_factory.mktemp("pool")
    for number, name in enumerate(NAMES):
        rng = np.random.default_rng(number)
        tensors = {
            f"layer{i:02}.weight": rng.standard_normal((64, 300 + i)).astype(np.float16)
            for i in range(20)
        }
        tensors["large.weight"] = rng.standard_normal((1100, 1000)).astype(np.float64)
        save_file(tensors, folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in NAMES}


def merged(pool: dict[str, str], output: Path, mix: str = "ties(a, b, c, keep=0.5)",
           progress: Any = None, **settings: Any) -> bytes:  # fmt: skip
    merge(make_recipe(mix, pool), output, progress=progress, settings=Settings(**settings))
    return output.read_bytes()


class Slow(Post):
    """Sleeps, and says in which process."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def work(self, request: Any) -> Iterator[tuple[Any, int]]:
        time.sleep(self.seconds)
        yield request, os.getpid()


def open_slow(seconds: float, n_threads: int) -> Slow:
    return Slow(seconds)


def test_two_nodes_make_the_bytes_of_one_process(
    pool: dict[str, str], crew: RayCrew, tmp_path: Path
) -> None:
    assert [node.name for node in crew.nodes] == ["first (127.0.0.1)", "second (127.0.0.1)"]
    here = merged(pool, tmp_path / "here", threads=1)
    assert merged(pool, tmp_path / "there", crew=crew) == here
    files = []
    for name, who in (("one", None), ("two", crew)):
        sources = {n: open_checkpoint(path) for n, path in pool.items()}
        save_comparison(compare(sources, base="a", crew=who, threads=1), tmp_path / name)
        for source in sources.values():
            source.close()
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_both_nodes_work_and_a_worker_that_is_killed_costs_what_it_was_doing(
    crew: RayCrew, nodes: Any
) -> None:
    from importlib import import_module

    helper = import_module("nodes")
    found: list[tuple[int, int]] = []
    killed = threading.Event()

    def take(item: int, ask: Any) -> None:
        (value,) = ask(item)
        found.append(value)
        if len(found) > 3 and not killed.is_set():
            killed.set()
            helper.kill(helper.workers()[0])

    crew.share(partial(open_slow, 0.15), range(24), take)
    assert sorted(item for item, _ in found) == list(range(24))
    assert len({pid for _, pid in found}) >= 3  # two at first, and the one in place of the killed
    assert killed.is_set()


def test_a_node_that_is_lost_midway_changes_nothing(
    pool: dict[str, str], nodes: Any, tmp_path: Path
) -> None:
    third = nodes.add("third")
    lost = threading.Event()
    told: list[str] = []
    crew = RayCrew(tell=told.append)

    def progress(said: Progress) -> None:
        if said.done_bytes > 0.3 * said.total_bytes and not lost.is_set():
            lost.set()
            nodes.remove(third)

    here = merged(pool, tmp_path / "here", "mean(a, b, c)", threads=1)
    assert merged(pool, tmp_path / "there", "mean(a, b, c)", progress, crew=crew) == here
    assert lost.is_set()


def test_a_crew_stops_when_it_is_asked(crew: RayCrew) -> None:
    stop, found = Stop(), list[int]()

    def take(item: int, ask: Any) -> None:
        found.extend(value for value, _ in ask(item))
        stop.ask()

    crew.share(partial(open_slow, 0.05), range(1000), take, stop=stop)
    assert 1 <= len(found) <= 2
    stop = Stop()

    def wait(item: int, ask: Any) -> None:
        threading.Timer(0.5, partial(stop.ask, now=True)).start()
        list(ask(item))

    start = time.monotonic()
    with pytest.raises(StoppedError):
        crew.share(partial(open_slow, 60.0), range(4), wait, stop=stop)
    assert time.monotonic() - start < 30


def test_a_file_that_a_node_does_not_see_is_named_with_the_node(
    pool: dict[str, str], crew: RayCrew, tmp_path: Path
) -> None:
    hidden = tmp_path / "hidden.safetensors"
    hidden.write_bytes(Path(pool["c"]).read_bytes())
    recipe = make_recipe("mean(a, c)", {"a": pool["a"], "c": str(hidden)})

    class Blind(RayCrew.__mro__[1]):  # type: ignore[misc]
        def share(self, *args: Any, **options: Any) -> None:
            hidden.unlink()
            crew.share(*args, **options)

    with pytest.raises(PreflightError, match=r"node (first|second) \(127.0.0.1\): .*hidden") as e:
        merge(recipe, tmp_path / "out.safetensors", settings=Settings(crew=Blind()))
    assert "\n" not in str(e.value)
    assert not list(tmp_path.glob("out*"))


def test_an_address_where_nobody_is_is_an_error_within_seconds() -> None:
    start = time.monotonic()
    with pytest.raises(ClusterError, match="127.0.0.1:9: no Ray cluster can be reached.*ray start"):
        with open_cluster("127.0.0.1:9"):
            raise AssertionError
    with pytest.raises(ClusterError, match="must be local, auto or HOST:PORT"):
        with open_cluster("somewhere"):
            raise AssertionError
    assert time.monotonic() - start < 10


def test_nodes_without_graphics_cards_are_no_use_where_one_is_needed(nodes: Any) -> None:
    with pytest.raises(ClusterError, match="no node of the cluster has a graphics card"):
        with open_cluster(nodes.address, gpus=True):
            raise AssertionError


def test_a_package_that_a_node_lacks_is_named(
    crew: RayCrew, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = types.ModuleType("only_here")
    exec("def opened(n_threads): pass", here.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", here)
    with pytest.raises(ClusterError, match="node .*No module named 'only_here'; install the same"):
        crew.share(here.opened, [1], lambda item, ask: None)
