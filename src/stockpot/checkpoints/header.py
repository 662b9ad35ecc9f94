"""The header of a safetensors file, read with distrust.

A file is: 8 bytes, the header's length N, unsigned little-endian; N bytes of JSON; the tensors'
bytes. The JSON maps each key to ``{"dtype", "shape", "data_offsets": [begin, end]}``, counted from
the end of the header, and ``__metadata__`` to a map of strings. Stockpot checks all of it before
anything else: ranges must tile the data exactly, in any order, with no gap and no overlap, and
end where the file ends.
Source: the format's description in the safetensors project.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stockpot.checkpoints import storage
from stockpot.checkpoints.dtypes import DTYPES
from stockpot.checkpoints.sources import TensorInfo
from stockpot.errors import HeaderError, TruncatedFileError

__all__ = ["Header", "encode_header", "read_header"]

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 32
_METADATA = "__metadata__"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class Header:
    """A checked header.

    Attributes:
        tensors: Facts of every tensor, in the order of the JSON.
        offsets: First byte of each tensor, counted from the start of the file.
        metadata: The file's metadata; untrusted strings.
        n_bytes: Bytes before the data: the length field and the JSON.
    """

    tensors: Mapping[str, TensorInfo]
    offsets: Mapping[str, int]
    metadata: Mapping[str, str]
    n_bytes: int


def read_header(descriptor: int, file_bytes: int, name: str) -> Header:
    """Read and check a header.

    Args:
        descriptor: An open file.
        file_bytes: Size of the file.
        name: Its name, for messages.

    Returns:
        The header; every fact in it is consistent with the size of the file.

    Raises:
        HeaderError: The header breaks the format.
        TruncatedFileError: The file is shorter than its header says.
    """
    if file_bytes < 8:
        raise TruncatedFileError(
            f"{name}: a safetensors file has at least 8 bytes, but this one has {file_bytes}; "
            "get it again"
        )
    head = bytearray(8)
    storage.read_at(descriptor, 0, memoryview(head), name)
    (length,) = struct.unpack("<Q", head)
    if length > MAX_HEADER_BYTES:
        raise HeaderError(
            f"{name}: a header may have {MAX_HEADER_BYTES} bytes, but this one claims {length}; "
            "it is not a safetensors file, or it is damaged"
        )
    if 8 + length > file_bytes:
        raise TruncatedFileError(
            f"{name}: the header claims {length} bytes, but the file has only {file_bytes}; "
            "it was cut off: get it again"
        )
    raw = bytearray(length)
    storage.read_at(descriptor, 8, memoryview(raw), name)
    return _checked(_parsed(bytes(raw), name), file_bytes - 8 - length, 8 + length, name)


def encode_header(
    tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], n_bytes: int | None = None
) -> bytes:
    """Write a header for tensors that follow each other in the order given.

    Args:
        tensors: Facts by key, in the order of the data.
        metadata: Strings to store.
        n_bytes: Pad to this size with spaces; by default to a multiple of 8, so that the data
            are aligned.

    Returns:
        The length field and the JSON.

    Raises:
        ValueError: The header does not fit `n_bytes`.
    """
    entries: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    position = 0
    for key, info in tensors.items():
        end = position + info.n_bytes
        entries[key] = {
            "dtype": info.dtype.name,
            "shape": list(info.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    size = -(-(8 + len(text)) // 8) * 8 if n_bytes is None else n_bytes
    if 8 + len(text) > size:
        raise ValueError(f"the header needs {8 + len(text)} bytes, but only {size} were reserved")
    return struct.pack("<Q", size - 8) + text.ljust(size - 8)


def _parsed(raw: bytes, name: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise HeaderError(f"{name}: {twice!r} stands twice in the header; it is damaged")
        return found

    def refuse(text: str) -> float:
        raise HeaderError(f"{name}: the header holds {text[:40]}, where only whole numbers may be")

    if not raw.lstrip().startswith(b"{"):
        raise HeaderError(f"{name}: the header must begin with '{{'; it is not a safetensors file")
    try:
        parsed = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=refuse,
            parse_float=refuse,
        )
    except UnicodeDecodeError as error:
        raise HeaderError(f"{name}: the header is not UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise HeaderError(f"{name}: the header is nested too deep") from None
    except HeaderError:
        raise
    except ValueError as error:
        raise HeaderError(f"{name}: the header is not JSON: {error}") from error
    assert isinstance(parsed, dict)  # it began with a brace
    if b"\\u" in raw and not _is_text(parsed):
        raise HeaderError(f"{name}: the header holds half of a UTF-16 pair; it is damaged")
    return parsed


def _is_text(parsed: dict[str, Any]) -> bool:
    """Whether all texts that are kept can be written; escapes can smuggle lone surrogates in."""
    try:
        json.dumps([list(parsed), parsed.get(_METADATA)], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(parsed: dict[str, Any], data_bytes: int, start: int, name: str) -> Header:
    metadata = parsed.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise HeaderError(f"{name}: {_METADATA} must map strings to strings")
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for key, entry in parsed.items():
        info, begin, end = _entry(key, entry, name)
        tensors[key] = info
        spans.append((begin, end, key))
    position = 0
    for begin, end, key in sorted(spans):
        if begin != position:
            fault = "overlaps the one before it" if begin < position else "leaves a gap before it"
            raise HeaderError(f"{name}: {key}: the tensor's range {begin}..{end} {fault}")
        position = end
    if position > data_bytes:
        raise TruncatedFileError(
            f"{name}: the header promises {position} bytes of tensors, but the file holds "
            f"{data_bytes}; it was cut off: get it again"
        )
    if position < data_bytes:
        raise HeaderError(
            f"{name}: {data_bytes - position} bytes follow the last tensor, where the file must end"
        )
    offsets = {key: start + begin for begin, _, key in spans}
    return Header(tensors, offsets, metadata, start)


def _entry(key: str, entry: Any, name: str) -> tuple[TensorInfo, int, int]:
    where = f"{name}: {key}"
    # They would garble terminals, and could make two models look like one to the content hash.
    if _CONTROL.search(key):
        raise HeaderError(f"{name}: {key!a}: a key must not hold control characters")
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise HeaderError(f"{where}: an entry must have exactly {sorted(_FIELDS)}")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise HeaderError(
            f"{where}: the dtype must be one of {', '.join(DTYPES)}, "
            f"but is {str(entry['dtype'])[:40]!r}"
        )
    dtype = DTYPES[entry["dtype"]]
    shape, span = entry["shape"], entry["data_offsets"]
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        raise HeaderError(
            f"{where}: the shape must be a list of at most {MAX_DIMENSIONS} whole numbers of "
            "0 or more, each below 2^63"
        )
    if not _whole_numbers(span) or len(span) != 2:
        raise HeaderError(f"{where}: data_offsets must be two whole numbers below 2^63")
    info = TensorInfo(key, dtype, tuple(shape))
    if span[1] - span[0] != info.n_bytes:
        raise HeaderError(
            f"{where}: {dtype} {shape} takes {info.n_bytes} bytes, "
            f"but its range {span[0]}..{span[1]} has {span[1] - span[0]}"
        )
    return info, span[0], span[1]


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(number) is int and 0 <= number < 1 << 63 for number in value
    )
