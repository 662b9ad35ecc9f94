"""Likeness and facts of pictures: hand-made ones whose measures are known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.draw import (
    compare_pictures,
    describe_picture,
    difference,
    embed_pictures,
    mean_squared_error,
    perceptual_distance,
    sift_matches,
    structural_similarity,
    zoo_features,
)


def noise(seed: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)


def test_equal_pictures_are_alike() -> None:
    picture = noise(0)
    found = compare_pictures(picture, picture.copy())
    assert (found.mse, found.ssim) == (0.0, pytest.approx(1.0))
    assert math.isnan(found.perceptual)
    assert (difference(picture, picture) == 128).all()


def test_mse_by_hand() -> None:
    a, b = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    b[:4] = 51  # a fifth, in half of the picture
    assert mean_squared_error(a, b) == pytest.approx(0.2**2 / 2)
    with pytest.raises(ValueError, match="of one size"):
        mean_squared_error(a, a[:4])


def test_ssim_by_hand() -> None:
    """One window of 7 × 7: the formula with its unbiased variances, in plain Python."""
    a, b = noise(1, 7), noise(2, 7)
    x, y = ((p.astype(float) / 255 @ [0.299, 0.587, 0.114]).ravel() for p in (a, b))
    c1, c2 = 0.01**2, 0.03**2
    cov = np.cov(x, y)
    expected = ((2 * x.mean() * y.mean() + c1) * (2 * cov[0, 1] + c2)) / (
        (x.mean() ** 2 + y.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)
    )
    assert structural_similarity(a, b) == pytest.approx(expected, rel=1e-9)
    assert structural_similarity(noise(3), noise(4)) < 0.2
    with pytest.raises(ValueError, match="at least 7 pixels"):
        structural_similarity(noise(1, 6), noise(1, 6))


def test_perceptual_distance_by_hand() -> None:
    def features(pixels: torch.Tensor) -> list[torch.Tensor]:
        return [pixels[:, :2, :1, :1]]  # red and green of one pixel

    a, b = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    a[0, 0], b[0, 0] = (255, 255, 0), (255, 0, 0)
    # Unit vectors (1, 1)/√2 and (1, -1)/√2 are √2 apart.
    assert perceptual_distance(a, b, features) == pytest.approx(2.0)
    assert perceptual_distance(a, a, features) == 0


def test_the_zoos_network_sees_shapes_and_not_shifts() -> None:
    from stockpot.zoo.shapes import Scene, render

    def picture(shape: str, seed: int) -> np.ndarray:
        scene = Scene("flat", "large", "red", shape, "white")
        return render(scene, np.random.default_rng(seed))

    see = zoo_features()
    other = np.mean([perceptual_distance(picture("heart", i), picture("star", i), see)
                     for i in range(4)])  # fmt: skip
    same = np.mean([perceptual_distance(picture("heart", i), picture("heart", i + 9), see)
                    for i in range(4)])  # fmt: skip
    assert 0 < same < other


def test_facts_by_hand() -> None:
    picture = np.full((16, 16, 3), 255, np.uint8)
    picture[4:12, 4:12] = (255, 0, 0)
    facts = describe_picture(picture)
    assert facts.subject == 0.25
    assert facts.colour == pytest.approx((1, 0.75, 0.75))
    assert facts.subject_contrast == pytest.approx(0, abs=1e-9)
    assert facts.background_contrast == pytest.approx(0, abs=1e-9)
    step = 1 - 0.299  # between white and red
    # 32 places on each side of the border see one step, the inner corners see two.
    inner = (28 - 4) * step**2 + 4 * (2 * step) ** 2
    outer = 32 * step**2
    assert facts.detail == pytest.approx((inner + outer) / 256)
    assert facts.subject_detail == pytest.approx(inner / 64)
    assert facts.background_detail == pytest.approx(outer / 192)
    noisy = describe_picture(noise(5))
    assert noisy.contrast > 0.1 and noisy.detail > facts.detail


def test_differences_by_hand() -> None:
    a, b = np.full((1, 2, 3), 100, np.uint8), np.full((1, 2, 3), 100, np.uint8)
    a[0, 1] = 0
    assert difference(a, b).tolist() == [[[128] * 3, [28] * 3]]
    assert difference(a, b, gain=4.0)[0, 1, 0] == 0  # clamped


def test_embeddings_come_from_the_users_folder(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    small = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
             "num_hidden_layers": 1, "projection_dim": 8}  # fmt: skip
    config = (
        CLIPConfig.from_text_vision_configs(
            CLIPTextConfig(vocab_size=20, **small),
            CLIPVisionConfig(image_size=16, patch_size=8, **small),
        )
        if hasattr(CLIPConfig, "from_text_vision_configs")
        else CLIPConfig(  # fmt: skip
            text_config={"vocab_size": 20, **small},
            vision_config={"image_size": 16, "patch_size": 8, **small},
        )
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(tmp_path)
    found = embed_pictures([noise(0), noise(1, 20), noise(0)], tmp_path)
    assert found.shape[0] == 3 and np.allclose((found**2).sum(1), 1, atol=1e-5)
    assert np.allclose(found[0], found[2]) and not np.allclose(found[0], found[1])


def test_sift_finds_what_moved() -> None:
    rng = np.random.default_rng(0)
    scene = np.zeros((160, 160, 3), np.uint8)
    for _ in range(40):
        y, x, h, w = *rng.integers(0, 140, 2), *rng.integers(6, 20, 2)
        scene[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    moved = np.roll(scene, (9, 13), (0, 1))
    other = np.zeros_like(scene)
    for _ in range(40):
        y, x, h, w = *rng.integers(0, 140, 2), *rng.integers(6, 20, 2)
        other[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    assert sift_matches(scene, moved) > 5 * max(1, sift_matches(scene, other))
