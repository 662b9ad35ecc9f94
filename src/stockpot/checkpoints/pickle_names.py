"""The names that a torch file may mention, and what each stands for.

A pickle names functions and classes, and whoever loads it calls them. Stockpot calls none: a name
here stands for a meaning that `stockpot.checkpoints.pickles` knows how to write down as data. Any
name that the table lacks ends the reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from stockpot.checkpoints.dtypes import DTYPES, DType

__all__ = ["NAMES", "Meaning", "Name", "Role", "meaning_of"]


class Role(Enum):
    """What a name is good for."""

    DICT = auto()
    """A dictionary with an order of its own."""
    STORAGE = auto()
    """The type of a storage."""
    DTYPE = auto()
    """The element type of a tensor over an untyped storage."""
    TENSOR_V1 = auto()
    """Makes a tensor of storage, offset, shape, strides."""
    TENSOR_V2 = auto()
    """The same, with two facts about gradients."""
    TENSOR_V3 = auto()
    """The same over an untyped storage, with the element type."""
    PARAMETER = auto()
    """Wraps a tensor that is trained."""
    SUBTYPE = auto()
    """Wraps a tensor with attributes."""
    INERT = auto()
    """Training leftovers: kept as a placeholder, never imported, never called."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name stands for.

    Attributes:
        role: What it is good for.
        dtype: Of a storage or an element type; None for types that no checkpoint here can hold.
        itemsize: Bytes of one element of a storage, whether or not its type can be held; 1 for an
            untyped one.
        untyped: Whether it is a storage that says nothing of its elements.
    """

    role: Role
    dtype: DType | None = None
    itemsize: int = 1
    untyped: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A name that stood in a pickle.

    Attributes:
        module: Its module.
        name: Its name there.
        meaning: What the table says of it.
    """

    module: str
    name: str
    meaning: Meaning

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


_STORAGES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
    "ComplexFloatStorage": (None, 8),
    "ComplexDoubleStorage": (None, 16),
}

_DTYPES = {
    "float64": "F64",
    "double": "F64",
    "float32": "F32",
    "float": "F32",
    "float16": "F16",
    "half": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "long": "I64",
    "int32": "I32",
    "int": "I32",
    "int16": "I16",
    "short": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": None,
    "complex128": None,
    "float8_e4m3fnuz": None,
    "float8_e5m2fnuz": None,
    "float8_e8m0fnu": None,
}

_INERT = {
    "_codecs": ("encode",),
    "argparse": ("Namespace",),
    "builtins": (
        "bool bytearray bytes complex dict float frozenset int list object range set slice str "
        "tuple"
    ).split(),
    "collections": ("Counter", "defaultdict", "deque"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "numpy": (
        "bool_ dtype float16 float32 float64 int8 int16 int32 int64 ndarray uint8 uint16 uint32 "
        "uint64"
    ).split(),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "torch": ("Size", "Tensor", "device"),
    "torch.nn.modules.container": ("ParameterDict", "ParameterList"),
    "torch.nn.parameter": ("Buffer", "Parameter"),
    "torch.serialization": ("_get_layout",),
    "typing": ("Any",),
}
# Python 2 and numpy 2 have other names for the same modules.
_ALSO = {"builtins": "__builtin__", "numpy.core.multiarray": "numpy._core.multiarray"}

_INERT_FAMILIES = (
    "lightning",
    "lightning_fabric",
    "omegaconf",
    "pytorch_lightning",
    "torch.optim",
    "torchmetrics",
)
"""Packages whose classes trainers leave in checkpoints, as `callbacks` and `hyper_parameters`."""

_DICT: Final = Meaning(Role.DICT)
_LEFTOVER: Final = Meaning(Role.INERT)


def _table() -> dict[tuple[str, str], Meaning]:
    table = {
        ("collections", "OrderedDict"): _DICT,
        ("torch._utils", "_rebuild_tensor"): Meaning(Role.TENSOR_V1),
        ("torch._utils", "_rebuild_tensor_v2"): Meaning(Role.TENSOR_V2),
        ("torch._utils", "_rebuild_tensor_v3"): Meaning(Role.TENSOR_V3),
        ("torch._utils", "_rebuild_parameter"): Meaning(Role.PARAMETER),
        ("torch._utils", "_rebuild_parameter_with_state"): Meaning(Role.PARAMETER),
        ("torch._tensor", "_rebuild_from_type_v2"): Meaning(Role.SUBTYPE),
        ("torch.storage", "UntypedStorage"): Meaning(Role.STORAGE, untyped=True),
    }
    for name, (dtype, itemsize) in _STORAGES.items():
        found = DTYPES[dtype] if dtype else None
        table["torch", name] = Meaning(Role.STORAGE, found, itemsize)
    for name, dtype in _DTYPES.items():
        table["torch", name] = Meaning(Role.DTYPE, DTYPES[dtype] if dtype else None)
    for module, names in _INERT.items():
        for name in names:
            table[module, name] = _LEFTOVER
            table[_ALSO.get(module, module), name] = _LEFTOVER
    return table


NAMES: Mapping[tuple[str, str], Meaning] = MappingProxyType(_table())
"""Every name outside of trainers' packages that a torch file may mention, by module and name."""


def meaning_of(module: str, name: str) -> Meaning | None:
    """Look a name up; nothing is imported.

    Args:
        module: As the pickle says.
        name: As the pickle says. One with a dot is never allowed: it would reach into an object.

    Returns:
        What it stands for; None where a checkpoint has no business with it.

    Example:
        >>> meaning_of("torch", "HalfStorage").dtype.name
        'F16'
        >>> meaning_of("pytorch_lightning.callbacks", "ModelCheckpoint").role.name
        'INERT'
        >>> meaning_of("os", "system") is None
        True
    """
    found = NAMES.get((module, name))
    if found is None and name.isidentifier() and name[0].isupper():
        # Classes only: packages also have functions that load files and run commands.
        if any(module == family or module.startswith(f"{family}.") for family in _INERT_FAMILIES):
            return _LEFTOVER
    return found
