"""Getting a Ray cluster: one of this machine alone, or one that is running already."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from stockpot.cluster.sharing import RayCrew
from stockpot.errors import ClusterError, MissingExtraError

__all__ = ["LOCAL", "open_cluster"]

LOCAL = "local"
"""The address of a cluster that is this machine alone, and ends with the command."""

_STORE_BYTES = 160 << 20  # what is on its way between processes; the least that Ray takes is 75 MiB
_PATIENCE_S = 5.0
_LONGEST_FOLDER = 40  # Ray's sockets lie below, and their paths may have some hundred letters
# Nothing is sent to Ray's makers, nobody else may join, and nothing listens beyond this machine.
_LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_DISABLE_METRICS_COLLECTION": "1",
}
_EVERYWHERE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns that it will change that
}


@contextmanager
def open_cluster(
    address: str = "",
    *,
    workers: int = 0,
    threads: int = 0,
    gpus: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Iterator[RayCrew]:
    """Join a Ray cluster, or start one on this machine, and leave it at the end.

    Args:
        address: ``local``: this machine alone; no other can join or reach it. ``auto``: what
            RAY_ADDRESS says, or the cluster that this machine is a node of. ``HOST:PORT``: of the
            cluster's head; this machine must be one of its nodes. Empty: what RAY_ADDRESS says,
            else ``local``.
        workers: Workers on each node; 0: one for each graphics card where they use one, else one
            with as many threads as the node has processors.
        threads: How many processors of this machine a local cluster may use; 0 means all.
        gpus: Whether each worker needs a graphics card of its own.
        tell: Is told sentences that people want to know at once.

    Yields:
        The crew.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: No cluster can be reached there, or it has no node that can work.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("working on many machines", "cluster")
    address = address or os.environ.get("RAY_ADDRESS", "") or LOCAL
    with ExitStack() as stack:
        alone = address == LOCAL
        # Before Ray is loaded: it reads some of them only then.
        wanted = {**_LOCAL, "RAY_AUTH_TOKEN": _token()} if alone else {}
        stack.enter_context(_environment({**_EVERYWHERE, **wanted}))
        stack.enter_context(_quiet())
        n_cpus = max(threads or os.cpu_count() or 1, workers)
        stack.enter_context(_started(n_cpus) if alone else _joined(address))
        crew = RayCrew(workers, gpus=gpus, tell=tell)
        if not crew.nodes:
            needs = "a graphics card" if gpus else "a processor"
            raise ClusterError(f"{address}: no node of the cluster has {needs} to work with")
        yield crew


@contextmanager
def _started(n_cpus: int) -> Iterator[None]:
    import ray

    if ray.is_initialized():
        yield  # whoever started it ends it
        return
    folder = _folder()
    try:
        with _signals():
            ray.init(
                address="local", num_cpus=n_cpus, include_dashboard=False,
                object_store_memory=_STORE_BYTES, log_to_driver=False, configure_logging=False,
                _node_ip_address="127.0.0.1", _temp_dir=folder,
            )  # fmt: skip
        yield
    except (ConnectionError, RuntimeError, ValueError) as error:
        if ray.is_initialized():
            raise
        raise ClusterError(f"Ray cannot be started on this machine: {error}") from error
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    _knock(address)
    if ray.is_initialized():
        yield
        return
    try:
        with _signals():
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = str(error).strip().splitlines()
        raise ClusterError(
            f"{address}: no Ray cluster can be joined there: {said[0] if said else error}; start "
            "one with `ray start --head`, join this machine with `ray start --address=HOST:PORT`, "
            "or give --cluster local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@cache
def _token() -> str:
    """What proves that a process belongs to us; Ray reads it once."""
    return secrets.token_hex(32)


def _knock(address: str) -> None:
    """Find out within seconds whether anybody answers; Ray itself tries for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto" or not colon:
        if address != "auto":
            raise ClusterError(
                f"{address}: a cluster's address must be local, auto or HOST:PORT, such as "
                "10.0.0.1:6379"
            )
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterError(
            f"{address}: no Ray cluster can be reached there: {error}; start one with `ray start "
            "--head`, or give --cluster local"
        ) from error


def _folder() -> str:
    """A folder for Ray's logs and sockets, with a short name."""
    parent = tempfile.gettempdir()
    if len(parent) > _LONGEST_FOLDER and os.path.isdir("/tmp"):
        parent = "/tmp"
    if os.name == "posix":
        for left in Path(parent).glob("stockpot-ray-*-*"):
            number = left.name.split("-")[2]
            if number.isdigit() and not _lives(int(number)):
                shutil.rmtree(left, ignore_errors=True)  # of a command that was killed
    return tempfile.mkdtemp(prefix=f"stockpot-ray-{os.getpid()}-", dir=parent)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


@contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """Set variables where the user has not, and take them back."""
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextmanager
def _signals() -> Iterator[None]:
    """Keep Ray from taking SIGTERM over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(TypeError):
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Ray say what is wrong by errors, and nothing else: it prints to stdout, among results."""
    import ray._private.worker as speaking

    logger = logging.getLogger("ray")
    before, prints = logger.level, getattr(speaking, "_worker_logs_enabled", None)
    logger.setLevel(logging.ERROR)
    if prints is not None:
        speaking._worker_logs_enabled = False
    try:
        yield
    finally:
        logger.setLevel(before)
        if prints is not None:
            speaking._worker_logs_enabled = prints
