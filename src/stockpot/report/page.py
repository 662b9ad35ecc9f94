"""From data to HTML: one file that fetches nothing and runs no code but its own."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

from stockpot.errors import MissingExtraError
from stockpot.report.plotting import data_json, figure_of, page_scripts, script_hash
from stockpot.report.rendering import template, write_text
from stockpot.report.sections import Ballot, Figures, Gallery, HeatTable, Page, Table

__all__ = ["render_page", "write_page"]

_PNG = b"\x89PNG\r\n\x1a\n"


def render_page(page: Page) -> str:
    """Write a page as HTML.

    The result holds all that it shows: styles and pictures are inside. A page without figures and
    sortable tables has no script; one with them has two, which a content security policy names by
    their hashes. The policy forbids the browser to fetch anything, or to run code that a hostile
    name might smuggle in. The page follows the reader's choice of light or dark, and fits a phone.

    Args:
        page: What to show.

    Returns:
        A whole HTML document.

    Raises:
        ValueError: A picture is no PNG file, or a line has not as many fields as columns.
        MissingExtraError: jinja2 is not installed, or plotly where there are figures.

    Example:
        >>> from stockpot.report import Note
        >>> html = render_page(Page("A <b>", "", [Note("One", ["two"])]))
        >>> "A &lt;b&gt;" in html, "<script" in html
        (True, False)
    """
    try:
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError("writing pages", "draw") from error
    _check(page)
    source = template("page.html.jinja", share=_share, heat=_heat, figures=_figures)
    kinds = [type(section).__name__ for section in page.sections]
    runs = any(
        isinstance(section, Ballot | Figures) or (isinstance(section, Table) and section.sortable)
        for section in page.sections
    )
    scripts = [Markup(script) for script in page_scripts()] if runs else []
    return str(
        source.render(
            page=page,
            sections=list(zip(kinds, page.sections, strict=True)),
            scripts=scripts,
            policy=" ".join(script_hash(script) for script in scripts),
        )
    )


def write_page(page: Page, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a page to a file.

    Args:
        page: What to show.
        path: The file; it appears only when complete.
        overwrite: Replace a file that is there.

    Returns:
        The file.

    Raises:
        OutputExistsError: The file is there.
    """
    return write_text(path, render_page(page), overwrite=overwrite)


def _check(page: Page) -> None:
    for section in page.sections:
        lines: list[tuple[str, int]] = []
        match section:
            case Gallery(rows=rows):
                lines = [(row.label, len(row.pictures)) for row in rows]
                for picture in (picture for row in rows for picture in row.pictures):
                    if picture is not None and not picture.startswith(_PNG):
                        raise ValueError(
                            f"{section.title!r}: a picture must be a PNG file, but got "
                            f"{picture[:8]!r}"
                        )
            case Table(rows=rows):
                lines = [(str(row.cells[:1]), len(row.cells)) for row in rows]
            case HeatTable():
                both = (*section.rows, *section.details)
                lines = [(row.label, len(row.values)) for row in both]
            case _:
                continue
        for label, n_fields in lines:
            if n_fields != len(section.columns):
                raise ValueError(
                    f"{section.title!r}: each line must have {len(section.columns)} fields, as "
                    f"many as there are columns, but {label!r} has {n_fields}"
                )


def _share(value: Fraction) -> str:
    """A fraction as people write it; long ones, whose digits tell nothing, as a decimal too."""
    text = str(value)
    if len(text) <= 9:
        return text
    return f"≈ {float(value):.4g}"


def _heat(value: Fraction) -> dict[str, Any]:
    """Strength of the colour in percent, and whether the text on it must be light.

    Shares beyond 0 to 1 (added differences) take the full colour; negative ones another hue.
    """
    strength = min(1.0, abs(float(value)))
    # The root keeps small shares, such as 1/200, apart from nothing.
    percent = round(8 + 84 * strength**0.5) if value else 0
    return {"percent": percent, "negative": value < 0, "light": percent > 72}


def _figures(section: Figures) -> Any:
    """The figures' data for a script element; it is escaped for that place by `data_json`."""
    from markupsafe import Markup

    return Markup(data_json([figure_of(chart) for _, chart in section.views]))
