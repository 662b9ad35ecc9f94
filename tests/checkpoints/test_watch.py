"""Whoever looks at values while they are hashed sees all of them, in order."""

import numpy as np
import pytest

from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo, hash_tensors


def source() -> MemorySource:
    tensors = {}
    for number, n in enumerate((0, 1, 1000, 3_000_000)):
        data = np.random.default_rng(number).bytes(2 * n)
        tensors[f"k{number}"] = (TensorInfo(f"k{number}", DTYPES["F16"], (n,)), data)
    return MemorySource(tensors)


def test_every_byte_is_shown_once_and_the_hashes_are_the_same() -> None:
    seen: dict[str, bytes] = {}

    def watch(info: TensorInfo, piece: memoryview) -> None:
        seen[info.key] = seen.get(info.key, b"") + bytes(piece)

    files = source()
    assert hash_tensors(files, watch=watch) == hash_tensors(files)
    assert seen == {key: files.read_bytes(key) for key in files.tensors if key != "k0"}


@pytest.mark.parametrize("key", ["k2", "k3"])
def test_what_goes_wrong_while_looking_is_raised(key: str) -> None:
    def watch(info: TensorInfo, piece: memoryview) -> None:
        if info.key == key:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hash_tensors(source(), watch=watch)
