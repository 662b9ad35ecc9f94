"""The element types a safetensors file can hold.

Names are those of the safetensors format. The room of checkpoints moves bytes; what a type is in
torch is the engine's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from stockpot.errors import UnknownNameError

__all__ = ["DTYPES", "DType", "get_dtype"]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        name: As written in a safetensors header, such as ``F16``.
        itemsize: Bytes of one element.
        kind: ``float`` can be merged; ``int`` and ``bool`` can only be copied or regenerated.
        mantissa_bits: Stored fraction bits of a float; 0 for the other kinds.
        min_exponent: Exponent of the smallest normal float; 0 for the other kinds.
        max_value: Largest finite value of a float; 0 for the other kinds.
    """

    name: str
    itemsize: int
    kind: Literal["float", "int", "bool"]
    mantissa_bits: int = 0
    min_exponent: int = 0
    max_value: float = 0.0

    @property
    def is_float(self) -> bool:
        """Whether values of this type can be merged.

        Example:
            >>> DTYPES["BF16"].is_float, DTYPES["I64"].is_float
            (True, False)
        """
        return self.kind == "float"

    @property
    def spoken(self) -> str:
        """What recipes and people call a float type.

        Example:
            >>> DTYPES["BF16"].spoken
            'bf16'
        """
        return self.name.lower() if self.name[0] != "F" else f"fp{self.name[1:].lower()}"

    def __str__(self) -> str:
        return self.name


_ALL = (
    DType("F64", 8, "float", 52, -1022, 1.7976931348623157e308),
    DType("F32", 4, "float", 23, -126, 3.4028234663852886e38),
    DType("F16", 2, "float", 10, -14, 65504.0),
    DType("BF16", 2, "float", 7, -126, 3.3895313892515355e38),
    DType("F8_E4M3", 1, "float", 3, -6, 448.0),
    DType("F8_E5M2", 1, "float", 2, -14, 57344.0),
    DType("I64", 8, "int"),
    DType("I32", 4, "int"),
    DType("I16", 2, "int"),
    DType("I8", 1, "int"),
    DType("U64", 8, "int"),
    DType("U32", 4, "int"),
    DType("U16", 2, "int"),
    DType("U8", 1, "int"),
    DType("BOOL", 1, "bool"),
)

DTYPES: MappingProxyType[str, DType] = MappingProxyType({dtype.name: dtype for dtype in _ALL})
"""Every type that can be read and written, by its safetensors name."""

_SPOKEN = {
    "fp64": "F64",
    "fp32": "F32",
    "fp16": "F16",
    "bf16": "BF16",
    "fp8": "F8_E4M3",
    "fp8_e4m3": "F8_E4M3",
    "fp8_e5m2": "F8_E5M2",
}


def get_dtype(name: str) -> DType:
    """Find a type by its safetensors name or by what people call it.

    Args:
        name: ``F16``, ``fp16``, ``bf16``, ``fp8_e4m3`` …; case does not matter.

    Returns:
        The type.

    Raises:
        UnknownNameError: No type has this name.

    Example:
        >>> get_dtype("fp16").name, get_dtype("bf16").itemsize
        ('F16', 2)
    """
    found = DTYPES.get(_SPOKEN.get(name.lower(), name.upper()))
    if found is None:
        raise UnknownNameError("dtype", name, [*_SPOKEN, *DTYPES])
    return found
