"""Pages of results: plain data in, one self-contained HTML file out.

Knows nothing of how results were computed. Importing this package loads no template engine.
"""

from stockpot.report.figures import (
    Band,
    Chart,
    Curve,
    Dendrogram,
    Heat,
    Joint,
    Link,
    MapChart,
    Mark,
)
from stockpot.report.grids import GridPage, GridPicture, GridRow, render_grid, write_grid
from stockpot.report.page import render_page, write_page
from stockpot.report.pictures import chart_csv, chart_json, draw_chart
from stockpot.report.sections import (
    Ballot,
    Cell,
    Code,
    Facts,
    Figures,
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
    "Ballot",
    "Band",
    "Cell",
    "Chart",
    "Code",
    "Curve",
    "Dendrogram",
    "Facts",
    "Figures",
    "Gallery",
    "GalleryRow",
    "GridPage",
    "GridPicture",
    "GridRow",
    "Heat",
    "HeatRow",
    "HeatTable",
    "Joint",
    "Link",
    "MapChart",
    "Mark",
    "Note",
    "Page",
    "Section",
    "Table",
    "TableRow",
    "Tile",
    "chart_csv",
    "chart_json",
    "draw_chart",
    "render_grid",
    "render_page",
    "write_grid",
    "write_page",
]
