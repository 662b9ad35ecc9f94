"""Killed merges go on with the same bytes, and show nothing before. (bench/kill.py does it 200
times, over every kind of method.)"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stockpot.engine import merge
from stockpot.recipes import make_recipe

# Says when the walk begins, and makes it long enough to be met in the middle.
PROGRAM = """
import sys, time
from stockpot.checkpoints import FileSink
from stockpot.engine import Settings, merge
from stockpot.recipes import make_recipe
write = FileSink.write
def slow(*args):
    time.sleep(0.004)
    write(*args)
FileSink.write = slow
print("start", flush=True)
pool = {n: n + ".safetensors" for n in "abc"}
settings = Settings(chunk_elements=4096, threads=2)
result = merge(make_recipe(sys.argv[1], pool), "out.safetensors", settings=settings)
"""


@pytest.mark.parametrize("mix", ["mean(pool)", "lerp(dare(a, b, c, p=0.5), median(b, c, a), 0.5)"])
def test_kill_at_random_moments(tmp_path: Path, mix: str) -> None:
    for i, name in enumerate("abc"):
        noise = torch.Generator().manual_seed(i)
        save_file({f"k{j}": torch.randn(40_000, generator=noise).half() for j in range(20)},
                  tmp_path / f"{name}.safetensors")  # fmt: skip
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    rng = random.Random(11)
    output = tmp_path / "out.safetensors"
    journal = tmp_path / "out.safetensors.partial.journal"
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, mix], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "start\n"
        # Until so much more is noted, however slow the machine is.
        enough = (journal.stat().st_size if journal.exists() else 0) + rng.randrange(1, 1500)
        while process.poll() is None and not (
            journal.exists() and journal.stat().st_size >= enough
        ):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert {path: path.read_bytes() for path in before} == before
        if process.returncode == 0:
            break  # a quick machine, after what the others left
        assert process.returncode == -signal.SIGKILL
        assert not output.exists()
    recipe = make_recipe(mix, {path.stem: path.name for path in before})
    merge(recipe, tmp_path / "whole.safetensors", folder=tmp_path)
    if not output.exists():
        assert merge(recipe, output, folder=tmp_path).n_resumed
    assert output.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in before} | {"out.safetensors", "whole.safetensors"}
