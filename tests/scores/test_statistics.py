"""Statistics and PIQE: answers computed by hand, and what must hold of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.scores import make_scorer, picture_statistics, piqe
from stockpot.scores.piqe import find_blocks


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=-1)


def checkerboard(side: int) -> np.ndarray:
    return grey(255 * (np.indices((side, side)).sum(axis=0) % 2))


def texture(seed: int, side: int = 96) -> np.ndarray:
    """Something with structure of all sizes."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side))
    for size in (4, 8, 16, 32):
        coarse = rng.standard_normal((side // size, side // size))
        total += np.kron(coarse, np.ones((size, size))) * size**0.5
    total = (total - total.min()) / np.ptp(total)
    return grey(255 * blurred(total, 1))


def blurred(values: np.ndarray, radius: int) -> np.ndarray:
    for axis in (0, 1):
        values = np.mean(
            [np.roll(values, shift, axis) for shift in range(-radius, radius + 1)], axis=0
        )
    return values


def test_by_hand() -> None:
    halves = grey(np.repeat([[0, 255]], 4, axis=0).repeat(2, axis=1))
    found = picture_statistics(halves)
    # Luma 0 and 1 in equal parts; of the 2 x 2 inner pixels each differs by 1 from one neighbour.
    assert found.brightness == pytest.approx(0.5) and found.contrast == pytest.approx(0.5)
    assert found.detail == pytest.approx(1) and found.sharpness == pytest.approx(4)
    assert found.colourfulness == 0
    board = picture_statistics(checkerboard(8))
    assert board.detail == pytest.approx(16) and board.sharpness == pytest.approx(64)


def test_colourfulness_by_hand() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0] = (255, 0, 0)
    picture[1] = (0, 255, 0)
    # Red minus green is 255 and -255; yellow minus blue 127.5 in both.
    assert picture_statistics(picture).colourfulness == pytest.approx(255 + 0.3 * 127.5)


def test_tiny_pictures() -> None:
    for shape in ((1, 1), (1, 9), (2, 2)):
        found = picture_statistics(grey(np.arange(np.prod(shape)).reshape(shape)))
        assert found.detail == 0 and np.isfinite(found.sharpness)
        assert np.isfinite(piqe(grey(np.zeros(shape))))


@given(st.integers(0, 99), st.sampled_from([2, 3]))
@settings(max_examples=10, deadline=None)
def test_blur_lowers_detail_and_sharpness_and_dimming_only_detail(seed: int, part: int) -> None:
    sharp = texture(seed)
    soft = grey(blurred(sharp[..., 0].astype(float), 2))
    found = picture_statistics(sharp)
    assert picture_statistics(soft).detail < found.detail
    assert picture_statistics(soft).sharpness < found.sharpness
    dim = picture_statistics(sharp // part)
    assert dim.detail < found.detail and dim.contrast < found.contrast
    assert dim.sharpness == pytest.approx(found.sharpness, rel=0.3)


def test_piqe_of_a_checkerboard_by_hand() -> None:
    blocks = find_blocks(checkerboard(64))
    weights = np.exp(-(np.arange(-3.0, 4) ** 2) / (2 * (7 / 6) ** 2))
    weights /= weights.sum()
    # Blurring leaves a part of the alternation, the same in both directions.
    rest = float((weights * (-1.0) ** np.arange(7)).sum()) ** 2
    values = []
    for sign in (1, -1):
        mean = 127.5 * (1 + sign * rest)
        square = 255**2 / 2 * (1 + sign * rest)
        deviation = (square - mean**2) ** 0.5
        values.append((127.5 * (1 + sign) - mean) / (deviation + 1))
    expected = ((values[0] - values[1]) / 2) ** 2 * 256 / 255
    np.testing.assert_allclose(blocks.variance[1:-1, 1:-1], expected, rtol=1e-9)
    # Its two middle columns vary like the rest: that is what noise looks like.
    assert blocks.active.all() and blocks.noisy.all() and not blocks.impaired.any()
    assert piqe(checkerboard(64)) == pytest.approx(100 * (blocks.variance.sum() + 1) / 17)


def test_piqe_of_flat_pictures_is_100() -> None:
    for level in (0, 77, 255):
        assert piqe(grey(np.full((40, 50), level))) == 100


def test_piqe_counts_only_active_blocks() -> None:
    picture = grey(np.full((64, 64), 128))
    picture[16:32, 16:32] = checkerboard(16)
    blocks = find_blocks(picture)
    assert blocks.active[1, 1] and blocks.active.sum() < 16
    assert not blocks.noisy[~blocks.active].any() and not blocks.impaired[~blocks.active].any()


def test_piqe_sees_flat_pieces_of_borders() -> None:
    rng = np.random.default_rng(0)
    noise = grey(rng.integers(0, 256, (48, 48)))
    assert not find_blocks(noise).impaired.any()
    # Eight equal pixels on the border of the middle block, and what is around them.
    noise[12:20, 18:30] = 128
    assert find_blocks(noise).impaired[1, 1]


def waves(seed: int, side: int = 96) -> np.ndarray:
    """A clean picture full of detail: waves of 5 to 20 pixels in all directions."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    total = np.zeros((side, side))
    for _ in range(12):
        pace, angle = rng.uniform(0.05, 0.2), rng.uniform(0, np.pi)
        along = x * np.cos(angle) + y * np.sin(angle)
        total += np.sin(2 * np.pi * pace * along + rng.uniform(0, 6.3))
    return grey(255 * (total - total.min()) / np.ptp(total))


def test_piqe_rises_with_noise_and_with_pixelation() -> None:
    rng = np.random.default_rng(1)
    for seed in range(3):
        clean = waves(seed)
        noise = rng.normal(0, 40, clean.shape[:2])[..., None]
        noisy = np.clip(clean + noise, 0, 255).astype(np.uint8)
        coarse = clean[::8, ::8].repeat(8, axis=0).repeat(8, axis=1)
        assert piqe(clean) < 50 < piqe(noisy) < piqe(coarse)
        assert find_blocks(noisy).noisy.all() and find_blocks(noisy).impaired.mean() < 0.1
        assert find_blocks(coarse).impaired.all() and not find_blocks(coarse).noisy.any()


def piqe_by_loops(picture: np.ndarray) -> float:
    """The paper once more, a pixel and a block at a time; for grey pictures of whole blocks."""
    y = picture[..., 0].astype(float)
    height, width = y.shape
    places = range(-3, 4)
    weight = {(i, j): np.exp(-(i * i + j * j) / (2 * (7 / 6) ** 2)) for i in places for j in places}
    total = sum(weight.values())
    mean, square = np.zeros_like(y), np.zeros_like(y)
    for (i, j), w in weight.items():
        rows = np.clip(np.arange(height) + i, 0, height - 1)
        columns = np.clip(np.arange(width) + j, 0, width - 1)
        shifted = y[rows][:, columns]
        mean += w / total * shifted
        square += w / total * shifted**2
    normal = (y - mean) / (np.sqrt(abs(square - mean**2)) + 1)
    damage, n_active = 0.0, 0
    for top in range(0, height, 16):
        for left in range(0, width, 16):
            block = normal[top : top + 16, left : left + 16]
            variance = np.var(block, ddof=1)
            if variance <= 0.1:
                continue
            n_active += 1
            borders = (block[0], block[15], block[:, 0], block[:, 15])
            if any(np.std(b[k : k + 6], ddof=1) < 0.1 for b in borders for k in range(11)):
                damage += 1 - variance
            centre = np.std(block[:, [7, 8]], ddof=1)
            around = np.std(block[:, [*range(7), *range(9, 16)]], ddof=1)
            deviation, ratio = np.sqrt(variance), centre / around
            if deviation > 2 * abs(deviation - ratio) / max(deviation, ratio):
                damage += variance
    return 100 * (damage + 1) / (n_active + 1)


@pytest.mark.parametrize("seed", range(3))
def test_piqe_is_what_the_paper_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clean = waves(seed)
    noise = rng.normal(0, 12, clean.shape[:2])[..., None]
    for picture in (clean, texture(seed), np.clip(clean + noise, 0, 255).astype(np.uint8)):
        assert piqe(picture) == pytest.approx(piqe_by_loops(picture), abs=1e-9)


def test_piqe_pads_like_a_mirror() -> None:
    picture = texture(4)[:80, :90]
    mirrored = np.pad(picture, ((0, 0), (0, 6), (0, 0)), mode="symmetric")
    assert piqe(picture) == piqe(mirrored)


def test_as_scorers_higher_is_better() -> None:
    picture = texture(5)
    assert make_scorer("piqe").score([picture])[0] == -piqe(picture)
    for name in ("contrast", "detail", "sharpness", "colourfulness"):
        found = getattr(picture_statistics(picture), name)
        assert make_scorer(name).score([picture])[0] == found
