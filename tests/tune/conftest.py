"""Real payloads, where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real files; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("STOCKPOT_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the real payloads are not here; set STOCKPOT_DATA")
    return folder
