"""Noise as graphics cards and processors draw it, and the levels at which it is taken off."""

import numpy as np
import pytest
import torch

from stockpot.draw import (
    NOISES,
    DrawSettings,
    Noises,
    Painter,
    make_scheduler,
    philox_normal,
    set_steps,
)
from stockpot.errors import UnknownNameError


def test_philox_is_what_a_graphics_card_draws() -> None:
    # The first numbers of `torch.randn(3, 4, device="cuda")` at seed 0.
    known = [-0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564,
             -0.62285122, -0.32838709, -1.07454231, -0.36314407, -1.67105067,
             2.26550497]  # fmt: skip
    assert philox_normal(0, 0, 12) == pytest.approx(known, abs=1e-6)
    many = philox_normal(123, 0, 40_000)
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02
    assert not np.array_equal(philox_normal(1, 0, 4), philox_normal(1, 1, 4))
    assert not np.array_equal(philox_normal(1, 0, 4), philox_normal(1 + 2**32, 0, 4))


@pytest.mark.parametrize("source", NOISES)
def test_noise_is_of_the_seed_alone(source: str) -> None:
    both = Noises([5, 6], source)  # type: ignore[arg-type]
    alone = Noises([6], source)  # type: ignore[arg-type]
    for _ in range(2):
        assert torch.equal(both.first((4, 3, 2))[1:], alone.first((4, 3, 2)))
        assert torch.equal(both.next((4, 3, 2))[1:], alone.next((4, 3, 2)))
    moved = Noises([5], source, step_delta=1)  # type: ignore[arg-type]
    moved.first((4, 3, 2))
    assert torch.equal(moved.next((4, 3, 2)), Noises([6], source).first((4, 3, 2)))  # type: ignore[arg-type]


def test_variation_goes_from_one_noise_to_the_other() -> None:
    def noise(strength: float) -> torch.Tensor:
        return Noises([1], variation=[2], strength=strength).first((4, 8, 8))

    assert torch.allclose(noise(1e-9), Noises([1]).first((4, 8, 8)), atol=1e-5)
    assert torch.allclose(noise(1.0), Noises([2]).first((4, 8, 8)), atol=1e-5)
    assert float(noise(0.5).std()) == pytest.approx(1, abs=0.15)


def test_impossible_schedules_are_said() -> None:
    with pytest.raises(UnknownNameError, match="unknown schedule 'Karas'"):
        DrawSettings(schedule="Karas")
    with pytest.raises(ValueError, match="the sampler LCM has no schedule 'Karras'"):
        make_scheduler("LCM", {}, "Karras")
    with pytest.raises(ValueError, match="zero signal-to-noise, which the sampler Heun cannot"):
        make_scheduler("Heun", {"rescale_betas_zero_snr": True})


def test_eulers_noise_levels_are_k_diffusions(painter: Painter) -> None:
    scheduler = make_scheduler("Euler", painter.parts.noise)
    set_steps(scheduler, 40)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    products = (1 - betas).cumprod(0)
    logs = (((1 - products) / products) ** 0.5).log()
    times = torch.linspace(999, 0, 40, dtype=torch.float64)
    low = times.floor().long()
    expected = torch.lerp(logs[low], logs[times.ceil().long()], times - low).exp()
    assert torch.allclose(scheduler.sigmas[:-1].double(), expected, rtol=2e-4)
    assert float(scheduler.sigmas[-1]) == 0
