"""A short run of `bench/fuzz.py`: nothing but reading and refusing, in bounded memory and time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "bench" / "fuzz.py"


def test_no_file_does_anything_but_be_read_or_be_refused() -> None:
    command = [sys.executable, str(FUZZ), "--headers", "2000", "--pickles", "1200", "--large", "4"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == "ok"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    done = {(row[0], row[1]): [int(cell) for cell in row[2:]] for row in rows[2:]}
    for kind in ("headers", "pickles"):
        assert {how for one, how in done if one == kind} == {
            "mutated", "grammar", "large", "hypothesis"
        }  # fmt: skip
        # Some must get all the way through, or the rest of the reader was never reached.
        n_read = sum(counts[1] for (one, _), counts in done.items() if one == kind)
        assert n_read > 100
        assert all(counts[3] == 0 for counts in done.values())
