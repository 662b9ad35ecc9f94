"""Measures by name: hand-made pictures whose measures are known."""

from pathlib import Path

import numpy as np
import pytest

from stockpot.draw import MEASURES, Measurer, describe_picture
from stockpot.errors import RequestError, UnknownNameError


def noise(seed: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


PLAIN = [name for name in MEASURES if name != "embedding"]


def test_a_picture_is_like_itself() -> None:
    found = Measurer(PLAIN).compare(noise(0), noise(0))
    sift = found.pop("sift")
    assert sift >= 0 and found.pop("ssim") == pytest.approx(1)
    assert set(found.values()) == {0.0}


def test_measures_by_hand() -> None:
    a, b = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    a[:] = (51, 0, 0)  # a fifth of red
    found = Measurer(["mse", "colour", "contrast", "detail"]).compare(a, b)
    assert found == {"mse": pytest.approx(0.04 / 3, abs=1e-6), "colour": 0.2, "contrast": 0.0,
                     "detail": 0.0}  # fmt: skip
    sharp = b.copy()
    sharp[4:12, 4:12] = 255
    more = Measurer(["contrast", "subject_detail", "background_detail"]).compare(sharp, b)
    facts = describe_picture(sharp)
    assert more == {"contrast": round(facts.contrast, 6),
                    "subject_detail": round(facts.subject_detail, 6),
                    "background_detail": round(facts.background_detail, 6)}  # fmt: skip
    less = Measurer(["contrast"]).compare(b, sharp)
    assert less["contrast"] == -more["contrast"] < 0


def test_another_size_leaves_what_can_be_told() -> None:
    found = Measurer(PLAIN).compare(noise(0), noise(1, 24))
    assert set(found) == {name for name in PLAIN if MEASURES[name].any_size}


def test_embeddings_are_compared(tmp_path: Path) -> None:
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    CLIPVisionModel(
        CLIPVisionConfig(hidden_size=8, intermediate_size=16, num_attention_heads=2,
                         num_hidden_layers=1, image_size=16, patch_size=8)
    ).save_pretrained(tmp_path)  # fmt: skip
    measurer = Measurer(["embedding"], tmp_path)
    measurer.prepare([noise(0), noise(1)])
    assert measurer.compare(noise(0), noise(0))["embedding"] == pytest.approx(1, abs=1e-5)
    found = measurer.compare(noise(0), noise(1, 20))
    assert -1 <= found["embedding"] < 1
    assert measurer.caption(found) == f"cosine {found['embedding']:.3f}"


def test_what_cannot_be_measured_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown measure 'ssmi'; did you mean 'ssim'"):
        Measurer(["ssmi"])
    with pytest.raises(RequestError, match="but none was named"):
        Measurer(["embedding"])
    with pytest.raises(RequestError, match="is no folder"):
        Measurer(["embedding"], tmp_path / "none")
