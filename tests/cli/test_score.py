"""``stockpot score`` as people type it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.errors import (
    MissingWeightsError,
    OutputExistsError,
    ProblemsError,
    ScorerError,
    StockpotError,
)
from stockpot.scores import picture_statistics, piqe

CARD = "((red circle:1.2)), (solo:0)\nNegative prompt: blue\nSteps: 20, Sampler: Euler, Seed: 1"
LENGTHS = "import sys\nfor line in sys.stdin: print(len(line.rstrip(chr(10)).split(chr(9))[1]))"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "ab":
        picture = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
        info = PngInfo()
        info.add_text("parameters", CARD)
        Image.fromarray(picture).save(tmp_path / f"{name}.png", pnginfo=info)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "bare.png")
    return tmp_path


def score(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    if isinstance(result.exception, StockpotError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def picture(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_as_json(folder: Path) -> None:
    files = [folder / "b.png", folder / "a.png"]
    said = json.loads(score(*files, "--score", "piqe", "--score", "contrast", "--json"))
    assert said["scorers"]["piqe"] == {
        "range": "minus PIQE, about -100 (spoilt) to 0 (clean)",
        "deterministic": True,
        "uses_prompt": False,
    }
    for file, row in zip(files, said["pictures"], strict=True):
        assert row["path"] == str(file)
        assert row["scores"] == {
            "piqe": -piqe(picture(file)),
            "contrast": picture_statistics(picture(file)).contrast,
        }


def test_as_a_table(folder: Path) -> None:
    text = score(folder / "a.png", folder / "b.png", "--score", "contrast")
    rows = [line.split() for line in text.splitlines() if ".png" in line]
    assert [row[0] for row in rows] == [str(folder / "a.png"), str(folder / "b.png")]
    assert rows[0][1] == f"{picture_statistics(picture(folder / 'a.png')).contrast:.4f}"


def command(folder: Path) -> str:
    (folder / "lengths.py").write_text(LENGTHS, encoding="utf-8")
    return f"command:'{sys.executable}' '{folder / 'lengths.py'}'"


def test_prompts_come_from_the_pictures_or_from_you(folder: Path) -> None:
    lengths = command(folder)
    a = folder / "a.png"
    for options, prompt, scored in (
        ([], "((red circle:1.2)), (solo:0)", "red circle"),
        (["--prompt", "(a cat:1.1)"], "(a cat:1.1)", "a cat"),
        (["--score-prompt", "(a cat:1.1)"], None, "(a cat:1.1)"),
    ):
        said = json.loads(score(a, "--score", lengths, "--json", *options))
        (row,) = said["pictures"]
        assert (row["prompt"], row["scored_prompt"]) == (prompt, scored)
        assert list(row["scores"].values()) == [len(scored)]


def test_all_pictures_without_prompts_are_told(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "bare2.jpg")
    with pytest.raises(ProblemsError) as caught:
        score(folder / "bare.png", folder / "a.png", folder / "bare2.jpg", "--score", "clip")
    assert [problem.where for problem in caught.value.problems] == [
        str(folder / "bare.png"),
        str(folder / "bare2.jpg"),
    ]
    assert "give one with --prompt" in str(caught.value)


def test_all_unreadable_pictures_are_told(folder: Path) -> None:
    (folder / "no.png").write_text("x", encoding="utf-8")
    with pytest.raises(ProblemsError, match=r"no.png: cannot be read(?s:.*)gone.png: cannot"):
        score(folder / "no.png", folder / "a.png", folder / "gone.png", "--score", "piqe")


def test_many_pictures_are_scored_a_few_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [folder / name for name in ("a.png", "b.png", "bare.png", "b.png", "a.png")]
    arguments = [*files, "--score", "piqe", "--score", "0.5*contrast", "--json"]
    (folder / "s.json").write_text('{"contrast": {"mean": 0, "sd": 1}}', encoding="utf-8")
    arguments += ["--scales", folder / "s.json"]
    whole = score(*arguments)
    monkeypatch.setattr("stockpot.cli.scoring._AT_ONCE", 2)
    monkeypatch.setattr("stockpot.cli.scoring._QUIET_S", 0.0)
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    assert result.stdout == whole
    assert "scored 4 of 5 pictures" in result.stderr


def test_what_is_not_read_is_told(folder: Path) -> None:
    long = "a red circle " * 30
    result = CliRunner().invoke(
        app, ["score", str(folder / "a.png"), "--score", "clip", "--prompt", long, "--json"]
    )
    assert result.exit_code == 0 and "clip does not see the end of a prompt" in result.stderr
    (row,) = json.loads(result.stdout)["pictures"]
    assert row["left_out"]["clip"] and long.strip().endswith(row["left_out"]["clip"])


def test_scales_and_a_weighted_sum(folder: Path) -> None:
    files = [folder / "a.png", folder / "b.png", folder / "bare.png"]
    scales = folder / "scales.json"
    score(*files, "--score", "contrast", "--score", "detail", "--save-scales", scales)
    text = score(*files, "--score", "0.5*contrast - 0.5*detail", "--scales", scales, "--json")
    found = [row["scores"]["0.5*contrast - 0.5*detail"] for row in json.loads(text)["pictures"]]
    expected = np.zeros(3)
    for name, weight in (("contrast", 0.5), ("detail", -0.5)):
        raw = np.array([getattr(picture_statistics(picture(file)), name) for file in files])
        expected += weight * (raw - raw.mean()) / raw.std(ddof=1)
    np.testing.assert_allclose(found, expected)
    before = scales.read_bytes()
    with pytest.raises(OutputExistsError, match="scales.json: is there already"):
        score(*files, "--score", "contrast", "--save-scales", scales)
    assert scales.read_bytes() == before


def test_missing_files_are_told(folder: Path) -> None:
    with pytest.raises(MissingWeightsError, match="imagereward/ImageReward.pt: no such file"):
        score(folder / "a.png", "--score", "imagereward", "--files", folder)


def test_the_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = json.loads(score("--list", "--json", "--files", folder))
    rows = {row["name"]: row for row in said["scorers"]}
    assert said["folder"] == str(folder) and rows["piqe"]["missing"] == []
    assert rows["cafe"]["missing"] == rows["cafe"]["needs"] == ["cafe-aesthetic"]
    (folder / "imagereward").mkdir()
    (folder / "imagereward" / "ImageReward.pt").touch()
    monkeypatch.setenv("STOCKPOT_SCORERS", str(folder))
    text = score("--list")
    assert str(folder) in text and "imagereward/med_config.json" in text
    assert "ImageReward.pt" not in text


def test_wrong_usage(folder: Path) -> None:
    for arguments in ([], [str(folder / "a.png")], ["--score", "piqe"]):
        result = CliRunner().invoke(app, ["score", *arguments])
        assert result.exit_code == 2 and "at least one picture" in result.stderr


def test_a_long_prompt_in_a_picture_is_refused(folder: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "a" * 20_001)
    Image.new("RGB", (8, 8)).save(folder / "long.png", pnginfo=info)
    with pytest.raises(ProblemsError, match="20000 characters, but has 20001"):
        score(folder / "long.png", "--score", "clip")


def test_a_person_without_a_page_can_stop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tired:
        def ask(self, question: object) -> None:
            return None

        def close(self) -> None:
            pass

    monkeypatch.setattr("stockpot.scores.human._open_page", Tired)
    monkeypatch.chdir(folder)
    with pytest.raises(ScorerError, match="stopped after 0 of about 1 answers"):
        score(folder / "a.png", folder / "b.png", "--score", "human")


def test_errors_are_lines_and_code_1(folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "stockpot", "score", str(folder / "a.png"), "--score", "pige"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: unknown scorer 'pige'; did you mean 'piqe'")
    assert "Traceback" not in result.stderr
