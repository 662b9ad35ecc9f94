"""Hires fix: a second, larger pass over what the first one drew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stockpot.errors import UnknownNameError

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGE_UPSCALERS", "LATENT_UPSCALERS", "Hires", "enlarge"]

LATENT_UPSCALERS: dict[str, tuple[str, bool]] = {
    "Latent": ("bilinear", False),
    "Latent (antialiased)": ("bilinear", True),
    "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True),
    "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
}
"""torch's interpolation of each upscaler of latent images, and whether it is antialiased."""

IMAGE_UPSCALERS: dict[str, str] = {"None": "LANCZOS", "Lanczos": "LANCZOS", "Nearest": "NEAREST"}
"""Pillow's filter of each upscaler of pictures. Trained ones, such as ESRGAN, are not here."""

_MOST_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Hires:
    """How to draw the second pass.

    Attributes:
        scale: Of both sides; not read where `width` or `height` is given.
        width: In pixels; 0 follows `height`, or `scale`.
        height: In pixels; 0 follows `width`, or `scale`.
        upscaler: A key of `LATENT_UPSCALERS` or `IMAGE_UPSCALERS`.
        steps: Of the second pass; 0 for as many as the first.
        denoising: How much noise to add, 0 to 1; 0 returns the enlarged first pass.
        sampler: Another sampler for the second pass; empty for the same.
        prompt: Another prompt for it; empty for the same.
        negative: Another negative prompt; empty for the same.
        cfg: Another guidance; 0 for the same.

    Raises:
        ValueError: A number is out of range.
        UnknownNameError: There is no such upscaler.
    """

    scale: float = 2.0
    width: int = 0
    height: int = 0
    upscaler: str = "Latent"
    steps: int = 0
    denoising: float = 0.7
    sampler: str = ""
    prompt: str = ""
    negative: str = ""
    cfg: float = 0.0

    def __post_init__(self) -> None:
        if self.upscaler not in LATENT_UPSCALERS and self.upscaler not in IMAGE_UPSCALERS:
            known = [*LATENT_UPSCALERS, *IMAGE_UPSCALERS]
            raise UnknownNameError("upscaler", self.upscaler, known)
        if not 0 <= self.denoising <= 1:
            raise ValueError(f"`denoising` must be in [0, 1], but got {self.denoising}")
        if not 0 < self.scale < 100:
            raise ValueError(f"hires `scale` must be above 0 and below 100, but got {self.scale}")
        if min(self.steps, self.width, self.height) < 0:
            raise ValueError("hires steps, width and height must be 0 or more")
        if self.steps > _MOST_STEPS:
            raise ValueError(f"hires steps may be {_MOST_STEPS} at most, but got {self.steps}")

    def sizes(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Tell what to enlarge to, and what of it remains.

        Args:
            width: Of the first pass, in pixels.
            height: As `width`.

        Returns:
            Width and height after enlarging; width and height of the result, which is cut out of
            its middle where both sides were given.

        Example:
            >>> Hires(width=200, height=200).sizes(100, 50)
            ((400, 200), (200, 200))
        """
        if not self.width and not self.height:
            size = (int(width * self.scale), int(height * self.scale))
            return size, size
        if not self.height:
            size = (self.width, self.width * height // width)
            return size, size
        if not self.width:
            size = (self.height * width // height, self.height)
            return size, size
        if width / height < self.width / self.height:
            return (self.width, self.width * height // width), (self.width, self.height)
        return (self.height * width // height, self.height), (self.width, self.height)

    def pass_steps(self, first_steps: int) -> tuple[int, int]:
        """Tell the length of the second pass's schedule, and where on it it begins.

        Args:
            first_steps: Of the first pass.

        Returns:
            Steps of the whole schedule; how many of them are left out at its start.

        Example:
            >>> Hires(steps=64, denoising=0.7).pass_steps(256)
            (91, 27)
        """
        asked = self.steps or first_steps
        whole = int(asked / min(self.denoising, 0.999))
        return whole, max(0, whole - asked)


def enlarge(latents: torch.Tensor, hires: Hires, vae: Any, factor: int) -> torch.Tensor:
    """Enlarge what the first pass drew.

    Args:
        latents: `[n, channels, height, width]`, as the UNet sees them.
        hires: Size and upscaler.
        vae: For upscalers of pictures, which decode and encode (without noise).
        factor: Pixels of one latent, in each direction.

    Returns:
        `[n, channels, new height, new width]`.
    """
    import torch

    height, width = latents.shape[-2] * factor, latents.shape[-1] * factor
    (up_w, up_h), (end_w, end_h) = hires.sizes(width, height)
    size = (max(1, up_h // factor), max(1, up_w // factor))
    if hires.upscaler in LATENT_UPSCALERS:
        mode, antialias = LATENT_UPSCALERS[hires.upscaler]
        # torch takes `antialias` with smooth modes alone.
        smooth = {"antialias": antialias} if mode in ("bilinear", "bicubic") else {}
        latents = torch.nn.functional.interpolate(latents, size, mode=mode, **smooth)
    else:
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        resized = _resized(pixels, (size[1] * factor, size[0] * factor), hires.upscaler)
        latents = vae.encode(resized).latent_dist.mode() * vae.config.scaling_factor
    rows, columns = max(1, end_h // factor), max(1, end_w // factor)
    top, left = max(0, (size[0] - rows) // 2), max(0, (size[1] - columns) // 2)
    return latents[..., top : top + rows, left : left + columns]


def _resized(pixels: torch.Tensor, size: tuple[int, int], upscaler: str) -> torch.Tensor:
    """Pictures in [-1, 1], `[n, 3, h, w]`, through 8-bit images, as web UIs do."""
    import numpy as np
    import torch
    from PIL import Image

    method = getattr(Image.Resampling, IMAGE_UPSCALERS[upscaler])
    images = []
    for picture in (pixels / 2 + 0.5).clamp(0, 1).nan_to_num(0).float().cpu().numpy():
        image = Image.fromarray(np.rint(picture.transpose(1, 2, 0) * 255).astype(np.uint8))
        images.append(np.asarray(image.resize(size, method)).transpose(2, 0, 1) / 127.5 - 1)
    return torch.from_numpy(np.stack(images)).to(pixels)
