"""Two Ray nodes on this machine, for tests and for bench/cluster.py; one of them can be killed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OBJECTS_BYTES = 80 << 20
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # 127.0.0.1 stays that, and nothing listens beyond it.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_DISABLE_METRICS_COLLECTION": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

TOKEN = secrets.token_hex(32)  # Ray reads it once a process


class Nodes:
    """A cluster of a head and whatever was added.

    Attributes:
        address: What others join.
    """

    def __init__(self, cluster: Any, folder: Path) -> None:
        self._cluster, self._folder = cluster, folder
        self.address: str = cluster.address

    def add(self, name: str, cpus: int = 1) -> Any:
        """Start a node.

        Args:
            name: Its name.
            cpus: How many processors it says that it has.
        """
        return self._cluster.add_node(
            num_cpus=cpus, node_name=name, node_ip_address="127.0.0.1", include_dashboard=False,
            object_store_memory=OBJECTS_BYTES,
        )  # fmt: skip

    def remove(self, node: Any) -> None:
        """Kill all processes of a node, as a power failure does."""
        self._cluster.remove_node(node, allow_graceful=False)


def workers(found: str = "ray::Host") -> list[int]:
    """Processes of workers that this process's nodes started, by number; Linux only."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if line.startswith(found) and os.getpid() in _above(int(folder.name)):
            pids.append(int(folder.name))
    return sorted(pids)


def _above(pid: int) -> list[int]:
    """The process that started a process, the one that started that, …"""
    found: list[int] = []
    while pid > 1:
        try:
            told = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(told.rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def kill(pid: int) -> None:
    """End a process as the system does when memory is short."""
    os.kill(pid, signal.SIGKILL)


@contextmanager
def start_nodes(cpus: int = 1, names: tuple[str, ...] = ("first", "second")) -> Iterator[Nodes]:
    """Start nodes, and end all of them.

    Args:
        cpus: How many processors each says that it has.
        names: Of the nodes; the first is the head.

    Yields:
        The nodes.
    """
    wanted = {**ENVIRONMENT, "RAY_AUTH_TOKEN": TOKEN}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    folder = Path(tempfile.mkdtemp(prefix="stockpot-nodes-", dir="/tmp"))
    try:
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True, shutdown_at_exit=True,
            head_node_args={
                "num_cpus": cpus, "node_name": names[0], "node_ip_address": "127.0.0.1",
                "include_dashboard": False, "object_store_memory": OBJECTS_BYTES,
                "temp_dir": str(folder),
            },
        )  # fmt: skip
        try:
            nodes = Nodes(cluster, folder)
            for name in names[1:]:
                nodes.add(name, cpus)
            yield nodes
        finally:
            ray.shutdown()
            cluster.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
