"""FreeU: stronger backbone, weaker low frequencies in the skips, without training.

Si et al., FreeU: Free Lunch in Diffusion U-Net (2309.11497). A hook in front of each block of the
decoder takes its two inputs apart, so that diffusers' own code stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

if TYPE_CHECKING:
    import torch

__all__ = ["FreeU", "FreeUStage", "filter_low", "freeu_hooks", "scale_backbone"]


@dataclass(frozen=True, slots=True)
class FreeUStage:
    """The factors for one width of the decoder.

    Attributes:
        backbone_factor: For the first half of the backbone's channels; 1 changes nothing.
        skip_factor: For the skip's lowest frequencies.
        backbone_offset: Where the channels begin, as a share.
        backbone_width: How many channels, as a share.
        skip_cutoff: How far low frequencies reach, as a share; at least one step.
        skip_high_end_factor: For all other frequencies.
    """

    backbone_factor: float = 1.0
    skip_factor: float = 1.0
    backbone_offset: float = 0.0
    backbone_width: float = 0.5
    skip_cutoff: float = 0.0
    skip_high_end_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class FreeU:
    """FreeU as a whole.

    Attributes:
        stages: For the widest blocks first, then for the next narrower ones (1280 and 640 channels
            in SD 1, 2 and XL), then for the narrowest.
        start: Share of the steps at which it begins.
        stop: Share of the steps at which it ends.
        smoothness: 0 switches it on and off, 1 fades it in and out.
        version: 1 scales by a constant; 2 by the normalised mean of the backbone's channels.
        matching: ``channels`` as the web UI's extension does, whose region of channels counts its
            end in; ``blocks`` as the paper and diffusers do: the first two blocks of the decoder,
            and half of the channels.

    Raises:
        ValueError: A setting is out of range.
    """

    stages: tuple[FreeUStage, ...]
    start: float = 0.0
    stop: float = 1.0
    smoothness: float = 0.0
    version: int = 1
    matching: Literal["channels", "blocks"] = "channels"

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise ValueError(f"FreeU's `version` must be 1 or 2, but got {self.version}")
        if self.matching not in ("channels", "blocks"):
            raise ValueError(
                f"FreeU's `matching` must be 'channels' or 'blocks', but got {self.matching!r}"
            )

    def strength(self, step: int, n_steps: int) -> float:
        """Tell how much of it acts at a step.

        Args:
            step: From 0.
            n_steps: Of all.

        Returns:
            0 to 1.

        Example:
            >>> freeu = FreeU((), 0.2, 0.8)
            >>> [freeu.strength(step, 10) for step in (1, 2, 7, 8)]
            [0.0, 1.0, 1.0, 0.0]
        """
        first, last = int(self.start * n_steps), int(self.stop * n_steps)
        flat = 1.0 if first <= step < last else 0.0
        if first == last:
            smooth = 0.0
        elif step < first:
            smooth = step / first
        else:
            smooth = min(1.0, max(0.0, 1 - (step - first) / (last - first)))
        return (1 - self.smoothness) * flat + self.smoothness * smooth


@final
class _Strength:
    def __init__(self) -> None:
        self.value = 1.0


@contextmanager
def freeu_hooks(unet: Any, freeu: FreeU | None) -> Iterator[_Strength]:
    """Let FreeU act on a UNet inside this context.

    Args:
        unet: diffusers' `UNet2DConditionModel`.
        freeu: None changes nothing.

    Yields:
        An object whose ``value`` says how much acts, 0 to 1; set it at each step.
    """
    strength = _Strength()
    hooks = []
    if freeu is not None:
        for resnet, n_backbone, index in _blocks(unet, freeu):
            if index < len(freeu.stages):
                hook = _hook(freeu, freeu.stages[index], n_backbone, strength)
                hooks.append(resnet.register_forward_pre_hook(hook))
    try:
        yield strength
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(unet: Any, freeu: FreeU) -> Iterator[tuple[Any, int, int]]:
    """Each block of the decoder: module, channels that come from below, stage."""
    widths = sorted(set(unet.config.block_out_channels), reverse=True)
    before = unet.config.block_out_channels[-1]
    for i, block in enumerate(unet.up_blocks):
        for resnet in block.resnets:
            yield resnet, before, (widths.index(before) if freeu.matching == "channels" else i)
            before = resnet.out_channels


def _hook(freeu: FreeU, stage: FreeUStage, n_backbone: int, strength: _Strength) -> Any:
    def act(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        import torch

        if strength.value == 0:
            return None
        joined, *rest = inputs
        backbone, skip = joined[:, :n_backbone], joined[:, n_backbone:]
        backbone = scale_backbone(backbone, freeu, stage, strength.value)
        low = 1 + (stage.skip_factor - 1) * strength.value
        high = 1 + (stage.skip_high_end_factor - 1) * strength.value
        skip = filter_low(skip, stage.skip_cutoff, low, high)
        return (torch.cat([backbone, skip], dim=1), *rest)

    return act


def scale_backbone(
    backbone: torch.Tensor, freeu: FreeU, stage: FreeUStage, strength: float = 1.0
) -> torch.Tensor:
    """Scale some channels of the backbone.

    Args:
        backbone: `[n, channels, height, width]`.
        freeu: Version and matching.
        stage: Factor and channels.
        strength: How much of it, 0 to 1.

    Returns:
        As `backbone`.
    """
    import torch

    excess = (stage.backbone_factor - 1) * strength
    if excess == 0:
        return backbone
    scale: Any = 1 + excess
    if freeu.version == 2:
        mean = backbone.mean(1, keepdim=True)  # [n, 1, h, w]
        low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
        # A backbone that is the same everywhere has no range; it then scales as at its low end.
        scale = 1 + excess * (mean - low) / (high - low).clamp_min(torch.finfo(mean.dtype).tiny)
    chosen = _region(stage, backbone.shape[1], freeu.matching).to(backbone.device)
    return torch.where(chosen[None, :, None, None], backbone * scale, backbone)


def _region(stage: FreeUStage, n: int, matching: str) -> torch.Tensor:
    import torch

    at = torch.arange(n)
    if matching == "blocks":
        return at < n // 2
    offset, width = stage.backbone_offset, stage.backbone_width
    if width < 0:
        offset, width = offset + width, -width
    width = min(width, 1.0)
    if offset < 0:
        offset = 1 + offset - int(offset)
    offset = math.fmod(offset, 1.0)
    end = offset + width
    if end <= 1:
        return (round(offset * n) <= at) & (at <= round(end * n))
    return ~((round((end - 1) * n) <= at) & (at <= round(offset * n)))


def filter_low(skip: torch.Tensor, cutoff: float, low: float, high: float = 1.0) -> torch.Tensor:
    """Scale the low frequencies of a picture, and the others.

    Args:
        skip: `[n, channels, height, width]`.
        cutoff: How far low frequencies reach, as a share of half the size; at least one step.
        low: Factor for them.
        high: Factor for the others.

    Returns:
        As `skip`.
    """
    import torch

    if low == 1 and high == 1:
        return skip
    spectrum = torch.fft.fftshift(torch.fft.fftn(skip.float(), dim=(-2, -1)), dim=(-2, -1))
    mask = torch.full(spectrum.shape[-2:], float(high), device=skip.device)
    row, column = (n // 2 for n in spectrum.shape[-2:])
    rows, columns = max(1, math.floor(row * cutoff)), max(1, math.floor(column * cutoff))
    mask[max(0, row - rows) : row + rows, max(0, column - columns) : column + columns] = low
    filtered = torch.fft.ifftshift(spectrum * mask, dim=(-2, -1))
    back: torch.Tensor = torch.fft.ifftn(filtered, dim=(-2, -1)).real.to(skip.dtype)
    return back
