"""Every kind of damage gets its diagnosis, and what can be mended is mended to a whole file."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from stockpot.zoo import member

WHOLE = member("base").path


def test_there_are_many_kinds(damage: ModuleType) -> None:
    assert len(damage.DAMAGES) >= 25
    assert len({one.name for one in damage.DAMAGES}) == len(damage.DAMAGES)


@pytest.mark.parametrize("number", range(37))
def test_diagnosis_and_repair(damage: ModuleType, number: int, tmp_path: Path) -> None:
    one = damage.DAMAGES[number]
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(one.make(WHOLE.read_bytes()))
    before = path.read_bytes()
    assert damage.check(one, path, WHOLE) == []
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_the_whole_file_has_no_fault() -> None:
    from stockpot.inspect import Wanted, inspect_path

    assert inspect_path(WHOLE, Wanted(deep=True)).problems == ()
