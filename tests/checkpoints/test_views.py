"""Views: the same elements under other names, in other shapes, cut, joined and transposed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.checkpoints import (
    DTYPES,
    GeneratedSource,
    MemorySource,
    Run,
    TensorInfo,
    View,
    Viewed,
)
from stockpot.errors import CheckpointError, UnknownNameError


def source_of(**arrays: np.ndarray) -> MemorySource:
    """A source of fp32 arrays."""
    return MemorySource(
        {
            key: (TensorInfo(key, DTYPES["F32"], array.shape), array.astype("<f4").tobytes())
            for key, array in arrays.items()
        },
        {"format": "pt"},
        "arrays",
    )


def read(view: View, key: str, start: int, stop: int) -> list[float]:
    out = bytearray(4 * (stop - start))
    view.read_into(key, start, stop, memoryview(out))
    return np.frombuffer(out, "<f4").tolist()


@settings(deadline=None)  # a busy machine says nothing of the code
@given(st.integers(1, 6), st.integers(1, 7), st.data())
def test_any_range_of_a_transposed_matrix(rows: int, columns: int, data: st.DataObject) -> None:
    matrix = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    runs = (Run("m", 0, matrix.size),)
    view = View(source_of(m=matrix), [Viewed("t", (columns, rows), runs, transposed=True)])
    start = data.draw(st.integers(0, matrix.size))
    stop = data.draw(st.integers(start, matrix.size))
    assert read(view, "t", start, stop) == matrix.T.reshape(-1)[start:stop].tolist()


def test_a_matrix_larger_than_a_block_is_transposed_in_pieces() -> None:
    shape = (1500, 700)
    expected = np.arange(shape[0] * shape[1], dtype=np.uint32).reshape(shape)

    def generate(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        out[:] = np.arange(start, stop, dtype="<u4").tobytes()

    info = TensorInfo("m", DTYPES["U32"], shape)
    view = View(
        GeneratedSource([info], generate),
        [Viewed("t", shape[::-1], (Run("m", 0, info.n_elements),), transposed=True)],
    )
    assert view.read_bytes("t") == np.ascontiguousarray(expected.T).tobytes()


@settings(deadline=None)  # a busy machine says nothing of the code
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.data())
def test_any_range_of_joined_runs(lengths: list[int], data: st.DataObject) -> None:
    arrays = {f"k{i}": np.arange(n + 2, dtype=np.float32) + 100 * i for i, n in enumerate(lengths)}
    runs = tuple(Run(f"k{i}", 1, 1 + n) for i, n in enumerate(lengths))
    whole = np.concatenate([arrays[run.key][run.start : run.stop] for run in runs]).tolist()
    view = View(source_of(**arrays), [Viewed("all", (len(whole),), runs, dtype=DTYPES["F32"])])
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    assert read(view, "all", start, stop) == whole[start:stop]


def test_what_else_a_source_has_passes_through() -> None:
    source = source_of(a=np.zeros((2, 3)))
    view = View(source, [Viewed("b", (3, 2), (Run("a", 0, 6),))])
    assert (view.name, dict(view.metadata), list(view.tensors)) == (
        "arrays",
        {"format": "pt"},
        ["b"],
    )
    with pytest.raises(UnknownNameError, match="'a'"):
        view.info("a")


@pytest.mark.parametrize(
    ("viewed", "message"),
    [
        (Viewed("x", (7,), (Run("a", 0, 6),)), r"arrays: x: \[7\] needs 7 elements, but got 6"),
        (Viewed("x", (7,), (Run("a", 0, 7),)), r"arrays: a: .* must lie in 0..6, but got 0..7"),
        (Viewed("x", (1,), (Run("c", 0, 1),)), "unknown tensor of arrays 'c'"),
    ],
)
def test_elements_that_are_not_there(viewed: Viewed, message: str) -> None:
    with pytest.raises((CheckpointError, UnknownNameError), match=message):
        View(source_of(a=np.zeros((2, 3))), [viewed])


def test_parts_of_one_tensor_have_one_type() -> None:
    q = TensorInfo("q", DTYPES["F16"], (1,))
    k = TensorInfo("k", DTYPES["F32"], (1,))
    source = MemorySource({"q": (q, bytes(2)), "k": (k, bytes(4))})
    with pytest.raises(CheckpointError, match="must have one type, but got k F32, q F16"):
        View(source, [Viewed("qk", (2,), (Run("q", 0, 1), Run("k", 0, 1)))])
