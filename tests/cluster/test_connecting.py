"""A cluster of this machine alone, from the command line: nothing of it is left, or heard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ADDRESS_FREE = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for number, name in enumerate("abc"):
        rng = np.random.default_rng(number)
        tensors = {f"w{i}": rng.standard_normal(1000).astype(np.float16) for i in range(4)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return [tmp_path / f"{name}.safetensors" for name in "abc"]


def run(*words: object, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**ADDRESS_FREE, "HOME": str(home), "TMPDIR": tempfile.gettempdir()}
    return subprocess.run(
        [sys.executable, "-m", "stockpot", *map(str, words)], capture_output=True, text=True,
        env=environment, timeout=120,
    )  # fmt: skip


def test_a_merge_on_this_machine_alone_leaves_only_its_output(
    files: list[Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    before = set(Path(tempfile.gettempdir()).glob("stockpot-ray-*"))
    alone = run("mean", *files, "-o", tmp_path / "alone.safetensors", home=home)
    assert alone.returncode == 0, alone.stderr
    done = run("mean", *files, "-o", tmp_path / "helped.safetensors", "--json", "--cluster",
               "--threads", 2, home=home)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_resumed"] == 0  # Ray says nothing among results
    assert done.stderr.startswith("working on 1 node: ") and "(127.0.0.1)" in done.stderr
    assert done.stderr.count("\n") == 1
    parts = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("alone", "helped")]
    assert parts[0] == parts[1]
    assert not list(home.iterdir())
    left = set(Path(tempfile.gettempdir()).glob("stockpot-ray-*")) - before
    assert not left
