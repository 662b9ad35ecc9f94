"""A stopped walk goes on, with the same sums; and never from others."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stockpot.checkpoints import SafetensorsFile, open_checkpoint
from stockpot.compare import Comparison, compare, save_comparison
from stockpot.engine import Stop
from stockpot.errors import OutputError, StoppedError, UnfinishedError

N_TENSORS = 24


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """``a``, ``b``, ``c``: many tensors each; one of b's is not finite, and c lacks one."""
    for seed, name in enumerate("abc"):
        rng = np.random.default_rng(seed)
        tensors = {
            f"k{i}": rng.standard_normal((200, 90)).astype(np.float16) for i in range(N_TENSORS)
        }
        if name == "b":
            tensors["k1"][3, 3] = np.nan
        if name == "c":
            del tensors["k4"]
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return tmp_path


def walk(pool: Path, **options: object) -> Comparison:
    chosen = {"threads": 1, "journal": pool / "sums.partial", **options}
    with ExitStack() as stack:
        sources = {
            name: stack.enter_context(open_checkpoint(pool / f"{name}.safetensors"))
            for name in "abc"
        }
        return compare(sources, **chosen)  # type: ignore[arg-type]


def stopped(pool: Path, after: int, **options: object) -> str:
    """Walk until so many pieces were read; returns what was said."""
    stop, n_read = Stop(), 0
    real = SafetensorsFile.read_into

    def read(source: SafetensorsFile, *args: object) -> None:
        nonlocal n_read
        real(source, *args)  # type: ignore[arg-type]
        n_read += 1
        if n_read == after:
            stop.ask()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SafetensorsFile, "read_into", read)
        with pytest.raises(StoppedError) as caught:
            walk(pool, stop=stop, **options)
    return str(caught.value)


def saved(found: Comparison, path: Path) -> bytes:
    return save_comparison(found, path, overwrite=True).read_bytes()


@pytest.mark.parametrize("by", ["component", "block", "tensor"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_bytes_as_without_interruption(pool: Path, by: str, threads: int) -> None:
    whole = saved(walk(pool, by=by, base="b", journal=None), pool / "whole.safetensors")
    for after in (4, 9):
        assert "tensors are kept in" in stopped(pool, after, by=by, base="b", threads=threads)
    told: list[str] = []
    found = walk(pool, by=by, base="b", threads=threads, tell=told.append)
    assert saved(found, pool / "out.safetensors") == whole
    assert len(told) == 1 and "going on from a walk that was stopped" in told[0]
    # Until the result is saved all of it stays, and another walk has nothing to read.
    walk(pool, by=by, base="b", tell=told.append)
    assert f"{N_TENSORS} of {N_TENSORS} tensors are done" in told[-1]


def test_what_was_not_kept_to_the_end_is_left_out(pool: Path) -> None:
    whole = saved(walk(pool, journal=None), pool / "whole.safetensors")
    stopped(pool, 9)
    journal = pool / "sums.partial"
    data = journal.read_bytes()
    for cut in (len(data) - 1, len(data) - 200, len(data) // 2, 10):
        journal.write_bytes(data[:cut] + b"\0" * 20)
        assert saved(walk(pool), pool / "out.safetensors") == whole
        journal.unlink()


def test_something_else_is_refused(pool: Path) -> None:
    stopped(pool, 9)
    with pytest.raises(UnfinishedError, match="the fineness of the sums was 'block'.*--restart"):
        walk(pool, by="tensor")
    (pool / "b.safetensors").touch()
    with pytest.raises(UnfinishedError, match="input b was"):
        walk(pool)
    assert walk(pool, restart=True).names == ("a", "b", "c")


def test_nothing_done_leaves_nothing(pool: Path) -> None:
    stop = Stop()
    stop.ask()
    with pytest.raises(StoppedError, match="nothing is left behind"):
        walk(pool, stop=stop)
    assert not (pool / "sums.partial").exists()


def test_a_journal_that_cannot_be_written(pool: Path) -> None:
    with pytest.raises(OutputError, match="sums cannot be kept: No such file"):
        walk(pool, journal=pool / "nowhere" / "sums.partial")
