"""What the calls in a pickle of tensors would have made, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from stockpot.checkpoints.pickle_names import Name, Role
from stockpot.checkpoints.pickle_records import Opaque, Pairs, PickleStream, StorageRef, TensorRef

__all__ = ["result_of", "storage_of"]

MAX_DIMENSIONS = 32
# The last of the larger number is the metadata; the first version had none.
_N_ARGUMENTS = {Role.TENSOR_V1: (4, 4), Role.TENSOR_V2: (6, 7), Role.TENSOR_V3: (7, 8)}

_Arguments = tuple[Any, ...]


def result_of(stream: PickleStream, what: Name, arguments: _Arguments) -> Any:
    """Write down what a call would have made.

    Args:
        stream: For messages.
        what: What is called.
        arguments: With what; untrusted.

    Returns:
        A record.

    Raises:
        UnsafeFileError: It is nothing to call.
        HeaderError: The arguments are not those of this call.
    """
    record = _RECORDS.get(what.meaning.role)
    if record is None:
        stream.unsafe(f"it calls {what}, which is nothing to call")
    return record(stream, what, arguments)


def storage_of(stream: PickleStream, value: Any) -> StorageRef | Name:
    """Write down which storage a reference to the outside means.

    Args:
        stream: For messages.
        value: What stands for the storage; untrusted.

    Returns:
        The storage; for the old format's note of a class's source code, the class.

    Raises:
        UnsafeFileError: It refers to anything else.
        HeaderError: Its type, name, length or view is none.
    """
    tag = value[0] if type(value) is tuple and value else None
    if type(tag) is str and tag == "module" and len(value) == 4 and type(value[1]) is Name:
        return value[1]
    if type(tag) is not str or tag != "storage" or len(value) not in (5, 6):
        stream.unsafe("it refers to something outside that is no storage")
    _, kind, key, _, n_elements, *view = value
    if type(kind) is not Name or kind.meaning.role is not Role.STORAGE:
        stream.damaged("a storage has no type")
    if type(key) is not str or not _is_length(n_elements):
        stream.damaged("a storage has no name or no length")
    begin, n_viewed = 0, n_elements
    if view and view[0] is not None:
        if type(view[0]) is not tuple or len(view[0]) != 3:
            stream.damaged("a view on a storage is none")
        _, begin, n_viewed = view[0]
        if not _is_length(begin) or not _is_length(n_viewed) or begin + n_viewed > n_elements:
            stream.damaged("a view leaves its storage")
    return StorageRef(kind.meaning, key, n_viewed, begin, n_elements)


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _ordered(stream: PickleStream, what: Name, arguments: _Arguments) -> Pairs:
    if not arguments:
        return Pairs()
    pairs = arguments[0]
    # Python 2 gave the pairs as a list of lists of two.
    if len(arguments) != 1 or type(pairs) is not list:
        stream.damaged("an ordered dictionary is made of no pairs")
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        stream.damaged("an ordered dictionary is made of no pairs")
    return Pairs([(pair[0], pair[1]) for pair in pairs])


def _leftover(stream: PickleStream, what: Name, arguments: _Arguments) -> Opaque:
    return Opaque(str(what))


def _tensor(stream: PickleStream, what: Name, arguments: _Arguments) -> TensorRef:
    role = what.meaning.role
    fewest, most = _N_ARGUMENTS[role]
    if not fewest <= len(arguments) <= most:
        stream.damaged(f"{what} has {len(arguments)} arguments")
    storage, offset, shape, strides = arguments[:4]
    if type(storage) is not StorageRef:
        stream.damaged("a tensor has no storage")
    dtype = storage.meaning.dtype
    if role is Role.TENSOR_V3:
        kind = arguments[6]
        if type(kind) is not Name or kind.meaning.role is not Role.DTYPE:
            stream.damaged("a tensor's element type is none")
        dtype = kind.meaning.dtype
    elif storage.meaning.untyped:
        stream.damaged("a tensor over an untyped storage has no element type")
    if len(arguments) == most > 4 and not _is_empty(arguments[-1]):
        # torch can put a negation off; the stored numbers are not those of the tensor.
        stream.damaged("a tensor is stored negated or conjugated, which is not supported")
    shape, strides = _lengths(stream, shape), _lengths(stream, strides)
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        stream.damaged("a tensor's shape and strides do not go together")
    if not _is_length(offset):
        stream.damaged("a tensor begins at no whole number of 0 or more")
    return TensorRef(storage, dtype, offset, shape, strides, stream.where(stream.at))


def _is_empty(metadata: Any) -> bool:
    return metadata is None or (type(metadata) is Pairs and not metadata.items)


def _lengths(stream: PickleStream, value: Any) -> tuple[int, ...]:
    if type(value) is not tuple or not all(map(_is_length, value)):
        stream.damaged("shapes and strides must be whole numbers of 0 or more, below 2^63")
    return value


def _parameter(stream: PickleStream, what: Name, arguments: _Arguments) -> TensorRef:
    if not 3 <= len(arguments) <= 4 or type(arguments[0]) is not TensorRef:
        stream.damaged("a parameter wraps no tensor")
    return arguments[0]


def _subtype(stream: PickleStream, what: Name, arguments: _Arguments) -> TensorRef:
    if len(arguments) != 4 or type(arguments[2]) is not tuple:
        stream.damaged(f"{what} has other arguments than a tensor's")
    inner, kind, values, _ = arguments
    made = _REBUILDS.get(inner.meaning.role) if type(inner) is Name else None
    if made is None or type(kind) is not Name:
        stream.unsafe("it makes a tensor with something that makes none")
    return made(stream, inner, values)


_REBUILDS: Mapping[Role, Callable[[PickleStream, Name, _Arguments], TensorRef]] = MappingProxyType(
    {
        Role.TENSOR_V1: _tensor,
        Role.TENSOR_V2: _tensor,
        Role.TENSOR_V3: _tensor,
        Role.PARAMETER: _parameter,
    }
)

_RECORDS: Mapping[Role, Callable[[PickleStream, Name, _Arguments], Any]] = MappingProxyType(
    {
        **_REBUILDS,
        Role.DICT: _ordered,
        Role.INERT: _leftover,
        Role.SUBTYPE: _subtype,
    }
)
"""The only names that a pickle may call, and what is written down instead."""
