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
from stockpot.report.page import render_page, write_page
from stockpot.report.pictures import chart_csv, chart_json, draw_chart
from stockpot.report.sections import (
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
    "render_page",
    "write_page",
]
