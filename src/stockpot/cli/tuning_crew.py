"""A study on a cluster: each worker holds the pool, and is one more hand in the same study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stockpot.cli.clustering import crew_of

if TYPE_CHECKING:
    from stockpot.tune import Examiner

__all__ = ["draw_on_cluster", "with_absolute_paths"]

Options = TypeVar("Options")


def draw_on_cluster(
    address: str,
    workers: int,
    device: str,
    opening: Callable[[], Examiner],
    use: Callable[[Examiner], None],
) -> None:
    """Give the examiner of each worker to a function, until nothing is left to draw.

    Args:
        address: Of the cluster.
        workers: On each node; 1: one, or one for each graphics card.
        device: Where they draw.
        opening: Opens an examiner in a worker; can be pickled.
        use: Draws all that is left in a study, as a further process would, and returns. Called in
            a thread for each worker.
    """
    from stockpot.tune import examine_on_crew

    each = workers if workers > 1 else 0
    gpus = device.startswith("cuda")
    with crew_of(address, threads=max(1, each), workers=each, gpus=gpus) as crew:
        assert crew is not None
        examine_on_crew(crew, opening, use)


def with_absolute_paths(options: Options) -> Options:
    """The same options, with paths that mean the same in every folder.

    Args:
        options: A dataclass.
    """
    found: dict[str, Any] = {}
    for field in fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        if isinstance(value, Path):
            found[field.name] = value.absolute()
    return replace(options, **found)  # type: ignore[type-var]
