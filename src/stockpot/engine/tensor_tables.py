"""A short hash of every tensor of a file, in its metadata: not to prove, but to find what broke.

The content hashes of a record say whether a component is what a merge made; this table says which
of its tensors are not. Eight bytes each are enough for that, since damage does not aim.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping

__all__ = ["TENSORS_KEY", "read_table", "table_of"]

TENSORS_KEY = "stockpot.tensors"
_BYTES = 8
_PREFIX = f"{_BYTES}:"


def table_of(hashes: Mapping[str, str]) -> str:
    """Write the table.

    Args:
        hashes: BLAKE3 of each tensor as hex digits, by the key that it has in a checkpoint.

    Returns:
        ``8:`` and base64 of the first 8 bytes of each, in the order of keys.

    Example:
        >>> table_of({"b": "ff" * 32, "a": "00" * 32})
        '8:AAAAAAAAAAD//////////w=='
    """
    raw = b"".join(bytes.fromhex(hashes[key])[:_BYTES] for key in sorted(hashes))
    return _PREFIX + base64.b64encode(raw).decode()


def read_table(metadata: Mapping[str, str], keys: Collection[str]) -> dict[str, str] | None:
    """Read the table of a file.

    Args:
        metadata: Of the file; untrusted.
        keys: Its tensors, by the keys that they have in a checkpoint.

    Returns:
        The first 16 hex digits of each tensor's hash; None where there is no table of so many.
    """
    text = metadata.get(TENSORS_KEY, "")
    if not text.startswith(_PREFIX):
        return None
    try:
        raw = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except ValueError:
        return None
    if len(raw) != _BYTES * len(keys):
        return None
    return {key: raw[i * _BYTES : (i + 1) * _BYTES].hex() for i, key in enumerate(sorted(keys))}
