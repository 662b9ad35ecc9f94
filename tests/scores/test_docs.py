"""The page for users names every scorer and every file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stockpot.scores import SCORERS, CommandScorer, plain_prompt

PAGE = (Path(__file__).parents[2] / "docs" / "scores.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_every_scorer_and_file_is_there(name: str) -> None:
    assert f"`{name}`" in PAGE
    for need in SCORERS[name].needs:
        assert f"`{need.path}" in PAGE
        assert need.source.split()[0] in PAGE


def test_the_example_of_stripping() -> None:
    found = re.search(r"`(\(comic:0\).*?)` is scored as `(.*?)`", PAGE)
    assert found and plain_prompt(found.group(1)) == found.group(2)


def test_the_example_program_is_a_scorer(tmp_path: Path) -> None:
    found = re.search(r"```python\n(#!.*?)```", PAGE, re.DOTALL)
    assert found
    (tmp_path / "mine.py").write_text(found.group(1), encoding="utf-8")
    scorer = CommandScorer([sys.executable, str(tmp_path / "mine.py")])
    pictures = [np.full((4, 4, 3), level, np.uint8) for level in (7, 99)]
    assert scorer.score(pictures, ["a", ""]).tolist() == [7.0, 99.0]


def test_the_example_in_python_runs(tmp_path: Path) -> None:
    from PIL import Image

    found = re.search(r"```python\n(from pathlib.*?)```", PAGE, re.DOTALL)
    assert found
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    done = subprocess.run([sys.executable, "-c", found.group(1)], cwd=tmp_path, check=True,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout == "[-100.] 0.0\n"
