"""`recipe of` and `verify`: what a file says of itself, and whether it holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from stockpot.checkpoints import encode_header, open_checkpoint
from stockpot.cli.main import app
from stockpot.engine import merge
from stockpot.recipes import make_recipe

RUNNER = CliRunner()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A checkpoint that two merges made."""
    for seed, name in enumerate("abc"):
        weights = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float16)
        save_file({"w": weights}, tmp_path / f"{name}.safetensors")
    first = make_recipe("mean(a, b)", {name: f"{name}.safetensors" for name in "ab"})
    merge(first, tmp_path / "ab.safetensors", folder=tmp_path)
    second = make_recipe("lerp(ab, c, 0.25)", {name: f"{name}.safetensors" for name in ("ab", "c")})
    merge(second, tmp_path / "abc.safetensors", folder=tmp_path)
    return tmp_path / "abc.safetensors"


def test_recipe_of_prints_the_tree(made: Path) -> None:
    result = RUNNER.invoke(app, ["recipe", "of", str(made)])
    assert result.exit_code == 0
    lines = [line.split("  (")[0].rstrip() for line in result.stdout.splitlines()]
    assert lines == [
        str(made),
        "  : model = lerp(ab, c, 0.25)",
        "    ab",
        "      : model = mean(a, b)",
        "        a",
        "        b",
        "    c",
    ]
    told = json.loads(RUNNER.invoke(app, ["recipe", "of", str(made), "--json"]).stdout)
    assert [(row["depth"], row["name"]) for row in told] == [
        (0, ""), (1, "ab"), (2, "a"), (2, "b"), (1, "c"),
    ]  # fmt: skip


def test_verify_agrees_and_notices_one_flipped_byte(made: Path) -> None:
    result = RUNNER.invoke(app, ["verify", str(made)])
    assert (result.exit_code, "every component is what its recipe made" in result.stdout) == (
        0,
        True,
    )
    data = bytearray(made.read_bytes())
    data[-3] ^= 1
    made.write_bytes(data)
    result = RUNNER.invoke(app, ["verify", str(made), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["differs"] == ["model"]


def test_verify_does_not_mind_the_order_of_metadata(made: Path) -> None:
    with open_checkpoint(made) as source:
        metadata = dict(reversed(source.metadata.items()))
        infos = dict(source.tensors)
        body = b"".join(source.read_bytes(key) for key in infos)
    made.write_bytes(encode_header(infos, metadata) + body)
    assert RUNNER.invoke(app, ["verify", str(made)]).exit_code == 0


def test_a_stripped_recipe_is_reported_as_none(made: Path) -> None:
    save_file(load_file(made), made)
    result = RUNNER.invoke(app, ["verify", str(made), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["verdict"] == "no recipe"
