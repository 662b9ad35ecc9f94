"""Pictures from files and on their way into networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stockpot.errors import ScorerError
from stockpot.scores import Transform, read_picture

PLAIN = {"mean": (0.0,) * 3, "sd": (1.0,) * 3}


def ramp(height: int, width: int) -> np.ndarray:
    """Red counts columns and green rows."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(width), np.arange(height)[:, None]
    return picture


def test_crop_keeps_the_middle() -> None:
    out = Transform(4, 4, resample=0, **PLAIN)([ramp(4, 9)])
    assert out.shape == (1, 3, 4, 4)
    # Of five columns too many torchvision cuts two on the left, as does rounding down.
    assert (out[0, 0, 0] * 255).round().tolist() == [2, 3, 4, 5]
    odd = Transform(4, 4, resample=0, centre="down", **PLAIN)([ramp(4, 7)])
    assert (odd[0, 0, 0] * 255).round().tolist() == [1, 2, 3, 4]
    even = Transform(4, 4, resample=0, **PLAIN)([ramp(4, 7)])
    assert (even[0, 0, 0] * 255).round().tolist() == [2, 3, 4, 5]


def test_pad_keeps_everything() -> None:
    out = Transform(8, 8, fit="pad", resample=0, **PLAIN)([ramp(3, 8)])
    rows = (out[0, 1, :, 0] * 255).round().tolist()
    assert rows == [0, 0, 0, 1, 2, 0, 0, 0]
    assert (out[0, 0, 3] * 255).round().tolist() == list(range(8))


def test_stretch_changes_proportions() -> None:
    out = Transform(4, 4, fit="stretch", resample=0, **PLAIN)([ramp(4, 8)])
    assert (out[0, 1, :, 0] * 255).round().tolist() == [0, 1, 2, 3]
    assert out.shape == (1, 3, 4, 4)


def test_values_are_normalised() -> None:
    white = np.full((4, 4, 3), 255, np.uint8)
    out = Transform(4, 4, mean=(0.5, 0.0, 1.0), sd=(0.5, 2.0, 1.0))([white])
    assert out[0, :, 0, 0].tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("shape", [(64, 64), (50, 97), (97, 50), (31, 33), (300, 301)])
@pytest.mark.parametrize("edges", [(40, 32), (32, 32)])
def test_the_same_as_transformers_processor(
    shape: tuple[int, int], edges: tuple[int, int], tmp_path: Path
) -> None:
    import transformers

    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": edges[0]}, crop_size=edges[1]
    )
    processor.save_pretrained(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    ours = Transform.from_file(tmp_path / "preprocessor_config.json")([picture])
    theirs = processor(images=[picture], return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


def test_beit_s_settings(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    said = {"size": 40, "crop_size": 32, "do_center_crop": True, "resample": 2,
            "image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # fmt: skip
    path.write_text(json.dumps(said), encoding="utf-8")
    found = Transform.from_file(path, square=True)
    assert (found.height, found.edge, found.fit, found.resample) == (32, 40, "stretch", 2)
    assert Transform.from_file(path).fit == "crop"
    path.write_text(json.dumps(said | {"do_center_crop": False}), encoding="utf-8")
    assert Transform.from_file(path, square=True).width == 40


@pytest.mark.parametrize(
    "said",
    [{"do_center_crop": False}, {"size": "x"}, {"rescale_factor": 1.0}, {"crop_size": 300}, [1]],
)
def test_other_settings_are_refused(said: object, tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    base = {"size": 224, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    path.write_text(json.dumps(base | said if isinstance(said, dict) else said), encoding="utf-8")
    with pytest.raises(ScorerError, match="cannot be read as a preprocessor's settings"):
        Transform.from_file(path)


def test_other_fits() -> None:
    crop = Transform(8, 8, edge=10)
    assert crop.fitted("published") == crop and crop.fitted("crop") == crop
    assert crop.fitted("pad") == Transform(8, 8, fit="pad")


def test_reading(tmp_path: Path) -> None:
    picture = ramp(5, 7)
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), picture)
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    Image.fromarray(clear).save(tmp_path / "b.png")
    found = read_picture(tmp_path / "b.png")
    assert found[0, 0].tolist() == [10, 20, 30] and found[1, 1].tolist() == [255, 255, 255]
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png").shape == (5, 7, 3)


def test_what_is_no_picture_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello", encoding="utf-8")
    with pytest.raises(ScorerError, match="text.png: cannot be read as a PNG"):
        read_picture(tmp_path / "text.png")
    with pytest.raises(ScorerError, match="absent.png: cannot .* No such file"):
        read_picture(tmp_path / "absent.png")
    Image.fromarray(ramp(50, 50)).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScorerError, match="cut.png: cannot be read"):
        read_picture(tmp_path / "cut.png")
    Image.new("L", (20_000, 1)).save(tmp_path / "wide.png")
    with pytest.raises(ScorerError, match="16384 pixels a side, but has 20000x1"):
        read_picture(tmp_path / "wide.png")
    # Formats that nobody saves pictures in are not even tried.
    Image.fromarray(ramp(5, 5)).save(tmp_path / "a.bmp")
    with pytest.raises(ScorerError, match="cannot be read as a PNG, JPEG or WebP"):
        read_picture(tmp_path / "a.bmp")
