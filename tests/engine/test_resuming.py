"""A stopped merge goes on, with the same bytes; and never from something else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stockpot.checkpoints import FileSink, MemorySource, is_unfinished, open_checkpoint
from stockpot.engine import Settings, Stop, convert, merge, verify
from stockpot.errors import (
    CheckpointError,
    OutputError,
    StoppedError,
    UnfinishedError,
    VerificationError,
)
from stockpot.inspect import find_checkpoints
from stockpot.recipes import Recipe, make_recipe

KINDS = {
    "linear": "mean(pool)",
    "elementwise": "median(a, b, c)",
    "masks": "dare(a, b, c, p=0.5, seed=1)",
    "gram": "geometric_median(a, b, c)",
    "spectral": "iso_c(a, mean(b, c))",
    "copy": "a",
    "nested": "lerp(ties(a, b, c), geometric_median(b, mean(a, c)), 0.25)",
}
N_TENSORS = 6


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """``a``, ``b``, ``c``: six tensors each."""
    for seed, name in enumerate("abc"):
        rng = np.random.default_rng(seed)
        tensors = {
            f"k{i}": rng.standard_normal((40, 30)).astype(np.float16) for i in range(N_TENSORS)
        }
        save_file(tensors, tmp_path / f"{name}.safetensors", {"format": "pt"})
    return tmp_path


def recipe(text: str = "mean(pool)") -> Recipe:
    return make_recipe(text, {name: f"{name}.safetensors" for name in "abc"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.stem not in "abc")


def run(pool: Path, text: str = "mean(pool)", name: str = "out", **settings: object) -> Path:
    output = pool / f"{name}.safetensors"
    chosen = replace(Settings(threads=1, chunk_elements=512), **settings)  # type: ignore[arg-type]
    merge(recipe(text), output, folder=pool, settings=chosen)
    return output


def stopped(pool: Path, after: int, text: str = "mean(pool)", **settings: object) -> str:
    """Run until so many tensors are done; returns what was said."""
    stop, n_done = Stop(), 0
    real = FileSink.tensor_done

    def count(sink: FileSink, key: str, digest: str | None) -> None:
        nonlocal n_done
        real(sink, key, digest)
        n_done += 1
        if n_done == after:
            stop.ask()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSink, "tensor_done", count)
        with pytest.raises(StoppedError) as caught:
            run(pool, text, stop=stop, **settings)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_as_without_interruption(pool: Path, kind: str) -> None:
    whole = run(pool, KINDS[kind], "whole").read_bytes()
    stopped(pool, 2, KINDS[kind])
    stopped(pool, 1, KINDS[kind])
    made: list[str] = []
    real = FileSink.tensor_done

    def note(sink: FileSink, key: str, digest: str | None) -> None:
        made.append(key)
        real(sink, key, digest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSink, "tensor_done", note)
        output = run(pool, KINDS[kind])
    assert len(made) == N_TENSORS - 3
    assert output.read_bytes() == whole
    assert names(pool) == ["out.safetensors", "whole.safetensors"]
    with open_checkpoint(output) as source:
        assert verify(source, pool).answer == "agrees"


def test_what_is_said(pool: Path) -> None:
    message = stopped(pool, 2)
    assert message == (
        "stopped; 2 of 6 tensors are kept in out.safetensors.partial: give the same command again "
        "to go on, or remove out.safetensors.partial and out.safetensors.partial.journal in "
        f"{pool} to give up"
    )
    assert names(pool) == ["out.safetensors.partial", "out.safetensors.partial.journal"]
    told: list[str] = []
    run(pool, tell=told.append)
    assert told == [
        f"{pool / 'out.safetensors'}: going on from a run that was stopped: 2 of 6 tensors are done"
    ]


def test_nothing_done_leaves_nothing(pool: Path) -> None:
    stop = Stop()
    stop.ask()
    with pytest.raises(StoppedError, match="nothing was finished, and nothing is left behind"):
        run(pool, stop=stop)
    assert names(pool) == []


@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize("verify_", [True, False])
def test_with_and_without_hashes_and_checks(pool: Path, hashes: bool, verify_: bool) -> None:
    whole = run(pool, "ties(a, b, c)", "whole", hashes=hashes).read_bytes()
    stopped(pool, 3, "ties(a, b, c)", hashes=hashes, verify=verify_)
    assert run(pool, "ties(a, b, c)", hashes=hashes, verify=verify_).read_bytes() == whole


def test_another_recipe_is_refused_and_nothing_is_lost(pool: Path) -> None:
    stopped(pool, 2)
    before = (pool / "out.safetensors.partial").read_bytes()
    with pytest.raises(UnfinishedError, match=r"left 2 finished .* the recipe was .*mean.*median"):
        run(pool, "median(a, b, c)")
    assert (pool / "out.safetensors.partial").read_bytes() == before
    assert run(pool).exists()


def test_another_type_is_another_recipe(pool: Path) -> None:
    stopped(pool, 2)
    with pytest.raises(UnfinishedError, match="the recipe was .* --restart"):
        merge(recipe(), pool / "out.safetensors", folder=pool, dtype="fp32")


def touched(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def longer(path: Path) -> None:
    save_file({"k0": np.zeros((40, 30), np.float16)}, path)


@pytest.mark.parametrize("change", [touched, longer])
def test_a_changed_input_is_refused(pool: Path, change: Callable[[Path], None]) -> None:
    stopped(pool, 2, "a | b")
    change(pool / "b.safetensors")
    with pytest.raises(UnfinishedError, match="input b was '.* bytes of .*' and is '.*--restart"):
        run(pool, "a | b")
    again = run(pool, "a | b", restart=True).read_bytes()
    assert again == run(pool, "a | b", "whole").read_bytes()


def test_recheck_finds_an_input_that_only_looks_the_same(pool: Path) -> None:
    whole = run(pool, name="whole").read_bytes()
    stopped(pool, 2)
    path = pool / "b.safetensors"
    status, data = path.stat(), path.read_bytes()
    for at in (-1, -2400 * 5 - 1):  # in the last tensor of the file, and in the first
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[len(data) + at + 1 :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UnfinishedError, match="b.safetensors: k0: the tensor is not what"):
        run(pool, recheck=True)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run(pool, recheck=True).read_bytes() == whole


def test_recheck_makes_again_what_the_disk_lost(pool: Path) -> None:
    whole = run(pool, name="whole").read_bytes()
    stopped(pool, 3)
    partial = pool / "out.safetensors.partial"
    with partial.open("r+b") as file:
        file.seek(-2400 * 6 + 100, os.SEEK_END)
        file.write(b"\xff")
    assert run(pool, recheck=True).read_bytes() == whole


def test_what_the_system_refuses_can_be_gone_on_from(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(pool, name="whole").read_bytes()
    real, calls = os.pwrite, 0

    def full(descriptor: int, data: bytes, at: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise OSError(28, os.strerror(28))
        return real(descriptor, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OutputError, match="No space left on device") as caught:
            run(pool)
    assert "tensors are kept in out.safetensors.partial" in caught.value.__notes__[0]
    assert run(pool).read_bytes() == whole


def test_a_fault_of_an_input_leaves_nothing(pool: Path) -> None:
    tensors = {f"k{i}": np.ones((40, 30), np.float16) for i in range(N_TENSORS)}
    tensors["k5"][3, 3] = np.nan
    save_file(tensors, pool / "c.safetensors")
    with pytest.raises(CheckpointError, match="k5: values must be finite"):
        run(pool)
    assert names(pool) == []


def test_a_tensor_that_the_disk_spoiled_is_made_again(pool: Path) -> None:
    whole = run(pool, name="whole").read_bytes()
    real = FileSink.complete

    def spoil(sink: FileSink, *args: object) -> None:
        with (pool / "out.safetensors.partial").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")
        real(sink, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSink, "complete", spoil)
        with pytest.raises(VerificationError, match="k5: the bytes on the disk are not") as caught:
            run(pool)
    assert "give the same command again" in caught.value.__notes__[0]
    assert not (pool / "out.safetensors").exists()
    assert run(pool).read_bytes() == whole


def test_models_in_memory_cannot_be_known_again(pool: Path) -> None:
    with open_checkpoint(pool / "a.safetensors") as source:
        pairs = {key: (info, source.read_bytes(key)) for key, info in source.tensors.items()}
    stop, calls = Stop(), 0
    real = FileSink.tensor_done

    def ask(sink: FileSink, key: str, digest: str | None) -> None:
        real(sink, key, digest)
        stop.ask()

    settings = Settings(threads=1, stop=stop)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError, match="nothing is"):
        patch.setattr(FileSink, "tensor_done", ask)
        merge(make_recipe("a", {"a": "a"}), pool / "out.safetensors",
              sources={"a": MemorySource(pairs)}, settings=settings)  # fmt: skip
    assert names(pool) == [] and not calls


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Writes a folder, and ends when a method of its files' sinks is called the n-th time.
KILLED_AT = """
import os, signal, sys
from pathlib import Path

from stockpot.checkpoints import FileSink
from stockpot.engine import Settings, convert, merge

path, output, at, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
real, calls = getattr(FileSink, at), 0


def die(sink, *args, **options):
    global calls
    calls += 1
    if calls == number:
        os.kill(os.getpid(), signal.SIGKILL)
    real(sink, *args, **options)


setattr(FileSink, at, die)
merge(convert(path), output, form="diffusers", settings=Settings(threads=1))
"""


@pytest.mark.parametrize(
    ("at", "number"), [("tensor_done", 400), ("complete", 2), ("give_name", 3), ("forget", 1)]
)
def test_a_folder_goes_on_too(
    tmp_path: Path, save: Callable[..., Path], model: Callable[..., object], at: str, number: int
) -> None:
    path = save("whole", model("unet", "te", "vae"))
    merge(convert(path), tmp_path / "plain", form="diffusers")
    arguments = [str(path), str(tmp_path / "folder"), at, str(number)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT, *arguments], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "folder").exists()
    assert is_unfinished(tmp_path / "folder.partial")
    assert find_checkpoints([tmp_path], recursive=True) == [tmp_path / "plain", path]
    told: list[str] = []
    merge(convert(path), tmp_path / "folder", form="diffusers",
          settings=Settings(tell=told.append))  # fmt: skip
    assert len(told) == 1 and "tensors are done" in told[0]
    assert tree(tmp_path / "folder") == tree(tmp_path / "plain")
    assert not (tmp_path / "folder.partial").exists()
