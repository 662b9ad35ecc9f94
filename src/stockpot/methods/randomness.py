"""Random numbers that depend on nothing but what they are for: a function of names and indices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from blake3 import blake3

__all__ = ["RANDOM_BITS", "random_at", "random_bits", "stream_of"]

Bits = npt.NDArray[np.uint64]

RANDOM_BITS = 53
"""Length of each number: as many as a double holds exactly."""


def random_bits(stream: tuple[int, int], start: int, count: int) -> Bits:
    """Random patterns of 53 bits for some elements: a hash of their indices (SplitMix64, twice).

    Args:
        stream: Two 64-bit numbers that name the sequence.
        start: Index of the first element.
        count: How many.

    Returns:
        Shape ``[count]``, each below 2**53.

    Example:
        >>> both = random_bits((1, 2), 0, 8)
        >>> bool((both[5:] == random_bits((1, 2), 5, 3)).all())
        True
    """
    return random_at(stream, np.arange(start, start + count))


def random_at(stream: tuple[int, int], index: npt.NDArray[np.int64]) -> Bits:
    """Random patterns of any elements; see `random_bits`.

    Args:
        stream: Two 64-bit numbers that name the sequence.
        index: Of the elements, shape ``[n]``.
    """
    x = index.astype(np.uint64)
    x *= np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(stream[0])
    _mix(x)
    x ^= np.uint64(stream[1])
    _mix(x)
    x >>= np.uint64(64 - RANDOM_BITS)
    return x


def _mix(x: Bits) -> None:
    scratch = np.empty_like(x)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 0)):
        np.right_shift(x, np.uint64(shift), out=scratch)
        x ^= scratch
        if factor:
            x *= np.uint64(factor)


def stream_of(seed: int, identity: bytes, key: str, twin: int) -> tuple[int, int]:
    """Name the sequence of one input.

    Args:
        seed: The user's.
        identity: What the input is.
        key: Canonical name of the tensor.
        twin: How many equal inputs came before.
    """
    hasher = blake3(f"{seed}\0{twin}\0{key}\0".encode())
    hasher.update(identity)
    digest = hasher.digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
