"""Sinks that write under other names and into folders: all of it, or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from stockpot.checkpoints import (
    DTYPES,
    Arrangement,
    FileSink,
    FolderSink,
    Place,
    RenamingSink,
    TensorInfo,
    storage,
)
from stockpot.errors import OutputError, OutputExistsError, VerificationError

QKV = np.arange(24, dtype=np.float32).reshape(6, 4)
MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)
ARRAYS = {"qkv": QKV, "matrix": MATRIX, "plain": np.ones(3, np.float32), "said": np.empty(0, "f4")}
INFOS = {key: TensorInfo(key, DTYPES["F32"], array.shape) for key, array in ARRAYS.items()}
ARRANGEMENT = Arrangement(
    {
        "qkv": tuple(Place("one/w.safetensors", n, (2, 4), 8 * i, 8 * i + 8)
                     for i, n in enumerate("qkv")),
        "matrix": (Place("two/w.safetensors", "m", (3, 2), 0, 6, transposed=True),),
        "plain": (Place("two/w.safetensors", "p", (3, 1), 0, 3),),
        "said": (),
    },
    {"index.json": b"{}", "one/config.json": b'{"a": 1}'},
)  # fmt: skip


def fill(sink: FolderSink | RenamingSink, keys: list[str] | None = None) -> None:
    """Write rows in small pieces, the last first."""
    from blake3 import blake3

    for key in keys or list(ARRAYS):
        data = memoryview(ARRAYS[key].tobytes())
        for start in reversed(range(0, ARRAYS[key].size, 5)):
            sink.write(key, start, data[4 * start : 4 * (start + 5)])
        sink.tensor_done(key, blake3(data).hexdigest())


def folder(path: Path) -> FolderSink:
    return FolderSink(path, ARRANGEMENT, INFOS, {"format": "pt"})


def test_a_folder_holds_all_that_was_arranged(tmp_path: Path) -> None:
    sink = folder(tmp_path / "out")
    fill(sink)
    assert not (tmp_path / "out").exists()
    sink.commit({"format": "pt"})
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {
        "out/index.json", "out/one/config.json", "out/one/w.safetensors", "out/two/w.safetensors"
    }  # fmt: skip
    one, two = (load_file(tmp_path / "out" / part / "w.safetensors") for part in ("one", "two"))
    assert {key: value.tolist() for key, value in one.items()} == {
        name: QKV[2 * i : 2 * i + 2].tolist() for i, name in enumerate("qkv")
    }
    assert two["m"].tolist() == MATRIX.T.tolist() and two["p"].shape == (3, 1)
    assert json.loads((tmp_path / "out" / "one" / "config.json").read_text()) == {"a": 1}
    n_bytes = sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert ARRANGEMENT.n_bytes(INFOS, {"format": "pt"}) == n_bytes


def test_one_file_under_other_names(tmp_path: Path) -> None:
    arrangement = Arrangement({"matrix": (Place("", "m", (2, 3), 0, 6),)})
    infos = {"matrix": INFOS["matrix"]}
    file = FileSink(tmp_path / "o.safetensors", arrangement.infos(infos)[""], {"format": "pt"})
    sink = RenamingSink({"": file}, arrangement, infos)
    fill(sink, ["matrix"])
    sink.commit({"format": "pt"})
    assert load_file(tmp_path / "o.safetensors")["m"].tolist() == MATRIX.tolist()


def test_giving_up_leaves_nothing(tmp_path: Path) -> None:
    sink = folder(tmp_path / "out")
    fill(sink, ["qkv"])
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_the_disk_changed_are_found(tmp_path: Path) -> None:
    sink = folder(tmp_path / "out")
    fill(sink, ["qkv", "matrix", "said"])
    sink.write("plain", 0, memoryview(bytes(12)))
    sink.tensor_done("plain", "0" * 64)
    with pytest.raises(VerificationError, match="p: the bytes on the disk are not those"):
        sink.commit({"format": "pt"})
    sink.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_stands_there_is_never_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExistsError, match="a folder is never replaced"):
        folder(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    sink = folder(tmp_path / "out")
    fill(sink)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(OutputExistsError):
        sink.commit({"format": "pt"})
    sink.abort()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine"]


def test_a_killed_run_is_begun_anew(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_arranged import fill, folder\n"
        "from pathlib import Path\n"
        "sink = folder(Path(sys.argv[1]))\n"
        "fill(sink, ['qkv'])\n"
        "os._exit(9)\n"
    )
    here = str(Path(__file__).parent)
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out"), here])
    assert process.returncode == 9
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    sink = folder(tmp_path / "out")
    fill(sink)
    sink.commit({"format": "pt"})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "out.partial" / "mine"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(OutputExistsError, match="no unfinished output"):
        folder(tmp_path / "out")
    assert mine.read_text() == "mine"


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    sink = folder(tmp_path / "out")
    with pytest.raises(OutputError, match=f"process {os.getpid()} on .* is writing this output"):
        folder(tmp_path / "out")
    fill(sink)
    sink.commit({"format": "pt"})
    assert (tmp_path / "out" / "index.json").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        folder(tmp_path / "nowhere" / "out")


class Flipping:
    """A disk that keeps another byte than it was given, in one file."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        if self._place.exists() and os.path.samestat(os.fstat(descriptor), self._place.stat()):
            os.pwrite(descriptor, b"!", 0)


@pytest.mark.parametrize("name", ["index.json", "one/config.json"])
def test_a_text_that_the_disk_changes_is_found(tmp_path: Path, name: str) -> None:
    sink = folder(tmp_path / "out")
    fill(sink)
    with (
        storage.through(Flipping(tmp_path / "out.partial" / name)),
        pytest.raises(VerificationError, match=f"{name} holds something else"),
    ):
        sink.commit({"format": "pt"})
    sink.abort()
    assert not list(tmp_path.iterdir())
