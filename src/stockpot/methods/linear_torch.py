"""The kernel of `linear` in torch: for installations without a compiler, and the C code's equal."""

from __future__ import annotations

import math

import torch

__all__ = ["combine"]

_TORCH = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]
# Stored fraction bits and exponent of the smallest normal number, in the order of the codes.
_FORMATS = [(52, -1022), (23, -126), (10, -14), (7, -126), (3, -6), (2, -14)]
_LARGEST = [math.inf, math.inf, 65504.0, 3.3895313892515355e38, 448.0, 57344.0]
_FIXED_GRAIN = {2: 2.0**-24, 4: 2.0**-9, 5: 2.0**-16}
_EXPONENT = 0x7FF0000000000000


def combine(
    out: memoryview,
    out_type: int,
    inputs: list[memoryview],
    types: list[int],
    weights: list[float],
    divisor: float,
    slack: float,
) -> tuple[float, float, int, int, bytes]:
    """Weighted sum of rows in double precision, rounded once.

    Args:
        out: Bytes of the output row, ``[n]`` elements.
        out_type: Code of its type: 0 F64, 1 F32, 2 F16, 3 BF16, 4 F8_E4M3, 5 F8_E5M2.
        inputs: Bytes of each input row.
        types: Codes of their types.
        weights: A factor for each row.
        divisor: What the sum is divided by.
        slack: Negative to survey the inputs; else the relative error whose effect is listed.

    Returns:
        Largest possible magnitude of a partial sum; the power of two that divides every input;
        whether an input is not finite; whether a result overflowed; indices of the doubtful
        elements as uint32 bytes. The first two are meant only when surveying.
    """
    total = magnitude = None
    largest, grain, nonfinite = 0.0, math.inf, False
    for data, code, weight in zip(inputs, types, weights, strict=True):
        x = torch.frombuffer(data, dtype=_TORCH[code]).to(torch.float64)
        nonfinite |= not bool(torch.isfinite(x).all())
        term = x * weight
        total = term if total is None else total + term
        if slack >= 0:
            size = term.abs()
            magnitude = size if magnitude is None else magnitude + size
        elif not nonfinite:
            largest += float(x.abs().max()) * abs(weight)
            grain = min(grain, _FIXED_GRAIN.get(code) or _grain(x))
    assert total is not None  # there is at least one row
    total = total / divisor
    rounded = _rounded(total, out_type)
    target = torch.frombuffer(out, dtype=_TORCH[out_type])
    if out_type == 4:
        # This type has no infinity, and torch may stop at the largest number instead of NaN.
        nan = torch.copysign(torch.full_like(rounded, math.nan), rounded)
        rounded = torch.where(rounded.abs() <= _LARGEST[4], rounded, nan)
    target.copy_(rounded)
    overflow = not bool((rounded.abs() <= _LARGEST[out_type]).all()) or not bool(
        torch.isfinite(rounded.to(torch.float32 if out_type == 1 else torch.float64)).all()
    )
    listed = b""
    if magnitude is not None:
        step = magnitude * (slack / abs(divisor))
        # Bit patterns, not values: the sign of a zero can be in doubt too.
        low, high = _rounded(total - step, out_type), _rounded(total + step, out_type)
        differs = low.view(torch.int64) != high.view(torch.int64)
        listed = torch.nonzero(differs).flatten().to(torch.int32).numpy().tobytes()
    return largest, grain, int(nonfinite), int(overflow), listed


def _rounded(values: torch.Tensor, code: int) -> torch.Tensor:
    """Round doubles to a type's values, ties to even, and keep them as doubles.

    Adding a power of two whose last place is the type's last place makes the adder round.
    """
    if code == 0:
        return values
    mantissa, min_exponent = _FORMATS[code]
    exponent = values.view(torch.int64) & _EXPONENT
    exponent = exponent.clamp((1023 + min_exponent) << 52, (1023 + 512) << 52)
    anchor = (exponent + ((52 - mantissa) << 52)).view(torch.float64)
    size = (values.abs() + anchor) - anchor
    return torch.copysign(size, values)


def _grain(values: torch.Tensor) -> float:
    """The largest power of two that divides every value."""
    size = values.abs()
    bits = size.view(torch.int64)
    has_fraction = (bits & ((1 << 52) - 1)) != 0
    step = torch.where(has_fraction, size - (bits & (bits - 1)).view(torch.float64), size)
    step = step[size > 0]
    return float(step.min()) if step.numel() else math.inf
