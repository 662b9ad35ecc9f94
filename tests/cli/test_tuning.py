"""``stockpot tune``, on two small models with random weights and a scorer without weights."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stockpot.checkpoints import open_checkpoint
from stockpot.cli.main import app
from stockpot.errors import (
    CheckpointError,
    LayoutError,
    OutputExistsError,
    ScorerError,
    StockpotError,
    StudyError,
)
from stockpot.recipes import read_recipe

ROOT = Path(__file__).parents[2]


def run(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def place(make_place: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with 27 holes, its models, and payloads."""
    weights = ", ".join(["search(0, 1, 0.05)"] * 27)
    return make_place(
        tmp_path_factory.mktemp("tune"), "ab",
        f'let:\n  w: blocks("autombw", [{weights}])\nmix:\n  model: lerp(a, b, w)\n',
    )  # fmt: skip


@pytest.fixture(scope="module")
def options(place: Path, config: Path) -> list[object]:
    """What every call needs."""
    return [place / "recipe.yaml", "--payloads", place / "payloads", "--score", "detail",
            "--record", "contrast", "--optimiser", "random", "--config", config]  # fmt: skip


@pytest.fixture(scope="module")
def study(place: Path, options: list[object]) -> Path:
    """A study that has ended, with a recipe and a merge of what won."""
    path = place / "study.db"
    first = run("tune", *options, "--study", path, "--trials", 1)
    assert first.exit_code == 0, first.output
    result = run("tune", *options, "--study", path, "--trials", 3, "--finalists", 1,
                 "-o", place / "best.yaml", "--merge", place / "best.safetensors")  # fmt: skip
    assert result.exit_code == 0
    assert "than the uniform mix" in result.stdout
    assert "trial 6" in result.stderr
    assert "trial 5:" not in result.stderr  # what was drawn before is kept
    return path


def test_the_winner_is_written_with_what_the_study_knows(place: Path, study: Path) -> None:
    recipe = read_recipe(place / "best.yaml")
    assert recipe.origin is not None
    evidence = json.loads(recipe.origin.records["study"])
    with open_checkpoint(place / "best.safetensors") as source:
        assert json.loads(source.metadata["stockpot.study"]) == evidence
    assert evidence["scorer"] == "detail" and evidence["n_held_out_tasks"] == 2
    again = run("merge", place / "best.yaml", "-o", place / "again.safetensors")
    assert again.exit_code == 0
    files = [place / f"{name}.safetensors" for name in ("best", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_status(study: Path) -> None:
    result = run("tune", "status", study)
    assert "8 candidates" in result.stdout and "b alone" in result.stdout
    data = json.loads(run("tune", "status", study, "--json").stdout)
    assert data["candidates"] == 8 and len(data["trials"]) == 8
    names = [trial["name"] for trial in data["trials"]]
    assert names == ["a alone", "b alone", "uniform mix", "high ends", "middle", "", "", ""]
    assert len(data["trials"][-1]["holes"]) == 27
    assert data["result"]["standings"][0]["held_out"] is not None
    assert data["settings"]["scorers"] == ["detail", "contrast"]


def test_report(study: Path, tmp_path: Path) -> None:
    result = run("tune", "report", study, "-o", tmp_path / "page")
    assert result.exit_code == 0
    html = (tmp_path / "page" / "tuning.html").read_text(encoding="utf-8")
    for text in ("uniform mix", "Convergence", "What each weight does", "What could not be",
                 "Cost", "data:image/png"):  # fmt: skip
        assert text in html
    figures = {file.name for file in (tmp_path / "page" / "figures").iterdir()}
    assert {"convergence.png", "convergence.csv", "effects.json"} <= figures
    with pytest.raises(OutputExistsError):
        run("tune", "report", study, "-o", tmp_path / "page")


def test_what_cannot_be_is_told_first(
    place: Path, options: list[object], study: Path, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match="scorers"):
        run("tune", *options, "--record", "sharpness", "--study", study)
    with pytest.raises(OutputExistsError):
        run("tune", *options, "--study", study, "-o", place / "best.yaml")
    assert run("tune", *options, "--study", study, "--freeze", "IN99=1").exit_code == 2
    with pytest.raises(ScorerError, match="compares pictures"):
        run("tune", place / "recipe.yaml", "--payloads", place / "payloads", "--score", "human",
            "--study", tmp_path / "s.db")  # fmt: skip
    with pytest.raises(StudyError, match="nothing to tune"):
        run("tune", place / "best.yaml", *options[1:], "--study", tmp_path / "s.db")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "nope"], "a space must be one of"),
        (["--refine", "nope"], "a space must be one of"),
        (["--optimiser", "nope"], "unknown optimiser 'nope'"),
        (["--optimiser", "cmaes", "--score", "contrast"], "cmaes can follow 1 objective"),
        (["--known", "nowhere.yaml"], "nowhere.yaml: the recipe cannot be read"),
        (["--held-out", "nowhere.json"], "nowhere.json: the payload cannot be read: No such file"),
        (["--held-out", "deep.json"], "deep.json: the payload is no JSON: maximum recursion"),
    ],
)
def test_what_is_asked_for_is_looked_at_before_there_is_a_study(
    options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str],
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(StockpotError, match=message):
        run("tune", *options, "--study", "s.db", *words)
    assert not Path("s.db").exists()


def test_a_mix_that_cannot_be_drawn_is_told_before_there_is_a_study(
    place: Path, options: list[object], tmp_path: Path
) -> None:
    recipe = place / "no-vae.yaml"
    text = (place / "recipe.yaml").read_text().partition("let:")[0]
    recipe.write_text(text + "mix:\n  unet: lerp(a, b, search(0, 1))\n  te: a\n")
    path = tmp_path / "s.db"
    words = ["tune", recipe, *options[1:], "--study", path, "--trials", 1, "--finalists", 1]
    with pytest.raises(LayoutError, match=r"the mix: the checkpoint has no VAE; give one with --v"):
        run(*words)
    with pytest.raises(CheckpointError, match="nowhere"):
        run(*words, "--vae", place / "a.safetensors", "--config", tmp_path / "nowhere")
    assert not path.exists()
    result = run(*words, "--vae", place / "a.safetensors")
    assert result.exit_code == 0 and "failed" not in result.stderr


def test_a_winner_written_elsewhere_leads_to_the_same_files(
    place: Path, options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [Path(os.path.relpath(place / "recipe.yaml", tmp_path)), *options[1:]]
    result = run("tune", *words, "--study", "s.db", "--trials", 1, "--finalists", 1,
                 "-o", "best.yaml")  # fmt: skip
    assert result.exit_code == 0
    files = [entry.file for entry in read_recipe("best.yaml").pool.values()]
    assert files == [str(place / "a.safetensors"), str(place / "b.safetensors")]
    assert run("merge", "best.yaml", "-o", "best.safetensors").exit_code == 0


def test_a_coarse_search_is_refined_by_two_workers(
    place: Path, options: list[object], tmp_path: Path
) -> None:
    words = [*options, "--study", tmp_path / "s.db", "--trials", 2, "--space", "curve:4",
             "--refine", "each", "--freeze", "TIME=0.5", "--workers", 2, "--stop", 0,
             "--finalists", 1, "--json"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "stockpot", "tune", *map(str, words)],
                          capture_output=True, text=True, env=environment, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [one["baseline"] for one in result["standings"]].count(False) == 1
    data = json.loads(run("tune", "status", tmp_path / "s.db", "--json").stdout)
    fine = [trial for trial in data["trials"] if trial["stage"] == 2]
    coarse = [trial for trial in data["trials"] if trial["stage"] == 1 and trial["holes"]]
    assert fine[0]["name"] == "coarse best" and len(fine) == 3
    best = max(coarse, key=lambda trial: trial["values"][0])
    assert fine[0]["holes"] == best["holes"] and fine[0]["values"] == best["values"]
    for trial in [*fine, *(t for t in coarse if not t["name"])]:
        assert trial["holes"]["TIME"] == 0.5
    assert all(abs(trial["holes"][n] - best["holes"][n]) <= 0.2501 for trial in fine for n in best[
        "holes"])  # fmt: skip


@pytest.fixture
def data() -> Path:
    """The folder of real files; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("STOCKPOT_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the real tables are not here; set STOCKPOT_DATA")
    return folder


def test_autombws_tables_are_trials(place: Path, data: Path, tmp_path: Path) -> None:
    table = next((data / "autombw").glob("03b-*.csv"))
    words = ["tune", "import", place / "recipe.yaml", table, "--study", tmp_path / "s.db"]
    result = run(*words)
    with open(table, newline="", encoding="utf-8") as file:
        n_rows = sum(1 for row in csv.reader(file) if row) - 1
    assert f"{n_rows} evaluations, {n_rows} of them new, 0 outside" in result.stdout
    assert f"{n_rows} evaluations, 0 of them new" in run(*words).stdout
    told = json.loads(run("tune", "status", tmp_path / "s.db", "--json").stdout)
    assert told["imported"] == n_rows and told["candidates"] == 0
    assert told["trials"][0]["holes"]["IN00"] == 0.3
    assert told["trials"][0]["holes"]["TIME"] == 0.2
    assert told["trials"][0]["values"] == [0.49670393266987295]
    run("tune", "report", tmp_path / "s.db", "-o", tmp_path / "page")
    assert (tmp_path / "page" / "figures" / "effects.csv").exists()
