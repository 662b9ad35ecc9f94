"""Pages of results: plain data in, one self-contained HTML file out.

Knows nothing of how results were computed. Importing this package loads no template engine.
"""

from stockpot.report.grids import GridPage, GridPicture, GridRow, render_grid, write_grid
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
    "GridPage",
    "GridPicture",
    "GridRow",
    "HeatRow",
    "HeatTable",
    "Note",
    "Page",
    "Section",
    "Table",
    "TableRow",
    "Tile",
    "render_grid",
    "render_page",
    "write_grid",
    "write_page",
]
