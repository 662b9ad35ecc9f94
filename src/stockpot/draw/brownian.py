"""Noise of one Brownian path for each picture, as samplers of stochastic equations take it.

Where a sampler looks at the same stretch of the way twice, as DPM++ SDE does, both looks must see
one path. k-diffusion and the web UIs walk it in noise levels and split it by halves from the
picture's seed; so does this, with the same numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

from stockpot.draw.libraries import require_libraries
from stockpot.draw.noises import NoiseSource, philox_normal

if TYPE_CHECKING:
    import torch

__all__ = ["BrownianPath"]

_DIGITS = 6
_GUARD = threading.Lock()


@final
class BrownianPath:
    """The paths of a batch, by noise level (Li et al., Scalable Gradients, 2001.01328).

    Args:
        seeds: One for each picture, from 0 on.
        shape: Of one latent image.
        low: The lowest noise level above 0.
        high: The highest one.
        source: Whose numbers: see `stockpot.draw.NOISES`.

    Raises:
        MissingExtraError: torchsde is not installed.

    Example:
        >>> path = BrownianPath([1, 2], (1, 2, 2), 0.1, 10.0)
        >>> whole = path(10.0, 0.1) * 9.9**0.5
        >>> parts = path(10.0, 4.0) * 6.0**0.5 + path(4.0, 0.1) * 3.9**0.5
        >>> bool((whole - parts).abs().max() < 1e-4)
        True
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        low: float,
        high: float,
        source: NoiseSource = "CPU",
    ) -> None:
        require_libraries()
        import torch
        import torchsde

        self._source, self._shape = source, tuple(shape)
        # torchsde rounds its ends so, and warns of a question beyond them.
        self._low, self._high = round(low, _DIGITS), round(high, _DIGITS)
        with _numbers(source):
            self._trees: list[Any] = [
                torchsde.BrownianInterval(
                    t0=low, t1=high, size=self._shape, dtype=torch.float32, device="cpu",
                    entropy=seed, tol=10**-_DIGITS, pool_size=24, halfway_tree=True,
                )
                for seed in seeds
            ]  # fmt: skip

    def __call__(self, level: float, after: float) -> torch.Tensor:
        """Tell how the paths moved between two noise levels, as noise of variance 1.

        Args:
            level: Where the step begins.
            after: Where it ends, below `level`; 0, the end of all steps, moves nothing.

        Returns:
            float32 `[n_pictures, *shape]`.
        """
        import torch

        if after <= 0:
            return torch.zeros(len(self._trees), *self._shape)
        start, end = max(after, self._low), min(level, self._high)
        with _numbers(self._source):
            moved: torch.Tensor = torch.stack([tree(start, end) for tree in self._trees])
        return moved.mul(-1 / (level - after) ** 0.5)


@contextmanager
def _numbers(source: NoiseSource) -> Iterator[None]:
    """Let torchsde draw with CUDA's generator, where that is what a seed means."""
    if source == "CPU":
        yield
        return
    import torch
    from torchsde._brownian import brownian_interval as module

    def draw(size: Sequence[int], dtype: Any, device: Any, seed: int) -> torch.Tensor:
        n = int(torch.Size(size).numel())
        numbers = torch.from_numpy(philox_normal(int(seed), 0, n).reshape(tuple(size)))
        return numbers.to(device=device, dtype=dtype)

    with _GUARD:
        before = module._randn
        module._randn = draw
        try:
            yield
        finally:
            module._randn = before
