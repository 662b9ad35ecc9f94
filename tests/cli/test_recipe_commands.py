"""``stockpot recipe …`` as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from stockpot.cli.main import app

RECIPE = """\
stockpot: 1
pool:
  a: {file: a.safetensors, title: The first, status: baseline}
  b: b.safetensors
mix:
  unet: lerp(a, b, 0.333)
  te: a
"""
LINE = ",".join(["0.5"] * 27)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe of ours, and two AutoMBW texts that belong together."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "mbw").mkdir()
    for a, o in (("x", "low"), ("low", "top")):
        (tmp_path / "mbw" / f"{o}.txt").write_text(f"modelA={a}\nmodelB=y\nmodelO={o}\n{LINE}")
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    """Run a command and check how it ended."""
    result = CliRunner().invoke(app, ["recipe", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_show_prints_the_authors_table(folder: Path) -> None:
    shown = run("show", "r.yaml").stdout
    assert shown.startswith("stockpot: 1\n") and "UNET used?" in shown
    (row,) = [line for line in shown.splitlines() if "The first" in line and "file:" not in line]
    assert row.split() == ["a", "The", "first", "baseline", "Y", "Y"]
    models = json.loads(run("show", "r.yaml", "--json").stdout)["models"]
    assert [(m["unet"], m["clip"]) for m in models] == [(True, True), (True, False)]


def test_contributions(folder: Path) -> None:
    found = json.loads(run("contributions", "r.yaml", "--json").stdout)
    assert found["models"] == ["a", "b"]
    assert found["blocks"]["unet.IN00"] == {"a": 0.667, "b": 0.333}
    result = run("contributions", "mbw", "-o", "heat.svg")
    assert "read as folder of 2" in result.stderr and "0.75" in result.stdout
    assert (folder / "heat.svg").read_text().startswith("<svg")
    again = CliRunner().invoke(app, ["recipe", "contributions", "mbw", "-o", "heat.svg"])
    assert again.exit_code == 1 and "--overwrite" in str(again.exception)


def test_import_export_and_graph(folder: Path) -> None:
    result = run("import", "mbw", "-o", "top.yaml")
    assert "2 models, 2 steps, 4 edges, 0 unknown parents" in result.stdout
    run("graph", "top.yaml", "-o", "g.svg")
    assert "<svg" in (folder / "g.svg").read_text()
    assert json.loads(run("import", "mbw", "--make", "low", "--json").stdout)["edges"] == 2
    code = run("export", "top.yaml", "--to", "python").stdout
    space: dict[str, object] = {}
    exec(code, space)
    assert "recipe" in space


def test_lint(folder: Path) -> None:
    (finding,) = json.loads(run("lint", "r.yaml", "--json").stdout)
    assert finding["code"] == "rounded-ratio" and finding["where"] == "r.yaml:6: mix.unet"
    assert "rounded-ratio" in run("lint", "r.yaml").stdout


def test_same_and_diff(folder: Path) -> None:
    (folder / "s.yaml").write_text(RECIPE.replace("lerp(a, b, 0.333)", "0.667*a + 0.333*b"))
    (folder / "t.yaml").write_text(RECIPE.replace("0.333", "1/3"))
    assert "given files with equal key sets" in run("same", "r.yaml", "s.yaml").stdout
    assert "different" in run("same", "r.yaml", "t.yaml", code=1).stdout
    assert json.loads(run("diff", "r.yaml", "s.yaml", "--json").stdout) == {"rows": []}
    rows = json.loads(run("diff", "r.yaml", "t.yaml", "--json", code=1).stdout)["rows"]
    assert {row["model"] for row in rows} == {"a", "b"}


def test_the_recipe_inside_a_checkpoint(folder: Path) -> None:
    record = {"type": "webui", "primary_model_hash": None, "secondary_model_hash": None,
              "interp_method": "Weighted sum", "multiplier": 0.3}  # fmt: skip
    metadata = {"sd_merge_recipe": json.dumps(record), "sd_merge_models": "{}"}
    save_file({"w": np.zeros(1, np.float16)}, folder / "m.safetensors", metadata)
    result = run("import", "m.safetensors")
    assert "weighted_sum(" in result.stdout and "2 unknown parents" in result.stderr


def test_merge_reads_other_formats(folder: Path) -> None:
    for name in "xy":
        save_file({"w": np.full(4, ord(name), np.float16)}, folder / f"{name}.safetensors")
    (folder / "list.txt").write_text("x.safetensors\ny.safetensors\n")
    result = CliRunner().invoke(app, ["merge", "list.txt", "-o", "m.safetensors"])
    assert result.exit_code == 0, result.exception
    assert "list.txt: read as list: 2 models" in result.stderr
    assert load_file(folder / "m.safetensors")["w"][0] == 120.5


def test_paths_of_a_recipe_stay_in_its_folder(folder: Path) -> None:
    text = "stockpot: 1\npool: {{a: {}}}\nmix: {{model: a}}\n"
    (folder / "up.yaml").write_text(text.format("../a.safetensors"))
    result = CliRunner().invoke(app, ["merge", "up.yaml", "-o", "m.safetensors"])
    assert result.exit_code == 1 and "must stay within" in str(result.exception)
    save_file({"w": np.zeros(1, np.float16)}, folder / "a.safetensors")
    (folder / "abs.yaml").write_text(text.format(f"'{folder / 'a.safetensors'}'"))
    (folder / "sub").mkdir()
    (folder / "sub" / "up.yaml").write_text(text.format("../a.safetensors"))
    for arguments in (["abs.yaml"], ["sub/up.yaml", "--outside"]):
        result = CliRunner().invoke(
            app, ["merge", *arguments, "-o", "m.safetensors", "--overwrite"]
        )
        assert result.exit_code == 0, result.exception


def test_lint_looks_at_the_files_that_are_there(folder: Path) -> None:
    save_file({"w": np.zeros(2, np.float16)}, folder / "a.safetensors")
    save_file({"w": np.zeros(2, np.float16), "v_pred": np.zeros(0, np.float16)},
              folder / "b.safetensors")  # fmt: skip
    (folder / "m.yaml").write_text(
        "stockpot: 1\npool: {a: a.safetensors, b: b.safetensors}\nmix: {model: a/2 + b/2}\n"
    )
    findings = json.loads(run("lint", "m.yaml", "--json").stdout)
    (finding,) = [f for f in findings if f["code"] == "mixed-prediction"]
    assert finding["where"].endswith("pool.b")
    assert finding["message"] == "1 models predict v and 1 do not"
