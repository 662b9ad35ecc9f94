"""Content hashes and the hashes that other tools print."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from blake3 import blake3

from stockpot.checkpoints import (
    DTYPES,
    FileSink,
    MemorySource,
    TensorInfo,
    content_hash,
    encode_header,
    file_hashes,
    hash_tensors,
    open_checkpoint,
)
from stockpot.errors import CheckpointError
from stockpot.layouts import get_layout

Tensors = dict[str, tuple[TensorInfo, bytes]]


def tensors(prefix: str = "") -> Tensors:
    """Two small tensors."""
    return {
        f"{prefix}a": (TensorInfo(f"{prefix}a", DTYPES["F16"], (2, 1)), b"1234"),
        f"{prefix}b": (TensorInfo(f"{prefix}b", DTYPES["I64"], ()), b"12345678"),
    }


def whole(made: Tensors) -> str:
    """Content hash of tensors in memory."""
    source = MemorySource(made)
    return content_hash(source.tensors, hash_tensors(source))


def test_it_is_what_the_documentation_says() -> None:
    records = (
        b"a\0F16\x002,1\0" + blake3(b"1234").hexdigest().encode() + b"\n"
        b"b\0I64\0\0" + blake3(b"12345678").hexdigest().encode() + b"\n"
    )
    assert whole(tensors()) == blake3(records).hexdigest()


def test_order_and_metadata_do_not_count(tmp_path: Path) -> None:
    reference = whole(tensors())
    assert whole(dict(reversed(tensors().items()))) == reference
    for i, metadata in enumerate(({}, {"format": "pt", "title": "x" * 500})):
        sink = FileSink(
            tmp_path / f"{i}.safetensors", {k: v for k, (v, _) in tensors().items()}, metadata
        )
        for key, (_, data) in tensors().items():
            sink.write(key, 0, memoryview(data))
            sink.tensor_done(key, None)
        sink.commit(metadata)
        with open_checkpoint(tmp_path / f"{i}.safetensors") as source:
            seen: list[int] = []
            assert content_hash(source.tensors, hash_tensors(source, None, seen.append)) == (
                reference
            )
            assert sum(seen) == 12


@pytest.mark.parametrize(
    "changed",
    [
        {"c": (TensorInfo("c", DTYPES["F16"], (2, 1)), b"1234")},
        {"a": (TensorInfo("a", DTYPES["BF16"], (2, 1)), b"1234")},
        {"a": (TensorInfo("a", DTYPES["F16"], (1, 2)), b"1234")},
        {"a": (TensorInfo("a", DTYPES["F16"], (2,)), b"1234")},
        {"a": (TensorInfo("a", DTYPES["F16"], (2, 1)), b"1235")},
        {},
    ],
    ids=["key", "dtype", "shape", "rank", "bytes", "absence"],
)
def test_everything_else_counts(changed: Tensors) -> None:
    other = {"b": tensors()["b"]} | changed
    assert whole(other) != whole(tensors())


def test_tensors_do_not_run_into_each_other() -> None:
    def one(key: str, shape: tuple[int, ...]) -> Tensors:
        return {key: (TensorInfo(key, DTYPES["U8"], shape), b"x" * shape[0])}

    assert whole(one("a", (11,))) != whole(one("a", (1, 1)) | one("a1", (1,)))
    assert whole(one("a1", (1,))) != whole(one("a", (1,)))
    assert whole({}) == blake3(b"").hexdigest()


def test_a_component_has_one_hash_wherever_it_stands() -> None:
    layout = get_layout("sd1")
    key = "first_stage_model.decoder.conv_out.bias"
    inside = {key: (TensorInfo(key, DTYPES["F16"], (3,)), b"123456")}
    alone = {"decoder.conv_out.bias": (
        TensorInfo("decoder.conv_out.bias", DTYPES["F16"], (3,)), b"123456"
    )}  # fmt: skip
    source = MemorySource(inside)
    assert content_hash(source.tensors, hash_tensors(source), layout.relative_key) == whole(alone)


def test_only_the_named_tensors_are_read() -> None:
    assert hash_tensors(MemorySource(tensors()), ["a"]) == {"a": blake3(b"1234").hexdigest()}


def test_long_tensors_are_read_in_pieces() -> None:
    data = bytes(range(256)) * (1 << 15) + b"tail"
    info = TensorInfo("a", DTYPES["U8"], (len(data),))
    seen: list[int] = []
    found = hash_tensors(MemorySource({"a": (info, data)}), None, seen.append)
    assert found == {"a": blake3(data).hexdigest()}
    assert len(seen) == 3


def test_hashes_of_a_short_file(tmp_path: Path) -> None:
    infos = {key: info for key, (info, _) in tensors().items()}
    header = encode_header(infos, {"format": "pt"})
    path = tmp_path / "short.safetensors"
    path.write_bytes(header + b"123456781234")
    found = file_hashes(path)
    assert found.sha256 == hashlib.sha256(header + b"123456781234").hexdigest()
    assert found.autov2 == found.sha256[:10]
    assert found.legacy == "e3b0c442"  # the hash of nothing
    assert found.autov3 == hashlib.sha256(b"123456781234").hexdigest()


def test_hashes_of_a_long_file(tmp_path: Path) -> None:
    # Longer than the piece that is read at once, so that the header ends in the first of several.
    data = bytes(range(251)) * 40_000
    info = TensorInfo("a", DTYPES["U8"], (len(data),))
    content = encode_header({"a": info}, {}) + data
    path = tmp_path / "long.safetensors"
    path.write_bytes(content)
    found = file_hashes(path)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.legacy == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    assert found.autov3 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("content", [b"", b"1234567", b"\x80\x02}q\x00." + bytes(2_000_000)])
def test_other_files_have_no_autov3(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    found = file_hashes(path)
    assert found.autov3 == ""
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.legacy == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone: the file cannot be read: No such file"):
        file_hashes(tmp_path / "gone")
