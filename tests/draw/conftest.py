"""Real requests and cards, where they are; a painter of a small random model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stockpot.checkpoints import MemorySource
from stockpot.draw import Painter, open_painter

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real files; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("STOCKPOT_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the real requests are not here; set STOCKPOT_DATA")
    return folder


@pytest.fixture(scope="module")
def painter(make_model: Callable[..., MemorySource], config: Path) -> Painter:
    """Draws with a small random model; tests put back what they change of it."""
    return open_painter(make_model(), config)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On pictures this small more threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
