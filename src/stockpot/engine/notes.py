"""What a journal keeps with a finished tensor: its hash, and those of all that it was made of."""

from __future__ import annotations

import base64
from collections.abc import Sequence

__all__ = ["note_of", "read_note"]

_HASH_BYTES = 32


def note_of(output: str, inputs: Sequence[str]) -> str:
    """Write hashes as one short text.

    Args:
        output: Of the tensor, as hex digits.
        inputs: Of the tensors that were read for it, in the order of its terms.

    Returns:
        Base64 of all of them.

    Example:
        >>> read_note(note_of("00" * 32, ["11" * 32]), 1) == ["00" * 32, "11" * 32]
        True
    """
    return base64.b64encode(bytes.fromhex(output + "".join(inputs))).decode()


def read_note(note: str, n_inputs: int) -> list[str] | None:
    """Read what `note_of` wrote.

    Args:
        note: The text; may be damaged.
        n_inputs: How many hashes of inputs it must hold.

    Returns:
        The tensor's hash, then the inputs'; None where they are not what must be there.
    """
    try:
        raw = base64.b64decode(note, validate=True)
    except ValueError:
        return None
    if len(raw) != _HASH_BYTES * (1 + n_inputs):
        return None
    return [raw[i : i + _HASH_BYTES].hex() for i in range(0, len(raw), _HASH_BYTES)]
