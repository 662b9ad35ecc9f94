"""Ctrl-C, SIGTERM and other processes, as people meet them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from stockpot.checkpoints import SafetensorsFile
from stockpot.cli.main import app
from stockpot.compare import load_comparison
from stockpot.engine import merge
from stockpot.errors import OutputError, UnfinishedError
from stockpot.recipes import make_recipe

RUNNER = CliRunner()
# The program itself, on a disk that is slow enough to be met in the middle.
PROGRAM = """
import sys, time
from stockpot.checkpoints import SafetensorsFile
read = SafetensorsFile.read_into
def slow(*args):
    time.sleep(0.02)
    read(*args)
SafetensorsFile.read_into = slow
from stockpot.cli.main import main
sys.argv = ["stockpot", *sys.argv[1:]]
main()
"""
N_TENSORS = 60


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        tensors = {f"k{i}": rng.standard_normal((9, 7)).astype("f2") for i in range(N_TENSORS)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def under_way(journal: Path) -> None:
    """Wait until a few tensors are done."""
    for _ in range(3000):
        if journal.exists() and journal.stat().st_size > 2500:
            return
        time.sleep(0.01)
    raise AssertionError("it did not begin")


MEAN = ("mean", "a.safetensors", "b.safetensors", "-o", "out.safetensors", "--threads", "1")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_and_the_same_command_goes_on(
    pool: Path, number: signal.Signals, code: int
) -> None:
    process = start(pool, *MEAN)
    under_way(pool / "out.safetensors.partial.journal")
    process.send_signal(number)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    lines = said.splitlines()
    if number == signal.SIGINT:
        assert lines.pop(0) == "stopping after the tensors under way; Ctrl-C again stops at once"
    (line,) = lines
    assert line.startswith("stopped; ") and "tensors are kept in out.safetensors.partial" in line
    assert not (pool / "out.safetensors").exists()
    process = start(pool, *MEAN)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0 and out.startswith("out.safetensors: ")
    assert said.startswith("out.safetensors: going on from a run that was stopped: ")
    merge(make_recipe("mean(pool)", {n: f"{n}.safetensors" for n in "ab"}),
          pool / "whole.safetensors", folder=pool)  # fmt: skip
    assert (pool / "out.safetensors").read_bytes() == (pool / "whole.safetensors").read_bytes()


def test_other_processes_meanwhile(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pool)
    process = start(pool, *MEAN)
    under_way(pool / "out.safetensors.partial.journal")
    second = RUNNER.invoke(app, MEAN)
    assert isinstance(second.exception, OutputError)
    assert f"out.safetensors: process {process.pid} on " in str(second.exception)
    seen = RUNNER.invoke(app, ["inspect", ".", "--json"])
    assert [Path(one["path"]).name for one in json.loads(seen.stdout)] == [
        "a.safetensors", "b.safetensors",
    ]  # fmt: skip
    process.kill()
    process.communicate()
    again = RUNNER.invoke(app, MEAN)  # the lock died with its owner
    assert again.exit_code == 0, again.output
    assert not list(pool.glob("*.partial*"))


def test_another_command_is_refused_until_it_may_begin_anew(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pool)
    process = start(pool, *MEAN)
    under_way(pool / "out.safetensors.partial.journal")
    process.kill()
    process.communicate()
    refused = RUNNER.invoke(app, [*MEAN, "--dtype", "fp32"])
    assert isinstance(refused.exception, UnfinishedError)
    assert "--restart" in str(refused.exception)
    anew = RUNNER.invoke(app, [*MEAN, "--dtype", "fp32", "--restart", "--json"])
    assert anew.exit_code == 0 and json.loads(anew.stdout)["n_resumed"] == 0


def test_a_comparison_goes_on_too(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pool)
    arguments = ("compare", "a.safetensors", "b.safetensors", "--no-page", "--threads", "1", "-o")
    whole = RUNNER.invoke(app, [*arguments, "whole"])
    assert whole.exit_code == 0, whole.output
    process = start(pool, *arguments, "seen")
    sums = pool / "seen" / "comparison.safetensors.sums.partial"
    for _ in range(3000):
        if sums.exists():
            break
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "tensors are kept in seen/comparison.safetensors.sums.partial" in said
    going_on = RUNNER.invoke(app, [*arguments, "seen"])
    assert going_on.exit_code == 0, going_on.output
    assert "going on from a walk that was stopped" in going_on.stderr
    assert [path.name for path in (pool / "seen").iterdir()] == ["comparison.safetensors"]
    files = [pool / name / "comparison.safetensors" for name in ("seen", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert load_comparison(files[0]).names == ("a", "b")


def test_verify_repairs(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pool)
    (pool / "models").mkdir()
    for name in "ab":
        (pool / f"{name}.safetensors").rename(pool / "models" / f"{name}.safetensors")
    made = RUNNER.invoke(
        app, ["mean", "models/a.safetensors", "models/b.safetensors", "-o", "out.safetensors"]
    )
    assert made.exit_code == 0, made.output
    whole = Path("out.safetensors").read_bytes()
    with SafetensorsFile("out.safetensors") as source:
        place = source.header.offsets["k7"]
    broken = bytearray(whole)
    broken[place] ^= 1
    Path("out.safetensors").write_bytes(broken)
    found = RUNNER.invoke(app, ["verify", "out.safetensors"])
    assert found.exit_code == 1 and "  damaged: k7\n" in found.stdout
    assert json.loads(RUNNER.invoke(app, ["verify", "out.safetensors", "--json"]).stdout)[
        "damaged"
    ] == ["k7"]
    wrong = RUNNER.invoke(app, ["verify", "out.safetensors", "--repair"])
    assert wrong.exit_code == 2
    repair = ["verify", "out.safetensors", "--repair", "--pool", "models"]
    mended = RUNNER.invoke(app, repair)
    assert mended.exit_code == 0, mended.output
    assert f"out-repaired.safetensors: 1 of {N_TENSORS} tensors made again" in mended.stdout
    assert Path("out-repaired.safetensors").read_bytes() == whole
    in_place = RUNNER.invoke(app, [*repair, "-o", "out.safetensors", "--overwrite", "--json"])
    assert json.loads(in_place.stdout)["remade"] == ["k7"]
    assert Path("out.safetensors").read_bytes() == whole
    assert not [name for name in os.listdir() if "partial" in name]
