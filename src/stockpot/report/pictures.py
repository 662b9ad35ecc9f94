"""Figures as PNG files, and their numbers as CSV and JSON; no browser is needed."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import TYPE_CHECKING, Any

from stockpot.errors import MissingExtraError
from stockpot.report.figures import Chart, Curve, Dendrogram, Heat, MapChart
from stockpot.report.plotting import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["chart_csv", "chart_json", "draw_chart"]

_LONGEST = 34
_INK, _SOFT = "#26221e", "#998f83"


def draw_chart(chart: Chart) -> bytes:
    """Draw a figure as a PNG file.

    Args:
        chart: What to show.

    Returns:
        The file, 144 dots an inch; the same bytes for the same chart and version of matplotlib.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("drawing figures", "compare") from error
    # Names are texts, never formulas; rc_context keeps the settings of whoever imported us.
    with rc_context({"text.parse_math": False, "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=_size(chart), dpi=144, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(_shown(chart.title, 90), loc="left", fontsize=11, color=_INK)
        match chart:
            case MapChart():
                _map(axes, chart)
            case Heat():
                _heat(figure, axes, chart)
            case Dendrogram():
                _dendrogram(axes, chart)
            case Curve():
                _curve(axes, chart)
        output = io.BytesIO()
        figure.savefig(output, format="png", metadata={"Software": None})
    return output.getvalue()


def chart_csv(chart: Chart) -> str:
    """Write a figure's numbers as a table.

    Args:
        chart: Whose numbers.

    Returns:
        CSV. A name that a spreadsheet would take for a formula gets an apostrophe in front.

    Example:
        >>> print(chart_csv(Heat("h", ["=a"], ["b"], [[0.5]])), end="")
        name,b
        '=a,0.5
    """
    heading, lines = chart.table()
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow([_harmless(cell) for cell in heading])
    writer.writerows([_harmless(cell) for cell in line] for line in lines)
    return output.getvalue()


def chart_json(chart: Chart) -> str:
    """Write a figure's numbers as JSON.

    Args:
        chart: Whose numbers.

    Returns:
        ``title``, ``columns`` and ``rows``; numbers that are none become null.
    """
    heading, lines = chart.table()
    rows = [
        [None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in line]
        for line in lines
    ]
    content = {"title": chart.title, "columns": heading, "rows": rows}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _harmless(cell: Any) -> Any:
    if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r"):
        return "'" + cell
    return "" if cell is None else cell


def _size(chart: Chart) -> tuple[float, float]:
    match chart:
        case Heat():
            return (min(3.5 + 0.36 * len(chart.columns), 40), min(2.2 + 0.26 * len(chart.rows), 40))
        case Dendrogram():
            return 8.0, min(1.4 + 0.26 * len(chart.leaves), 40)
        case _:
            return 8.0, 6.0


def _map(axes: Axes, chart: MapChart) -> None:
    for link in chart.links:
        a, b = chart.marks[link.start], chart.marks[link.end]
        style = ":" if link.open else "-"
        axes.plot([a.x, b.x], [a.y, b.y], style, color=_SOFT, linewidth=1, zorder=1)
        if link.arrow:
            # A head without a shaft, two thirds of the way.
            near, far = ((a.x + t * (b.x - a.x), a.y + t * (b.y - a.y)) for t in (0.64, 0.66))
            axes.annotate("", far, near, zorder=1,
                          arrowprops={"arrowstyle": "->", "color": _SOFT})  # fmt: skip
    shapes = {"model": "o", "mix": "D", "base": "*"}
    for mark in chart.marks:
        colour = PALETTE[mark.group % len(PALETTE)]
        axes.scatter(
            [mark.x], [mark.y], s=150 if mark.kind == "base" else 42, marker=shapes[mark.kind],
            color="none" if mark.kind == "mix" else colour, edgecolors=colour, zorder=2,
        )  # fmt: skip
        if len(chart.marks) <= 60:
            axes.annotate(_shown(mark.label), (mark.x, mark.y), (5, 4), fontsize=7.5,
                          textcoords="offset points", color=_INK)  # fmt: skip
    axes.set_aspect("equal", "datalim")
    axes.margins(0.15)
    axes.set_axis_off()
    if chart.bar > 0 and chart.marks:
        left = min(mark.x for mark in chart.marks)
        low = min(mark.y for mark in chart.marks)
        low -= 0.09 * max(max(mark.x for mark in chart.marks) - left, chart.bar)
        axes.plot([left, left + chart.bar], [low, low], color=_INK, linewidth=3)
        axes.annotate(_shown(f"{chart.bar:g} {chart.unit}"), (left + chart.bar / 2, low), (0, -12),
                      textcoords="offset points", ha="center", fontsize=8)  # fmt: skip


def _heat(figure: Figure, axes: Axes, chart: Heat) -> None:
    known = [abs(v) for row in chart.values for v in row if not math.isnan(v)]
    largest = max(known, default=1.0) or 1.0
    image = axes.imshow(
        [list(row) for row in chart.values] or [[0.0]],
        cmap="PuOr_r" if chart.signed else "YlOrBr",
        vmin=-largest if chart.signed else 0,
        vmax=largest,
        aspect="auto",
    )
    axes.set_xticks(range(len(chart.columns)), [_shown(name) for name in chart.columns],
                    rotation=60, ha="right", fontsize=7.5)  # fmt: skip
    axes.set_yticks(range(len(chart.rows)), [_shown(name) for name in chart.rows], fontsize=7.5)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    bar.set_label(_shown(chart.unit, 60), fontsize=8)


def _dendrogram(axes: Axes, chart: Dendrogram) -> None:
    for corners in chart.brackets():
        axes.plot([x for x, _ in corners], [y for _, y in corners], color=_SOFT, linewidth=1.2)
    for place, leaf in enumerate(chart.order):
        group = chart.groups[leaf] if chart.groups else 0
        axes.plot([0], [place], "o", color=PALETTE[group % len(PALETTE)], markersize=5)
    axes.set_yticks(range(len(chart.order)), [_shown(chart.leaves[leaf]) for leaf in chart.order],
                    fontsize=7.5)  # fmt: skip
    axes.set_xlabel(_shown(chart.unit, 60))
    axes.spines[["top", "right", "left"]].set_visible(False)


def _curve(axes: Axes, chart: Curve) -> None:
    places = list(range(len(chart.places)))
    for band in chart.bands:
        n = len(band.low)
        axes.fill_between(places[:n], list(band.low), list(band.high), alpha=0.25,
                          color="#56b4e9", label=_shown(band.label))  # fmt: skip
    for number, (name, values) in enumerate(chart.lines):
        style = "o" if name in chart.dots else "--" if number else "o-"
        axes.plot(places[: len(values)], list(values), style, markersize=4 if number else 6,
                  color=PALETTE[number % len(PALETTE)], label=_shown(name, 60))  # fmt: skip
    ticks = chart.labelled()
    axes.set_xticks(ticks, [_shown(chart.places[i]) for i in ticks], rotation=45, ha="right")
    axes.set_xlabel(_shown(chart.axis, 60))
    axes.set_ylabel(_shown(chart.unit, 60))
    if chart.starts_at_zero:
        axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _shown(text: str, limit: int = _LONGEST) -> str:
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
