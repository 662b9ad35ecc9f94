"""Merges on a device: what files and journals say of it, and what goes on from what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

from stockpot.checkpoints import FileSink, open_checkpoint
from stockpot.cli.main import app
from stockpot.engine import Settings, Stop, merge, merge_in_memory, read_history, replay
from stockpot.engine.again import check_again
from stockpot.errors import (
    DeviceError,
    DeviceMemoryError,
    StoppedError,
    UnfinishedError,
    VerificationError,
)
from stockpot.methods import Device
from stockpot.recipes import Recipe, make_recipe

DEVICES = ["torch-cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """``a``, ``b``, ``c``: six tensors each, near each other."""
    base = 0.05 * np.random.default_rng(9).standard_normal((6, 40, 30))
    for seed, name in enumerate("abc"):
        rng = np.random.default_rng(seed)
        values = (base + 0.005 * rng.standard_normal(base.shape)).astype(np.float16)
        save_file({f"k{i}": values[i] for i in range(6)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def recipe(text: str) -> Recipe:
    return make_recipe(text, {name: f"{name}.safetensors" for name in "abc"})


def told(path: Path) -> str:
    """What a file says of the device that made it."""
    with safe_open(path, "np") as file:
        history = read_history(file.metadata())
    assert history is not None
    return history.last.device


@pytest.mark.parametrize("device", DEVICES)
def test_a_file_says_what_made_it_and_is_made_again_there(device: str, pool: Path) -> None:
    output = pool / "there.safetensors"
    settings = Settings(threads=2, device=device)
    merge(recipe("geometric_median(a, b, c)"), output, folder=pool, settings=settings)
    assert told(output).startswith(device)
    assert f"torch {torch.__version__}" in told(output)
    again = pool / "out" / "again.safetensors"
    again.parent.mkdir()
    with open_checkpoint(output) as file:
        replay(file, pool, again, settings=Settings(threads=1))
    assert again.read_bytes() == output.read_bytes()
    result = CliRunner().invoke(app, ["verify", str(output), "--pool", str(pool)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("device", DEVICES)
def test_what_runs_here_anyway_says_nothing(device: str, pool: Path) -> None:
    """A file is not another because somebody named a device that had nothing to do."""
    here, there = pool / "here.safetensors", pool / "there.safetensors"
    for text in ("mean(a, b, c)", "ties(a, b, c)"):
        for path, name in ((here, "cpu"), (there, device)):
            settings = Settings(threads=1, device=name, overwrite=True)
            merge(recipe(text), path, folder=pool, settings=settings)
        assert told(there) == "" and here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("device", DEVICES)
def test_nobody_goes_on_from_another_device(device: str, pool: Path) -> None:
    output, text = pool / "out.safetensors", "geometric_median(a, b, c)"
    settings = Settings(threads=1, device=device)
    whole = merge(recipe(text), pool / "whole.safetensors", folder=pool, settings=settings)
    stop = Stop()
    real = FileSink.tensor_done

    def ask(sink: FileSink, key: str, digest: str | None) -> None:
        real(sink, key, digest)
        stop.ask()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSink, "tensor_done", ask)
        with pytest.raises(StoppedError):
            merge(recipe(text), output, folder=pool, settings=replace(settings, stop=stop))
    with pytest.raises(UnfinishedError, match="the device"):
        merge(recipe(text), output, folder=pool, settings=Settings(threads=1))
    result = merge(recipe(text), output, folder=pool, settings=settings)
    assert result.n_resumed and output.read_bytes() == whole.path.read_bytes()


def test_a_device_without_memory_is_told_and_gone_on_from(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, settings = "median(a, b, c)", Settings(device="torch-cpu", threads=1)
    whole = merge(recipe(text), pool / "whole.safetensors", folder=pool, settings=settings)
    put, calls = Device.put, list[Any]()

    def full(self: Device, feed: Any) -> Any:
        calls.append(feed)
        if len(calls) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return put(self, feed)

    output = pool / "out.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(Device, "put", full)
        with pytest.raises(DeviceMemoryError, match=r"torch-cpu .* use fewer --threads, or --dev"):
            merge(recipe(text), output, folder=pool, settings=settings)
    assert not output.exists()
    result = merge(recipe(text), output, folder=pool, settings=settings)
    assert result.n_resumed and output.read_bytes() == whole.path.read_bytes()


def test_a_replay_that_differs_names_the_device(pool: Path) -> None:
    sources = {name: open_checkpoint(pool / f"{name}.safetensors") for name in "abc"}
    settings = Settings(device="torch-cpu")
    made = merge_in_memory(recipe("median(a, b, c)"), sources, settings=settings)
    history = read_history(made.metadata)
    assert history is not None
    other = replace(history.last, content="0" * 64, device="cuda:0 (some GPU), torch 9.9")
    with pytest.raises(VerificationError, match=r"some GPU.*equal bytes are promised on the same"):
        check_again(other, made.metadata, "x")


def test_a_device_that_is_not_there_stops_a_replay(pool: Path) -> None:
    output = pool / "out.safetensors"
    merge(recipe("median(a, b, c)"), output, folder=pool, settings=Settings(device="torch-cpu"))
    with safe_open(output, "np") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    key = "stockpot.provenance"
    table = json.loads(metadata[key])
    table["device"] = "cuda:99 (another machine's), torch 2"
    moved = pool / "moved.safetensors"
    save_file(tensors, moved, {**metadata, key: json.dumps(table)})
    with (
        open_checkpoint(moved) as file,
        pytest.raises(DeviceError, match="no device 'cuda:99'"),
    ):
        replay(file, pool, pool / "again.safetensors")


def test_the_command_says_where_the_arithmetic_runs(pool: Path) -> None:
    files = [part for name in "abc" for part in ("--pool", f"{name}={pool / name}.safetensors")]
    output = pool / "cli.safetensors"
    call = ["merge", "-e", "lerp(median(a, b, c), ties(a, b, c), 0.5)", *files, "-o", str(output)]

    def run(*more: str) -> str:
        result = CliRunner().invoke(app, [*call, *more])
        assert result.exit_code == 0, result.output
        return result.output

    assert "arithmetic: on the processor\n" in run("--dry-run")
    text = run("--dry-run", "--device", "torch-cpu")
    assert "arithmetic: median on torch-cpu, torch " in text
    assert "all else on the processor" in text
    run("--device", "torch-cpu")
    assert told(output).startswith("torch-cpu")
    refused = CliRunner().invoke(app, [*call, "--overwrite", "--device", "tpu"])
    assert refused.exit_code != 0 and not isinstance(refused.exception, AssertionError)
