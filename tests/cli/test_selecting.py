"""`stockpot select` as people type it, on the zoo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stockpot.cli.main import app
from stockpot.errors import (
    MemoryBudgetError,
    OutputExistsError,
    PreflightError,
    RequestError,
    StockpotError,
)
from stockpot.recipes import read_recipe
from stockpot.zoo import member, zoo_path

EVIL = "<img onerror>"
FILES = [str(member(name).path) for name in ("base", "te-ruined", "outlier")]
CONFIG = ["--config", str(zoo_path() / "config")]


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["select", *(str(a) for a in arguments)])
    if code == 0 and result.exception is not None:
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def failure(kind: type[StockpotError], *arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["select", *(str(a) for a in arguments)])
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("payloads")
    for name, prompt in (
        ("heart", "flat art, a large red heart on white background"),
        ("star", "glossy art, a large blue star on cream background"),
    ):
        payload = {"prompt": prompt, "seed": 5, "steps": 4, "cfg_scale": 4, "n_iter": 4,
                   "width": 32, "height": 32, "sampler_name": "Euler"}  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(payload))
    return folder


@pytest.fixture(scope="module")
def selected(payloads: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder with a finished selection; one model has a hostile name."""
    folder = tmp_path_factory.mktemp("selected")
    evil = folder / f"{EVIL}.safetensors"
    evil.write_bytes(member("style-outline").path.read_bytes())
    output = folder / "out"
    result = run(*FILES, evil, "--payloads", payloads, "--score", "clip", "-o", output, *CONFIG,
                 "--held-out-repeats", "1", "--pictures", "1")  # fmt: skip
    return output, result


def test_it_chooses_says_why_and_leaves_a_recipe(selected: tuple[Path, Result]) -> None:
    output, result = selected
    assert "UNet used?" in result.output and "CLIP used?" in result.output
    assert "better than the blind mix" in result.output
    assert "at most" in result.output and "candidates" in result.output
    told = json.loads((output / "selection.json").read_text())
    recipe = read_recipe(output / "recipe.yaml")
    assert f"merge with: stockpot merge {output}/recipe.yaml -o MIX.safetensors" in result.output
    mix = output.parent / "mix.safetensors"
    merged = CliRunner().invoke(app, ["merge", str(output / "recipe.yaml"), "-o", str(mix)])
    assert merged.exit_code == 0 and mix.exists()
    assert "outlier" not in told["choice"]["unets"]
    assert "te-ruined" not in told["choice"]["encoders"]
    assert set(told["choice"]["unets"]) <= set(recipe.pool)
    assert {one["model"]: one["te"] for one in told["used"]}["te-ruined"] is False
    names = {path.name for path in output.iterdir()}
    assert names == {"recipe.yaml", "core.yaml", "selection.json", "selection.html", "figures",
                     "evidence.jsonl"}  # fmt: skip


def test_the_page_shows_hostile_names_as_text(selected: tuple[Path, Result]) -> None:
    html = (selected[0] / "selection.html").read_text()
    assert EVIL not in html and "&lt;img onerror&gt;" in html
    assert 'data-ballot="unet:outlier"' in html and "decisions.json" in html


def test_again_it_refuses_and_then_reuses(selected: tuple[Path, Result], payloads: Path) -> None:
    output, _ = selected
    evil = output.parent / f"{EVIL}.safetensors"
    same = (*FILES, evil, "--payloads", payloads, "--score", "clip", "-o", output, *CONFIG,
            "--held-out-repeats", "1", "--pictures", "0")  # fmt: skip
    assert "already" in failure(OutputExistsError, *same)
    before = json.loads((output / "selection.json").read_text())
    veto = output.parent / "veto.json"
    veto.write_text(json.dumps({"veto": {"unet": ["base"]}}))
    run(*same, "--overwrite", "--decisions", veto)
    after = json.loads((output / "selection.json").read_text())
    assert "base" not in after["choice"]["unets"] and "base" in before["choice"]["unets"]
    assert after["n_reused"] >= 6
    (base,) = [d for step in after["steps"] if step["part"] == "unet"
               for d in step["decisions"] if d["model"] == "base"]  # fmt: skip
    assert base["why"] == "vetoed by hand"


def test_a_dry_run_says_the_cost_and_writes_nothing(tmp_path: Path, payloads: Path) -> None:
    result = run(*FILES, "--payloads", payloads, "--score", "clip", "-o", tmp_path / "o",
                 "--dry-run")  # fmt: skip
    assert "at most" in result.output and "pictures" in result.output
    assert not (tmp_path / "o").exists()


def test_wrong_wishes_are_told(tmp_path: Path, payloads: Path) -> None:
    common = ("--payloads", payloads, "--score", "clip", "-o", tmp_path / "o")
    assert "--plan must be one of" in run(*FILES, *common, "--plan", "mine", code=2).output
    assert "--stop-after" in run(*FILES, *common, "--stop-after", "unet", code=2).output
    assert "at least two" in run(FILES[0], *common, code=2).output
    assert "finished selection" in failure(RequestError, *common, "--add", FILES[0])
    assert "VAE" in failure(PreflightError, *FILES, *common, "--vae", "nobody")
    assert not (tmp_path / "o").exists()


def test_too_little_memory_is_told_before_anything_is_read(
    payloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("the pool was read")

    monkeypatch.setattr("stockpot.select.survey_members", read)
    words = [*FILES, "--payloads", payloads, "--score", "detail", "-o", tmp_path / "out", *CONFIG]
    told = failure(MemoryBudgetError, *words, "--memory", "100MB")
    assert "drawing needs" in told and "--memory allows 100 MB" in told
    failure(MemoryBudgetError, *words, "--memory", "100MB", "--dry-run")
    run(*words, "--memory", "much", code=2)
    assert not (tmp_path / "out").exists()
