"""Figures as plotly's JSON: built as plain data, so that nothing but its script is needed.

Colours of paper, ink and lines are left to the page's script, which knows whether it is dark.
Names go through `_shown`: plotly obeys a little markup in texts, and they are not to be obeyed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stockpot.errors import MissingExtraError
from stockpot.report.figures import Chart, Curve, Dendrogram, Heat, MapChart

__all__ = ["PALETTE", "data_json", "figure_of", "page_scripts", "script_hash"]

# Okabe and Ito's colours, which most people can tell apart, in an order that suits both themes.
PALETTE = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#a6761d")
_LONGEST = 26
_HEAT = [[0, "#fdf3e7"], [0.3, "#f2c08a"], [0.6, "#dd7a3a"], [1, "#7a2404"]]
_SIGNED = [[0, "#1f5f99"], [0.5, "#f6f1ea"], [1, "#b4501c"]]


def page_scripts() -> tuple[str, ...]:
    """Give the scripts that a page with figures carries: plotly, and the page's own.

    Returns:
        Their texts, in the order in which they must run.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError("drawing figures", "compare") from error
    own = (Path(__file__).parent / "templates" / "page.js").read_text(encoding="utf-8")
    return get_plotlyjs(), own


def script_hash(script: str) -> str:
    """Give the word by which a content security policy allows one script and no other.

    Args:
        script: Its text, exactly as it stands between the tags.

    Returns:
        Such as ``'sha256-…'``, with the quotes.

    Example:
        >>> script_hash("")
        "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def data_json(value: Any) -> str:
    """Write data for a script element, so that nothing in it can end the element.

    Args:
        value: Plain data; NaN and infinities become null.

    Returns:
        JSON without angle brackets, ampersands and line separators.

    Example:
        >>> data_json({"a": "</script>"})
        '{"a": "\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def figure_of(chart: Chart) -> dict[str, Any]:
    """Describe a figure to plotly.

    Args:
        chart: What to show.

    Returns:
        ``data``, ``layout`` and ``height`` (pixels).
    """
    match chart:
        case MapChart():
            return _map(chart)
        case Heat():
            return _heat(chart)
        case Dendrogram():
            return _dendrogram(chart)
        case Curve():
            return _curve(chart)


def _map(chart: MapChart) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for dashed in (False, True):
        xs: list[float | None] = []
        ys: list[float | None] = []
        for link in chart.links:
            if link.open == dashed:
                a, b = chart.marks[link.start], chart.marks[link.end]
                xs += [a.x, b.x, None]
                ys += [a.y, b.y, None]
        if xs:
            line = {"width": 1.4, "color": "#998f83", "dash": "dot" if dashed else "solid"}
            data.append({"type": "scatter", "mode": "lines", "x": xs, "y": ys, "line": line,
                         "hoverinfo": "skip"})  # fmt: skip
    n_texts = len(chart.marks)
    symbols = {"model": "circle", "mix": "diamond-open", "base": "star"}
    for kind, symbol in symbols.items():
        marks = [mark for mark in chart.marks if mark.kind == kind]
        if marks:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers+text" if n_texts <= 60 else "markers",
                    "x": [mark.x for mark in marks],
                    "y": [mark.y for mark in marks],
                    "text": [_shown(mark.label, _LONGEST) for mark in marks],
                    "textposition": [_side(chart, mark.x) for mark in marks],
                    "hovertext": [
                        _shown(mark.label) + ("<br>" + _shown(mark.note) if mark.note else "")
                        for mark in marks
                    ],
                    "hoverinfo": "text",
                    "cliponaxis": False,
                    "marker": {
                        "size": 14 if kind == "base" else 10,
                        "symbol": symbol,
                        "color": [PALETTE[mark.group % len(PALETTE)] for mark in marks],
                    },
                }
            )
    layout: dict[str, Any] = {
        "xaxis": {"visible": False},
        "yaxis": {"visible": False, "scaleanchor": "x"},
        "showlegend": False,
        "dragmode": "pan",
    }
    if chart.bar > 0 and chart.marks:
        left = min(mark.x for mark in chart.marks)
        bottom = min(mark.y for mark in chart.marks)
        width = max(mark.x for mark in chart.marks) - left
        low = bottom - 0.09 * max(width, chart.bar)
        data.append({"type": "scatter", "mode": "lines", "x": [left, left + chart.bar],
                     "y": [low, low], "line": {"width": 4, "color": "#998f83"},
                     "hoverinfo": "skip"})  # fmt: skip
        layout["annotations"] = [
            {"x": left + chart.bar / 2, "y": low, "text": _shown(f"{chart.bar:g} {chart.unit}"),
             "showarrow": False, "yshift": -13}
        ]  # fmt: skip
    return {"data": data, "layout": layout, "height": 520}


def _side(chart: MapChart, x: float) -> str:
    """Labels of points at the right edge stand to their left, so that none is cut off."""
    xs = [mark.x for mark in chart.marks]
    return "top left" if x > (max(xs) + min(xs)) / 2 and max(xs) > min(xs) else "top right"


def _heat(chart: Heat) -> dict[str, Any]:
    rows, columns = list(range(len(chart.rows))), list(range(len(chart.columns)))
    hover = [
        [
            f"{_shown(row)}<br>{_shown(column)}<br>"
            + ("not compared" if math.isnan(value) else f"{value:.6g} {_shown(chart.unit)}")
            for column, value in zip(chart.columns, values, strict=True)
        ]
        for row, values in zip(chart.rows, chart.values, strict=True)
    ]
    known = [abs(value) for values in chart.values for value in values if not math.isnan(value)]
    largest = max(known, default=1.0) or 1.0
    trace = {
        "type": "heatmap",
        "x": columns,
        "y": rows,
        "z": chart.values,
        "hovertext": hover,
        "hoverinfo": "text",
        "colorscale": _SIGNED if chart.signed else _HEAT,
        "zmin": -largest if chart.signed else 0,
        "zmax": largest,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 10, "title": {"text": _shown(chart.unit), "side": "right"}},
    }
    layout = {
        "xaxis": _ticks(chart.columns) | {"side": "top", "tickangle": -60},
        "yaxis": _ticks(chart.rows) | {"autorange": "reversed"},
        "dragmode": False,
    }
    return {"data": [trace], "layout": layout, "height": 190 + 24 * len(rows)}


def _dendrogram(chart: Dendrogram) -> dict[str, Any]:
    xs: list[float | None] = []
    ys: list[float | None] = []
    for corners in chart.brackets():
        xs += [corner[0] for corner in corners] + [None]
        ys += [corner[1] for corner in corners] + [None]
    line = {"width": 1.6, "color": "#998f83"}
    groups = [chart.groups[leaf] if chart.groups else 0 for leaf in chart.order]
    data = [
        {"type": "scatter", "mode": "lines", "x": xs, "y": ys, "line": line, "hoverinfo": "skip"},
        {
            "type": "scatter",
            "mode": "markers",
            "x": [0] * len(chart.order),
            "y": list(range(len(chart.order))),
            "marker": {"size": 9, "color": [PALETTE[group % len(PALETTE)] for group in groups]},
            "hovertext": [_shown(chart.leaves[leaf]) for leaf in chart.order],
            "hoverinfo": "text",
        },
    ]
    layout = {
        "xaxis": {"title": {"text": _shown(chart.unit)}, "rangemode": "tozero", "zeroline": False},
        "yaxis": _ticks([chart.leaves[leaf] for leaf in chart.order]),
        "showlegend": False,
        "dragmode": False,
    }
    return {"data": data, "layout": layout, "height": 110 + 24 * len(chart.leaves)}


def _curve(chart: Curve) -> dict[str, Any]:
    places = list(range(len(chart.places)))
    data: list[dict[str, Any]] = []
    for band in chart.bands:
        data.append(
            {"type": "scatter", "mode": "lines", "x": places + places[::-1],
             "y": [*band.high, *list(band.low)[::-1]], "fill": "toself", "line": {"width": 0},
             "fillcolor": "rgba(86,180,233,.25)", "name": _shown(band.label), "hoverinfo": "skip"}
        )  # fmt: skip
    for number, (name, values) in enumerate(chart.lines):
        data.append(
            {
                "type": "scatter",
                "mode": _mode(chart, number),
                "x": places[: len(values)],
                "y": list(values),
                "name": _shown(name),
                "marker": {"size": 8 if number == 0 else 6},
                "line": {
                    "width": 3 if number == 0 else 1.6,
                    "color": PALETTE[number % len(PALETTE)],
                    "dash": "solid" if number == 0 else "dash",
                },
                "hovertext": [f"{_shown(chart.places[i])}<br>{_shown(name)}: {value:.6g}"
                              for i, value in enumerate(values)],
                "hoverinfo": "text",
            }
        )  # fmt: skip
    layout = {
        "xaxis": _ticks(chart.places, chart.labelled()) | {"title": {"text": _shown(chart.axis)}},
        "yaxis": {
            "title": {"text": _shown(chart.unit)},
            "rangemode": "tozero" if chart.starts_at_zero else "normal",
        },
        # Above the plot, which makes room for as many rows as it has.
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        "dragmode": False,
    }
    return {"data": data, "layout": layout, "height": 420}


def _mode(chart: Curve, number: int) -> str:
    if chart.lines[number][0] in chart.dots:
        return "markers"
    return "lines" if number else "lines+markers"


def _ticks(labels: Sequence[str], chosen: Sequence[int] | None = None) -> dict[str, Any]:
    places = list(range(len(labels))) if chosen is None else list(chosen)
    texts = [_shown(labels[place], _LONGEST) for place in places]
    return {"tickvals": places, "ticktext": texts, "showgrid": False, "zeroline": False}


def _shown(text: str, limit: int = 300) -> str:
    """Text that plotly shows as it stands."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
