"""`stockpot study` as people type it, on the zoo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stockpot.cli.main import app
from stockpot.errors import OutputExistsError, RequestError, StockpotError, UnknownNameError
from stockpot.zoo import member, zoo_path

EVIL = "<img onerror>"
NAMES = ("base", "style-outline", "style-glossy", "content-warm")
CONFIG = ["--config", str(zoo_path() / "config")]


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["study", *(str(a) for a in arguments)])
    if code == 0 and result.exception is not None:
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def failure(kind: type[StockpotError], *arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["study", *(str(a) for a in arguments)])
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A pool, one model with a hostile name, and a payload with two pictures."""
    folder = tmp_path_factory.mktemp("given")
    payload = {"prompt": "flat art, a large red heart on white background", "seed": 5, "steps": 2,
               "cfg_scale": 4, "n_iter": 2, "width": 32, "height": 32}  # fmt: skip
    (folder / "heart.json").write_text(json.dumps(payload))
    evil = folder / f"{EVIL}.safetensors"
    evil.write_bytes(member("te-trained").path.read_bytes())
    pool = [part for name in NAMES for part in ("--pool", str(member(name).path))]
    return [*pool, "--pool", str(evil), "--payloads", str(folder), "--base", "base", *CONFIG,
            "--permutations", "20"]  # fmt: skip


@pytest.fixture(scope="module")
def studied(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    output = tmp_path_factory.mktemp("studied") / "out"
    return output, run("distance", *given, "-o", output)


def test_the_answer_comes_first_on_stdout_and_on_the_page(studied: tuple[Path, Result]) -> None:
    output, result = studied
    data = json.loads((output / "distance.json").read_text())
    assert data["answer"][0] in result.stdout
    page = (output / "distance.html").read_text()
    assert page.index("Answer") < page.index("Mantel tests")
    assert EVIL not in page and "&lt;img onerror&gt;" in page
    figures = {path.suffix for path in (output / "figures" / "distance").iterdir()}
    assert figures == {".png", ".csv", ".json"}
    assert data["data"]["models"][0] == "base"
    weights = [path for path in output.rglob("*") if path.suffix in (".safetensors", ".partial")]
    assert not weights


def test_again_it_is_known_and_another_question_is_refused(
    studied: tuple[Path, Result], given: list[str]
) -> None:
    output, _ = studied
    before = (output / "distance.json").read_bytes()
    again = run("a", *given, "-o", output)
    assert "answered before" in again.stderr and "drawn" not in again.stderr
    assert (output / "distance.json").read_bytes() == before
    text = failure(OutputExistsError, "a", *given, "-o", output, "--seed", "3")
    assert "distance.json" in text
    # With leave, only numbers are computed again: the pictures are there.
    redone = run("a", *given, "-o", output, "--seed", "3", "--overwrite", "--json")
    assert "drawn" not in redone.stderr
    assert json.loads(redone.stdout)["distance"]["asked"]["seed"] == 3


def test_a_dry_run_says_the_cost(given: list[str], tmp_path: Path) -> None:
    result = run("a", "c", *given, "-o", tmp_path / "out", "--dry-run")
    assert "distance: at most 10 pictures" in result.stderr
    assert "convergence: at most 30 pictures" in result.stderr
    assert not (tmp_path / "out" / "distance.json").exists()


def test_studies_are_listed() -> None:
    assert "breakdown" in run().stdout
    rows = json.loads(run("--json").stdout)
    assert {"letter", "name", "question", "needs"} == rows[0].keys()


def test_what_cannot_be_studied_is_said(given: list[str], tmp_path: Path) -> None:
    assert "--score" in failure(RequestError, "breakdown", *given, "-o", tmp_path)
    assert "tarot" in failure(UnknownNameError, "tarot", *given, "-o", tmp_path)
    run("distance", *given, code=2)
    run("distance", *given, "-o", tmp_path, "--tasks", "0", code=2)
    left_out = run("all", *given, "-o", tmp_path / "out", "--dry-run")
    assert "breakdown is left out" in left_out.stderr


def test_concepts_are_asked_of_the_zoos_judge_or_of_a_scorer(
    given: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "concepts.yaml"
    file.write_text("colour: [red, blue]\nshape: [heart, star]\n")
    more = ["--repeats", "4", "-o", tmp_path / "out"]
    result = run("concepts", *given, *more, "--concepts", "zoo", "--batch", "8")
    data = json.loads((tmp_path / "out" / "concepts.json").read_text())["data"]
    assert data["classifier"] == "the zoo's judge" and data["n_pictures"] == 8
    assert set(data["concepts"]) == {"style", "size", "colour", "shape", "background"}
    assert "--tuned" in result.stdout
    again = [*more, "--concepts", file, "--score", "clip", "--overwrite"]
    other = run("concepts", *given, *again, "--json")
    found = json.loads(other.stdout)["concepts"]
    assert found["data"]["classifier"] == "clip" and "pictures drawn" not in other.stderr
    assert found["data"]["classifier_on_known_pictures"] is None
    run("concepts", *given, *more, "--concepts", file, code=2)


def test_adapters_have_a_home(given: list[str], tmp_path: Path) -> None:
    lora = ["--lora", zoo_path() / "lora" / "lora-navy.safetensors", "-o", tmp_path]
    result = run("adapters", *given, *lora, "--trained-on", "lora-navy=style-glossy", "--dry-run")
    assert "adapters: at most" in result.stderr
    text = failure(RequestError, "i", *given, *lora, "--trained-on", "lora-navy=nobody")
    assert "nobody" in text and "home" in text
    run("i", *given, *lora, "--trained-on", "style-glossy", code=2)
