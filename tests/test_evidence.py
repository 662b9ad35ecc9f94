"""Short forms of `bench/chaos.py`: faults, bad input, hostile files, kills, a full disk."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


def run(program: str, *arguments: str) -> list[str]:
    """Run a program of evidence to its end; the lines that it printed."""
    done = subprocess.run(
        [sys.executable, BENCH / program, *arguments], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout.splitlines()


def rows(lines: list[str], heading: str) -> dict[str, list[str]]:
    """A table's rows by their first cell."""
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        found[cells[0]] = cells[1:]
    return found


@pytest.mark.slow
def test_random_faults_end_in_right_outputs_or_clear_errors() -> None:
    lines = run("faults.py", "--runs", "100", "--no-zoo", "--seed", "1")
    assert re.fullmatch(r"100 runs in \d+ s, violations=0", lines[-1])
    total = rows(lines, "fault")["all"]
    right, errors = int(total[1]), int(total[2])
    # Both must happen, or nothing was struck, or nothing got through.
    assert total[0] == "100" and right > 15 and errors > 30
    assert len(rows(lines, "fault")) == 21 and len(rows(lines, "command")) > 12


@pytest.mark.slow
def test_bad_input_is_answered_with_one_clear_message() -> None:
    lines = run("bad_inputs.py", "--every", "9", "--processes", "1")
    table = rows(lines, "kind")
    assert {"checkpoint", "torch file", "recipe", "command line", "payload"} <= table.keys()
    tried = sum(int(cells[1]) for cells in table.values())
    assert tried > 30 and all(cells[1] == cells[2] for cells in table.values())


@pytest.mark.slow
def test_chaos_in_short_prints_a_line_for_each_trial() -> None:
    # The two above look at faults and bad input more closely.
    lines = run("chaos.py", "--short", "--only", "files,kill,disk-full")
    assert lines[-1] == "ok"
    table = rows(lines, "what")
    files, killed, full = table.values()
    assert files[:3] == ["1000", "ok", "ok"]
    assert killed[:2] == ["3", "ok"] and "3 runs gone on to the end with the same" in killed[2]
    assert full[1] in ("ok", "not run")  # a small disk of its own takes root
