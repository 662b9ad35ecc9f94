"""The page of a grid: all inside, nothing obeyed, every picture to be opened."""

import re
from pathlib import Path

import pytest

from stockpot.errors import OutputExistsError
from stockpot.report import GridPage, GridPicture, GridRow, render_grid, write_grid

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000020000000308020000003688499e"
)  # a header is all that is read: 2 x 3 pixels
EVIL = "<script>alert(1)</script>\"'&"


def page(**changes: object) -> GridPage:
    rows = [
        GridRow("one", [GridPicture(PNG, "near", "a cat\nSteps: 5"), None]),
        GridRow("one \u2212 two", [None, GridPicture(PNG, "MSE 0")], True),
    ]
    values: dict[str, object] = {"title": "T", "lead": "L", "columns": ["x", "y"], "rows": rows,
                                 "facts": [("Axis x", "seed")]}  # fmt: skip
    return GridPage(**{**values, **changes})  # type: ignore[arg-type]


def test_every_picture_opens_and_closes() -> None:
    html = render_grid(page())
    opened = set(re.findall(r'id="(p\d+-\d+)"', html))
    assert opened == {"p1-1", "p2-2"} == set(re.findall(r'href="#(p\d+-\d+)"', html))
    closed = set(re.findall(r'id="(c\d+-\d+)"', html))
    assert closed == set(re.findall(r'href="#(c\d+-\d+)"', html))
    assert 'width="2" height="3"' in html and "Steps: 5" in html and "near" in html
    assert html.count('class="difference"') == 1
    assert "default-src 'none'" in html and "http" not in html.replace("http-equiv", "")


def test_hostile_words_are_shown() -> None:
    rows = [GridRow(EVIL, [GridPicture(PNG, EVIL, EVIL)])]
    html = render_grid(page(title=EVIL, lead=EVIL, columns=[EVIL], rows=rows, footer=EVIL,
                            facts=[(EVIL, EVIL)]))  # fmt: skip
    assert "<script" not in html and "&lt;script&gt;" in html


def test_odd_grids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have 1 pictures, .* but 'one' has 2"):
        render_grid(page(columns=["x"]))
    with pytest.raises(ValueError, match="must be a PNG file, but got b'GIF89a'"):
        render_grid(page(columns=["x"], rows=[GridRow("a", [GridPicture(b"GIF89a")])]))
    file = write_grid(page(), tmp_path / "g.html")
    with pytest.raises(OutputExistsError, match="g.html: the file is there already"):
        write_grid(page(), file)
    assert write_grid(page(title="U"), file, overwrite=True).read_text().count("<h1>U</h1>") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["g.html"]
