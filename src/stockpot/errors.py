"""Everything that can go wrong, as one tree.

StockpotError
├── ProblemsError               several problems found by one check, reported together
│   ├── RecipeError             a recipe cannot be read, or says something impossible
│   ├── PreflightError          a plan cannot run: keys, shapes, architectures, space
│   └── RequestError            a request for pictures cannot be read, or asks the impossible
├── CheckpointError             a file is not what it must be
│   ├── HeaderError             its header breaks the format
│   ├── TruncatedFileError      it ends before the bytes its header promises
│   ├── UnsafeFileError         it asks for something that only an attack needs
│   └── VerificationError       what was read back differs from what was written
├── UnknownNameError            a name that no table has; suggests near ones
├── LayoutError                 keys or shapes that no known architecture explains
├── OutputExistsError           the output is there already and may not be replaced
├── OutputError                 the output cannot be written (no space, no permission)
│   ├── UnconfirmedError        it is complete, but the disk did not confirm its name
│   └── UnfinishedError         a stopped run left something else under its name
├── StoppedError                somebody asked a run to stop
├── MemoryBudgetError           the plan needs more than the memory it was given
├── DeviceError                 a device is not there, or cannot be used for this
├── DeviceMemoryError           it has no memory left for what was asked of it
├── ClusterError                other machines cannot be reached, or do not see the files
│   └── LostWorkerError         one of them is gone
├── StudyError                  a study cannot be opened, or was begun otherwise
├── ScorerError                 a scorer was asked wrongly, or does not do what scorers must
│   ├── MissingWeightsError     files that it needs are not there
│   └── TallyError              its scores have no tally of the kind that was asked for
└── MissingExtraError           an optional dependency is not installed

Each message gives the rule, what came instead, where (file and key), and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = [
    "CheckpointError",
    "ClusterError",
    "DeviceError",
    "DeviceMemoryError",
    "HeaderError",
    "LayoutError",
    "LostWorkerError",
    "MemoryBudgetError",
    "MissingExtraError",
    "MissingWeightsError",
    "OutputError",
    "OutputExistsError",
    "PreflightError",
    "Problem",
    "ProblemsError",
    "RecipeError",
    "RequestError",
    "ScorerError",
    "StockpotError",
    "StoppedError",
    "StudyError",
    "TallyError",
    "TruncatedFileError",
    "UnconfirmedError",
    "UnfinishedError",
    "UnknownNameError",
    "UnsafeFileError",
    "VerificationError",
    "memory_told",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, in a form that people and programs can read.

    Attributes:
        code: Short stable identifier, such as ``missing-key``.
        message: The rule and what came instead.
        where: File, key, or place in the recipe; empty when the message says it.
        remedy: What to do about it; empty when nothing can be advised.

    Example:
        >>> str(Problem("missing-key", "the key is absent", "b.safetensors: a.weight", "use a | b"))
        'b.safetensors: a.weight: the key is absent; use a | b'
    """

    code: str
    message: str
    where: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}; {self.remedy}" if self.remedy else text


class StockpotError(Exception):
    """Base of every error that Stockpot raises on purpose."""


class ProblemsError(StockpotError, ValueError):
    """Several problems that one check found.

    Attributes:
        problems: All of them, in the order in which they were met; never empty.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RecipeError(ProblemsError):
    """A recipe cannot be read, or asks for something that cannot be."""


class PreflightError(ProblemsError):
    """A plan cannot run; found from headers alone, before any tensor was read."""


class RequestError(ProblemsError):
    """A request for pictures cannot be read, or asks for something that cannot be drawn."""


class CheckpointError(StockpotError, ValueError):
    """A file is not the checkpoint it must be."""


class HeaderError(CheckpointError):
    """The header of a file breaks its format."""


class TruncatedFileError(CheckpointError):
    """A file ends before the bytes that its header promises."""


class UnsafeFileError(CheckpointError):
    """A file asks for something that only an attack needs; nothing of it was run."""


class VerificationError(CheckpointError):
    """Bytes that were read back differ from those that were written."""


class UnknownNameError(StockpotError, LookupError):
    """A name that a table does not have.

    Args:
        kind: What the name should have been, such as ``profile``.
        name: What came.
        known: The names there are; near ones are suggested.

    Example:
        >>> str(UnknownNameError("profile", "autombv", ["autombw", "supermerger"]))
        "unknown profile 'autombv'; did you mean 'autombw'? (known: autombw, supermerger)"
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        super().__init__(f"unknown {kind} {name!r}{hint} (known: {listed or 'none'})")
        self.kind, self.name = kind, name


class LayoutError(StockpotError, ValueError):
    """Keys or shapes that no known architecture explains."""


class OutputExistsError(StockpotError, FileExistsError):
    """The output is there already, and nobody allowed replacing it."""


class OutputError(StockpotError, OSError):
    """The output cannot be written."""


class UnconfirmedError(OutputError):
    """The output is complete and has its name, but the disk did not confirm the name."""


class UnfinishedError(OutputError):
    """A run that was stopped left something under the output's name that is not what is asked."""


class StoppedError(StockpotError):
    """Somebody asked a run to stop; the message says what is kept."""


class MemoryBudgetError(StockpotError, MemoryError):
    """A plan needs more memory than it was given."""


class DeviceMemoryError(StockpotError, MemoryError):
    """A device has no memory left for what was asked of it."""


class DeviceError(StockpotError, ValueError):
    """A device that is not there, or that cannot be used for this."""


class ClusterError(StockpotError):
    """Other machines cannot be reached, or do not see the files that they must."""


class LostWorkerError(ClusterError):
    """A worker is gone; what it was doing can be given to another."""


class StudyError(StockpotError, ValueError):
    """A study cannot be opened, or was begun with other settings than it is to go on with."""


class ScorerError(StockpotError, ValueError):
    """A scorer was asked wrongly, or what it gave back is not what scorers must give."""


class MissingWeightsError(ScorerError):
    """Files that a scorer needs are not there; the message says where to get and to put them."""


class TallyError(ScorerError):
    """Scores have no tally of the kind that was asked for; the message names the task."""


class MissingExtraError(StockpotError, ImportError):
    """An optional dependency is not installed.

    Args:
        purpose: What needs it.
        extra: The extra of the ``stockpot`` distribution that brings it.

    Example:
        >>> str(MissingExtraError("drawing", "draw"))
        "drawing needs packages that are not installed; type: pip install 'stockpot[draw]'"
    """

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs packages that are not installed; "
            f"type: pip install 'stockpot[{extra}]'"
        )


@contextmanager
def memory_told(what: str, remedy: str) -> Iterator[None]:
    """Say what to do where torch has no memory left, on a GPU or off it.

    Args:
        what: The device, and what was asked of it.
        remedy: What to try.

    Yields:
        Nothing.

    Raises:
        DeviceMemoryError: In place of torch's own error.

    Example:
        >>> with memory_told("cuda:0 cannot hold 4 pictures", "draw fewer at once"):
        ...     raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried 9 bytes.")
        Traceback (most recent call last):
        ...
        stockpot.errors.DeviceMemoryError: cuda:0 cannot hold 4 pictures: no memory is left; draw...
    """
    try:
        yield
    except RuntimeError as error:
        # Known by name, so that torch need not be there. Off a GPU it has no class of its own.
        if type(error).__name__ != "OutOfMemoryError" and "DefaultCPUAllocator" not in str(error):
            raise
        raise DeviceMemoryError(f"{what}: no memory is left; {remedy}") from error
