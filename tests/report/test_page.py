"""Pages: everything inside, nothing obeyed, nothing fetched."""

import re
import subprocess
import sys
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import stockpot.report
from stockpot.draw import to_png
from stockpot.errors import OutputExistsError
from stockpot.report import (
    Cell,
    Code,
    Facts,
    Gallery,
    GalleryRow,
    HeatRow,
    HeatTable,
    Note,
    Page,
    Table,
    TableRow,
    Tile,
    render_page,
    write_page,
)

EVIL = "<img src=x onerror=\"alert('1')\">&{{7*7}}</style><script>"
PNG = to_png(np.full((4, 6, 3), 100, np.uint8))
VOID = {"meta", "input", "img", "path"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def full_page(name: str) -> Page:
    """A page with every kind of section and one text everywhere."""
    return Page(
        name,
        name,
        [
            Note(name, [name, name]),
            Gallery(
                name,
                [name, "b"],
                [
                    GalleryRow(name, [PNG, None], name, name, "strong"),
                    GalleryRow("c", [PNG, PNG], tone="faint"),
                ],
                name,
            ),
            Table(
                name,
                [name, "n"],
                [TableRow([name, Cell(name, bar=0.5, strong=True, hint=name)], "strong")],
                name,
                numeric=frozenset({1}),
                code=frozenset({0}),
            ),
            HeatTable(
                name,
                [name, "b", "c"],
                [HeatRow(name, [Fraction(1, 3), Fraction(0), Fraction(-5, 2)], name)],
                name,
                details=[HeatRow(name, [Fraction(1), Fraction(1, 7**9), Fraction(0)])],
                details_label=name,
            ),
            Facts(name, [(name, name)], name),
            Code(name, name, name),
        ],
        [Tile(name, name)],
        name,
    )


def test_public_names() -> None:
    names = stockpot.report.__all__
    assert names == sorted(names, key=lambda name: (name[0].islower(), name))
    assert {"render_page", "write_page", "render_grid", "write_grid"} <= set(names)
    assert all(hasattr(stockpot.report, name) for name in stockpot.report.__all__)
    program = (
        "import sys, stockpot.report\n"
        "assert not {'jinja2', 'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_markup_in_names_is_shown_and_not_obeyed() -> None:
    html = render_page(full_page(EVIL))
    reader = Reader(html)
    plain = Reader(render_page(full_page("plain")))
    assert [tag for tag, _ in reader.tags] == [tag for tag, _ in plain.tags]
    assert "".join(reader.text).count(EVIL) == "".join(plain.text).count("plain") > 20
    assert "49" not in "".join(reader.text)
    handlers = [name for _, attributes in reader.tags for name in attributes if name[:2] == "on"]
    assert not handlers


def test_nothing_is_fetched_and_nothing_runs() -> None:
    html = render_page(full_page("plain"))
    reader = Reader(html)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html)
    assert not reader.all("script") and not reader.all("link") and not reader.all("iframe")
    for _, attributes in reader.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("data:image/png;base64,", "#"))
    policy = [meta for meta in reader.all("meta") if "http-equiv" in meta]
    assert policy[0]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_pictures_have_a_size_and_a_name() -> None:
    images = Reader(render_page(full_page("name"))).all("img")
    assert len(images) == 3
    assert {(image["width"], image["height"]) for image in images} == {("6", "4")}
    assert [image["alt"] for image in images] == ["name: name", "c: name", "c: b"]


def test_links_lead_to_sections() -> None:
    reader = Reader(render_page(full_page("name")))
    targets = {f"#{section['id']}" for section in reader.all("section")}
    assert {link["href"] for link in reader.all("a")} == targets
    assert len(targets) == 6


def test_fractions_are_exact_and_coloured_by_size() -> None:
    html = render_page(full_page("name"))
    reader = Reader(html)
    heats = [cell for cell in reader.all("td") if "heat" in (cell.get("class") or "")]
    texts = "".join(reader.text)
    assert "1/3" in texts and "-5/2" in texts
    assert "≈ 2.478e-08" in texts and "1/40353607 of b" in html
    assert ["negative" in (cell["class"] or "") for cell in heats] == [False, True, False, False]
    percents = [int((cell["style"] or "")[len("--heat:") : -1]) for cell in heats]
    assert percents[3] < percents[0] < percents[1] == percents[2] == 92


def test_lines_must_fit_the_columns() -> None:
    for section in (
        Gallery("G", ["a", "b"], [GalleryRow("x", [PNG])]),
        Table("T", ["a", "b"], [TableRow(["x"])]),
        HeatTable("H", ["a", "b"], [], details=[HeatRow("x", [Fraction(1)])]),
    ):
        with pytest.raises(ValueError, match="each line must have 2 fields"):
            render_page(Page("p", "", [section]))


def test_only_png_files_are_pictures() -> None:
    gallery = Gallery("G", ["a"], [GalleryRow("x", [b"<svg onload=alert(1)>"])])
    with pytest.raises(ValueError, match="must be a PNG file, but got b'<svg onl'"):
        render_page(Page("p", "", [gallery]))


def test_a_page_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    path = write_page(full_page("one"), tmp_path / "page.html")
    before = path.read_bytes()
    assert before.decode() == render_page(full_page("one"))
    with pytest.raises(OutputExistsError, match="page.html: the file is there already"):
        write_page(full_page("two"), path)
    assert path.read_bytes() == before
    write_page(full_page("two"), path, overwrite=True)
    assert path.read_bytes() != before
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
