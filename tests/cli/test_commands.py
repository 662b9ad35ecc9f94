"""The commands as people type them: what they print, how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from stockpot.cli.main import app


def stockpot(
    *arguments: str | Path, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "stockpot", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small checkpoints, a, b and c, with equal keys."""
    rng = np.random.default_rng(0)
    for name in "abc":
        weights = rng.standard_normal((4, 5)).astype(np.float16)
        save_file({"w": weights, "n.bias": weights[0].copy()}, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "sys.argv = ['stockpot', '--help']\n"
        "from stockpot.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'yaml', 'gradio', 'optuna'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("inspect", "mean", "merge", "recipe", "demo"):
        assert command in result.stdout


@pytest.mark.parametrize("words", [["merge"], ["recipe"], ["recipe", "show"], ["mean"]])
def test_a_command_that_starts_alone_is_the_one_among_all(words: list[str]) -> None:
    whole = CliRunner().invoke(app, [*words, "--help"], prog_name="stockpot", env={"COLUMNS": "80"})
    alone = stockpot(*words, "--help")
    assert (alone.returncode, whole.exit_code) == (0, 0)
    assert alone.stdout.split() == whole.stdout.split()


def test_a_command_that_nobody_knows_ends_in_an_error_of_usage() -> None:
    result = stockpot("merg")
    assert result.returncode == 2
    assert "No such command" in result.stderr
    assert "merge" in result.stderr  # the nearest


def test_version() -> None:
    result = stockpot("--version")
    assert (result.returncode, result.stdout) == (0, "stockpot 0.1.0\n")


def test_mean_writes_the_mean_and_says_so(folder: Path) -> None:
    result = stockpot(
        "mean", "a.safetensors", "b.safetensors", "-o", "m.safetensors", folder=folder
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("m.safetensors: ") and " from 2 models in " in result.stdout
    a, b, m = (load_file(folder / f"{name}.safetensors") for name in "abm")
    for key in m:
        expected = ((a[key].astype(float) + b[key].astype(float)) / 2).astype(np.float16)
        assert m[key].tobytes() == expected.tobytes()


def test_json_results_are_json(folder: Path) -> None:
    merged = stockpot(
        "merge", "-e", "lerp(a, b, 0.25)", "--pool", "a=a.safetensors", "--pool", "b.safetensors",
        "-o", "m.safetensors", "--json", folder=folder,
    )  # fmt: skip
    facts = json.loads(merged.stdout)
    assert facts["path"] == "m.safetensors" and len(facts["content_hash"]) == 64
    inspected = json.loads(
        stockpot("inspect", "m.safetensors", "--hash", "--json", folder=folder).stdout
    )
    assert inspected[0]["hashes"]["content"] == facts["content_hash"]
    assert inspected[0]["architecture"] == "generic"
    assert inspected[0]["components"]["model"]["n_params"] == 25
    plan = json.loads(
        stockpot(
            "mean",
            "a.safetensors",
            "b.safetensors",
            "-o",
            "x",
            "--dry-run",
            "--json",
            folder=folder,
        ).stdout
    )
    assert plan["models"] == ["a", "b"] and plan["written_bytes"] == 50
    assert not (folder / "x").exists()


def test_a_recipe_file_with_relative_paths(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "r.yaml").write_text(
        "stockpot: 1\npool: {a: a.safetensors, c: c.safetensors}\n"
        "mix: {model: 'a/2 + c/2'}\nsave: {file: out.safetensors, dtype: fp32}\n"
    )
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    result = stockpot("merge", folder / "r.yaml", folder=elsewhere)
    assert result.returncode == 0, result.stderr
    assert load_file(folder / "out.safetensors")["w"].dtype == np.float32
    shown = stockpot("recipe", "show", folder / "r.yaml")
    assert "model: a/2 + c/2" in shown.stdout
    folded = stockpot("recipe", "fold", folder / "r.yaml", "--json")
    assert json.loads(folded.stdout) == {
        "models": ["a", "c"],
        "blocks": {"model.all": {"a": 0.5, "c": 0.5}},
    }


def test_fold_needs_to_know_the_architecture(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("stockpot: 1\npool: {a: a.ckpt}\nmix: {unet: a}\n")
    result = stockpot("recipe", "fold", tmp_path / "r.yaml")
    assert result.returncode == 1
    assert "name it with --layout sd1, sd2 or sdxl" in result.stderr
    result = stockpot("recipe", "fold", tmp_path / "r.yaml", "--layout", "sd1")
    assert result.returncode == 0
    assert "unet.time_embed … unet.out" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("mean", "a.safetensors", "-o", "b.safetensors"), 1, "b.safetensors: the file exists"),
        (("mean", "nope.safetensors", "-o", "x"), 1, "nope.safetensors: the file cannot be opened"),
        (("mean", "a.safetensors", "-o", "no/x"), 1, "the output's folder must exist"),
        (("mean", "a.safetensors", "-o", "x", "--memory", "lots"), 2, "a size must look like"),
        (("mean", "a.safetensors", "-o", "x", "--memory", "1MB"), 1, "allow more"),
        (("mean", "a.safetensors", "-o", "x", "--dtype", "fp15"), 1, "did you mean 'fp16'?"),
        (("merge", "-o", "x"), 2, "give either a recipe file, or -e with --pool"),
        (("merge", "-e", "a + q", "--pool", "a=a.safetensors", "-o", "x"), 1, "unknown name 'q'"),
        (("merge", "r.yaml", "-o", "x"), 1, "r.yaml: the recipe cannot be read"),
        (("mean", "a.safetensors", "-o", "x", "--kernel", "gpu"), 2, "must be auto or torch"),
    ],
)  # fmt: skip
def test_mistakes_are_explained_without_a_traceback(
    folder: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = stockpot(*arguments, folder=folder)
    assert result.returncode == code, result.stderr
    # Usage errors are framed and wrapped by the terminal's width.
    said = " ".join(result.stderr.replace("│", " ").split())
    assert message in said
    assert "Traceback" not in result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_debug_shows_where(folder: Path) -> None:
    result = stockpot("mean", "nope.safetensors", "-o", "x", "--debug", folder=folder)
    assert result.returncode == 1 and "Traceback" in result.stderr


def test_text_from_files_cannot_steer_the_terminal(folder: Path) -> None:
    hostile = "k\x1b[31m\u202e<b>"
    save_file({hostile: np.zeros(2, np.float16)}, folder / "h.safetensors")
    shown = stockpot("merge", "-e", "a + h", "--pool", "a=a.safetensors", "--pool",
                     "h=h.safetensors", "-o", "x", folder=folder)  # fmt: skip
    assert shown.returncode == 1
    assert "\x1b" not in shown.stderr and "\u202e" not in shown.stderr
    assert "\\x1b[31m" in shown.stderr


def test_methods_are_listed_with_their_costs() -> None:
    done = stockpot("methods", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["dgmla"]["passes"] == 4 and rows["dgmla"]["source"]
    assert rows["mean"]["passes"] == 1 and rows["ties"]["symmetric"]
    assert {option["name"] for option in rows["ties"]["options"]} == {"keep", "elect", "scale"}
    one = stockpot("methods", "iso_z")
    assert "iso_z(base, a, z=0.8)" in one.stdout and "56 bytes an element" in one.stdout
    wrong = stockpot("methods", "tyes")
    assert wrong.returncode == 1 and "did you mean 'ties'?" in wrong.stderr


def test_a_dry_run_tells_passes_memory_and_time(folder: Path) -> None:
    pool = [word for name in "abc" for word in ("--pool", f"{name}.safetensors")]
    done = stockpot("merge", "-e", "dgmla(a, b, c)", *pool, "-o", "out.safetensors", "--dry-run",
                    folder=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "in 4 passes" in done.stdout and "of 1.07 GB; about" in done.stdout
    assert "methods: elected (version 1), geometric_median (version 2), masked" in done.stdout
    facts = json.loads(
        stockpot("merge", "-e", "ties(a, b, c)", *pool, "-o", "out.safetensors", "--dry-run",
                 "--json", folder=folder).stdout
    )  # fmt: skip
    assert facts["passes"] == 2 and 0 < facts["memory_bytes"] < 1 << 30
    assert not (folder / "out.safetensors").exists()
