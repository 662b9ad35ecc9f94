"""What a replay made against what it should have made."""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.engine.history import Step, read_history
from stockpot.errors import VerificationError

__all__ = ["check_again"]


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
            f"{last.content} (recorded with {_versions(step)}; now {_versions(last)}); "
            "nothing was saved"
        )
    if _read(last) != _read(step):
        raise VerificationError(
            f"{name}: the weights come out as recorded, but other parts of the inputs were read; "
            "nothing was saved"
        )


def _read(step: Step) -> dict[str, tuple[dict[str, str | None], str | None]]:
    return {name: (dict(record.components), record.made) for name, record in step.inputs.items()}


def _versions(step: Step) -> str:
    methods = ", ".join(f"{name} {version}" for name, version in sorted(step.methods.items()))
    return f"stockpot {step.version}, methods: {methods or 'not told'}"
