"""The look at the locked dependencies: what it finds alone, and what it makes of answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AUDIT = ROOT / ".ci" / "audit.py"
GOOD = '[project]\nname = "x"\ndependencies = ["a>=1"]\noptional-dependencies = {more = ["b<3"]}\n'


def audit(folder: Path, answer: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it on a folder, beside a pip-audit that prints an answer."""
    paths = [str(folder / "site")]
    (folder / "site").mkdir(exist_ok=True)
    code = "raise SystemExit(1)" if answer is None else f"print({answer!r})"
    (folder / "site" / "pip_audit.py").write_text(code)
    return subprocess.run(
        [sys.executable, AUDIT], capture_output=True, text=True, timeout=60,
        env={**os.environ, "STOCKPOT_AUDIT": str(folder), "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip


def project(folder: Path, lock: str) -> Path:
    (folder / "pyproject.toml").write_text(GOOD)
    (folder / "constraints.txt").write_text(lock)
    return folder


def answer(**holes: str) -> str:
    """What pip-audit prints."""
    return json.dumps({"dependencies": [
        {"name": name, "version": "2", "vulns": [{"id": hole, "fix_versions": ["3"]}]}
        for name, hole in holes.items()
    ]})  # fmt: skip


def test_our_own_lock_is_whole() -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(AUDIT.parent)!r})\n"
         "import audit; audit.known_holes = lambda lock: []\n"
         "sys.exit(audit.main(audit.Path(audit.__file__).parents[1]))"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert " packages locked, 0 faults, 0 known holes" in run.stdout


def test_a_known_hole_fails(tmp_path: Path) -> None:
    run = audit(project(tmp_path, "a==2\nb==1\n"), answer(a="PYSEC-1"))
    assert run.returncode == 1
    assert "error: a 2: PYSEC-1 (mended in 3)" in run.stdout


@pytest.mark.parametrize("said", [None, "", "no network", "{}", '{"dependencies": 7}'])
def test_nobody_to_ask_is_said_loudly_and_passes(tmp_path: Path, said: str | None) -> None:
    run = audit(project(tmp_path, "a==2\nb==1  # why\n\n"), said)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "NOT AUDITED" in run.stdout


@pytest.mark.parametrize(("lock", "message"), [
    ("a==2\n", "b<3 is not pinned"),
    ("a==2\nb==3\n", "b<3, but constraints.txt pins 3"),
    ("a>=2\nb==1\n", "constraints.txt:1: a line must be NAME==VERSION, but is 'a>=2'"),
    ("a==2\nA==2\nb==1\n", "constraints.txt:2: a is pinned twice"),
    ("a==2\nb==1.*\n", "must be NAME==VERSION"),
])  # fmt: skip
def test_a_lock_with_a_hole_fails_without_network(tmp_path: Path, lock: str, message: str) -> None:
    run = audit(project(tmp_path, lock))
    assert run.returncode == 1
    assert message in run.stdout
