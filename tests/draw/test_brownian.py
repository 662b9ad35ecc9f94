"""Noise of one path: variance, additivity, seeds, and whose numbers it is made of."""

import pytest
import torch

from stockpot.draw import NOISES, BrownianPath, NoiseSource, philox_normal

SHAPE = (4, 16, 16)
LEVELS = [14.6, 5.0, 1.3, 0.2, 0.03]


@pytest.mark.parametrize("source", NOISES)
def test_steps_are_normal_and_add_up(source: NoiseSource) -> None:
    path = BrownianPath([3], SHAPE, LEVELS[-1], LEVELS[0], source)
    steps = [path(a, b) for a, b in zip(LEVELS, LEVELS[1:], strict=False)]
    for step in steps:
        assert abs(float(step.mean())) < 0.1 and abs(float(step.std()) - 1) < 0.1
    lengths = [a - b for a, b in zip(LEVELS, LEVELS[1:], strict=False)]
    joined = (
        sum(step * n**0.5 for step, n in zip(steps, lengths, strict=True)) / sum(lengths) ** 0.5
    )
    whole = BrownianPath([3], SHAPE, LEVELS[-1], LEVELS[0], source)(LEVELS[0], LEVELS[-1])
    assert torch.allclose(joined, whole, atol=1e-5)
    for i, one in enumerate(steps):  # stretches that do not touch know nothing of each other
        assert all(abs(float((one * other).mean())) < 0.1 for other in steps[:i])


@pytest.mark.parametrize("source", NOISES)
def test_a_path_is_of_the_seed_alone(source: NoiseSource) -> None:
    def walk(seeds: list[int]) -> torch.Tensor:
        path = BrownianPath(seeds, SHAPE, 0.03, 14.6, source)
        return torch.stack([path(14.6, 5.0), path(5.0, 1.3), path(14.6, 9.0)])

    both = walk([3, 2**40])
    assert torch.equal(both[:, 1:], walk([2**40])) and torch.equal(both[:, :1], walk([3]))
    assert not torch.allclose(both[:, 0], both[:, 1])


def test_the_graphics_cards_numbers_are_philoxs() -> None:
    """The whole way is the first thing a tree draws: one tensor, from a seed of the seed."""
    import numpy as np

    whole = BrownianPath([3], SHAPE, 0.0, 4.0, "NV")(4.0, 1e-12)
    # torchsde: the first word that the picture's seed generates is the seed of that tensor.
    first = int(np.random.SeedSequence(entropy=3, pool_size=24).generate_state(1)[0])
    expected = torch.from_numpy(philox_normal(first, 0, 4 * 16 * 16).reshape(SHAPE))
    assert torch.allclose(whole[0], -expected, atol=1e-4)
    other = BrownianPath([3], SHAPE, 0.0, 4.0, "CPU")(4.0, 1e-12)
    generator = torch.Generator().manual_seed(first)
    assert torch.allclose(other[0], -torch.randn(SHAPE, generator=generator), atol=1e-4)


def test_the_last_step_moves_nothing() -> None:
    path = BrownianPath([3, 4], SHAPE, 0.03, 14.6)
    assert not path(0.03, 0.0).any() and path(0.03, 0.0).shape == (2, *SHAPE)
