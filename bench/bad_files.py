# ruff: noqa: E501 - rows of a table stay on one line
"""Files that no command may believe: each with what the answer must say."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

F16 = {"F16": 2, "F32": 4, "I64": 8, "U8": 1}


def framed(text: bytes, data: bytes = b"") -> bytes:
    """A header and data that may not fit each other."""
    return struct.pack("<Q", len(text)) + text + data


def safetensors(tensors: dict[str, tuple[str, list[int]]], fill: bytes = b"\0",
                metadata: dict[str, str] | None = None) -> bytes:  # fmt: skip
    """A well-formed file of one byte's repetition."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for key, (dtype, shape) in tensors.items():
        end = place + F16[dtype] * int(np.prod(shape))
        entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": [place, end]}
        place = end
    return framed(json.dumps(entries).encode(), (fill * place)[:place])


def entry(**changes: Any) -> bytes:
    """A file of one tensor, whose entry lies."""
    good: dict[str, Any] = {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}
    good.update(changes)
    kept = {key: value for key, value in good.items() if value is not None}
    return framed(json.dumps({"w": kept}).encode(), bytes(8))


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch it-ran",)


class _Evaluates:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("open('it-ran', 'w')",)


def zipped(data: bytes, name: str = "archive/data.pkl", method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file with a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def _half(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: len(data) // 2]


GOOD = {"w": ("F16", [4])}
NAN = safetensors({f"k{i}.weight": ("F16", [12, 20]) for i in range(4)} | {"n.bias": ("F16", [33])},
                  b"\x00\x7e")  # fmt: skip
CHECKPOINTS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda good: b"", "at least 8 bytes"),
    "7 bytes": (lambda good: bytes(7), "at least 8 bytes"),
    "zeros": (lambda good: bytes(4096), "must begin with"),
    "a web page": (lambda good: b"<!DOCTYPE html><html></html>", "may have 25000000 bytes"),
    "a Git LFS pointer": (lambda good: b"version https://git-lfs.github.com/spec/v1\n", "may have"),
    "a picture": (lambda good: b"\x89PNG\r\n\x1a\n" + bytes(64), "may have 25000000 bytes"),
    "random bytes": (lambda good: bytes(range(256)) * 4, "may have 25000000 bytes"),
    "cut in the data": (lambda good: good.read_bytes()[:-7], "it was cut off"),
    "cut in the header": (lambda good: good.read_bytes()[:100], "it was cut off"),
    "cut in half": (_half, "it was cut off"),
    "bytes after the end": (lambda good: good.read_bytes() + b"more", "where the file must end"),
    "a header of 2^63 bytes": (lambda good: struct.pack("<Q", 1 << 63) + bytes(64), "may have"),
    "a header of 1 TB": (lambda good: struct.pack("<Q", 10**12) + bytes(64), "may have"),
    "a header longer than the file": (lambda good: struct.pack("<Q", 9999) + b"{}", "has only"),
    "no JSON": (lambda good: framed(b'{"w": [}'), "is not JSON"),
    "a list": (lambda good: framed(b"[1, 2]"), "must begin with"),
    "not UTF-8": (lambda good: framed(b'{"\xff\xfe": 1}'), "is not UTF-8"),
    "half of a UTF-16 pair": (lambda good: framed(b'{"__metadata__":{"a":"\\ud800"}}'), "half of a"),
    "nested too deep": (lambda good: framed(b'{"a":' + b"[" * 99999), "is nested too deep"),
    "a key twice": (
        lambda good: framed(b'{"w":{"dtype":"U8","shape":[],"data_offsets":[0,1]},'
                            b'"w":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"x"),
        "stands twice"),
    "a fraction": (lambda good: entry(shape=[1.5]), "only whole numbers"),
    "NaN in the header": (lambda good: framed(b'{"w": NaN}'), "holds NaN"),
    "an unknown type": (lambda good: entry(dtype="F12"), "the dtype must be one of"),
    "a type that is a number": (lambda good: entry(dtype=16), "the dtype must be one of"),
    "no shape": (lambda good: entry(shape=None), "must have exactly"),
    "a field too many": (lambda good: entry(more=1), "must have exactly"),
    "a negative shape": (lambda good: entry(shape=[-4]), "whole numbers of 0 or more"),
    "a shape that does not fit": (lambda good: entry(shape=[5]), "but its range"),
    "a huge shape": (lambda good: entry(shape=[1 << 62, 1 << 62]), "but its range"),
    "33 axes": (lambda good: entry(shape=[1] * 33), "at most 32"),
    "an offset backwards": (lambda good: entry(data_offsets=[8, 0]), "but its range"),
    "a gap": (lambda good: entry(shape=[2], data_offsets=[4, 8]), "leaves a gap"),
    "three offsets": (lambda good: entry(data_offsets=[0, 4, 8]), "must be two whole"),
    "a key of control characters": (
        lambda good: framed(b'{"\\u001b[2J": {"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"x"),
        "control characters"),
    "a key of 2000 characters": (
        lambda good: safetensors({"k" * 2000: ("U8", [1])}), "may have 1000 characters"),
    "metadata of numbers": (lambda good: framed(b'{"__metadata__": {"a": 1}}'), "strings to strings"),
}  # fmt: skip
"""By what is wrong: the bytes, from a good file's path, and a part of the answer."""

PICKLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a pickle that runs a program": (
        lambda: zipped(pickle.dumps({"state_dict": _Runs()}, protocol=2)), "system"),
    "a pickle that evaluates text": (lambda: zipped(pickle.dumps(_Evaluates(), protocol=2)), "eval"),
    "a bare pickle that runs a program": (lambda: pickle.dumps(_Runs(), protocol=2), ""),
    "a pickle without tensors": (lambda: zipped(pickle.dumps({"epoch": 3}, protocol=2)), "tensor"),
    "a pickle of a number": (lambda: zipped(pickle.dumps(7, protocol=2)), ""),
    "a zip without a pickle": (lambda: zipped(b"x", "archive/other"), ""),
    "a zip that is packed": (lambda: zipped(b"x" * 999, method=zipfile.ZIP_DEFLATED), ""),
    "a zip with a path": (lambda: zipped(b"x", "../data.pkl"), ""),
    "half a zip": (lambda: zipped(b"x" * 99)[:60], "cut off"),
    "a pickle cut short": (lambda: zipped(pickle.dumps({"a": [1, 2, 3]}, protocol=2)[:-4]), ""),
    "a pickle of a later protocol": (lambda: zipped(b"\x80\x09N."), ""),
    "an old stream cut short": (lambda: pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), ""),
}  # fmt: skip
"""Torch files; nothing in them may ever run: it would leave a file `it-ran`."""

RECIPES: dict[str, tuple[str | bytes, str]] = {
    "an empty recipe": ("", ""),
    "a recipe that is a list": ("- a\n- b\n", ""),
    "no version": ("pool: {a: a.safetensors}\nmix: {model: a}\n", "stockpot"),
    "a version to come": ("stockpot: 99\npool: {a: a.safetensors}\nmix: {model: a}\n", "stockpot"),
    "no mix": ("stockpot: 1\npool: {a: a.safetensors}\n", "mix"),
    "an unknown field": ("stockpot: 1\npool: {a: a.safetensors}\nmix: {model: a}\nmore: 1\n", "more"),
    "an unknown model": ("stockpot: 1\npool: {a: a.safetensors}\nmix: {model: a + x}\n", "x"),
    "an unknown part": ("stockpot: 1\npool: {a: a.safetensors}\nmix: {unett: a}\n", "unett"),
    "an unknown function": ("stockpot: 1\npool: {a: a.safetensors}\nmix: {model: 'blend(a, a)'}\n",
                            "blend"),
    "a field twice": ("stockpot: 1\nstockpot: 1\npool: {a: a.safetensors}\nmix: {model: a}\n", ""),
    "an anchor": ("stockpot: 1\npool: &x {a: a.safetensors}\nmix: {model: a}\n", ""),
    "a YAML tag": ("stockpot: 1\npool: !!python/object/apply:os.system ['touch it-ran']\n", ""),
    "a billion laughs": ("a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n", ""),
    "tabs": ("stockpot: 1\n\tpool: {}\n", ""),
    "not UTF-8": (b"stockpot: 1\n\xff\xfe\n", ""),
    "a NUL": (b"stockpot: 1\npool: {a: \"a\\0.safetensors\"}\nmix: {model: a}\n", "NUL"),
    "a path out of the folder": ("stockpot: 1\npool: {a: ../../etc/passwd}\nmix: {model: a}\n", ".."),
    "a path home": ("stockpot: 1\npool: {a: ~/secret.safetensors}\nmix: {model: a}\n", ""),
    "a network share": ("stockpot: 1\npool: {a: '\\\\server\\share\\a'}\nmix: {model: a}\n", "share"),
    "a device": ("stockpot: 1\npool: {a: NUL}\nmix: {model: a}\n", ""),
    "a file that is not there": ("stockpot: 1\npool: {a: nowhere.safetensors}\nmix: {model: a}\n",
                                 "nowhere"),
    "a hole": ("stockpot: 1\npool: {a: {unknown: lost}}\nmix: {model: a}\n", ""),
    "an unknown type": (
        "stockpot: 1\npool: {a: a.safetensors}\nmix: {model: a}\nsave: {dtype: fp12}\n", "fp12"),
    "an unknown form": (
        "stockpot: 1\npool: {a: a.safetensors}\nmix: {model: a}\nsave: {form: onnx}\n", "onnx"),
    "an open bracket": ("stockpot: 1\npool: {a: a.safetensors}\nmix: {model: (a + a}\n", ""),
    "a division by zero": ("stockpot: 1\npool: {a: a.safetensors}\nmix: {model: a / 0}\n", ""),
    "a product of models": ("stockpot: 1\npool: {a: a.safetensors}\nmix: {model: a * a}\n", ""),
    "a number alone": ("stockpot: 1\npool: {a: a.safetensors}\nmix: {model: 3}\n", ""),
    "a steep power": ("stockpot: 1\npool: {a: a.safetensors}\nmix: {model: 1e999999*a}\n", ""),
    "a ratio out of range": (
        "stockpot: 1\npool: {a: a.safetensors, b: b.safetensors}\nmix: {model: 'dare(a, b, p=2)'}\n",
        ""),
    "brackets 5000 deep": (
        "stockpot: 1\npool: {a: a.safetensors}\nmix: {model: '" + "(" * 5000 + "a'}\n", ""),
    "a recipe of 3 MB": ("# " + "x" * 3_000_000, ""),
    "JSON of another program": ('{"some": "thing"}', ""),
    "half of a JSON": ('{"stockpot": 1, "pool": ', ""),
    "a wrong sha256": ("stockpot: 1\npool: {a: {file: a.safetensors, sha256: '12'}}\nmix: {model: a}\n",
                       "sha256"),
    "blocks of another length": (
        "stockpot: 1\npool: {a: a.safetensors, b: b.safetensors}\n"
        "mix: {unet: 'lerp(a, b, blocks(autombw, 1, 2))'}\n", ""),
}  # fmt: skip
"""By what is wrong: the text, and a part of the answer."""

PAYLOADS: dict[str, tuple[str | bytes, str]] = {
    "an empty payload": ("", ""),
    "a list": ("[1, 2]", ""),
    "no JSON": ("{prompt: cat}", ""),
    "not UTF-8": (b'{"prompt": "\xff"}', ""),
    "steps in words": ('{"prompt": "a", "steps": "many"}', "steps"),
    "no steps": ('{"prompt": "a", "steps": 0}', "steps"),
    "a million steps": ('{"prompt": "a", "steps": 1000000}', "steps"),
    "a negative size": ('{"prompt": "a", "width": -64, "height": 64}', "width"),
    "a size of 2^40": ('{"prompt": "a", "width": 1099511627776, "height": 64}', ""),
    "an odd size": ('{"prompt": "a", "width": 33, "height": 32}', ""),
    "an unknown sampler": ('{"prompt": "a", "sampler_name": "Magic"}', "Magic"),
    "NaN": ('{"prompt": "a", "cfg_scale": NaN}', ""),
    "a prompt that is a number": ('{"prompt": 7}', "prompt"),
    "a seed in words": ('{"prompt": "a", "seed": "lucky"}', "seed"),
    "nested 9999 deep": ('{"a":' * 9999, ""),
}
"""Requests of web UIs."""


def png(texts: dict[bytes, bytes], width: int = 2, height: int = 2, packed: bytes | None = None,
        spoil: bool = False) -> bytes:  # fmt: skip
    """A grey PNG file with texts, which may lie."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data) ^ int(spoil)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (width + 1) * height) if packed is None else packed
    told = b"".join(chunk(b"tEXt", key + b"\0" + text) for key, text in texts.items())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + told
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "an empty picture": (lambda: b"", ""),
    "a picture without a card": (lambda: png({}), ""),
    "a card of garbage": (lambda: png({b"parameters": b"\xff\xfe\x00garbage"}), ""),
    "a cut picture": (lambda: png({b"parameters": b"a cat\nSteps: 2, Sampler: Euler"})[:40], ""),
    "wrong check sums": (lambda: png({b"parameters": b"a"}, spoil=True), ""),
    "a picture of 60000 x 60000": (lambda: png({}, 60000, 60000, b""), ""),
    "text in place of a picture": (lambda: b"this is no picture", ""),
    "a card without steps": (lambda: png({b"parameters": b"a\nSteps: , Sampler: "}), ""),
}
