"""A disk that is full: one clear message, and nothing is left. Needs root, for a small tmpfs.

sudo python bench/disk_full.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from stockpot.checkpoints import DTYPES, FileSink, TensorInfo
from stockpot.errors import OutputError

DISK_BYTES = 8 << 20
NO_DISK = 77
"""Exit code where this system lets nobody mount a disk: nothing was tried."""
N_VALUES = 3 << 20  # 6 MiB in fp16


def make(path: Path, seed: int) -> None:
    """A checkpoint that fits the disk once, but not twice."""
    info = TensorInfo("w", DTYPES["F16"], (N_VALUES,))
    values = np.random.default_rng(seed).standard_normal(N_VALUES).astype(np.float16)
    sink = FileSink(path, {"w": info}, {"format": "pt"})
    sink.write("w", 0, values.data.cast("B"))
    sink.tensor_done("w", None)
    sink.commit({"format": "pt"})


def main() -> None:
    """Fill a disk beforehand, and behind the merge's back."""
    with tempfile.TemporaryDirectory() as folder:
        disk, inputs = Path(folder) / "disk", Path(folder) / "inputs"
        disk.mkdir()
        inputs.mkdir()
        for seed in range(2):
            make(inputs / f"{seed}.safetensors", seed)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", disk]
        try:
            subprocess.run(mount, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(getattr(error, "stderr", "") or error, file=sys.stderr)
            print("it needs a small disk of its own, which cannot be mounted here: are you root?")
            sys.exit(NO_DISK)
        try:
            filler = disk / "filler"
            filler.write_bytes(bytes(DISK_BYTES // 2))
            before(disk, inputs)
            behind(disk)
            filler.unlink()
            files = [str(path) for path in sorted(inputs.iterdir())]
            output = str(disk / "out.safetensors")
            mean = [sys.executable, "-m", "stockpot", "mean", *files, "-o", output]
            subprocess.run(mean, check=True)
        finally:
            subprocess.run(["umount", disk], check=True)
    print("ok: one message each, nothing left, and with room the merge succeeds")


def before(disk: Path, inputs: Path) -> None:
    """The pre-flight sees that there is no room."""
    files = [str(path) for path in sorted(inputs.iterdir())]
    output = disk / "out.safetensors"
    run = subprocess.run(
        [sys.executable, "-m", "stockpot", "mean", *files, "-o", str(output)],
        capture_output=True,
        text=True,
    )
    print(run.stderr.strip())
    assert run.returncode == 1, run.returncode
    assert "the output takes 6.29 MB, but the disk has room for 4.19 MB" in run.stderr
    assert "Traceback" not in run.stderr
    assert [path.name for path in disk.iterdir()] == ["filler"]


def behind(disk: Path) -> None:
    """The writer alone: the system says no when the room is taken, before any row."""
    info = TensorInfo("w", DTYPES["F16"], (N_VALUES,))
    try:
        FileSink(disk / "out.safetensors", {"w": info}, {})
    except OutputError as error:
        print(error)
        assert "No space left on device; free some room" in str(error)
    else:
        raise AssertionError("the writer did not notice")
    assert [path.name for path in disk.iterdir()] == ["filler"]


if __name__ == "__main__":
    main()
