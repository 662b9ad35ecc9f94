"""How predictions with and without the prompt become one: CFG, its rescaling, thresholding.

Plain functions on tensors `[n_pictures, channels, height, width]`; every picture is treated alone,
so that a batch does not show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

__all__ = ["THRESHOLD_MODES", "Thresholding", "rescale_guidance", "threshold"]

ThresholdMode = Literal[
    "Constant", "Linear Down", "Cosine Down", "Half Cosine Down", "Linear Up", "Cosine Up",
    "Half Cosine Up", "Power Up", "Power Down", "Linear Repeating", "Cosine Repeating", "Sawtooth",
]  # fmt: skip
THRESHOLD_MODES: tuple[ThresholdMode, ...] = get_args(ThresholdMode)
"""How a scale goes over the steps."""


@dataclass(frozen=True, slots=True)
class Thresholding:
    """Dynamic thresholding: strong guidance that keeps the range of weak guidance.

    Attributes:
        mimic_scale: Guidance whose range is imitated.
        percentile: Which percentile of the strong result counts as its range, 0 to 100.
        mimic_mode: How `mimic_scale` goes over the steps, down to `mimic_min`.
        mimic_min: Its other end.
        cfg_mode: As `mimic_mode`, for the guidance itself.
        cfg_min: Its other end.
        power: Exponent of the power modes, or how often the repeating ones repeat.
        separate_channels: Take the range of each latent channel, or one of all.
        startpoint: ``MEAN`` scales what departs from each channel's mean; ``ZERO`` scales all.
        variability: ``AD`` clamps and scales by the largest departure, ``STD`` scales by the
            standard deviation.
        phi: How much of the result to take; the rest is plain guidance.

    Raises:
        ValueError: A setting is out of range.
    """

    mimic_scale: float = 7.0
    percentile: float = 100.0
    mimic_mode: ThresholdMode = "Constant"
    mimic_min: float = 0.0
    cfg_mode: ThresholdMode = "Constant"
    cfg_min: float = 0.0
    power: float = 4.0
    separate_channels: bool = True
    startpoint: Literal["MEAN", "ZERO"] = "MEAN"
    variability: Literal["AD", "STD"] = "AD"
    phi: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("mimic_mode", THRESHOLD_MODES), ("cfg_mode", THRESHOLD_MODES),
                            ("startpoint", ("MEAN", "ZERO")),
                            ("variability", ("AD", "STD"))):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(known)}, but got {getattr(self, name)!r}"
                )
        if not 0 <= self.percentile <= 100:
            raise ValueError(f"`percentile` must be in [0, 100], but got {self.percentile}")
        if not 0 <= self.phi <= 1:
            raise ValueError(f"`phi` must be in [0, 1], but got {self.phi}")

    def scales(self, cfg: float, step: int, n_steps: int) -> tuple[float, float]:
        """Tell the imitated and the real guidance at a step.

        Args:
            cfg: The guidance that was asked for.
            step: From 0.
            n_steps: Of all.

        Returns:
            Mimic scale and guidance.

        Example:
            >>> Thresholding(mimic_scale=4, mimic_mode="Linear Down").scales(8, 5, 11)
            (2.0, 8.0)
        """
        mimic = _moved(self.mimic_scale, self.mimic_min, self.mimic_mode, self.power, step, n_steps)
        real = _moved(cfg, self.cfg_min, self.cfg_mode, self.power, step, n_steps)
        return mimic, real


def _moved(
    scale: float, least: float, mode: ThresholdMode, power: float, step: int, n_steps: int
) -> float:
    if mode == "Constant":
        return float(scale)
    x = step / max(1, n_steps - 1)
    turn = (x * power) % 1.0
    share: float = {
        "Linear Down": 1 - x,
        "Half Cosine Down": math.cos(x),
        "Cosine Down": math.cos(x * math.pi / 2),
        "Linear Up": x,
        "Half Cosine Up": 1 - math.cos(x),
        "Cosine Up": 1 - math.cos(x * math.pi / 2),
        "Power Up": x**power,
        "Power Down": 1 - x**power,
        "Linear Repeating": abs(turn - 0.5) * 2,
        "Cosine Repeating": math.cos(x * 2 * math.pi * power) * 0.5 + 0.5,
        "Sawtooth": turn,
    }[mode]
    return (scale - least) * share + least


def threshold(
    without: torch.Tensor,
    relative: torch.Tensor,
    settings: Thresholding,
    cfg: float,
    step: int = 0,
    n_steps: int = 1,
) -> torch.Tensor:
    """Guide with dynamic thresholding, on predictions of the finished picture.

    The method of the web UI's extension of that name: with targets m (mimic) and c (real), both
    less their channels' means, and r_m = max|m|, r_c = percentile of |c|: clamp c to
    ±max(r_m, r_c), divide by that and multiply by r_m, then add c's mean. With ``STD`` the ranges
    are standard deviations and nothing is clamped; with ``ZERO`` the whole target is scaled by
    r_m / r_c.

    Args:
        without: Prediction without the prompt.
        relative: What the prompt adds to it; weighed parts of ``AND`` summed.
        settings: Scale, percentile and the rest.
        cfg: Guidance.
        step: From 0.
        n_steps: Of all; only the modes read it.

    Returns:
        The guided prediction.
    """
    import torch

    mimic_scale, cfg = settings.scales(cfg, step, n_steps)
    target = without + relative * cfg
    m, c = (without + relative * mimic_scale).flatten(2), target.flatten(2)
    mean = c.mean(2, keepdim=True)
    m_centred, c_centred = m - m.mean(2, keepdim=True), c - mean
    r_m = _range(m_centred, settings, 100.0)
    r_c = _range(c_centred, settings, settings.percentile)
    if settings.startpoint == "ZERO":
        result = c * (r_m / r_c)
    elif settings.variability == "STD":
        result = c_centred / r_c * r_m + mean
    else:
        limit = torch.maximum(r_m, r_c)
        result = c_centred.clamp(-limit, limit) / limit * r_m + mean
    # Where nothing varies there is no range to keep.
    result = torch.where(torch.isfinite(result), result, c).reshape(target.shape)
    return result * settings.phi + target * (1 - settings.phi)


def _range(values: torch.Tensor, settings: Thresholding, percentile: float) -> torch.Tensor:
    """How far values reach: `[n, channels or 1, 1]`."""
    import torch

    if not settings.separate_channels:
        values = values.flatten(1).unsqueeze(1)
    if settings.variability == "STD":
        return values.std(2, keepdim=True)
    if percentile >= 100:
        return values.abs().amax(2, keepdim=True)
    return torch.quantile(values.abs(), percentile / 100, dim=2, keepdim=True)


def rescale_guidance(guided: torch.Tensor, with_prompt: torch.Tensor, share: float) -> torch.Tensor:
    """Bring a guided prediction back to the spread of the one with the prompt.

    Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed (2305.08891), eq. 15
    and 16.

    Args:
        guided: After CFG.
        with_prompt: Before.
        share: 0 leaves `guided` as it is, 1 rescales it all; the paper takes 0.7.

    Returns:
        The prediction.
    """
    axes = list(range(1, guided.ndim))
    ratio = with_prompt.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return share * (guided * ratio) + (1 - share) * guided
