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

import pytest

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
