"""How to draw: everything that a picture depends on besides the model, prompt and seed."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.draw.conditioning import EMPHASES, EmphasisMode
from stockpot.draw.freeu import FreeU
from stockpot.draw.guidance import Thresholding
from stockpot.draw.hires import Hires
from stockpot.draw.noises import NOISES, NoiseSource
from stockpot.draw.samplers import SCHEDULES, get_sampler
from stockpot.errors import UnknownNameError

__all__ = ["DrawSettings"]

MOST_STEPS = 1000
"""As many levels of noise as models know: more steps draw nothing else."""


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How to draw.

    Attributes:
        steps: Steps for each picture; more is slower and, up to some 30, better.
        cfg: Classifier-free guidance; 1 switches it (and the negative prompt) off and halves the
            time, high values burn the colours.
        sampler: A key of `stockpot.draw.SAMPLERS`.
        negative: What guidance leads away from.
        width: In pixels, a multiple of the VAE's factor; None for the model's own size.
        height: As `width`.
        batch: Pictures at once: time against memory, and nothing else.
        schedule: One of `stockpot.draw.SCHEDULES`.
        clip_skip: 1 for the text encoder's last layer, 2 for the one before … ; SD2 and SDXL do
            not read it.
        emphasis: One of `stockpot.draw.EMPHASES`.
        max_chunks: Cut prompts after so many chunks of 75 tokens; 0 never cuts.
        noise: One of `stockpot.draw.NOISES`.
        step_delta: Added to the seed for the noise that samplers add on their way (ENSD).
        variation_seed: A second seed, and
        variation: how far to go to its noise, 0 to 1.
        cfg_rescale: 0 to 1; see `stockpot.draw.rescale_guidance`.
        thresholding: Dynamic thresholding; None for plain guidance.
        freeu: None for the UNet as it is.
        hires: A second, larger pass; None for one pass.
        eta: Noise that DDIM adds, 0 to 1.
        tiling: Let opposite edges meet, so that the picture repeats without a seam.

    Raises:
        ValueError: A number is out of range.
        UnknownNameError: There is no such sampler or schedule.
    """

    steps: int = 20
    cfg: float = 7.0
    sampler: str = "DPM++ 2M"
    negative: str = ""
    width: int | None = None
    height: int | None = None
    batch: int = 32
    schedule: str = "Automatic"
    clip_skip: int = 1
    emphasis: EmphasisMode = "Original"
    max_chunks: int = 0
    noise: NoiseSource = "CPU"
    step_delta: int = 0
    variation_seed: int = 0
    variation: float = 0.0
    cfg_rescale: float = 0.0
    thresholding: Thresholding | None = None
    freeu: FreeU | None = None
    hires: Hires | None = None
    eta: float = 0.0
    tiling: bool = False

    def __post_init__(self) -> None:
        get_sampler(self.sampler)
        if self.hires is not None and self.hires.sampler:
            get_sampler(self.hires.sampler)
        if self.schedule not in SCHEDULES:
            raise UnknownNameError("schedule", self.schedule, SCHEDULES)
        for name in ("steps", "batch", "clip_skip"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but got {getattr(self, name)}")
        # A stranger's request must not keep a machine busy for weeks.
        for name in ("steps", "batch"):
            if getattr(self, name) > MOST_STEPS:
                raise ValueError(
                    f"`{name}` may be {MOST_STEPS} at most, but got {getattr(self, name)}"
                )
        if not 1 <= self.cfg < float("inf"):
            raise ValueError(f"`cfg` must be a finite number from 1 on, but got {self.cfg}")
        for name in ("cfg_rescale", "variation", "eta"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], but got {getattr(self, name)}")
        if self.max_chunks < 0:
            raise ValueError(f"`max_chunks` must be 0 or more, but got {self.max_chunks}")
        if self.emphasis not in EMPHASES:
            raise ValueError(f"`emphasis` must be one of {EMPHASES}, but got {self.emphasis!r}")
        if self.noise not in NOISES:
            raise ValueError(f"`noise` must be one of {NOISES}, but got {self.noise!r}")
