"""Duplicates and damaged files, derived from members of the zoo.

What people's folders are full of, and what a merge must see through or refuse. Each variant is
made from a member's bytes and differs from it in exactly one way. Files are written by a few
lines of their own, since a library that refuses to write a broken file is no help here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import numpy as np

from stockpot.errors import UnknownNameError

__all__ = ["VARIANTS", "Variant", "derive"]

TEXT_PREFIX = "cond_stage_model.transformer."
UNET_PREFIX = "model.diffusion_model."
POSITION_IDS = TEXT_PREFIX + "text_model.embeddings.position_ids"
DROPPED_KEY = UNET_PREFIX + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
NAN_KEY = UNET_PREFIX + "output_blocks.5.0.in_layers.2.weight"


@dataclass(frozen=True)
class _Tensor:
    """A tensor as a safetensors file has it: dtype's name, shape, little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


_Tensors = dict[str, _Tensor]


@final
@dataclass(frozen=True)
class Variant:
    """One way in which a file can differ from a member.

    Attributes:
        name: Short name; the derived file is `<member>.<name>.safetensors`.
        about: One sentence for people.
        same_weights: Whether it holds the member's very values, in the member's dtypes, under
            the usual names.
        whole: Whether the file is a valid safetensors file that any reader opens.
        make: From the member's bytes to the variant's.
    """

    name: str
    about: str
    same_weights: bool
    whole: bool
    make: Callable[[bytes], bytes]


def derive(member_file: str | Path, name: str, folder: str | Path) -> Path:
    """Write one variant of a member.

    Args:
        member_file: A member's file; it is only read. Variants that touch position ids need one
            that has them, such as the base.
        name: One of `VARIANTS`.
        folder: Where the variant goes; an existing file of its name is replaced.

    Returns:
        The new file, `<member>.<name>.safetensors`.

    Raises:
        UnknownNameError: There is no such variant.
        KeyError: The member lacks the tensor that the variant changes.

    Examples:
        >>> import tempfile
        >>> from stockpot.zoo import member
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     copy = derive(member("base").path, "copy", folder)
        ...     copy.read_bytes() == member("base").path.read_bytes()
        True
    """
    if name not in VARIANTS:
        raise UnknownNameError("variant", name, VARIANTS)
    source = Path(member_file)
    out = Path(folder) / f"{source.stem}.{name}.safetensors"
    out.write_bytes(VARIANTS[name].make(source.read_bytes()))
    return out


def _parse(file: bytes) -> tuple[_Tensors, dict[str, str]]:
    """Read a whole, well-formed safetensors file: tensors and metadata."""
    (size,) = struct.unpack("<Q", file[:8])
    header: dict[str, Any] = json.loads(file[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for key, entry in header.items():
        start, stop = entry["data_offsets"]
        data = file[8 + size + start : 8 + size + stop]
        tensors[key] = _Tensor(entry["dtype"], tuple(entry["shape"]), data)
    return tensors, metadata


def _build(tensors: _Tensors, metadata: dict[str, str]) -> bytes:
    """Write tensors in the given order."""
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for key, tensor in tensors.items():
        stop = offset + len(tensor.data)
        header[key] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(t.data for t in tensors.values())


def _rewritten(change: Callable[[_Tensors], _Tensors]) -> Callable[[bytes], bytes]:
    """Make a variant from a change of the tensors."""

    def make(file: bytes) -> bytes:
        tensors, metadata = _parse(file)
        return _build(change(tensors), metadata)

    return make


def _resaved(file: bytes) -> bytes:
    tensors, _ = _parse(file)
    return _build(dict(reversed(tensors.items())), {"format": "pt", "note": "saved again"})


def _truncated(file: bytes) -> bytes:
    return file[: len(file) * 2 // 3]


def _without_key(tensors: _Tensors) -> _Tensors:
    del tensors[DROPPED_KEY]
    return tensors


def _with_nan(tensors: _Tensors) -> _Tensors:
    tensor = tensors[NAN_KEY]
    values = np.frombuffer(tensor.data, dtype="<f2").copy()
    values[len(values) // 2] = np.nan
    return tensors | {NAN_KEY: _Tensor(tensor.dtype, tensor.shape, values.tobytes())}


def _fp32(tensors: _Tensors) -> _Tensors:
    return {
        key: _Tensor("F32", t.shape, np.frombuffer(t.data, dtype="<f2").astype("<f4").tobytes())
        if t.dtype == "F16"
        else t
        for key, t in tensors.items()
    }


def _bf16(tensors: _Tensors) -> _Tensors:
    return {
        key: _Tensor("BF16", t.shape, _to_bf16(t.data)) if t.dtype == "F16" else t
        for key, t in tensors.items()
    }


def _to_bf16(fp16: bytes) -> bytes:
    """Round finite fp16 values to bf16, ties to even. The detour by fp32 is exact."""
    bits = np.frombuffer(fp16, dtype="<f2").astype("<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return bytes(rounded.astype("<u2").tobytes())


def _float_position_ids(tensors: _Tensors) -> _Tensors:
    # What a weighted sum of 0.95 and 0.05 leaves in fp32: some ids fall just short of a whole
    # number, and a cast back to integers then takes the one below.
    ids = np.frombuffer(tensors[POSITION_IDS].data, dtype="<i8").astype("<f4")
    mixed = ids * np.float32(0.95) + ids * np.float32(0.05)
    shape = tensors[POSITION_IDS].shape
    return tensors | {POSITION_IDS: _Tensor("F32", shape, mixed.tobytes())}


def _nai_names(tensors: _Tensors) -> _Tensors:
    usual = TEXT_PREFIX + "text_model."
    return {
        TEXT_PREFIX + key.removeprefix(usual) if key.startswith(usual) else key: tensor
        for key, tensor in tensors.items()
    }


def _unet_only(tensors: _Tensors) -> _Tensors:
    return {key: tensor for key, tensor in tensors.items() if key.startswith(UNET_PREFIX)}


VARIANTS: MappingProxyType[str, Variant] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            Variant("copy", "The same bytes under another name.", True, True, lambda file: file),
            Variant(
                "resaved", "The same tensors in another order, with other metadata.", True, True,
                _resaved,
            ),
            Variant("truncated", "The last third is missing.", False, False, _truncated),
            Variant(
                "missing-key", f"`{DROPPED_KEY}` is missing.", False, True,
                _rewritten(_without_key),
            ),
            Variant("nan", f"One value of `{NAN_KEY}` is NaN.", False, True, _rewritten(_with_nan)),
            Variant("fp32", "All fp16 tensors as fp32; exact.", False, True, _rewritten(_fp32)),
            Variant("bf16", "All fp16 tensors rounded to bf16.", False, True, _rewritten(_bf16)),
            Variant(
                "float-position-ids", "Position ids averaged as fp32 numbers by a careless merge.",
                False, True, _rewritten(_float_position_ids),
            ),
            Variant(
                "nai-names", "The text encoder's keys lack `text_model.`.", False, True,
                _rewritten(_nai_names),
            ),
            Variant("unet-only", "Only the UNet.", False, True, _rewritten(_unet_only)),
        )
    }
)  # fmt: skip
"""Every variant by its name."""
