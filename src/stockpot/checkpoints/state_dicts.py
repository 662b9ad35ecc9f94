"""The weights inside what a torch file holds, and what trainers left around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stockpot.checkpoints.header import checked_key
from stockpot.checkpoints.pickle_records import Opaque, Pairs, TensorRef
from stockpot.errors import HeaderError

__all__ = ["Unwrapped", "unwrap"]

_WRAPPERS = ("state_dict", "model_state_dict")
"""Keys under which trainers put the weights, in the order in which they are looked for."""

_VAGUE_WRAPPERS = ("model",)
"""Keys that mean the same where nothing beside them is a tensor."""

_LEFTOVERS = {
    "callbacks", "ema", "hparams", "hyper_parameters", "loops", "lr_schedulers",
    "native_amp_scaling_state", "optimizer", "optimizer_states", "scheduler",
}  # fmt: skip
"""Keys under which trainers keep tensors that are no weights."""

_MOST_DEPTH = 8
_LONGEST_VALUE = 10_000
_MAX_TENSORS = 50_000


@dataclass(frozen=True)
class Unwrapped:
    """What was found.

    Attributes:
        tensors: The weights by key, in the order of the file.
        metadata: Single numbers and texts that stood beside the weights, as text.
        notes: Sentences on where the weights stood and what was left out.
    """

    tensors: dict[str, TensorRef]
    metadata: dict[str, str]
    notes: tuple[str, ...]


def unwrap(root: Any, name: str) -> Unwrapped:
    """Find the weights in the object that a torch file holds.

    A trainer's dictionary has them under ``state_dict`` or ``model_state_dict``, or, where it has
    no tensors of its own, under ``model``. Any other is taken as it is: keys of nested dictionaries
    are joined with dots, those of optimisers and the like left out.

    Args:
        root: From `read_pickle`.
        name: The file's name, for messages.

    Returns:
        Weights, metadata, and how they were found.

    Raises:
        HeaderError: There are no tensors, or a key is none or stands twice.
    """
    notes: list[str] = []
    metadata: dict[str, str] = {}
    path: list[str] = []
    while len(path) < _MOST_DEPTH:
        inner = _wrapped(root)
        if inner is None:
            break
        key, value = inner
        _check_unique(_items(root) or [], name)
        _note_rest(root, key, metadata, notes)
        path.append(key)
        root = value
    if path:
        notes.append(f"the weights stand under {'.'.join(path)!r}, as trainers save them")
    tensors: dict[str, TensorRef] = {}
    left_out = 0
    for key, value, depth in _flat(root, name):
        if isinstance(value, TensorRef):
            checked_key(key, name)
            if key in tensors:
                raise HeaderError(f"{name}: {key!r} stands twice in the file; it is damaged")
            if len(tensors) == _MAX_TENSORS:
                raise HeaderError(f"{name}: a file may have {_MAX_TENSORS} tensors")
            tensors[key] = value
        elif depth == 0 and (text := _plain(value)) is not None:
            metadata.setdefault(key, text)
        else:
            left_out += 1
    if not tensors:
        raise HeaderError(
            f"{name}: the file must hold a dictionary of tensors, but has none that are weights; "
            "it may be another kind of file, such as an optimiser's state"
        )
    if left_out:
        notes.append(f"{left_out} values beside the tensors are no tensors and were left out")
    return Unwrapped(tensors, metadata, tuple(notes))


def _items(value: Any) -> list[tuple[Any, Any]] | None:
    """The items of anything that is a dictionary of tensors to its users."""
    if isinstance(value, Pairs):
        return value.items
    if isinstance(value, Opaque) and value.name.endswith(".ParameterDict"):
        # Textual inversion saved torch's own container, whose tensors are an attribute.
        state = value.state
        for key, inner in state.items if isinstance(state, Pairs) else ():
            if key == "_parameters" and isinstance(inner, Pairs):
                return inner.items
    return None


def _has_tensors(value: Any) -> bool:
    return any(isinstance(inner, TensorRef) for _, inner in _items(value) or ())


def _wrapped(root: Any) -> tuple[str, Any] | None:
    for wrapper in (*_WRAPPERS, *(() if _has_tensors(root) else _VAGUE_WRAPPERS)):
        for key, value in _items(root) or ():
            if type(key) is str and key == wrapper and _items(value):
                return key, value
    return None


def _note_rest(root: Any, taken: str, metadata: dict[str, str], notes: list[str]) -> None:
    names = []
    for key, value in _items(root) or ():
        if type(key) is not str or key == taken:
            continue
        text = _plain(value)
        if text is not None:
            metadata.setdefault(key, text)
        elif value is not None:
            names.append(key[:40])
    if names:
        shown = ", ".join(f"{key!a}" for key in names[:8]) + (", …" if len(names) > 8 else "")
        notes.append(f"left out, since they are no weights: {shown}")


def _plain(value: Any) -> str | None:
    if type(value) in (bool, int, float) or (type(value) is str and len(value) <= _LONGEST_VALUE):
        return str(value)
    return None


def _check_unique(items: list[tuple[Any, Any]], name: str) -> None:
    """Refuse a key that comes twice: other readers would take the last, or the first."""
    seen: set[str] = set()
    for key, _ in items:
        if type(key) is str:
            if key in seen:
                raise HeaderError(f"{name}: {key[:80]!r} stands twice in the file; it is damaged")
            seen.add(key)


def _flat(root: Any, name: str) -> Iterator[tuple[str, Any, int]]:
    """Every value with its joined key and depth; a dictionary inside itself is met once."""
    # A dictionary that is reached twice is read once: files cannot multiply themselves.
    seen: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", root, -1)]
    while waiting:
        key, value, depth = waiting.pop()
        items = _items(value)
        if items is None:
            yield key, value, depth
            continue
        if id(value) in seen or depth >= _MOST_DEPTH:
            continue
        seen.add(id(value))
        _check_unique(items, name)
        for inner, held in reversed(items):
            if type(inner) not in (str, int):
                if isinstance(held, TensorRef):
                    raise HeaderError(f"{held.where}: a tensor's key must be text")
                continue
            if depth == -1 and inner in _LEFTOVERS and not isinstance(held, TensorRef):
                continue
            waiting.append((f"{key}.{inner}" if key else str(inner), held, depth + 1))
