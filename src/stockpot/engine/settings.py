"""How a merge runs, whoever makes its tensors: memory, threads, checks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from stockpot.adapters import AdapterSource
from stockpot.engine.budget import DEFAULT_MEMORY, Chunking, take_chunks
from stockpot.engine.crews import Crew
from stockpot.engine.plan import Plan
from stockpot.engine.retelling import original
from stockpot.engine.stopping import Stop
from stockpot.methods import CPU, Device, open_device

__all__ = ["Settings", "chunking_of", "compiled_of", "device_of"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a merge runs; nothing here but `device` can change the merged weights.

    Attributes:
        memory: Ceiling in bytes for buffers and tables, above the interpreter and the libraries.
        threads: How many tensors are worked on at once; 0 means one a core.
        chunk_elements: Length of the pieces in which tensors are read; None lets the budget say.
        hashes: Hash all that is read and written, so that the file can say what it is made of.
            Without it the re-read check has nothing to compare with.
        sha256: Read the inputs' files once more for the hashes by which A1111 and model sites know
            them. They become part of the recipe that the output carries.
        verify: Read the output back before it gets its name.
        allow_nonfinite: Let NaN and infinities through.
        overwrite: Replace an existing output.
        compiled: Use the C kernel where it was built; torch gives the same bytes, more slowly.
        device: Where methods with much arithmetic run: ``cpu``, ``cuda``, ``cuda:1``, or
            ``torch-cpu``, which does on the processor what a GPU would. Another device than the
            processor may change last digits.
        restart: Throw away what a stopped run left under the output's name, instead of going on
            from it.
        recheck: Before going on, read again all that the stopped run read and wrote.
        journal: Keep a journal, so that a stopped run can be gone on from.
        stop: Ends the run early, with what is done kept.
        tell: Is told sentences that people want to know at once.
        crew: Who makes the tensors; None: threads of this process. The bytes are the same.
    """

    memory: int = DEFAULT_MEMORY
    threads: int = 0
    chunk_elements: int | None = None
    hashes: bool = True
    sha256: bool = False
    verify: bool = True
    allow_nonfinite: bool = False
    overwrite: bool = False
    compiled: bool = True
    device: str = CPU
    restart: bool = False
    recheck: bool = False
    journal: bool = True
    stop: Stop | None = None
    tell: Callable[[str], None] | None = None
    crew: Crew | None = None

    @property
    def n_threads(self) -> int:
        """The number of threads, with 0 resolved."""
        return self.threads or os.cpu_count() or 1


def compiled_of(settings: Settings) -> bool:
    """Whether the C kernel runs."""
    from stockpot.methods import HAS_COMPILED_KERNEL

    return settings.compiled and HAS_COMPILED_KERNEL


def device_of(plan: Plan, settings: Settings) -> Device | None:
    """Find the device that a plan's methods run on.

    Args:
        plan: What will run.
        settings: Which device is wanted.

    Returns:
        The device; None where it would have nothing to do.

    Raises:
        DeviceError: There is no such device.
    """
    device = open_device(settings.device)
    return device if plan.runs_on_devices else None


def chunking_of(plan: Plan, settings: Settings) -> Chunking:
    """Cut a plan's work as the settings say; see `take_chunks`."""
    device = device_of(plan, settings)
    factors = sum(
        source.held_bytes(settings.n_threads)
        for source in map(original, plan.sources.values())
        if isinstance(source, AdapterSource)
    )
    return take_chunks(
        plan,
        settings.memory - factors,
        settings.n_threads,
        settings.chunk_elements,
        compiled=compiled_of(settings),
        host_doubles=device.host_doubles if device else 0,
    )
