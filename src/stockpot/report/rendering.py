"""What all pages share: the template engine, pictures as text, and a file that comes whole."""

from __future__ import annotations

import base64
import os
import struct
from pathlib import Path
from typing import Any

from stockpot.checkpoints import write_whole
from stockpot.errors import MissingExtraError, OutputExistsError

__all__ = ["data_url", "png_size", "template", "write_text"]


def template(name: str, **filters: Any) -> Any:
    """Load a template; everything that it is given is escaped.

    Args:
        name: Of its file.
        filters: What it may apply to values.

    Returns:
        A jinja2 template.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("writing pages", "draw") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_url=data_url, size=png_size, **filters)
    environment.tests["text"] = lambda value: isinstance(value, str)
    return environment.get_template(name)


def write_text(path: str | os.PathLike[str], text: str, *, overwrite: bool = False) -> Path:
    """Write a file that has its name only when complete.

    Args:
        path: The file.
        text: What to write.
        overwrite: Replace a file that is there.

    Returns:
        The file.

    Raises:
        OutputExistsError: The file is there.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path}: the file is there already; allow overwriting it")
    write_whole(path, text.encode())
    return path


def data_url(png: bytes) -> str:
    """Write a picture as an address that holds it.

    Args:
        png: A PNG file.
    """
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def png_size(png: bytes) -> tuple[int, int]:
    """Read width and height of a PNG file.

    Args:
        png: The file.
    """
    width, height = struct.unpack(">II", png[16:24])
    return width, height
