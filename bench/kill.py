"""``kill -9`` at random moments of a merge: no output, no harm, and the next run succeeds.

python bench/kill.py --work /big/disk/bench
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from merge_speed import make_files

from stockpot.checkpoints import content_hash, hash_tensors, open_checkpoint


def digest(path: Path) -> str:
    """sha256 of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Kill, look, and in the end let one through."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(tempfile.gettempdir()) / "stockpot-bench"
    parser.add_argument("--work", type=Path, default=default, help="folder for files, kept")
    parser.add_argument("--arch", choices=("sd1", "sd2", "sdxl"), default="sd1")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    paths = make_files(options.work, options.arch, False, 3)
    output: Path = options.work / "killed.safetensors"
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "stockpot", "mean", *map(str, paths), "-o", str(output)]

    before = [digest(path) for path in paths]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - start
    reference = digest(output)
    output.unlink()
    print(f"a whole run takes {whole:.1f} s")

    rng = random.Random(options.seed)
    kills, latest = 0, 0.97 * whole
    while kills < options.kills:
        moment = rng.uniform(0.0, latest)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        code = process.wait()
        partial = output.with_name(output.name + ".partial")
        if code == 0:  # it was quicker than the first, which is no kill: the next come earlier
            assert digest(output) == reference, "a finished run gave other bytes"
            output.unlink()
            latest = 0.97 * moment
            print(f"    finished before {moment:.2f} s: not counted")
            continue
        assert code == -signal.SIGKILL, code
        assert not output.exists(), "a killed run left a file under the final name"
        kills += 1
        print(f"{kills:2d}: killed at {moment:5.2f} s; partial file left: {partial.exists()}")

    assert [digest(path) for path in paths] == before, "an input was changed"
    subprocess.run(command, check=True)
    assert digest(output) == reference, "the run after the kills gave other bytes"
    with open_checkpoint(output) as source:
        print("content hash", content_hash(source.tensors, hash_tensors(source)))
    left = sorted(path.name for path in options.work.glob("killed.safetensors*"))
    assert left == ["killed.safetensors"], left
    output.unlink()
    print(f"ok: {options.kills} kills, inputs untouched, the next run gives the same bytes")


if __name__ == "__main__":
    main()
