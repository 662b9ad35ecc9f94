"""The numbers that the model toolkit prints for a checkpoint: ``UNET/VAE/CLIP``.

For each part s = Σ (sigmoid(t) − ½) over its tensors, rounded to fp16; the number is
n = int(|s/base − 1| · k), and while n ≥ 10000, 5000 less. ``0000`` means "the stock SD1 part to
within 1/k": no proof of equality, since permutations of a tensor do not change a sum.
Source: the model toolkit extension for stable-diffusion-webui.

There are only 65536 fp16 numbers, so what is kept of a part is how often each occurs. The sum is
taken once, at the end, in double precision: it is the same in whatever pieces the values came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import TensorInfo
from stockpot.inspect.values import as_half

__all__ = ["Toolkit", "toolkit_number"]

_N_PATTERNS = 1 << 16
# Counting makes indices four times as wide: pieces of these fit a cache.
_PIECE = 1 << 18
_MOST = 10_000
_STEP = 5_000


@dataclass(frozen=True, slots=True)
class _Part:
    base: float
    factor: int
    counts: Callable[[str], bool]


def _in_mlp(key: str) -> bool:
    # The last layer of SD2's text encoder is not used.
    return "mlp." in key and ".23." not in key


def _in_coder(key: str) -> bool:
    return key.startswith(("encoder.", "decoder."))


_UNET = _Part(-6131.54, 10_000, lambda key: True)
_VAE = _Part(17870.7051, 10_000, _in_coder)
_PARTS = {
    "sd1": {"unet": _UNET, "vae": _VAE, "te": _Part(-2097.8596, 1_000_000, _in_mlp)},
    "sd2": {"unet": _UNET, "vae": _VAE, "te": _Part(-8757.563, 10_000, _in_mlp)},
    "sdxl": {"vae": _VAE},
}


def toolkit_number(total: float, base: float, factor: int) -> str:
    """Turn a part's sum into four digits.

    Args:
        total: The sum; 0 stands for a part that is not there.
        base: The sum of the stock part.
        factor: How many steps one base is.

    Returns:
        Four digits; ``----`` where the part is not there, ``nan!`` where the sum is no number.

    Example:
        >>> toolkit_number(-6131.54, -6131.54, 10_000), toolkit_number(0.0, -6131.54, 10_000)
        ('0000', '----')
        >>> toolkit_number(2 * 17870.7051, 17870.7051, 10_000)
        '5000'
    """
    if total == 0:
        return "----"
    if not np.isfinite(total):
        return "nan!"
    number = int(abs(total / base - 1) * factor)
    if number >= _MOST:
        number = _STEP + number % _STEP
    return f"{number:04d}"


@final
class Toolkit:
    """Counts values as they go by; give `watch` to `stockpot.checkpoints.hash_tensors`.

    Args:
        architecture: The layout's name; only SD1, SD2 and SDXL have such numbers.
        place: Component and relative key of each key of the file.

    Example:
        >>> from stockpot.checkpoints import DTYPES
        >>> counter = Toolkit("sdxl", lambda key: ("vae", key))
        >>> row = np.array([1, 2], np.float16)
        >>> info = TensorInfo("decoder.conv_in.bias", DTYPES["F16"], (2,))
        >>> counter.watch(info, memoryview(row).cast("B"))
        >>> round(counter.sums()["vae"], 6), counter.text()
        (0.611856, '----/9999/----')
    """

    def __init__(self, architecture: str, place: Callable[[str], tuple[str, str]]) -> None:
        self._parts = _PARTS.get(architecture, {})
        self._place = place
        self._counts: dict[str, npt.NDArray[np.int64]] = {}

    def watch(self, info: TensorInfo, piece: memoryview) -> None:
        """Count the next piece of a tensor.

        Args:
            info: The tensor's facts.
            piece: Bytes of whole elements; not kept.
        """
        component, key = self._place(info.key)
        part = self._parts.get(component)
        if part is None or info.dtype.itemsize < 2 or not info.dtype.is_float:
            return
        if part.counts(key):
            counts = self._counts.setdefault(component, np.zeros(_N_PATTERNS, np.int64))
            values = as_half(piece, info.dtype)
            for start in range(0, len(values), _PIECE):
                counts += np.bincount(values[start : start + _PIECE], minlength=_N_PATTERNS)

    def sums(self) -> dict[str, float]:
        """The sum of each component that was seen."""
        with np.errstate(invalid="ignore", over="ignore"):
            values = np.arange(_N_PATTERNS, dtype=np.uint16).view(np.float16).astype(np.float64)
            terms = np.tanh(values / 2) / 2  # sigmoid(t) - 1/2, without the loss of digits
        found = {}
        for name, counts in self._counts.items():
            seen = counts.nonzero()
            found[name] = float((terms[seen] * counts[seen]).sum())
        return found

    def text(self) -> str:
        """The three numbers, as the toolkit writes them."""
        sums = self.sums()
        numbers = []
        for name in ("unet", "vae", "te"):
            part = self._parts.get(name)
            numbers.append(
                toolkit_number(sums.get(name, 0.0), part.base, part.factor) if part else "----"
            )
        return "/".join(numbers)
