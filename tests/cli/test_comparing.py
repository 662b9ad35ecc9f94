"""compare, explain and convergence as people type them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from stockpot.cli.main import app
from stockpot.compare import load_comparison
from stockpot.errors import (
    CheckpointError,
    OutputExistsError,
    PreflightError,
    StockpotError,
    UnknownNameError,
)
from stockpot.zoo import member

EVIL = "<img src=x onerror=alert(1)>"
BASE = str(member("base").path)
A, B = (str(member(name).path) for name in ("style-outline", "content-warm"))


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if code == 0 and result.exception is not None:
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def failure(kind: type[StockpotError], *arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


class Texts(HTMLParser):
    """Tags of a page, and texts outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a comparison, one of whose models has a hostile name."""
    folder = tmp_path_factory.mktemp("compared")
    evil = folder / f"{EVIL}.safetensors"
    evil.write_bytes(Path(A).read_bytes())
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "stockpot: 1\npool: {so: x/style-outline.safetensors, content-warm: b.safetensors}\n"
        "let: {half: 'mean(so, \"content-warm\")', far: 'mean(half, who)', who: 2*so}\n"
        "mix: {unet: half}\n"
    )
    run("compare", A, B, evil, "-o", folder / "out", "--base", BASE, "--recipe", recipe)
    return folder / "out"


def test_the_page_holds_everything_and_obeys_nothing(compared: Path) -> None:
    html = (compared / "comparison.html").read_text()
    page = Texts(html)
    assert EVIL in page.text and "img" not in page.tags
    assert f"{EVIL} are the same model" in page.text or f"{EVIL} and" in page.text
    assert "https:" not in page.text
    policy = html.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert policy.count("'sha256-") == 2 and "unsafe-eval" not in policy
    for heading in ("Map of unet", "Matrix of unet", "Where unet was trained"):
        assert heading in page.text
    # The mix that nobody made is on the map.
    assert '"half"' in html


def test_every_figure_is_a_picture_and_numbers(compared: Path) -> None:
    figures = compared / "figures"
    stems = {file.stem for file in figures.iterdir()}
    assert {"unet-map", "unet-l2", "unet-cosine", "unet-deltas", "unet-compared", "unet-blocks",
            "unet-families", "unet-spectral", "unet-tree"} <= stems  # fmt: skip
    for stem in stems:
        assert (figures / f"{stem}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert json.loads((figures / f"{stem}.json").read_text())["columns"]
        assert (figures / f"{stem}.csv").read_text().count("\n") > 1
    points = json.loads((figures / "unet-map.json").read_text())
    kinds = {row[0]: row[3] for row in points["rows"]}
    assert kinds["base"] == "base" and kinds["half"] == "mix" and kinds[EVIL] == "model"
    table = json.loads((figures / "unet-l2.json").read_text())
    kept = load_comparison(compared / "comparison.safetensors")
    from stockpot.compare import Place

    distances = kept.pairs(Place("unet")).distances()
    for row in table["rows"]:
        for column, value in zip(table["columns"][1:], row[1:], strict=True):
            assert value == distances[kept.index(row[0]), kept.index(column)]


def test_json_says_what_was_compared(tmp_path: Path) -> None:
    angular = member("content-angular").path
    result = run("compare", BASE, angular, "-o", tmp_path, "--no-page", "--json", "--by", "tensor")
    plain = json.loads(result.stdout)
    vae = plain["components"]["vae"]
    assert vae["l2"][0] == [0.0, None] and vae["compared_elements"][0][1] == 0
    assert plain["components"]["unet"]["l2"][0][1] > 0
    assert {"model": "content-angular", "component": "vae", "reason": "absent"}.items() <= next(
        e for e in plain["not_compared"] if e["component"] == "vae"
    ).items()
    assert [m["name"] for m in plain["models"]] == ["base", "content-angular"]
    assert not (tmp_path / "comparison.html").exists()


def test_models_are_added_and_the_rest_stays(tmp_path: Path) -> None:
    run("compare", BASE, A, "-o", tmp_path, "--no-page")
    before = load_comparison(tmp_path / "comparison.safetensors")
    run("compare", B, "-o", tmp_path, "--no-page", "--add")
    after = load_comparison(tmp_path / "comparison.safetensors")
    assert after.names == (*before.names, "content-warm")
    old = before.pairs().squared
    assert (after.pairs().squared[:2, :2] == old).all()


def test_a_file_that_changed_stops_adding(tmp_path: Path) -> None:
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(Path(A).read_bytes())
    run("compare", BASE, copy, "-o", tmp_path / "out", "--no-page")
    copy.write_bytes(Path(B).read_bytes())
    before = (tmp_path / "out" / "comparison.safetensors").read_bytes()
    text = failure(PreflightError, "compare", A, "-o", tmp_path / "out", "--no-page", "--add")
    assert "mine.safetensors" in text and "is not what it was" in text
    assert (tmp_path / "out" / "comparison.safetensors").read_bytes() == before


def test_later_questions_need_no_checkpoints(compared: Path, tmp_path: Path) -> None:
    kept = compared / "comparison.safetensors"
    run("compare", kept, "-o", tmp_path, "--no-page")
    told = json.loads(run("explain", "style-outline", "--comparison", kept, "--pool", "base",
                          "content-warm", "--json").stdout)  # fmt: skip
    unet = told["components"]["unet"]
    assert unet["explained"] is False and set(unet["ratios"]) == {"base", "content-warm"}
    grown = json.loads(run("convergence", kept, "--json").stdout)
    assert grown["component"] == "unet" and grown["to_end"][-1] == 0
    assert "base" not in grown["members"]


def test_nothing_is_replaced_unasked(compared: Path) -> None:
    text = failure(OutputExistsError, "compare", A, "-o", compared)
    assert "--overwrite" in text and "--add" in text


def test_what_cannot_be_read_is_named_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no")
    lost = (tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    text = failure(PreflightError, "compare", *lost, A, "-o", tmp_path / "out")
    assert "x.safetensors" in text and "y.safetensors" in text
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_usage_errors(tmp_path: Path) -> None:
    run("compare", A, B, "-o", tmp_path, "--by", "key", code=2)
    run("compare", A, B, "-o", tmp_path, "--memory", "lots", code=2)
    run("compare", A, B, "-o", tmp_path, "--threads", "-1", code=2)
    run("explain", A, code=2)
    run("explain", A, "--pool", B, "--base", BASE, "--free", code=2)
    run("convergence", code=2)


def test_explain_finds_the_mix_and_its_recipe_makes_it_again(tmp_path: Path) -> None:
    mix = tmp_path / "mix.safetensors"
    run("merge", "--unet", "0.65*a + 0.35*b", "--te", "b", "--vae", "a", "--pool", f"a={A}",
        "--pool", f"b={B}", "-o", mix, "--dtype", "fp16")  # fmt: skip
    out = tmp_path / "told"
    result = run("explain", mix, "--pool", f"a={A}", f"b={B}", BASE, "-o", out, "--json")
    unet = json.loads(result.stdout)["components"]["unet"]
    assert set(unet) >= {"ratios", "confidence", "residual"}
    for name, truth in {"a": 0.65, "b": 0.35, "base": 0.0}.items():
        assert abs(unet["ratios"][name] - truth) <= unet["confidence"][name] < 0.01
    assert "0.65*a + 0.35*b" in (out / "recipe.yaml").read_text()
    again = tmp_path / "again.safetensors"
    run("merge", out / "recipe.yaml", "-o", again, "--dtype", "fp16")
    one, other = load_file(mix), load_file(again)
    assert all(np.array_equal(one[key], other[key]) for key in one if "position_ids" not in key)
    page = Texts((out / "explanation.html").read_text())
    assert "What mix is made of" in page.text and "0.65 a" in page.text
    shown = run("explain", mix, "--pool", f"a={A}", f"b={B}").stdout
    assert "0.65" in shown and "as a recipe:" in shown
    assert "--overwrite" in failure(OutputExistsError, "explain", mix, "--pool", A, "-o", out)


def test_convergence_of_a_matrix_alone(tmp_path: Path) -> None:
    place = np.array([0.0, 4.0, 4.0])  # means of 0, 8, 4
    matrix = {"ml": ["m1", "m2", EVIL], "dm": {"unet": abs(place[:, None] - place).tolist()}}
    file = tmp_path / "d.json"
    file.write_text(json.dumps(matrix))
    result = run("convergence", "--matrix", file, "--chain", "--json", "-o", tmp_path / "out")
    plain = json.loads(result.stdout)
    assert plain["to_end"] == pytest.approx([4, 0, 0], abs=1e-6)
    assert plain["to_next"] == pytest.approx([8, 0], abs=1e-6)
    page = Texts((tmp_path / "out" / "convergence.html").read_text())
    assert "img" not in page.tags and "random orders" in page.text
    assert "1/k arithmetic" in run("convergence", "--matrix", file).stdout
    text = failure(CheckpointError, "convergence", "--matrix", file, "--order", "m1")
    assert "two members" in text
    failure(UnknownNameError, "convergence", "--matrix", file, "--component", "vae")
    failure(UnknownNameError, "convergence", "--matrix", file, "--order", "zz")


def test_equal_models_and_generic_files(tmp_path: Path) -> None:
    for name in "ab":
        save_file({"w": np.ones((2, 2), np.float32)}, tmp_path / f"{name}.safetensors")
    result = run("compare", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "-o",
                 tmp_path / "out")  # fmt: skip
    assert "a and b are the same model." in result.stdout
    assert (tmp_path / "out" / "comparison.html").exists()
