"""Headers that lie, one test a kind, with what the user is told."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import CheckpointError, HeaderError, TruncatedFileError

GOOD = {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}


def forge(header: object, data: bytes = b"1234", length: int | None = None) -> bytes:
    """A file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changes: object) -> bytes:
    """A file whose only tensor is described so."""
    return forge({"a": GOOD | changes})


DEEP = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"

HOSTILE = {
    "an empty file": (b"", "at least 8 bytes, but this one has 0; get it again"),
    "seven bytes": (b"1234567", "at least 8 bytes, but this one has 7"),
    "a length beyond the end": (
        forge({"a": GOOD}, length=1000),
        "the header claims 1000 bytes, but the file has only 73; it was cut off: get it again",
    ),
    "a length beyond all reason": (
        forge({"a": GOOD}, length=2**63),
        "a header may have 25000000 bytes, but this one claims 9223372036854775808",
    ),
    "a header of 100 MB": (
        forge(b"", b"", length=100_000_000),
        "a header may have 25000000 bytes, but this one claims 100000000",
    ),
    "a header with more values than there can be": (
        forge(b'{"a":[' + b"[[[[]]]]," * 500_000 + b"0]}"),
        "a header may have 1000000 values, but this one has more",
    ),
    "no header": (forge(b""), "the header must begin with '{'; it is not a safetensors file"),
    "a pickle": (b"\x80\x02}q\x00." + bytes(90), "the file is a pickle, but not one of torch.save"),
    "a list": (forge(b"[]"), "the header must begin with '{'"),
    "broken JSON": (forge(b'{"a":'), "the header is not JSON"),
    "two documents": (forge(b"{}{}"), "the header is not JSON: Extra data"),
    "not UTF-8": (forge(b'{"\xff":1}'), "the header is not UTF-8 (byte 2)"),
    "half a UTF-16 pair": (
        forge(b'{"\\ud800":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}'),
        "the header holds half of a UTF-16 pair",
    ),
    "half a UTF-16 pair in the metadata": (
        forge(b'{"__metadata__":{"a":"\\udfff"}}', b""),
        "the header holds half of a UTF-16 pair",
    ),
    "a control character in a key": (
        forge({"a\0F16": GOOD}),
        r"'a\x00F16': a key must not hold control characters",
    ),
    "a control character of the upper half in a key": (
        forge({"\x9b2J": GOOD}),
        r"'\x9b2J': a key must not hold control characters",
    ),
    "a key without end": (
        forge({"a" * 1001: GOOD}),
        "a key may have 1000 characters, but this one has 1001",
    ),
    "an escape sequence in a key": (
        forge({"\x1b[2J": GOOD}),
        "a key must not hold control characters",
    ),
    "a key twice": (
        forge(b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"a":{}}'),
        "'a' stands twice in the header",
    ),
    "a field twice": (
        forge(b'{"a":{"dtype":"F16","dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
        "'dtype' stands twice in the header",
    ),
    "nesting without end": (forge(DEEP), "the header is nested too deep"),
    "NaN": (forge(b'{"a":NaN}'), "the header holds NaN, where only whole numbers may be"),
    "a broken number": (forge(b'{"a":1.5}'), "the header holds 1.5, where only whole numbers"),
    "an endless number": (forge(b'{"a":' + b"9" * 5000 + b"}"), "the header is not JSON"),
    "metadata that is no map": (
        forge({"__metadata__": "x"}, b""),
        "__metadata__ must map strings to strings",
    ),
    "metadata of numbers": (
        forge({"__metadata__": {"a": 1}}, b""),
        "__metadata__ must map strings to strings",
    ),
    "an entry that is no map": (forge({"a": 3}), "a: an entry must have exactly"),
    "a field too many": (entry(more=1), "a: an entry must have exactly ['data_offsets', 'dtype'"),
    "a field too few": (forge({"a": {"dtype": "F16"}}), "a: an entry must have exactly"),
    "an unknown dtype": (entry(dtype="F12"), "a: the dtype must be one of F64, F32, F16,"),
    "a dtype that is a list": (entry(dtype=["F16"]), "but is \"['F16']\""),
    "a shape of text": (entry(shape="2"), "a: the shape must be a list of at most 32 whole"),
    "a negative length": (entry(shape=[-2]), "whole numbers of 0 or more"),
    "a length that is true": (entry(shape=[True]), "whole numbers of 0 or more"),
    "a length of 2^63": (entry(shape=[2**63]), "each below 2^63"),
    "a shape of 33 axes": (entry(shape=[1] * 32 + [2]), "at most 32 whole numbers"),
    "a product that overflows": (
        entry(shape=[2**62, 2**62, 2**62]),
        "a: F16 [4611686018427387904, 4611686018427387904, 4611686018427387904] takes",
    ),
    "three offsets": (entry(data_offsets=[0, 4, 4]), "data_offsets must be two whole numbers"),
    "a negative offset": (entry(data_offsets=[-4, 0]), "data_offsets must be two whole numbers"),
    "offsets that disagree with the shape": (
        entry(shape=[3]),
        "a: F16 [3] takes 6 bytes, but its range 0..4 has 4",
    ),
    "offsets turned round": (entry(data_offsets=[4, 0]), "its range 4..0 has -4"),
    "a gap": (
        forge({"a": GOOD, "b": GOOD | {"data_offsets": [6, 10]}}, bytes(10)),
        "b: the tensor's range 6..10 leaves a gap before it",
    ),
    "a gap at the start": (
        forge({"a": GOOD | {"data_offsets": [2, 6]}}, bytes(6)),
        "a: the tensor's range 2..6 leaves a gap before it",
    ),
    "an overlap": (
        forge({"a": GOOD, "b": GOOD | {"data_offsets": [2, 6]}}, bytes(6)),
        "b: the tensor's range 2..6 overlaps the one before it",
    ),
    "two tensors in one place": (
        forge({"a": GOOD, "b": GOOD}),
        "b: the tensor's range 0..4 overlaps the one before it",
    ),
    "bytes after the end": (
        forge({"a": GOOD}, b"12345"),
        "1 bytes follow the last tensor, where the file must end",
    ),
    "bytes without tensors": (forge({}, b"12"), "2 bytes follow the last tensor"),
    "the last byte missing": (
        forge({"a": GOOD}, b"123"),
        "the header promises 4 bytes of tensors, but the file holds 3; it was cut off",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_file_is_refused(tmp_path: Path, kind: str) -> None:
    content, message = HOSTILE[kind]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises((HeaderError, TruncatedFileError)) as caught:
        open_checkpoint(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_device_is_no_file() -> None:
    with pytest.raises(CheckpointError, match="a checkpoint must be a file, but this is none"):
        open_checkpoint(os.devnull)


def test_cutting_a_file_anywhere_is_seen(tmp_path: Path) -> None:
    whole = forge({"a": GOOD, "b": GOOD | {"data_offsets": [4, 8]}}, b"12345678")
    path = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(TruncatedFileError):
            open_checkpoint(path)
    path.write_bytes(whole)
    open_checkpoint(path).close()


def test_ranges_in_any_order_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(forge({"b": GOOD | {"data_offsets": [4, 8]}, "a": GOOD}, b"aaaabbbb"))
    with open_checkpoint(path) as source:
        assert list(source.tensors) == ["b", "a"]
        assert source.read_bytes("a") == b"aaaa"
        assert source.read_bytes("b") == b"bbbb"


def test_an_empty_checkpoint_is_one(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    path.write_bytes(forge(b"{}  ", b""))
    with open_checkpoint(path) as source:
        assert not source.tensors
