"""What a replay made against what it should have made."""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.engine.history import Step, read_history
from stockpot.errors import VerificationError
from stockpot.methods import CPU

__all__ = ["check_again", "device_name"]


def check_again(step: Step, metadata: Mapping[str, str], name: str) -> None:
    """Refuse a result that is not what the record of a step says.

    Args:
        step: The record.
        metadata: Of the result.
        name: What to call it in messages.

    Raises:
        VerificationError: Its weights, or the inputs that were read, differ.
    """
    history = read_history(metadata, name)
    last = history.last if history is not None else step
    if last.content != step.content:
        raise VerificationError(
            f"{name}: the recipe should make weights with content hash {step.content}, but makes "
            f"{last.content} (recorded with {_versions(step)}; now {_versions(last)}"
            + ("; equal bytes are promised on the same device and library only" * bool(step.device))
            + "); nothing was saved"
        )
    if _read(last) != _read(step):
        raise VerificationError(
            f"{name}: the weights come out as recorded, but other parts of the inputs were read; "
            "nothing was saved"
        )


def device_name(step: Step) -> str:
    """The name of the device on which a step was done.

    Args:
        step: The record.

    Returns:
        As `stockpot.engine.Settings.device` takes it.
    """
    return step.device.partition(",")[0].partition(" ")[0] or CPU


def _read(step: Step) -> dict[str, tuple[dict[str, str | None], str | None]]:
    return {name: (dict(record.components), record.made) for name, record in step.inputs.items()}


def _versions(step: Step) -> str:
    methods = ", ".join(f"{name} {version}" for name, version in sorted(step.methods.items()))
    where = f", on {step.device}" if step.device else ""
    return f"stockpot {step.version}, methods: {methods or 'not told'}{where}"
