"""What the values of tensors tell: NaN, infinities, fp16 overflow, zeros, wasted width.

Everything is decided on bit patterns, a few MB at a time: the largest magnitude's pattern already
says whether a piece holds NaN, infinities or only zeros, and only pieces that do are looked at
again to count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import DType, TensorInfo

__all__ = ["Survey", "TensorValues", "as_half"]


@dataclass(slots=True)
class TensorValues:
    """What was seen in one tensor.

    Attributes:
        n_nan: Elements that are NaN.
        n_inf: Infinite elements.
        n_over: Finite elements whose magnitude is above 65504, the largest of fp16; always 0 in
            types that cannot hold such.
        all_zero: Whether every element is zero; False for an empty tensor.
        fits_half: Whether fp16 holds every element exactly; NaN and infinities do fit. False for
            types that are not wider than fp16.
    """

    n_nan: int = 0
    n_inf: int = 0
    n_over: int = 0
    all_zero: bool = False
    fits_half: bool = False


@dataclass(frozen=True, slots=True)
class _Patterns:
    """A float type as bit patterns of magnitudes."""

    raw: type[np.unsignedinteger]
    infinity: int  # the pattern of infinity, or the last one below NaN where there is none
    over: int | None  # the largest magnitude that fp16 holds
    wide: type[np.floating] | None = None
    has_infinity: bool = True


_PATTERNS = {
    "F64": _Patterns(np.uint64, 0x7FF0000000000000, 0x40EFFC0000000000, np.float64),
    "F32": _Patterns(np.uint32, 0x7F800000, 0x477FE000, np.float32),
    "BF16": _Patterns(np.uint16, 0x7F80, 0x477F),
    "F16": _Patterns(np.uint16, 0x7C00, None),
    "F8_E5M2": _Patterns(np.uint8, 0x7C, None),
    "F8_E4M3": _Patterns(np.uint8, 0x7E, None, has_infinity=False),
}
_PIECE = 1 << 16  # elements looked at together: what is in the cache is looked at twice for free
_PROBE = 1 << 10


@final
class Survey:
    """Watches pieces of tensors go by; give `watch` to `stockpot.checkpoints.hash_tensors`.

    Attributes:
        found: What was seen so far, by key; float tensors only.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> survey = Survey()
        >>> row = np.array([1, np.nan, 70000], np.float32)
        >>> survey.watch(TensorInfo("a", DTYPES["F32"], (3,)), memoryview(row).cast("B"))
        >>> seen = survey.found["a"]
        >>> seen.n_nan, seen.n_over, seen.fits_half
        (1, 1, False)
    """

    def __init__(self) -> None:
        self.found: dict[str, TensorValues] = {}
        self._scratch: dict[type, npt.NDArray[np.unsignedinteger]] = {}

    def watch(self, info: TensorInfo, piece: memoryview) -> None:
        """Look at the next piece of a tensor.

        Args:
            info: The tensor's facts.
            piece: Bytes of whole elements; not kept.
        """
        patterns = _PATTERNS.get(info.dtype.name)
        if patterns is None or not piece.nbytes:
            return
        seen = self.found.get(info.key)
        if seen is None:
            seen = TensorValues(all_zero=True, fits_half=patterns.wide is not None)
            self.found[info.key] = seen
        values = np.frombuffer(piece, patterns.raw)
        for start in range(0, len(values), _PIECE):
            self._look(values[start : start + _PIECE], patterns, seen)

    def _look(
        self, values: npt.NDArray[np.unsignedinteger], patterns: _Patterns, seen: TensorValues
    ) -> None:
        raw = patterns.raw
        scratch = self._scratch.get(raw)
        if scratch is None:
            scratch = self._scratch[raw] = np.empty(_PIECE, raw)
        sizes = scratch[: len(values)]
        # Without its sign bit a pattern grows with the magnitude; NaN are above infinity.
        np.bitwise_and(values, raw(np.iinfo(raw).max >> 1), out=sizes)
        top = int(sizes.max())
        if top:
            seen.all_zero = False
        if top > patterns.infinity:
            seen.n_nan += int(np.count_nonzero(sizes > patterns.infinity))
        if top >= patterns.infinity and patterns.has_infinity:
            seen.n_inf += int(np.count_nonzero(sizes == patterns.infinity))
        if patterns.over is not None and top > patterns.over:
            over = (sizes > patterns.over) & (sizes < patterns.infinity)
            seen.n_over += int(np.count_nonzero(over))
        if seen.fits_half and patterns.wide is not None:
            floats = values.view(patterns.wide)
            # A true fp32 model shows itself in the first elements.
            seen.fits_half = _fits_half(floats[:_PROBE]) and _fits_half(floats)


def _fits_half(values: npt.NDArray[np.floating]) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        back = values.astype(np.float16).astype(values.dtype)
    same = back == values
    return bool(same.all()) or bool((same | np.isnan(values)).all())


def as_half(piece: memoryview, dtype: DType) -> npt.NDArray[np.uint16]:
    """Round elements to fp16, as bit patterns.

    Args:
        piece: Bytes of the elements, shape ``[n]``.
        dtype: Their type.

    Returns:
        Patterns, shape ``[n]``; what is too large becomes infinite.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> row = np.array([1, -2], np.float32)
        >>> [hex(bits) for bits in as_half(memoryview(row).cast("B"), DTYPES["F32"])]
        ['0x3c00', '0xc000']
    """
    match dtype.name:
        case "F16":
            return np.frombuffer(piece, np.uint16)
        case "BF16":
            wide = np.frombuffer(piece, np.uint16).astype(np.uint32) << 16
            values: npt.NDArray[np.floating] = wide.view(np.float32)
        case "F32" | "F64":
            values = np.frombuffer(piece, np.float32 if dtype.name == "F32" else np.float64)
        case _:
            raise ValueError(f"the numbers of a {dtype} tensor cannot be read as fp16")
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float16).view(np.uint16)
