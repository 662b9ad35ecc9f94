"""The public surface, what importing it costs, and what it says without its libraries."""

import subprocess
import sys

import pytest

import stockpot.draw
from stockpot.errors import MissingExtraError


def test_public_names() -> None:
    names = stockpot.draw.__all__
    assert len(names) == len(set(names))
    assert all(hasattr(stockpot.draw, name) for name in names)
    promised = (
        "DrawSettings Painter Parts contact_sheet load_parts make_scheduler open_painter "
        "parse_attention read_embedding schedule_prompt to_png"
    )
    assert set(promised.split()) <= set(names)


def test_import_loads_nothing_heavy() -> None:
    program = (
        "import sys, stockpot.draw, stockpot.report\n"
        "assert not {'torch', 'diffusers', 'transformers', 'PIL', 'jinja2'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", ["diffusers", "transformers", "PIL", "accelerate", "torchsde"])
def test_missing_libraries_are_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"type: pip install 'stockpot\[draw\]'"):
        stockpot.draw.require_libraries()
