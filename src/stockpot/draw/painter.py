"""The painter: a model that is ready to draw."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import numpy.typing as npt

from stockpot.checkpoints import Source
from stockpot.draw.conditioning import Conditioner, Conditioning
from stockpot.draw.embeddings import Embedding
from stockpot.draw.hires import enlarge
from stockpot.draw.loading import load_parts
from stockpot.draw.loras import LoraSet
from stockpot.draw.memory import vae_at_hand
from stockpot.draw.noises import Noises
from stockpot.draw.parts import Parts
from stockpot.draw.pictures import Pictures
from stockpot.draw.prompt_words import LoraTag, take_loras
from stockpot.draw.sampling import Wording, count_calls, sample_latents, word
from stockpot.draw.settings import DrawSettings
from stockpot.draw.tiling import edges_meet
from stockpot.errors import memory_told

if TYPE_CHECKING:
    import torch

__all__ = ["BrokenPictureWarning", "Drawn", "Painter", "UnheardPromptWarning", "open_painter"]

Report = Callable[[int, int], None]


class BrokenPictureWarning(UserWarning):
    """A model drew NaN: no colour at all."""


class UnheardPromptWarning(UserWarning):
    """A prompt asks for something that is not there, such as a LoRA; it is drawn without."""


@dataclass(frozen=True)
class Drawn:
    """Pictures, and what there is to know of how they were drawn.

    Attributes:
        floats: float32 RGB in [0, 1], `[n, height, width, 3]`.
        seeds: Of each picture.
        n_tokens: Of each prompt, as web UIs count them.
        embeddings: The textual inversions that prompts called, with their files' hashes.
        loras: The LoRAs that prompts called, with their files' hashes.
    """

    floats: npt.NDArray[np.float32]
    seeds: tuple[int, ...]
    n_tokens: tuple[int, ...]
    embeddings: Mapping[str, str]
    loras: Mapping[str, str]

    @cached_property
    def pictures(self) -> Pictures:
        """The pictures as bytes."""
        bytes_: Pictures = np.rint(self.floats * 255.0).astype(np.uint8)
        return bytes_


@final
class Painter:
    """A model that is ready to draw. Made by `open_painter`.

    Args:
        parts: The loaded model; whoever changes its weights in place changes the next picture.
        embeddings: Textual inversions by the word that calls them.
        loras: Files of LoRAs by the name that prompts give.

    Attributes:
        parts: The loaded model.
        loras: The LoRAs that act on it.
    """

    def __init__(
        self,
        parts: Parts,
        embeddings: Mapping[str, Embedding] | None = None,
        loras: Mapping[str, Path] | None = None,
    ) -> None:
        self.parts = parts
        self.loras = LoraSet(parts, loras or {})
        self._embeddings = dict(embeddings or {})

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

        A picture's noise comes from its own seed, so it is the same in every batch and on every
        device; the rest of the arithmetic is floating point, which may differ in its last bits
        with the size of the batch. Prompts have the grammar of web UIs (docs/drawing.md).

        Args:
            prompts: What to show, `n` texts.
            seeds: One for each prompt; or the first one, picture i then takes ``seeds + i``.
            settings: Steps, guidance, sampler, size.
            progress: Called with the steps of pictures that are done, and those of all.

        Returns:
            uint8 RGB, `[n, height, width, 3]`.

        Raises:
            ValueError: There is not one seed for each prompt, or the size does not suit the VAE.
            DeviceMemoryError: The device has no memory left.

        Warns:
            CutPromptWarning: A prompt has more tokens than the settings allow.
            UnheardPromptWarning: A prompt calls a LoRA that is not there.
            BrokenPictureWarning: The model drew NaN, which becomes black.
        """
        return self.paint(prompts, seeds, settings, progress).pictures

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
        return self.paint(prompts, seeds, settings, progress).floats

    def paint(
        self,
        prompts: Sequence[str],
        seeds: int | Sequence[int] = 0,
        settings: DrawSettings = DrawSettings(),  # noqa: B008 - frozen
        progress: Report | None = None,
    ) -> Drawn:
        """Draw as `draw` does, and tell what was met on the way.

        Args:
            prompts: As for `draw`.
            seeds: As for `draw`.
            settings: As for `draw`.
            progress: As for `draw`.

        Returns:
            Pictures, token counts, and the embeddings and LoRAs that prompts called.

        Raises:
            ValueError: As for `draw`.
        """
        numbers = _seed_list(seeds, len(prompts))
        size = self._latent_size(settings)
        run = _Run(self, settings, len(prompts), progress)
        plain, groups = self._by_loras(prompts)
        out = np.empty((len(prompts), *run.result_size(size), 3), np.float32)
        n_tokens = [0] * len(prompts)
        try:
            for tags, places in groups.items():
                self.loras.use(tags)
                conditioner = Conditioner(
                    self.parts,
                    self._embeddings,
                    clip_skip=settings.clip_skip,
                    emphasis=settings.emphasis,
                    max_chunks=settings.max_chunks,
                )
                for start in range(0, len(places), settings.batch):
                    some = places[start : start + settings.batch]
                    out[some] = run.batch(
                        conditioner, [plain[i] for i in some], [numbers[i] for i in some], size
                    )
                for i in places:
                    n_tokens[i] = conditioner.count(plain[i])
                run.used.update({e.name: e.sha256 for e in conditioner.used.values()})
        finally:
            self.loras.clear()
        called = dict.fromkeys(tag.name for tags in groups for tag in tags)
        loras = {name: self.loras.get(name).sha256 for name in called}
        return Drawn(out, tuple(numbers), tuple(n_tokens), run.used, loras)

    def count_tokens(self, prompt: str, settings: DrawSettings = DrawSettings()) -> int:  # noqa: B008
        """Count a prompt's tokens as web UIs do.

        Args:
            prompt: As for `draw`; its LoRA tags do not count.
            settings: Only `emphasis` is read.

        Returns:
            Tokens; all but the last chunk count as full.
        """
        conditioner = Conditioner(self.parts, self._embeddings, emphasis=settings.emphasis)
        return conditioner.count(take_loras(prompt)[0])

    def _by_loras(
        self, prompts: Sequence[str]
    ) -> tuple[list[str], dict[tuple[LoraTag, ...], list[int]]]:
        """Prompts without tags, and which of them draw with which LoRAs."""
        plain: list[str] = []
        groups: dict[tuple[LoraTag, ...], list[int]] = {}
        unheard: dict[str, None] = {}
        for i, prompt in enumerate(prompts):
            text, tags, others = take_loras(prompt)
            plain.append(text)
            unheard.update(dict.fromkeys(others))
            unheard.update(
                {f"<lora:{t.name}>": None for t in tags if t.name not in self.loras.known}
            )
            heard = tuple(tag for tag in tags if tag.name in self.loras.known)
            groups.setdefault(heard, []).append(i)
        if unheard:
            warnings.warn(
                f"prompts call {', '.join(unheard)}, which nobody gave; drawn without",
                UnheardPromptWarning,
                stacklevel=4,
            )
        return plain, groups

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


@final
class _Run:
    """One call of `Painter.paint`: settings, progress, and both passes of a batch."""

    def __init__(
        self, painter: Painter, settings: DrawSettings, n_pictures: int, report: Report | None
    ) -> None:
        self._parts, self._factor = painter.parts, painter.vae_factor
        self._settings, self._report = settings, report
        hires = settings.hires
        self._two = hires is not None and hires.denoising > 0
        n_steps = settings.steps
        if hires is not None and self._two:
            n_steps += hires.steps or settings.steps
        self._total, self._done = n_pictures * n_steps, 0.0
        self.used: dict[str, str] = {}

    def result_size(self, latent: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the pictures."""
        height, width = latent[0] * self._factor, latent[1] * self._factor
        if self._settings.hires is not None:
            _, (width, height) = self._settings.hires.sizes(width, height)
        f = self._factor
        return max(1, height // f) * f, max(1, width // f) * f

    def batch(
        self,
        conditioner: Conditioner,
        prompts: list[str],
        seeds: list[int],
        size: tuple[int, int],
    ) -> npt.NDArray[np.float32]:
        """Draw pictures at once: floats `[n, height, width, 3]`."""
        import torch

        settings, parts = self._settings, self._parts
        shape = (parts.unet.config.in_channels, *size)
        height, width = self.result_size(size)
        with (
            torch.inference_mode(),
            edges_meet(parts, settings.tiling),
            memory_told(f"{parts.unet.device} draws {len(prompts)} of {width} x {height} at once",
                        "draw fewer at once or smaller ones, with --vram low or --dtype float16"),
        ):  # fmt: skip
            noises = self._noises(seeds)
            wordings, negative = self._words(conditioner, prompts, second=False)
            x = sample_latents(parts, wordings, negative, noises, noises.first(shape), settings,
                               self._counter(len(prompts), second=False))  # fmt: skip
            if settings.hires is not None:
                with vae_at_hand(parts) as vae:
                    x = enlarge(x, settings.hires, vae, self._factor)
                if self._two:
                    wordings, negative = self._words(conditioner, prompts, second=True)
                    x = sample_latents(parts, wordings, negative, self._noises(seeds), x, settings,
                                       self._counter(len(prompts), second=True),
                                       second=True)  # fmt: skip
            return self._decoded(x)

    def _noises(self, seeds: list[int]) -> Noises:
        settings = self._settings
        variation = [settings.variation_seed] * len(seeds) if settings.variation else None
        return Noises(seeds, settings.noise, step_delta=settings.step_delta,
                      variation=variation, strength=settings.variation)  # fmt: skip

    def _words(
        self, conditioner: Conditioner, prompts: list[str], *, second: bool
    ) -> tuple[list[Wording], Wording | None]:
        settings, hires = self._settings, self._settings.hires
        n_calls = count_calls(settings, second=second)
        after = count_calls(settings) if second else None
        negative = settings.negative
        cfg = settings.cfg
        if second and hires is not None:
            if hires.prompt:
                prompts = [take_loras(hires.prompt)[0]] * len(prompts)
            negative, cfg = hires.negative or negative, hires.cfg or cfg
        wordings = [word(p, conditioner, n_calls, after_calls=after) for p in prompts]
        if cfg <= 1:
            return wordings, None
        text = take_loras(negative)[0]
        against = word(text, conditioner, n_calls, after_calls=after, whole=True)
        return wordings, _nothing(against) if not text.strip() else against

    def _counter(self, n_pictures: int, *, second: bool) -> Callable[[], None]:
        """Counts steps, of which some samplers make two calls."""
        settings = self._settings
        steps = settings.steps
        if second and settings.hires is not None:
            steps = settings.hires.steps or steps
        before, n_done = self._done, 0
        n_calls = count_calls(settings, second=second)

        def count() -> None:
            nonlocal n_done
            n_done += 1
            share = min(1.0, n_done / n_calls)
            self._done = before + n_pictures * steps * share
            if self._report is not None:
                self._report(min(int(self._done + 1e-6), self._total), self._total)

        return count

    def _decoded(self, latents: torch.Tensor) -> npt.NDArray[np.float32]:
        with vae_at_hand(self._parts) as vae:
            scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
            decoded = vae.decode(scaled, return_dict=False)[0]
        pictures = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        broken = pictures.isnan().flatten(1).any(dim=1).sum().item()
        if broken:
            warnings.warn(
                f"{self._parts.name}: {broken} of {len(pictures)} pictures hold NaN, shown as "
                "black; the model is damaged, or made for another kind of prediction",
                BrokenPictureWarning,
                stacklevel=5,
            )
        array: npt.NDArray[np.float32] = pictures.nan_to_num(0.0).float().cpu().numpy()
        return array


def _nothing(wording: Wording) -> Wording:
    """SDXL without a negative prompt takes zeros instead of an encoded empty text."""
    import torch

    encoded = {}
    for text, cond in wording.encoded.items():
        if cond.pooled is None:
            return wording
        encoded[text] = Conditioning(
            torch.zeros_like(cond.states), torch.zeros_like(cond.pooled), cond.n_tokens
        )
    return Wording(wording.parts, encoded)


def open_painter(
    model: Source,
    config: str | os.PathLike[str] | None = None,
    *,
    vae: Source | None = None,
    te: Source | None = None,
    prediction: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    tokenizer: Path | None = None,
    embeddings: Mapping[str, Embedding] | None = None,
    loras: Mapping[str, Path] | None = None,
) -> Painter:
    """Load a checkpoint for drawing, from a file or from memory.

    Args:
        model: The checkpoint; it may be closed afterwards.
        config: A diffusers folder that describes the architecture (``unet``, ``vae``,
            ``text_encoder``, ``tokenizer``, ``scheduler``); weights in it are not read. By default
            the architecture's own description.
        vae: Where to take the VAE from instead of the model.
        te: Where to take the text encoder from instead of the model.
        prediction: ``epsilon`` or ``v_prediction``; by default the model's ``v_pred`` marker
            decides, then the description.
        device: A torch device.
        dtype: torch's name of the type to compute in.
        tokenizer: A folder with CLIP's tokenizer; see `stockpot.draw.find_tokenizer`.
        embeddings: Textual inversions by the word that calls them.
        loras: Files of LoRAs by the name that prompts give.

    Returns:
        The painter; it holds the model.

    Raises:
        LayoutError: The architecture cannot be drawn, or a component is missing; the message says
            which, and how to give it.
        MissingExtraError: The extra `draw` is not installed.
    """
    parts = load_parts(
        model,
        None if config is None else Path(config),
        vae=vae,
        te=te,
        prediction=prediction,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
    )
    return Painter(parts, embeddings, loras)


def _seed_list(seeds: int | Sequence[int], n_prompts: int) -> list[int]:
    if isinstance(seeds, int):
        return [seeds + i for i in range(n_prompts)]
    if len(seeds) != n_prompts:
        raise ValueError(
            f"there must be one seed for each prompt, but got {len(seeds)} for {n_prompts}"
        )
    return list(seeds)
