"""The page of a grid of pictures: large or small, each one to be opened, with its recipe card."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stockpot.report.rendering import template, write_text

__all__ = ["GridPage", "GridPicture", "GridRow", "render_grid", "write_grid"]

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class GridPicture:
    """One picture of a grid.

    Attributes:
        png: The file.
        caption: A short line under it, such as how far it is from the reference; may be empty.
        card: Its infotext; shown with the opened picture.
    """

    png: bytes
    caption: str = ""
    card: str = ""


@dataclass(frozen=True, slots=True)
class GridRow:
    """One line of a grid.

    Attributes:
        label: What its pictures share.
        pictures: One for each column; None leaves the place empty.
        is_difference: Whether it shows differences to the reference, not pictures.
    """

    label: str
    pictures: Sequence[GridPicture | None]
    is_difference: bool = False


@dataclass(frozen=True, slots=True)
class GridPage:
    """A page with one grid.

    Attributes:
        title: Of the page and of the browser's tab.
        lead: What is to be seen.
        columns: Labels on top.
        rows: The lines.
        facts: Names and what they stand for, at the end.
        footer: The last line.
    """

    title: str
    lead: str
    columns: Sequence[str]
    rows: Sequence[GridRow]
    facts: Sequence[tuple[str, str]] = ()
    footer: str = ""


def render_grid(page: GridPage) -> str:
    """Write a grid as HTML: one file that fetches nothing and runs no script.

    A picture opens in full when it is pressed, by a link to its place alone.

    Args:
        page: What to show.

    Returns:
        A whole HTML document.

    Raises:
        ValueError: A picture is no PNG file, or a row has not as many pictures as columns.
        MissingExtraError: jinja2 is not installed.

    Example:
        >>> html = render_grid(GridPage("A <b>", "", [], []))
        >>> "A &lt;b&gt;" in html, "<script" in html
        (True, False)
    """
    for row in page.rows:
        if len(row.pictures) != len(page.columns):
            raise ValueError(
                f"each row must have {len(page.columns)} pictures, as many as there are columns, "
                f"but {row.label!r} has {len(row.pictures)}"
            )
        for picture in row.pictures:
            if picture is not None and not picture.png.startswith(_PNG):
                raise ValueError(f"a picture must be a PNG file, but got {picture.png[:8]!r}")
    return str(template("grid.html.jinja").render(page=page))


def write_grid(page: GridPage, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a grid's page to a file.

    Args:
        page: What to show.
        path: The file; it appears only when complete.
        overwrite: Replace a file that is there.

    Returns:
        The file.

    Raises:
        OutputExistsError: The file is there.
    """
    return write_text(path, render_grid(page), overwrite=overwrite)
