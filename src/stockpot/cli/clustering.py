"""The option ``--cluster`` of commands that other machines can help with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from stockpot.cli.output import note

if TYPE_CHECKING:
    from stockpot.cluster import RayCrew

__all__ = ["ClusterCommand", "OnCluster", "crew_of"]

_FLAG = "--cluster"
_ADDRESS = re.compile(r"auto|local|(ray://)?[^/\\\s]+:\d+")

OnCluster = Annotated[
    str | None,
    typer.Option(
        _FLAG, metavar="[ADDRESS]",
        help="Work on a Ray cluster: HOST:PORT, auto, or local, which is this machine alone. "
             "Without an address: what RAY_ADDRESS says, else local.",
    ),
]  # fmt: skip


class ClusterCommand(TyperCommand):
    """A command whose ``--cluster`` may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put an empty address where none was given, so that a file is not taken for one."""
        found = []
        for i, arg in enumerate(args):
            found.append(arg)
            if arg == _FLAG and not _ADDRESS.fullmatch("".join(args[i + 1 : i + 2])):
                found[-1] = f"{_FLAG}="
        return super().parse_args(ctx, found)


@contextmanager
def crew_of(
    address: str | None, *, threads: int = 0, workers: int = 0, gpus: bool = False
) -> Iterator[RayCrew | None]:
    """Open the cluster that an option names.

    Args:
        address: As it was given; None without the option.
        threads: Processors of this machine that a local cluster may use; 0 means all.
        workers: On each node; 0: one, or one for each graphics card.
        gpus: Whether each worker needs a graphics card.

    Yields:
        The crew; None without the option.
    """
    if address is None:
        yield None
        return
    from stockpot.cluster import open_cluster

    with open_cluster(address, workers=workers, threads=threads, gpus=gpus, tell=note) as crew:
        nodes = crew.nodes
        names = ", ".join(node.name for node in nodes[:8]) + (", …" if len(nodes) > 8 else "")
        note(f"working on {len(nodes)} node{'s' if len(nodes) != 1 else ''}: {names}")
        yield crew
