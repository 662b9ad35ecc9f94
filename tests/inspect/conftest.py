"""Checkpoints of real shapes that cost no disk, and small ones of the zoo's shape."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from stockpot.checkpoints import (
    DTYPES,
    GeneratedSource,
    MemorySource,
    TensorInfo,
    encode_header,
)
from stockpot.layouts import Shape, get_layout

MakeShaped = Callable[..., GeneratedSource]
MakeSparse = Callable[..., Path]


def shapes_of(name: str, *components: str) -> dict[str, Shape]:
    """Required keys of an architecture, or of some of its components."""
    return {
        key: spec.shape
        for key, spec in get_layout(name).specs.items()
        if not spec.optional and (not components or spec.cell.component in components)
    }


def infos_of(shapes: Mapping[str, Shape], dtype: str = "F16") -> list[TensorInfo]:
    return [TensorInfo(key, DTYPES[dtype], shape) for key, shape in shapes.items()]


@pytest.fixture(scope="session")
def shaped() -> MakeShaped:
    """Make a checkpoint of real shape whose values are computed when read."""
    noise = np.random.default_rng(7).standard_normal(1 << 22) * 0.05
    blocks = {"F16": noise.astype("<f2").tobytes(), "F32": noise.astype("<f4").tobytes()}

    def generate(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        if info.dtype.name == "I64":
            out[:] = np.arange(start, stop, dtype="<i8").tobytes()
            return
        # A place of its own for each tensor, and the same bytes in whatever pieces.
        block, size = blocks[info.dtype.name], info.dtype.itemsize
        offset = size * (sum(info.key.encode()) * 7919 + start) % len(block)
        done = 0
        while done < out.nbytes:
            piece = block[offset : offset + out.nbytes - done]
            out[done : done + len(piece)] = piece
            done, offset = done + len(piece), 0

    def make(
        shapes: Mapping[str, Shape],
        dtype: str = "F16",
        metadata: Mapping[str, str] | None = None,
        counters: Iterable[str] = (),
    ) -> GeneratedSource:
        infos = infos_of(shapes, dtype)
        infos += [TensorInfo(key, DTYPES["I64"], (1, 77)) for key in counters]
        return GeneratedSource(infos, generate, metadata or {}, "generated")

    return make


@pytest.fixture
def sparse(tmp_path: Path) -> MakeSparse:
    """Write a header and a hole: gigabytes that cost no disk."""

    def make(name: str, shapes: Mapping[str, Shape], dtype: str = "F16", **metadata: str) -> Path:
        infos = {info.key: info for info in infos_of(shapes, dtype)}
        header = encode_header(infos, metadata)
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(header)
            file.truncate(len(header) + sum(info.n_bytes for info in infos.values()))
        return path

    return make


@pytest.fixture(scope="session")
def small() -> Callable[..., MemorySource]:
    """Make a checkpoint in memory from arrays."""

    def make(arrays: Mapping[str, np.ndarray], **metadata: str) -> MemorySource:
        names = {"f": "F", "i": "I", "u": "U"}
        tensors = {}
        for key, array in arrays.items():
            dtype = DTYPES[f"{names[array.dtype.kind]}{8 * array.dtype.itemsize}"]
            tensors[key] = (TensorInfo(key, dtype, array.shape), array.tobytes())
        return MemorySource(tensors, metadata)

    return make


@pytest.fixture(scope="session")
def damage() -> ModuleType:
    """``bench/damage.py``, which makes damaged copies."""
    path = Path(__file__).parents[2] / "bench" / "damage.py"
    spec = importlib.util.spec_from_file_location("damage", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["damage"] = module
    spec.loader.exec_module(module)
    return module
