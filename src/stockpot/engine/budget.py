"""One memory budget, from which every buffer of a run is taken before it starts."""

from __future__ import annotations

import contextlib
import re
import sys
from dataclasses import dataclass

from stockpot.checkpoints import size_text
from stockpot.engine.plan import Plan
from stockpot.errors import MemoryBudgetError
from stockpot.methods import BLOCK_ELEMENTS

__all__ = [
    "DEFAULT_MEMORY",
    "Chunking",
    "give_back_memory",
    "parse_size",
    "size_text",
    "take_chunks",
]

DEFAULT_MEMORY = 1 << 30
"""Ceiling where nobody names one, in bytes."""

_FIXED_BYTES = 48 << 20  # headers, hash states, the check's buffers, thread stacks
_TABLE_BYTES = 1000  # what header, plan and hashes keep of one tensor of one model
_TORCH_BYTES = 72  # temporaries of the torch kernel, an element: nine doubles
_MOST_ELEMENTS = 1 << 18  # more gains no speed and leaves the caches
_FEWEST_ELEMENTS = 1 << 10
# More models get shorter chunks, so that a panel stays in the caches, down to reads of this length.
_PANEL_BYTES = 5 << 19
_HANDY_ELEMENTS = 1 << 16
# Methods walk over their panels several times: these stay in the second and third cache.
_METHOD_BYTES = 16 << 20
_FEWEST_PANEL = 1 << 12
_MOST_PANEL = 1 << 17
_ROW_BYTES = 16  # the result as doubles and in its type
_UNITS = {"": 1, "b": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_UNITS |= {f"{unit}b": factor for unit, factor in _UNITS.items() if unit and unit != "b"}
_UNITS |= {f"{unit}ib": 1024.0**power for power, unit in enumerate("kmgt", 1)}


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a run cuts its work.

    Attributes:
        threads: How many tensors are worked on at once.
        chunk_elements: Elements of a row that are in memory at once.
        panel_elements: The same where methods take part: they work with doubles. A multiple of 64.
        n_bytes: What the buffers of all threads take, and what methods keep between passes.
    """

    threads: int
    chunk_elements: int
    panel_elements: int
    n_bytes: int


def parse_size(text: str) -> int:
    """Read a number of bytes as people write it.

    Args:
        text: ``700MB`` (millions), ``1GiB`` (powers of 1024), or plain bytes.

    Returns:
        Bytes.

    Raises:
        ValueError: It is not a size.

    Example:
        >>> parse_size("1GiB"), parse_size("700 MB"), parse_size("1.5k")
        (1073741824, 700000000, 1500)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"a size must look like 700MB or 1GiB, but got {text!r}")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def take_chunks(
    plan: Plan,
    memory: int,
    threads: int,
    chunk_elements: int | None = None,
    *,
    compiled: bool = True,
    host_doubles: int = 0,
) -> Chunking:
    """Cut a plan's work so that it fits the budget.

    Args:
        plan: What will run.
        memory: Ceiling in bytes, above the interpreter and the libraries.
        threads: Wanted threads; fewer are used where the budget is small.
        chunk_elements: Fix the length of a chunk; the budget is still checked.
        compiled: Whether the C kernel runs; torch needs room of its own.
        host_doubles: Doubles that a device takes here for each element of a row; 0 without one.

    Returns:
        The cut.

    Raises:
        MemoryBudgetError: Not even one thread with the shortest chunk fits.
    """
    # Widest panel: one row of every input and the output's row.
    width = max(
        (
            sum(term.dtype.itemsize for term in tensor.terms) + tensor.info.dtype.itemsize
            for tensor in plan.tensors.values()
            if tensor.graph is None
        ),
        default=1,
    )
    wide = max(
        (
            8 * (tensor.graph.width(compiled) + host_doubles * tensor.graph.widest)
            + sum(term.dtype.itemsize for term in tensor.terms)
            + _ROW_BYTES
            for tensor in plan.tensors.values()
            if tensor.graph is not None
        ),
        default=0,
    )
    # Threads work on different tensors, at worst on those whose methods keep most.
    held = sorted(
        (
            tensor.graph.held(tensor.info.shape)
            for tensor in plan.tensors.values()
            if tensor.graph is not None
        ),
        reverse=True,
    )
    if not compiled:
        width += _TORCH_BYTES
        wide += _TORCH_BYTES if wide else 0
    n_tables = len(plan.tensors) + sum(len(source.tensors) for source in plan.sources.values())
    fixed = _FIXED_BYTES + _TABLE_BYTES * n_tables
    shortest = chunk_elements or _FEWEST_ELEMENTS
    for n_threads in range(max(1, threads), 0, -1):
        kept = sum(held[:n_threads])
        free = (memory - fixed - kept) // n_threads
        if free < max(width, wide) * shortest:
            continue
        handy = max(_HANDY_ELEMENTS, _PANEL_BYTES // width)
        elements = chunk_elements or min(free // width, handy, _MOST_ELEMENTS)
        panel = elements
        if wide and not chunk_elements:
            handy = max(_FEWEST_PANEL, _METHOD_BYTES // wide)
            panel = min(free // wide, handy, _MOST_PANEL)
        # Whole blocks of inner products need no copy of what is left over.
        grain = BLOCK_ELEMENTS if panel >= BLOCK_ELEMENTS and not chunk_elements else 64
        panel = max(64, panel // grain * grain)
        return Chunking(n_threads, elements, panel, kept + n_threads * max(
            width * elements, wide * panel))  # fmt: skip
    least = fixed + sum(held[:1]) + max(width, wide) * shortest
    raise MemoryBudgetError(
        f"the plan needs at least {size_text(least)} for {len(plan.sources)} models"
        + (f", {size_text(held[0])} of it for what methods keep of one tensor" if sum(held) else "")
        + f", but --memory allows {size_text(memory)}; allow more"
    )


def give_back_memory() -> None:
    """Hand freed memory back to the system, which glibc keeps for threads that are long gone.

    Each run has threads of its own. In a process that lives on, such as a server's, what theirs
    left would add up to a hundred MB. Elsewhere than on glibc nothing happens.

    Example:
        >>> give_back_memory()
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
