"""A killed merge: no output, no harm, and the next run succeeds. (bench/kill.py does it larger.)"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

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
merge(make_recipe("mean(pool)", pool), "out.safetensors", settings=settings)
"""


def test_kill_at_random_moments(tmp_path: Path) -> None:
    for i, name in enumerate("abc"):
        noise = torch.Generator().manual_seed(i)
        save_file({f"k{j}": torch.randn(40_000, generator=noise).half() for j in range(20)},
                  tmp_path / f"{name}.safetensors")  # fmt: skip
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    rng = random.Random(11)
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "start\n"
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "out.safetensors").exists()
        assert {path: path.read_bytes() for path in before} == before
    pool = {path.stem: path.name for path in before}
    merge(make_recipe("mean(pool)", pool), tmp_path / "out.safetensors", folder=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in before} | {"out.safetensors"}
