"""Small files of YAML that people write by hand and that are no recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from stockpot.errors import Problem, RequestError

from .strict_yaml import MAX_BYTES

__all__ = ["read_small_yaml"]


def read_small_yaml(file: Path, what: str) -> Any:
    """Read a file as plain YAML.

    Args:
        file: Its path.
        what: What the file holds, for the message.

    Returns:
        What it says: nested lists, mappings, texts, numbers; None for an empty file.

    Raises:
        RequestError: It cannot be read, is larger than 1 MiB, or is no YAML.
    """
    try:
        with file.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError("it is larger than 1 MiB")
        return yaml.safe_load(data.decode("utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError([Problem(what, f"cannot be read: {reason}", str(file))]) from None
