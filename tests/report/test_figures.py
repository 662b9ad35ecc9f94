"""Figures on pages, as pictures and as numbers: data that nobody obeys."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stockpot.report import (
    Band,
    Chart,
    Curve,
    Dendrogram,
    Figures,
    Heat,
    Joint,
    Link,
    MapChart,
    Mark,
    Note,
    Page,
    Table,
    TableRow,
    chart_csv,
    chart_json,
    draw_chart,
    render_page,
)

EVIL = "</script><img src=x onerror=alert(1)>$x^2$ &amp; =1+1"
CHARTS: list[Chart] = [
    MapChart(EVIL, [Mark(EVIL, 0, 0, note=EVIL), Mark("b", 3, 4, 1, "mix"),
                    Mark("c", 1, 1, 9, "base")], [Link(0, 1), Link(1, 2, True, True)], 2.0, EVIL),
    Heat(EVIL, [EVIL, "b"], ["x", EVIL], [[1.0, math.nan], [-2.0, 0.0]], EVIL, True),
    Dendrogram(EVIL, [EVIL, "b", "c"], [1, 0, 2], [Joint(0, 1, 1.0), Joint(3, 2, 4.0)], [0, 1, 2],
               EVIL),
    Curve(EVIL, [EVIL, "2"], [(EVIL, [1.0, 2.0]), ("short", [3.0])],
          [Band(EVIL, [0.0, 1.0], [2.0, 3.0])], EVIL, EVIL),
]  # fmt: skip
kinds = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: type(chart).__name__)


@kinds
def test_names_cannot_leave_the_data(chart: Chart) -> None:
    html = render_page(Page("p", "", [Figures("f", [("one", chart), ("two", chart)])]))
    data = re.search(r'<script type="application/json">(.*?)</script>', html, re.S)
    assert data is not None
    assert "<" not in data[1] and "&" not in data[1]
    figures = json.loads(data[1])
    assert len(figures) == 2 and figures[0]["data"]
    # plotly obeys a little markup in texts: it gets entities.
    assert "<img" not in json.dumps(figures) and "&lt;img" in json.dumps(figures)
    assert html.count('type="radio"') == 2


def test_only_the_pages_own_scripts_may_run() -> None:
    html = render_page(Page("p", "", [Figures("f", [("one", CHARTS[0])])]))
    policy = html.split('content="', 3)[1].split('"')[0]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy.split("script-src")[1]
    assert "connect-src" not in policy and policy.startswith("default-src 'none'")


def test_pages_without_figures_have_no_script() -> None:
    plain = render_page(Page("p", "", [Note("n", ["t"]), Table("t", ["a"], [TableRow(["1"])])]))
    assert "<script" not in plain and "script-src" not in plain
    table = Table("t", ["a"], [TableRow(["1"])], sortable=True)
    assert render_page(Page("p", "", [table])).count("<script>") == 2


@kinds
def test_pictures_are_png_and_the_same_each_time(chart: Chart) -> None:
    png = draw_chart(chart)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert width > 300 and height > 150
    assert png == draw_chart(chart)


@kinds
def test_numbers_come_back(chart: Chart) -> None:
    heading, lines = chart.table()
    content = json.loads(chart_json(chart))
    assert content["columns"] == list(heading) and len(content["rows"]) == len(lines)
    read = list(csv.reader(io.StringIO(chart_csv(chart))))
    assert len(read) == len(lines) + 1


def test_spreadsheets_get_no_formulas() -> None:
    chart = Heat("h", ["=cmd()", "-1"], ["@x"], [[-1.5], [2.0]])
    assert chart_csv(chart) == "name,'@x\n'=cmd(),-1.5\n'-1,2.0\n"


def test_a_dendrograms_brackets_join_in_the_middle() -> None:
    tree = Dendrogram("d", ["a", "b", "c"], [2, 0, 1], [Joint(0, 1, 1.0), Joint(3, 2, 4.0)])
    assert tree.brackets() == [
        [(0.0, 1.0), (1.0, 1.0), (1.0, 2.0), (0.0, 2.0)],
        [(1.0, 1.5), (4.0, 1.5), (4.0, 0.0), (0.0, 0.0)],
    ]


def test_drawing_leaves_matplotlibs_settings_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_chart(CHARTS[0])
    assert dict(matplotlib.rcParams) == before


def shown(chart: Chart) -> Any:
    """What a page tells plotly."""
    html = render_page(Page("p", "", [Figures("f", [("one", chart)])]))
    data = re.search(r'<script type="application/json">(.*?)</script>', html, re.S)
    assert data is not None
    return json.loads(data[1])[0]


def test_a_curve_shows_what_lies_below_zero() -> None:
    """An axis that starts at 0 must not cut off a value; a picture once did."""
    places = [str(i) for i in range(2)]
    level, below = (Curve("c", places, [("a", values)]) for values in ([1.0, 2.0], [1.0, -2.0]))
    band = Curve("c", places, [("a", [1.0, 2.0])], [Band("b", [-1.0, 0.0], [1.0, 1.0])])
    assert level.starts_at_zero and not below.starts_at_zero and not band.starts_at_zero
    assert not replace(level, from_zero=False).starts_at_zero
    modes = [shown(c)["layout"]["yaxis"]["rangemode"] for c in (level, below)]
    assert modes == ["tozero", "normal"]
    # The picture: with the axis cut at 0 nothing of a line below it would be drawn.
    low = Curve("c", places, [("a", [-2.0, -1.0])])
    assert n_coloured(draw_chart(low)) > 0.5 * n_coloured(draw_chart(level))


def n_coloured(png: bytes) -> int:
    """How many dots have the first line's colour."""
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return int((np.abs(picture - (0xD5, 0x5E, 0x00)).sum(axis=2) < 30).sum())


def test_dots_have_no_line_and_many_numbers_are_not_all_written() -> None:
    places = [str(i + 1) for i in range(60)]
    curve = Curve("c", places, [("a", [1.0] * 60), ("b", [2.0] * 60)], dots=frozenset({"b"}))
    figure = shown(curve)
    assert [one["mode"] for one in figure["data"]] == ["lines+markers", "markers"]
    ticks = figure["layout"]["xaxis"]
    assert ticks["ticktext"] == [str(4 * i) for i in range(1, 16)]
    assert ticks["tickvals"] == [4 * i - 1 for i in range(1, 16)]
    assert replace(curve, places=[f"IN{i:02d}" for i in range(60)]).labelled() == list(range(60))
