"""Ranges of tensors whose elements do not stand one after the other, as transposed ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["is_dense", "read_strided", "span_of"]

_WINDOW_BYTES = 1 << 20
# To fetch an element by itself costs about as much as to read this many bytes.
_FETCH_BYTES = 1 << 12

_Shape = Sequence[int]


def span_of(shape: _Shape, strides: _Shape) -> int:
    """How many elements of the storage lie between the first and the last one of a tensor.

    Args:
        shape: Lengths of the axes.
        strides: Steps along them, none negative.

    Returns:
        Their number, both ends included; 0 where the tensor has no elements.

    Example:
        >>> span_of((2, 3), (3, 1)), span_of((3, 2), (1, 3)), span_of((0, 3), (3, 1))
        (6, 6, 0)
    """
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))


def is_dense(shape: _Shape, strides: _Shape) -> bool:
    """Whether a tensor's elements stand one after the other, last axis first.

    Args:
        shape: Lengths of the axes.
        strides: Steps along them; those of axes of length 1 do not matter.

    Returns:
        True also where there is at most one element.

    Example:
        >>> is_dense((2, 1, 3), (3, 77, 1)), is_dense((3, 2), (1, 3))
        (True, False)
    """
    if 0 in shape:
        return True
    expected = 1
    for n, step in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and step != expected:
            return False
        expected *= n
    return True


def read_strided(
    read: Callable[[int, memoryview], None],
    shape: _Shape,
    strides: _Shape,
    itemsize: int,
    start: int,
    stop: int,
    out: memoryview,
) -> None:
    """Read a range of a tensor's elements in row-major order, wherever they are.

    Pieces of the storage of at most 1 MiB are read and picked from; where elements are so far
    apart that most of a piece would be in vain, smaller ones, down to single elements.

    Args:
        read: Fills a buffer from a place in the storage, counted in bytes from the tensor's first
            element.
        shape: Lengths of the axes.
        strides: Steps along them in elements, none negative.
        itemsize: Bytes of one element.
        start: First element, counted in the flattened tensor.
        stop: One past the last.
        out: Writable bytes for all of them.

    Example:
        >>> storage, out = bytes(range(6)), bytearray(4)
        >>> def read(place, piece):
        ...     piece[:] = storage[place : place + len(piece)]
        >>> read_strided(read, (3, 2), (1, 3), 1, 1, 5, memoryview(out))
        >>> list(out)
        [3, 1, 4, 2]
    """
    import numpy as np

    target = np.frombuffer(out, f"u{itemsize}")
    done = 0
    for place, box, steps in _boxes(0, tuple(shape), tuple(strides), start, stop):
        n_elements = math.prod(box)
        _gather(read, place, steps, target[done : done + n_elements].reshape(box))
        done += n_elements


def _boxes(
    place: int, shape: _Shape, strides: _Shape, start: int, stop: int
) -> Iterator[tuple[int, _Shape, _Shape]]:
    """Cut a range of a flattened tensor into whole boxes: a ragged head, whole rows, a tail."""
    if start >= stop:
        return
    if not shape:
        yield place, (), ()
        return
    inner = math.prod(shape[1:])
    first, last = start // inner, stop // inner
    head, tail = start % inner, stop % inner
    if first == last:
        yield from _boxes(place + first * strides[0], shape[1:], strides[1:], head, tail)
        return
    if head:
        yield from _boxes(place + first * strides[0], shape[1:], strides[1:], head, inner)
        first += 1
    if first < last:
        yield place + first * strides[0], (last - first, *shape[1:]), strides
    yield from _boxes(place + last * strides[0], shape[1:], strides[1:], 0, tail)


def _gather(
    read: Callable[[int, memoryview], None], place: int, strides: _Shape, target: NDArray[Any]
) -> None:
    import numpy as np

    size = target.dtype.itemsize
    n_bytes = span_of(target.shape, strides) * size
    if n_bytes <= min(_WINDOW_BYTES, target.size * _FETCH_BYTES):
        piece = bytearray(n_bytes)
        read(place * size, memoryview(piece))
        steps = tuple(step * size for step in strides)
        # The constructor checks that the view stays inside of the piece.
        target[...] = np.ndarray(target.shape, target.dtype, piece, 0, steps)
        return
    axis = max(range(target.ndim), key=lambda axis: (target.shape[axis] - 1) * strides[axis])
    half = target.shape[axis] // 2
    before: tuple[Any, ...] = (*[slice(None)] * axis, slice(None, half))
    after: tuple[Any, ...] = (*[slice(None)] * axis, slice(half, None))
    _gather(read, place, strides, target[before])
    _gather(read, place + half * strides[axis], strides, target[after])
