"""`replay`, and the commands that tell and check what it relies on, as people type them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from stockpot.cli.main import app
from stockpot.errors import OutputExistsError, PreflightError

RUNNER = CliRunner()


def run(*arguments: str, code: int = 0) -> Result:
    result = RUNNER.invoke(app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    return result


def weights(seed: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float16]]]:
    return {"w": np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float16)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file made in two steps; its raw models, renamed, in a pool; an empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        save_file(weights(seed), f"{name}.safetensors")
    run("mean", "a.safetensors", "b.safetensors", "-o", "ab.safetensors", "--sha256")
    run("merge", "-e", "lerp(ab, c, 0.25)", "--pool", "ab.safetensors", "--pool", "c.safetensors",
        "-o", "abc.safetensors", "--sha256")  # fmt: skip
    (tmp_path / "pool").mkdir()
    for name in "abc":
        shutil.move(f"{name}.safetensors", f"pool/renamed-{name}.safetensors")
    (tmp_path / "ab.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path


def test_replay_says_that_it_is_the_same_file(place: Path) -> None:
    shown = run("replay", "../abc.safetensors", "--pool", "../pool").stdout
    digest = hashlib.sha256((place / "abc.safetensors").read_bytes()).hexdigest()
    assert f"the same file, byte for byte: sha256 {digest}" in shown
    assert [path.name for path in Path().iterdir()] == ["abc-replay.safetensors"]
    told = json.loads(
        run("replay", "../abc.safetensors", "--pool", "../pool", "-o", "x", "--json").stdout
    )
    assert (told["sha256"], told["same_file"], told["path"]) == (digest, True, "x")
    again = RUNNER.invoke(app, ["replay", "../abc.safetensors", "--pool", "../pool", "-o", "x"])
    assert isinstance(again.exception, OutputExistsError)


def test_replay_names_what_is_missing(place: Path) -> None:
    shutil.rmtree(place / "pool")
    (place / "pool").mkdir()
    result = RUNNER.invoke(app, ["replay", "../abc.safetensors", "--pool", "../pool"])
    assert isinstance(result.exception, PreflightError)
    lines = str(result.exception).splitlines()
    assert [line.split(":")[0] for line in lines] == ["model 'c'", "model 'a'", "model 'b'"]
    assert not list(Path().iterdir())


def test_verify_with_a_pool_looks_at_inputs_and_recipe(place: Path) -> None:
    shown = run("verify", "../abc.safetensors", "--pool", "../pool").stdout
    assert "ab: made again" in shown and "the recipe was run again in full" in shown
    save_file(weights(9), place / "pool" / "c.safetensors")
    (place / "pool" / "renamed-c.safetensors").unlink()
    told = json.loads(
        run("verify", "../abc.safetensors", "--pool", "../pool", "--json", code=1).stdout
    )
    assert told["verdict"] == "inputs" and not told["recomputed"]
    (problem,) = told["problems"]
    assert problem["where"] == "model 'c'" and "c.safetensors has its name" in problem["message"]
    assert [i["state"] for i in told["inputs"]] == ["made again", "missing"]


def test_an_edited_recipe_is_told_as_such(place: Path) -> None:
    path = place / "abc.safetensors"
    path.write_bytes(path.read_bytes().replace(b"lerp(ab, c, 0.25)", b"lerp(ab, c, 0.26)"))
    assert "was edited" in run("verify", "../abc.safetensors", code=1).stdout
    result = run("recipe", "of", "../abc.safetensors")
    assert "lerp(ab, c, 0.26)" in result.stdout and "changed after the merge" in result.stderr
