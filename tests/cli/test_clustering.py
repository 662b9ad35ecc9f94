"""``--cluster``: with an address, without one, and before files that are none. No Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import stockpot.cluster
from stockpot.cli.main import app
from stockpot.errors import ClusterError, MissingExtraError


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name in "ab":
        save_file({"w": np.ones(4, np.float32)}, tmp_path / f"{name}.safetensors")
    return [str(tmp_path / f"{name}.safetensors") for name in "ab"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that commands opened; none of them is there."""
    found: list[str] = []

    @contextmanager
    def opened(address: str, **_: Any) -> Iterator[None]:
        found.append(address)
        raise ClusterError("nobody is there")
        yield

    monkeypatch.setattr(stockpot.cluster, "open_cluster", opened)
    return found


@pytest.mark.parametrize(
    "words, address",
    [
        (["--cluster", "10.0.0.1:6379", "FILES"], "10.0.0.1:6379"),
        (["--cluster", "auto", "FILES"], "auto"),
        (["FILES", "--cluster", "local"], "local"),
        (["FILES", "--cluster=head:6379"], "head:6379"),
        (["--cluster", "FILES"], ""),
        (["FILES", "--cluster"], ""),
        (["FILES", "--cluster", "--threads", "1"], ""),
    ],
)
def test_an_address_is_taken_and_a_file_is_not_taken_for_one(
    words: list[str], address: str, files: list[str], tmp_path: Path, asked: list[str]
) -> None:
    line = [part for word in words for part in (files if word == "FILES" else [word])]
    result = CliRunner().invoke(app, ["mean", "-o", str(tmp_path / "out.safetensors"), *line])
    assert isinstance(result.exception, ClusterError), result.output
    assert asked == [address]
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("command", ["mean", "merge", "compare", "select"])
def test_the_commands_that_others_can_help_with_say_so(command: str) -> None:
    assert "--cluster" in CliRunner().invoke(app, [command, "--help"]).output


def test_without_ray_it_is_said_what_to_install(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stockpot.cluster.connecting.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["compare", *files, "-o", str(tmp_path / "seen"), "--cluster"])
    assert isinstance(result.exception, MissingExtraError)
    assert "pip install 'stockpot[cluster]'" in str(result.exception)
    assert not (tmp_path / "seen").exists()
