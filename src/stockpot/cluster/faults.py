"""Errors on their way between processes: as plain data, and the same errors again."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from types import FunctionType

from stockpot import errors
from stockpot.errors import (
    ClusterError,
    MissingExtraError,
    MissingWeightsError,
    PreflightError,
    Problem,
    StockpotError,
)

__all__ = ["Fault", "fault_of"]

# Another node may well have what is missing on this one.
_OF_A_MACHINE = (PreflightError, ClusterError, MissingExtraError, MissingWeightsError)


@dataclass(frozen=True)
class Fault:
    """What went wrong in a worker.

    Attributes:
        kind: Name of the class in `stockpot.errors`; empty for an error that nobody raised on
            purpose.
        text: Its message.
        problems: Of an error that has several.
        system: What the system said, where it was the cause; empty where it was not.
        trace: Where it happened, for people who look for the reason.
    """

    kind: str
    text: str
    problems: tuple[Problem, ...] = ()
    system: str = ""
    trace: str = ""

    def error(self, node: str) -> StockpotError:
        """Make the error again, as if it had happened here.

        Args:
            node: Where it happened. It is told where that matters: files and machines differ, but
                a NaN would be found by every worker.

        Returns:
            What to raise.
        """
        if not self.kind:
            error: StockpotError = ClusterError(
                f"node {node}: a worker failed: {self.text}; --debug shows where"
            )
            error.add_note(self.trace)
            return error
        kind = getattr(errors, self.kind)
        text = self.text
        if issubclass(kind, _OF_A_MACHINE) or self.system:
            text = "\n".join(f"node {node}: {line}" for line in text.splitlines())
        # Some kinds make their words of other arguments; these have them already.
        makes_words = isinstance(kind.__init__, FunctionType)
        error = kind.__new__(kind, text) if makes_words else kind(text)
        error.args = (text,)
        if self.problems:
            error.problems = self.problems  # type: ignore[attr-defined]
        if self.system:
            error.__cause__ = OSError(self.system)
        return error


def fault_of(error: BaseException) -> Fault:
    """Take an error apart.

    Args:
        error: Any.

    Example:
        >>> fault_of(errors.CheckpointError("a.safetensors: cannot be read")).error("n1")
        CheckpointError('a.safetensors: cannot be read')
        >>> fault_of(KeyError("x")).kind
        ''
    """
    trace = "".join(traceback.format_exception(error))
    kind = type(error).__name__
    if not isinstance(error, StockpotError) or getattr(errors, kind, None) is not type(error):
        return Fault("", f"{kind}: {error}", trace=trace)
    cause = error.__cause__
    system = (cause.strerror or str(cause)) if isinstance(cause, OSError) else ""
    problems = getattr(error, "problems", ())
    return Fault(kind, str(error), tuple(problems), system, trace)
