"""Pages of results: plain data in, one self-contained HTML file out.

Knows nothing of how results were computed. Importing this package loads no template engine.
"""

from stockpot.report.page import render_page, write_page
from stockpot.report.sections import (
    Cell,
    Code,
    Facts,
    Gallery,
    GalleryRow,
    HeatRow,
    HeatTable,
    Note,
    Page,
    Section,
    Table,
    TableRow,
    Tile,
)

__all__ = [
    "Cell",
    "Code",
    "Facts",
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
    "render_page",
    "write_page",
]
