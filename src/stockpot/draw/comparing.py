"""How alike two pictures are, and what kind of picture one is.

No single number says it: the mean squared error sees every shift, SSIM (Wang et al., 2004) sees
structure, the perceptual distance (after Zhang et al., 1801.03924) sees what a trained network
sees, and embeddings of a network that the user gives see content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import MissingExtraError

if TYPE_CHECKING:
    import torch

__all__ = [
    "Likeness", "PictureFacts", "compare_pictures", "describe_picture", "embed_pictures",
    "mean_squared_error", "perceptual_distance", "sift_matches", "structural_similarity",
    "zoo_features",
]  # fmt: skip

Picture = npt.NDArray[np.uint8]
Features = Callable[["torch.Tensor"], "list[torch.Tensor]"]

_WINDOW = 7
_GREY = np.array([0.299, 0.587, 0.114])
_APART = 0.12


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two pictures are.

    Attributes:
        mse: Mean squared error of values in [0, 1]; 0 for equal pictures.
        ssim: Structural similarity; 1 for equal pictures, near 0 for unlike ones.
        perceptual: Distance in a trained network's features; 0 for equal pictures; NaN where no
            network was given.
    """

    mse: float
    ssim: float
    perceptual: float


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What kind of picture one is.

    Attributes:
        colour: Mean red, green and blue, in [0, 1].
        contrast: Standard deviation of its brightness.
        detail: Mean square of its Laplacian: how much fine structure there is.
        subject: Share of pixels that differ from the border's colour.
        subject_contrast: Contrast of these pixels; 0 where there are none.
        background_contrast: Contrast of the others.
        subject_detail: Detail of these pixels.
        background_detail: Detail of the others.
    """

    colour: tuple[float, float, float]
    contrast: float
    detail: float
    subject: float
    subject_contrast: float
    background_contrast: float
    subject_detail: float
    background_detail: float


def mean_squared_error(a: Picture, b: Picture) -> float:
    """Take the mean squared difference of two pictures' values in [0, 1].

    Args:
        a: uint8 `[height, width, 3]`.
        b: Of the same size.

    Returns:
        0 to 1.

    Example:
        >>> black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
        >>> mean_squared_error(black, white)
        1.0
    """
    x, y = _pair(a, b)
    return float(np.mean((x - y) ** 2))


def structural_similarity(a: Picture, b: Picture) -> float:
    """Compare structure, as Wang et al. (2004) define it, with windows of 7 × 7 on grey values.

    Args:
        a: uint8 `[height, width, 3]`, at least 7 pixels on each side.
        b: Of the same size.

    Returns:
        -1 to 1; 1 for equal pictures.

    Raises:
        ValueError: The pictures are too small.

    Example:
        >>> picture = np.random.default_rng(0).integers(0, 255, (9, 9, 3)).astype(np.uint8)
        >>> structural_similarity(picture, picture)
        1.0
    """
    x, y = (picture @ _GREY for picture in _pair(a, b))
    if min(x.shape) < _WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {_WINDOW} pixels, but got {x.shape}")
    windows = np.lib.stride_tricks.sliding_window_view

    def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = windows(values, (_WINDOW, _WINDOW)).mean((2, 3))
        return found

    n = _WINDOW**2
    unbiased = n / (n - 1)
    mean_x, mean_y = mean(x), mean(y)
    var_x = (mean(x * x) - mean_x**2) * unbiased
    var_y = (mean(y * y) - mean_y**2) * unbiased
    both = (mean(x * y) - mean_x * mean_y) * unbiased
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float((top / bottom).mean())


def zoo_features() -> Features:
    """Take the judge of the installed zoo as the network of `perceptual_distance`.

    Returns:
        From float pictures in [-1, 1], `[n, 3, h, w]`, to feature maps of three widths.

    Raises:
        stockpot.zoo.ZooNotInstalled: The zoo is not installed.
    """
    from safetensors.torch import load_file

    from stockpot.scores import judge_network
    from stockpot.zoo import zoo_path

    network: Any = judge_network()
    weights = load_file(zoo_path() / "judge.safetensors")
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    trunk = network["trunk"].eval().requires_grad_(False)

    def features(pixels: torch.Tensor) -> list[torch.Tensor]:
        import torch

        maps = []
        for layer in trunk:
            if isinstance(layer, torch.nn.Flatten):
                break
            pixels = layer(pixels)
            if isinstance(layer, torch.nn.SiLU):
                maps.append(pixels)
        return maps[1::2]

    return features


def perceptual_distance(a: Picture, b: Picture, features: Features) -> float:
    """Compare two pictures in a network's features: unit vectors at each place, mean over layers.

    Args:
        a: uint8 `[height, width, 3]`.
        b: Of the same size.
        features: From pictures in [-1, 1] to feature maps; see `zoo_features`.

    Returns:
        0 for equal pictures; at most 4.
    """
    import torch

    x = torch.from_numpy(np.stack(_pair(a, b))).float().permute(0, 3, 1, 2) * 2 - 1
    total, n_layers = 0.0, 0
    with torch.no_grad():
        for found in features(x):
            unit = torch.nn.functional.normalize(found, dim=1)
            total += float(((unit[0] - unit[1]) ** 2).sum(0).mean())
            n_layers += 1
    return total / max(1, n_layers)


def sift_matches(a: Picture, b: Picture, ratio: float = 0.8) -> int:
    """Count points that both pictures show: SIFT's (Lowe, 2004), matched both ways.

    Args:
        a: uint8 `[height, width, 3]`; below some 100 pixels there is little to find.
        b: Of any size.
        ratio: How much nearer the best match must be than the second best.

    Returns:
        Matched points; 0 where a picture has none.

    Raises:
        MissingExtraError: scikit-image is not installed.

    Example:
        >>> flat = np.zeros((16, 16, 3), np.uint8)
        >>> sift_matches(flat, flat)
        0
    """
    try:
        from skimage import feature
    except ImportError as error:
        raise MissingExtraError("counting SIFT matches", "compare") from error
    skimage: Any = feature
    found = []
    for picture in (a, b):
        sift = skimage.SIFT()
        try:
            sift.detect_and_extract(picture.astype(np.float64) / 255 @ _GREY)
        except RuntimeError:  # how it says that there is nothing to find
            return 0
        if len(sift.descriptors) < 2:
            return 0
        found.append(sift.descriptors)
    first, second = found
    return len(skimage.match_descriptors(first, second, max_ratio=ratio, cross_check=True))


def compare_pictures(a: Picture, b: Picture, features: Features | None = None) -> Likeness:
    """Compare two pictures in every way that needs no network of the user's.

    Args:
        a: uint8 `[height, width, 3]`.
        b: Of the same size.
        features: For the perceptual distance; None leaves it out.

    Returns:
        All measures.

    Raises:
        ValueError: The pictures differ in size.
    """
    return Likeness(
        mean_squared_error(a, b),
        structural_similarity(a, b),
        perceptual_distance(a, b, features) if features else float("nan"),
    )


def describe_picture(picture: Picture) -> PictureFacts:
    """Measure colour, contrast and detail, of the subject and of the background apart.

    The subject is what departs from the median colour of the border by more than an eighth or so:
    right for pictures on a plain background, a rough guess for others.

    Args:
        picture: uint8 `[height, width, 3]`.

    Returns:
        The measures.

    Example:
        >>> flat = np.full((8, 8, 3), 128, np.uint8)
        >>> facts = describe_picture(flat)
        >>> facts.contrast, facts.detail, facts.subject
        (0.0, 0.0, 0.0)
    """
    values = picture.astype(np.float64) / 255
    grey = values @ _GREY
    padded = np.pad(grey, 1, mode="edge")
    laplacian = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
                 - 4 * grey) ** 2  # fmt: skip
    laplacian[laplacian < 1e-24] = 0.0
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    apart = np.abs(values - np.median(border, axis=0)).max(axis=2) > _APART
    red, green, blue = values.mean((0, 1))

    def spread(mask: npt.NDArray[np.bool_]) -> float:
        return float(grey[mask].std()) if mask.any() else 0.0

    def fine(mask: npt.NDArray[np.bool_]) -> float:
        return float(laplacian[mask].mean()) if mask.any() else 0.0

    whole = np.ones_like(apart)
    return PictureFacts(
        (float(red), float(green), float(blue)),
        round(spread(whole), 12),
        fine(whole),
        float(apart.mean()),
        spread(apart),
        spread(~apart),
        fine(apart),
        fine(~apart),
    )


def embed_pictures(pictures: Sequence[Picture], folder: Path) -> npt.NDArray[np.float32]:
    """Embed pictures with a network that the user has: CLIP, DINO, Swin or the like.

    Args:
        pictures: uint8 `[height, width, 3]`, of any sizes.
        folder: In transformers' form; ``preprocessor_config.json`` there says mean and spread.

    Returns:
        Unit vectors, float32 `[n, width]`: products of two are cosines.

    Raises:
        OSError: The folder cannot be read.
    """
    import torch
    from PIL import Image
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
    config = getattr(model.config, "vision_config", model.config)
    side = int(getattr(config, "image_size", 224))
    mean, spread = _normalisation(folder)
    rows = []
    with torch.no_grad():
        for picture in pictures:
            image = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
            values = (np.asarray(image, np.float32) / 255 - mean) / spread
            pixels = torch.from_numpy(values).permute(2, 0, 1)[None].float()
            if hasattr(model, "get_image_features"):
                found = model.get_image_features(pixel_values=pixels)
                found = getattr(found, "pooler_output", found)
            else:
                out = model(pixel_values=pixels)
                pooled = getattr(out, "pooler_output", None)
                found = out.last_hidden_state[:, 0] if pooled is None else pooled
            rows.append(torch.nn.functional.normalize(found[0].float(), dim=0).numpy())
    return np.stack(rows)


def _normalisation(folder: Path) -> tuple[Any, Any]:
    file = folder / "preprocessor_config.json"
    if file.is_file():
        content = json.loads(file.read_text(encoding="utf-8"))
        if "image_mean" in content and "image_std" in content:
            return np.float32(content["image_mean"]), np.float32(content["image_std"])
    return np.float32(0.5), np.float32(0.5)


def _pair(a: Picture, b: Picture) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if a.shape != b.shape:
        raise ValueError(f"pictures must be of one size, but got {a.shape} and {b.shape}")
    return a.astype(np.float64) / 255, b.astype(np.float64) / 255
