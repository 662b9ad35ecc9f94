"""Noise from seeds: the same for a seed in every batch and on every device.

``CPU`` is torch's generator. ``NV`` computes what CUDA's generator gives, anywhere: Philox 4x32-10
with Box-Muller, so that a seed gives the picture that people saw on their graphics card.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["NOISES", "NoiseSource", "Noises", "noise_of_scheduler", "philox_normal"]

NoiseSource = Literal["CPU", "NV"]
NOISES: tuple[NoiseSource, ...] = ("CPU", "NV")
"""Where noise comes from; infotexts that name nothing mean the graphics card, which is ``NV``."""

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_TO_UNIT = np.float32(2.3283064e-10)
_TO_CIRCLE = np.float32(2.3283064e-10 * 6.2831855)
_GUARD = threading.Lock()


def philox_normal(seed: int, offset: int, n: int) -> npt.NDArray[np.float32]:
    """Draw normal numbers as CUDA's generator does.

    Philox 4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011), one
    counter for each number, then the sine half of Box-Muller.

    Args:
        seed: 0 to 2⁶⁴ - 1; taken modulo that.
        offset: How many tensors were drawn from this seed before.
        n: How many numbers.

    Returns:
        float32 `[n]`.

    Example:
        >>> [round(float(x), 3) for x in philox_normal(0, 0, 2)]
        [-0.925, -0.425]
    """
    counter = [np.full(n, offset & 0xFFFFFFFF, np.uint64), np.zeros(n, np.uint64),
               np.arange(n, dtype=np.uint64), np.zeros(n, np.uint64)]  # fmt: skip
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        first, second = counter[0] * _MULTIPLIERS[0], counter[2] * _MULTIPLIERS[1]
        counter = [
            (second >> _SHIFT) ^ counter[1] ^ np.uint64(low),
            second & _LOW,
            (first >> _SHIFT) ^ counter[3] ^ np.uint64(high),
            first & _LOW,
        ]
        low, high = (low + _WEYL[0]) & 0xFFFFFFFF, (high + _WEYL[1]) & 0xFFFFFFFF
    x, y = counter[0].astype(np.uint32), counter[1].astype(np.uint32)
    u = x.astype(np.float64) * _TO_UNIT + _TO_UNIT / 2
    v = y.astype(np.float64) * _TO_CIRCLE + _TO_CIRCLE / 2
    normal: npt.NDArray[np.float32] = (np.sqrt(-2.0 * np.log(u)) * np.sin(v)).astype(np.float32)
    return normal


class _Stream(ABC):
    """One seed's noise, tensor after tensor."""

    @abstractmethod
    def draw(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw the next tensor."""


@final
class _Torch(_Stream):
    def __init__(self, seed: int) -> None:
        import torch

        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, shape: Sequence[int]) -> torch.Tensor:
        import torch

        return torch.randn(tuple(shape), generator=self._generator)


@final
class _Philox(_Stream):
    def __init__(self, seed: int) -> None:
        self._seed, self._offset = seed, 0

    def draw(self, shape: Sequence[int]) -> torch.Tensor:
        import torch

        numbers = philox_normal(self._seed, self._offset, int(np.prod(shape)))
        self._offset += 1
        return torch.from_numpy(numbers.reshape(tuple(shape)))


@final
class Noises:
    """The noise of a batch: one stream for each picture.

    Args:
        seeds: One for each picture.
        source: See `NOISES`.
        step_delta: Added to the seeds for all noise but the first tensor, where it is not 0: web
            UIs call it ENSD.
        variation: Seeds of a second noise, one for each picture; None for none.
        strength: How far to go from the first noise to the second, on the sphere: 0 to 1.

    Attributes:
        seeds: As given.
        source: As given.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        source: NoiseSource = "CPU",
        *,
        step_delta: int = 0,
        variation: Sequence[int] | None = None,
        strength: float = 0.0,
    ) -> None:
        self.seeds, self.source = tuple(seeds), source
        kind = _Torch if source == "CPU" else _Philox
        self._kind: type[_Torch] | type[_Philox] = kind
        self._streams = [kind(seed) for seed in seeds]
        self._steps = [kind(seed + step_delta) for seed in seeds] if step_delta else self._streams
        self._variation = [kind(seed) for seed in variation] if variation and strength else []
        self._strength = strength

    def first(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw what a picture begins with.

        Args:
            shape: Of one latent image.

        Returns:
            `[n_pictures, *shape]`.
        """
        import torch

        drawn = [stream.draw(shape) for stream in self._streams]
        if self._variation:
            others = [stream.draw(shape) for stream in self._variation]
            drawn = [_on_sphere(self._strength, a, b) for a, b in zip(drawn, others, strict=True)]
        return torch.stack(drawn)

    def next(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw what a sampler adds on its way.

        Args:
            shape: Of one latent image.

        Returns:
            `[n_pictures, *shape]`.
        """
        import torch

        return torch.stack([stream.draw(shape) for stream in self._steps])


@contextmanager
def noise_of_scheduler(
    scheduler: Any, noises: Noises, path: Callable[[float, float], torch.Tensor] | None = None
) -> Iterator[None]:
    """Let a scheduler of diffusers take its noise from here.

    Some of its schedulers take no noise but a torch generator, which Philox cannot be; all of them
    call one function of their module for it, which is another one inside this context. The one of
    DPM++ SDE asks an attribute of its own instead.

    Args:
        scheduler: Any of diffusers', its steps set.
        noises: Where its noise comes from.
        path: Noise between two levels, for samplers that walk a path; then `noises` is not asked.

    Yields:
        Nothing.
    """
    import sys

    if path is not None and hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = lambda level, after: path(float(level), float(after))
        yield
        return
    module = sys.modules[type(scheduler).__module__]
    before = getattr(module, "randn_tensor", None)
    if before is None:
        yield
        return

    def draw(shape: Sequence[int], *_: Any, device: Any = None, dtype: Any = None,
             **__: Any) -> torch.Tensor:  # fmt: skip
        if path is None:
            return noises.next(tuple(shape)[1:]).to(device=device, dtype=dtype)
        at = scheduler.step_index
        level, after = (float(sigma) for sigma in scheduler.sigmas[at : at + 2])
        return path(level, after).to(device=device, dtype=dtype)

    with _GUARD:
        module.randn_tensor = draw  # type: ignore[attr-defined]
        try:
            yield
        finally:
            module.randn_tensor = before  # type: ignore[attr-defined]


def _on_sphere(t: float, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """From a (t = 0) to b (t = 1) on the great circle, for each row as web UIs do."""
    import torch

    rows = torch.nn.functional.normalize
    angle = torch.acos((rows(a, dim=1) * rows(b, dim=1)).sum(1).clamp(-1, 1))
    if float((rows(a, dim=1) * rows(b, dim=1)).sum(1).mean()) > 0.9995:
        return b * t + a * (1 - t)
    sine = torch.sin(angle)
    return (torch.sin((1 - t) * angle) / sine).unsqueeze(1) * a + (
        torch.sin(t * angle) / sine
    ).unsqueeze(1) * b
