"""What the values of tensors tell: NaN, infinities, fp16 overflow, zeros, wasted width.

Everything is decided on bit patterns, a few MB at a time: a bound of the largest magnitude's
pattern mostly says that a piece holds no NaN, infinities or overflow, and only the others are
looked at again to count.
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
    has_infinity: bool = True
    wide: _Wide | None = None


@dataclass(frozen=True, slots=True)
class _Wide:
    """What it takes for a wider type's element to be one of fp16's."""

    kind: type[np.floating]
    beyond: int  # the fraction's bits that fp16 has not
    anchor: np.floating  # a number whose last place is fp16's finest step


_SINGLE = _Wide(np.float32, (1 << 13) - 1, np.float32(0.75))
_DOUBLE = _Wide(np.float64, (1 << 42) - 1, np.float64(1.5 * 2**28))
_LARGEST = 65504
_PATTERNS = {
    "F64": _Patterns(np.uint64, 0x7FF0000000000000, 0x40EFFC0000000000, wide=_DOUBLE),
    "F32": _Patterns(np.uint32, 0x7F800000, 0x477FE000, wide=_SINGLE),
    "BF16": _Patterns(np.uint16, 0x7F80, 0x477F),
    "F16": _Patterns(np.uint16, 0x7C00, None),
    "F8_E5M2": _Patterns(np.uint8, 0x7C, None),
    "F8_E4M3": _Patterns(np.uint8, 0x7E, None, has_infinity=False),
}
_PIECE = 1 << 16  # elements looked at together: what is in the cache is looked at twice for free


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
        self._scratch: dict[type, npt.NDArray[np.floating]] = {}

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
        # Without its sign bit a pattern grows with the magnitude, and NaN are above infinity. All
        # bits together are no smaller than the largest pattern: mostly one pass says it all.
        bits = int(np.bitwise_or.reduce(values))
        bound = bits & (np.iinfo(patterns.raw).max >> 1)
        if bound:
            seen.all_zero = False
        limit = patterns.infinity if patterns.over is None else patterns.over + 1
        if bound >= limit:
            self._count(values, patterns, seen)
        if seen.fits_half and patterns.wide is not None:
            seen.fits_half = self._fits_half(values, bits, bound, patterns, patterns.wide)

    def _count(
        self, values: npt.NDArray[np.unsignedinteger], patterns: _Patterns, seen: TensorValues
    ) -> None:
        raw = patterns.raw
        sizes = values & raw(np.iinfo(raw).max >> 1)
        top = int(sizes.max())
        if top > patterns.infinity:
            seen.n_nan += int(np.count_nonzero(sizes > patterns.infinity))
        if top >= patterns.infinity and patterns.has_infinity:
            seen.n_inf += int(np.count_nonzero(sizes == patterns.infinity))
        if patterns.over is not None and top > patterns.over:
            over = (sizes > patterns.over) & (sizes < patterns.infinity)
            seen.n_over += int(np.count_nonzero(over))

    def _fits_half(
        self,
        values: npt.NDArray[np.unsignedinteger],
        bits: int,
        bound: int,
        patterns: _Patterns,
        wide: _Wide,
    ) -> bool:
        """Whether every element is one of fp16's: few enough digits, and not too fine a step."""
        if bound >= patterns.infinity:
            # NaN may have any fraction, and infinities fit: look at the others.
            values = values[(values << 1) >> 1 < patterns.infinity]
            bits = int(np.bitwise_or.reduce(values))
        # A true fp32 model shows itself here, in the first piece of a tensor.
        if bits & wide.beyond:
            return False
        floats = values.view(wide.kind)
        over = patterns.over or 0
        steps = self._scratch.get(patterns.raw)
        if steps is None:
            steps = self._scratch[patterns.raw] = np.empty(_PIECE, wide.kind)
        steps = steps[: len(floats)]
        # Beside the anchor the adder's last place is 2^-24, fp16's finest step; so few digits of a
        # number that is not small pass unharmed.
        np.add(floats, wide.anchor, out=steps)
        np.subtract(steps, wide.anchor, out=steps)
        if bool((steps != floats).any()):
            return False
        return not bool((np.abs(floats) > _LARGEST).any()) if bound > over else True


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
