"""The painter: a model that is ready to draw, and its sampling loop."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import Source
from stockpot.draw.loading import Parts, load_parts
from stockpot.draw.pictures import Pictures
from stockpot.draw.prompts import encode_prompts
from stockpot.draw.samplers import get_sampler, make_scheduler

if TYPE_CHECKING:
    import torch

__all__ = ["BrokenPictureWarning", "DrawSettings", "Painter", "open_painter"]

Report = Callable[[int, int], None]


class BrokenPictureWarning(UserWarning):
    """A model drew NaN: no colour at all."""


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How to draw.

    Attributes:
        steps: Calls of the UNet for each picture; more is slower and, up to some 30, better.
        cfg: Classifier-free guidance; 1 switches it (and the negative prompt) off and halves the
            time, high values burn the colours.
        sampler: A key of `stockpot.draw.SAMPLERS`.
        negative: What guidance leads away from.
        width: In pixels, a multiple of the VAE's factor; None for the model's own size.
        height: As `width`.
        batch: Pictures at once: time against memory, and nothing else.

    Raises:
        ValueError: A number is out of range.
        UnknownNameError: There is no such sampler.
    """

    steps: int = 20
    cfg: float = 7.0
    sampler: str = "DPM++ 2M"
    negative: str = ""
    width: int | None = None
    height: int | None = None
    batch: int = 32

    def __post_init__(self) -> None:
        get_sampler(self.sampler)
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, but got {getattr(self, name)}")
        if not 1 <= self.cfg < float("inf"):
            raise ValueError(f"`cfg` must be a finite number from 1 on, but got {self.cfg}")


@final
class Painter:
    """A model that is ready to draw. Made by `open_painter`.

    Attributes:
        parts: The loaded model; whoever changes its weights in place changes the next picture.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @property
    def prediction(self) -> str:
        """What the UNet predicts: ``epsilon`` (noise) or ``v_prediction`` (velocity)."""
        return str(self.parts.noise.get("prediction_type", "epsilon"))

    @property
    def vae_factor(self) -> int:
        """How many pixels of a picture one of its latent image spans, in each direction."""
        return int(2 ** (len(self.parts.vae.config.block_out_channels) - 1))

    def draw(
        self,
        prompts: Sequence[str],
        seeds: int | Sequence[int] = 0,
        settings: DrawSettings = DrawSettings(),  # noqa: B008 - frozen
        progress: Report | None = None,
    ) -> Pictures:
        """Draw one picture for each prompt.

        A picture's noise comes from its own seed, by torch's CPU generator, so it is the same in
        every batch and on every device; the rest of the arithmetic is floating point, which may
        differ in its last bits with the size of the batch.

        Args:
            prompts: What to show, `n` texts.
            seeds: One for each prompt; or the first one, picture i then takes ``seeds + i``.
            settings: Steps, guidance, sampler, size.
            progress: Called with the steps of pictures that are done, and those of all.

        Returns:
            uint8 RGB, `[n, height, width, 3]`.

        Raises:
            ValueError: There is not one seed for each prompt, or the size does not suit the VAE.

        Warns:
            CutPromptWarning: A prompt has more tokens than the text encoder reads.
            BrokenPictureWarning: The model drew NaN, which becomes black.
        """
        floats = self.sample(prompts, seeds, settings, progress)
        bytes_: Pictures = np.rint(floats * 255.0).astype(np.uint8)
        return bytes_

    def sample(
        self,
        prompts: Sequence[str],
        seeds: int | Sequence[int] = 0,
        settings: DrawSettings = DrawSettings(),  # noqa: B008 - frozen
        progress: Report | None = None,
    ) -> npt.NDArray[np.float32]:
        """Draw as `draw` does, without rounding to bytes.

        Args:
            prompts: As for `draw`.
            seeds: As for `draw`.
            settings: As for `draw`.
            progress: As for `draw`.

        Returns:
            float32 RGB in [0, 1], `[n, height, width, 3]`.

        Raises:
            ValueError: As for `draw`.
        """
        numbers = _seed_list(seeds, len(prompts))
        height, width = self._latent_size(settings)
        shape = (self.parts.unet.config.in_channels, height, width)
        guided = settings.cfg > 1
        texts = [*prompts, settings.negative] if guided else list(prompts)
        states = encode_prompts(texts, self.parts.tokenizer, self.parts.text_encoder)
        done, total = 0, len(prompts) * settings.steps
        factor = self.vae_factor
        out = np.empty((len(prompts), height * factor, width * factor, 3), np.float32)
        for start in range(0, len(prompts), settings.batch):
            stop = min(start + settings.batch, len(prompts))

            def step_done(n_pictures: int = stop - start) -> None:
                nonlocal done
                done += n_pictures
                if progress is not None:
                    progress(min(done, total), total)

            out[start:stop] = self._batch(
                [states[prompt] for prompt in prompts[start:stop]],
                states[settings.negative] if guided else None,
                _noise(numbers[start:stop], shape),
                settings,
                step_done,
            )
        return out

    def _batch(
        self,
        prompts: list[torch.Tensor],
        negative: torch.Tensor | None,
        noise: torch.Tensor,
        settings: DrawSettings,
        step_done: Callable[[], None],
    ) -> npt.NDArray[np.float32]:
        """Latent noise `[n, 4, h, w]` to floats `[n, height, width, 3]`."""
        import torch

        unet, vae = self.parts.unet, self.parts.vae
        scheduler = make_scheduler(settings.sampler, self.parts.noise)
        scheduler.set_timesteps(settings.steps, device=unet.device)
        with torch.inference_mode():
            context = torch.stack(prompts)  # [n, positions, width]
            if negative is not None:
                context = torch.cat([negative.expand_as(context), context])
            x = noise.to(unet.device) * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                x_in = scheduler.scale_model_input(x, t)
                if negative is not None:
                    x_in = torch.cat([x_in, x_in])
                predicted = unet(x_in, t, encoder_hidden_states=context, return_dict=False)[0]
                if negative is not None:
                    without, with_prompt = predicted.chunk(2)
                    predicted = without + settings.cfg * (with_prompt - without)
                x = scheduler.step(predicted, t, x, return_dict=False)[0]
                step_done()
            decoded = vae.decode(x / vae.config.scaling_factor, return_dict=False)[0]
            pictures = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
            broken = pictures.isnan().flatten(1).any(dim=1).sum().item()
            if broken:
                warnings.warn(
                    f"{self.parts.name}: {broken} of {len(prompts)} pictures hold NaN, shown as "
                    "black; the model is damaged, or made for another kind of prediction",
                    BrokenPictureWarning,
                    stacklevel=4,
                )
            array: npt.NDArray[np.float32] = pictures.nan_to_num(0.0).float().cpu().numpy()
        return array

    def _latent_size(self, settings: DrawSettings) -> tuple[int, int]:
        factor, own = self.vae_factor, self.parts.unet.config.sample_size
        sizes = []
        for name in ("height", "width"):
            pixels = getattr(settings, name)
            if pixels is None:
                sizes.append(int(own))
            elif pixels < factor or pixels % factor:
                raise ValueError(f"`{name}` must be a multiple of {factor}, but got {pixels}")
            else:
                sizes.append(pixels // factor)
        return sizes[0], sizes[1]


def open_painter(
    model: Source,
    config: str | os.PathLike[str],
    *,
    vae: Source | None = None,
    te: Source | None = None,
    prediction: str | None = None,
    device: str = "cpu",
) -> Painter:
    """Load a checkpoint for drawing, from a file or from memory.

    Args:
        model: The checkpoint; it may be closed afterwards.
        config: A diffusers folder that describes the architecture (``unet``, ``vae``,
            ``text_encoder``, ``tokenizer``, ``scheduler``); weights in it are not read.
        vae: Where to take the VAE from instead of the model.
        te: Where to take the text encoder from instead of the model.
        prediction: ``epsilon`` or ``v_prediction``; by default the model's ``v_pred`` marker
            decides, then the folder.
        device: A torch device.

    Returns:
        The painter; it holds the model in float32.

    Raises:
        LayoutError: The architecture cannot be drawn, or a component is missing; the message says
            which, and how to give it.
        MissingExtraError: The extra `draw` is not installed.
    """
    return Painter(
        load_parts(model, Path(config), vae=vae, te=te, prediction=prediction, device=device)
    )


def _seed_list(seeds: int | Sequence[int], n_prompts: int) -> list[int]:
    if isinstance(seeds, int):
        return [seeds + i for i in range(n_prompts)]
    if len(seeds) != n_prompts:
        raise ValueError(
            f"there must be one seed for each prompt, but got {len(seeds)} for {n_prompts}"
        )
    return list(seeds)


def _noise(seeds: Sequence[int], shape: tuple[Any, ...]) -> torch.Tensor:
    """Each picture's noise from its own seed: `[n, channels, height, width]`."""
    import torch

    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
