"""What a page can hold. Every text is plain text: markup in it is shown, never obeyed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from stockpot.report.figures import Chart

__all__ = [
    "Ballot",
    "Cell",
    "Code",
    "Facts",
    "Figures",
    "Gallery",
    "GalleryRow",
    "HeatRow",
    "HeatTable",
    "Note",
    "Page",
    "Section",
    "Table",
    "TableRow",
    "Tile",
]

Tone = Literal["plain", "strong", "faint"]


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure that catches the eye at the top of a page.

    Attributes:
        value: The figure with its unit.
        label: What it counts.
    """

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Note:
    """Paragraphs.

    Attributes:
        title: Heading.
        text: One string for each paragraph.
    """

    title: str
    text: Sequence[str]


@dataclass(frozen=True, slots=True)
class GalleryRow:
    """One line of a gallery.

    Attributes:
        label: What the pictures share, such as a model.
        pictures: PNG files, one for each column; None leaves the place empty.
        note: A smaller line under the label.
        badge: A word in a coloured pill, such as a role; none where empty.
        tone: ``strong`` for the row that the page is about, ``faint`` for what stands aside.
        ballot: What a reader may pin or veto, as ``part:name``; none where empty. See `Ballot`.
    """

    label: str
    pictures: Sequence[bytes | None]
    note: str = ""
    badge: str = ""
    tone: Tone = "plain"
    ballot: str = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures in rows and columns, with labels that stay in sight when scrolled.

    Attributes:
        title: Heading.
        columns: Labels on top, such as prompts.
        rows: The lines.
        text: A sentence below the heading.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[GalleryRow]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Ballot:
    """A button that saves what a reader has pinned and vetoed in the page's galleries.

    The page sends nothing: the browser saves a file, JSON with ``pin`` and ``veto``, each with
    lists of names by part.

    Attributes:
        title: Heading.
        file: Name of that file.
        text: A sentence below the heading.
    """

    title: str
    file: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of a table.

    Attributes:
        text: What it says.
        bar: Length of a bar behind the text, from 0 to 1; None for no bar.
        strong: Whether to set it in bold.
        hint: Shown when pointed at, such as the whole of a shortened hash.
        value: What the field sorts by, where that is not its text.
    """

    text: str
    bar: float | None = None
    strong: bool = False
    hint: str = ""
    value: float | None = None


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line of a table.

    Attributes:
        cells: As many as the table has columns.
        tone: As in `GalleryRow`.
    """

    cells: Sequence[Cell | str]
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names its lines.

    Attributes:
        title: Heading.
        columns: Labels on top.
        rows: The lines.
        text: A sentence below the heading.
        numeric: Which columns hold numbers, and are set to the right.
        code: Which columns hold hashes and the like, and are set in a fixed width.
        wrapped: Which columns hold sentences, and may take several lines.
        sortable: Whether the reader can sort by each column; then the page has a script.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[TableRow]
    text: str = ""
    numeric: frozenset[int] = frozenset()
    code: frozenset[int] = frozenset()
    wrapped: frozenset[int] = frozenset()
    sortable: bool = False


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One line of a heat map.

    Attributes:
        label: What it stands for, such as a run of blocks.
        values: Exact shares, one for each column; 0 is left blank.
        hint: A smaller second label, such as how many blocks.
    """

    label: str
    values: Sequence[Fraction]
    hint: str = ""


@dataclass(frozen=True, slots=True)
class HeatTable:
    """Exact fractions with a colour behind each: how much of what is where.

    Attributes:
        title: Heading.
        columns: Labels on top, such as models.
        rows: The lines.
        text: A sentence below the heading.
        details: More lines that are folded away until asked for.
        details_label: What to press for them.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[HeatRow]
    text: str = ""
    details: Sequence[HeatRow] = ()
    details_label: str = "show every row"


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what they stand for.

    Attributes:
        title: Heading.
        items: Pairs.
        text: A sentence below the heading.
    """

    title: str
    items: Sequence[tuple[str, str]]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """Text as it stands, in a fixed width.

    Attributes:
        title: Heading.
        code: The text.
        text: A sentence below the heading.
    """

    title: str
    code: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """One or more figures of the same thing, of which one is seen; then the page has a script.

    Attributes:
        title: Heading.
        views: What to press for each, and the figure; the first is seen.
        text: A sentence below the heading.
        note: A smaller line below the figure, such as where its numbers are.
    """

    title: str
    views: Sequence[tuple[str, Chart]]
    text: str = ""
    note: str = ""


Section = Ballot | Note | Gallery | Table | HeatTable | Facts | Code | Figures
"""Whatever a page can show."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Attributes:
        title: Of the page and of the browser's tab.
        lead: A few sentences that say what is to be seen.
        sections: From top to bottom.
        tiles: A few figures under the lead.
        footer: The last line.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    tiles: Sequence[Tile] = field(default_factory=tuple)
    footer: str = ""
