"""The sampling loop: from noise and encoded prompts to latent images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stockpot.draw.attention import split_and
from stockpot.draw.brownian import BrownianPath
from stockpot.draw.conditioning import Conditioner, Conditioning
from stockpot.draw.freeu import freeu_hooks
from stockpot.draw.guidance import rescale_guidance, threshold
from stockpot.draw.noises import Noises, noise_of_scheduler
from stockpot.draw.parts import Parts
from stockpot.draw.samplers import get_sampler, make_scheduler, set_steps
from stockpot.draw.schedules import Span, schedule_prompt
from stockpot.draw.settings import DrawSettings

if TYPE_CHECKING:
    import torch

__all__ = ["Wording", "count_calls", "sample_latents", "to_picture", "word"]


@dataclass(frozen=True)
class Wording:
    """One prompt, ready for the loop.

    Attributes:
        parts: The parts that ``AND`` joins: weight, and what each says when.
        encoded: By text.
    """

    parts: tuple[tuple[float, tuple[Span, ...]], ...]
    encoded: dict[str, Conditioning]

    def at(self, call: int) -> list[tuple[float, Conditioning]]:
        """Tell what holds at a call of the model.

        Args:
            call: From 1.

        Returns:
            Weight and encoded prompt of each part.
        """
        return [(weight, self.encoded[_text_at(spans, call)]) for weight, spans in self.parts]


def _text_at(spans: tuple[Span, ...], call: int) -> str:
    return next((span.text for span in spans if call <= span.until), spans[-1].text)


def count_calls(settings: DrawSettings, *, second: bool = False) -> int:
    """Count how often a pass asks the model, which is what schedules in prompts count.

    Args:
        settings: Steps and sampler.
        second: Of the second pass of hires fix.

    Returns:
        Calls.
    """
    hires = settings.hires
    if second and hires is not None:
        sampler = get_sampler(hires.sampler or settings.sampler)
        return (hires.steps or settings.steps) * sampler.order
    return settings.steps * get_sampler(settings.sampler).order


def word(
    prompt: str,
    conditioner: Conditioner,
    n_calls: int,
    *,
    after_calls: int | None = None,
    whole: bool = False,
) -> Wording:
    """Resolve ``AND`` and schedules, and encode all that a prompt says on its way.

    Args:
        prompt: Without LoRA tags.
        conditioner: Encodes.
        n_calls: How often the model is asked.
        after_calls: See `stockpot.draw.schedule_prompt`.
        whole: Take no ``AND``; negative prompts have none.

    Returns:
        The prompt, ready.
    """
    parts = ((prompt, 1.0),) if whole else split_and(prompt)
    scheduled = tuple(
        (weight, schedule_prompt(text, n_calls, after_steps=after_calls)) for text, weight in parts
    )
    texts = [span.text for _, spans in scheduled for span in spans]
    return Wording(scheduled, conditioner.encode(texts))


def sample_latents(
    parts: Parts,
    wordings: Sequence[Wording],
    negative: Wording | None,
    noises: Noises,
    start: torch.Tensor,
    settings: DrawSettings,
    step_done: Callable[[], None],
    *,
    second: bool = False,
) -> torch.Tensor:
    """Run one pass over one batch.

    Args:
        parts: The model.
        wordings: One for each picture.
        negative: What guidance leads away from; None without guidance.
        noises: Where the sampler's noise comes from.
        start: Noise `[n, channels, h, w]`; in the second pass of hires fix, what was drawn before.
        settings: Steps, sampler, guidance.
        step_done: Called after each call of the model.
        second: Whether this is the second pass.

    Returns:
        Latent images `[n, channels, h, w]`.
    """
    import torch

    hires, unet = settings.hires, parts.unet
    sampler = get_sampler(settings.sampler)
    if second and hires is not None and hires.sampler:
        sampler = get_sampler(hires.sampler)
    scheduler = make_scheduler(sampler.name, parts.noise, settings.schedule)
    cfg = hires.cfg if second and hires is not None and hires.cfg else settings.cfg
    dtype = next(unet.parameters()).dtype
    if second and hires is not None:
        n_steps, skipped = hires.pass_steps(settings.steps)
        set_steps(scheduler, n_steps, unet.device)
        first = min(skipped * sampler.order, len(scheduler.timesteps) - 1)
        timesteps = scheduler.timesteps[first:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        noise = noises.first(start.shape[1:]).to(start)
        x: torch.Tensor = scheduler.add_noise(start, noise, timesteps[:1].expand(len(start)))
    else:
        set_steps(scheduler, settings.steps, unet.device)
        timesteps = scheduler.timesteps
        x = start.to(unet.device, torch.float32) * float(scheduler.init_noise_sigma)
    height, width = x.shape[-2] * _factor(parts), x.shape[-1] * _factor(parts)
    model = _Model(parts, (height, width), dtype)
    extra = {}
    if settings.eta and "eta" in inspect.signature(scheduler.step).parameters:
        extra["eta"] = settings.eta
    n = len(timesteps)
    path = _path(scheduler, noises, x) if sampler.on_path else None
    with noise_of_scheduler(scheduler, noises, path), freeu_hooks(unet, settings.freeu) as strength:
        for i, t in enumerate(timesteps):
            if settings.freeu is not None:
                strength.value = settings.freeu.strength(i, n)
            x_in = scheduler.scale_model_input(x, t)
            told = [wording.at(i + 1) for wording in wordings]
            without = [negative.at(i + 1)[0][1]] if negative is not None else []
            predicted = model.predict(x_in, t, told, without)
            guided = _guided(predicted, told, scheduler, x_in, t, settings, cfg, (i, n))
            x = scheduler.step(guided, t, x, return_dict=False, **extra)[0]
            step_done()
    return x


def _path(
    scheduler: Any, noises: Noises, x: torch.Tensor
) -> Callable[[float, float], torch.Tensor]:
    """The paths of a pass: as web UIs do, over its own noise levels."""
    levels = scheduler.sigmas[scheduler.begin_index or 0 :]
    low, high = float(levels[levels > 0].min()), float(levels.max())
    path = BrownianPath(noises.seeds, x.shape[1:], low, high, noises.source)
    return lambda level, after: path(level, after).to(x.device)


@dataclass(frozen=True)
class _Predicted:
    """What the UNet said: for each part of each prompt, and without a prompt."""

    with_prompt: list[list[torch.Tensor]]
    without: torch.Tensor | None


class _Model:
    """The UNet with what SDXL wants to be told beside the prompt."""

    def __init__(self, parts: Parts, size: tuple[int, int], dtype: torch.dtype) -> None:
        self._unet, self._size, self._dtype = parts.unet, size, dtype

    def predict(
        self,
        x_in: torch.Tensor,
        t: torch.Tensor,
        told: list[list[tuple[float, Conditioning]]],
        without: list[Conditioning],
    ) -> _Predicted:
        """Ask the UNet for all pictures; prompts of one length go together.

        Padding a short prompt because a long one is drawn beside it would change its picture.
        """
        import torch

        asked = [(i, cond) for i, parts in enumerate(told) for cond in _even(parts)]
        asked += [(i, cond) for cond in without for i in range(len(told))]
        answers: list[torch.Tensor | None] = [None] * len(asked)
        for length in dict.fromkeys(len(cond.states) for _, cond in asked):
            places = [k for k, (_, cond) in enumerate(asked) if len(cond.states) == length]
            rows = x_in[[asked[k][0] for k in places]].to(self._dtype)
            conds = [asked[k][1] for k in places]
            context = torch.stack([cond.states for cond in conds]).to(rows)
            found = self._unet(
                rows,
                t,
                encoder_hidden_states=context,
                added_cond_kwargs=self._added(conds, rows),
                return_dict=False,
            )[0]
            for k, answer in zip(places, found.float(), strict=True):
                answers[k] = answer
        done: list[torch.Tensor] = [answer for answer in answers if answer is not None]
        grouped, at = [], 0
        for parts in told:
            grouped.append(done[at : at + len(parts)])
            at += len(parts)
        return _Predicted(grouped, torch.stack(done[at:]) if without else None)

    def _added(self, conds: list[Conditioning], rows: torch.Tensor) -> dict[str, Any] | None:
        import torch

        if conds[0].pooled is None:
            return None
        # Original size, corner and target size, as web UIs tell them.
        ids = torch.tensor([[*self._size, 0, 0, *self._size]] * len(conds))
        pooled = torch.stack([cond.pooled for cond in conds if cond.pooled is not None])
        return {"text_embeds": pooled.to(rows), "time_ids": ids.to(rows)}


def _even(parts: list[tuple[float, Conditioning]]) -> list[Conditioning]:
    """Parts of one prompt in one length: the last state repeats, as in A1111."""
    import torch

    n = max(len(cond.states) for _, cond in parts)
    even = []
    for _, cond in parts:
        rest = cond.states[-1:].expand(n - len(cond.states), -1)
        even.append(Conditioning(torch.cat([cond.states, rest]), cond.pooled, cond.n_tokens))
    return even


def _guided(
    predicted: _Predicted,
    told: list[list[tuple[float, Conditioning]]],
    scheduler: Any,
    x_in: torch.Tensor,
    t: torch.Tensor,
    settings: DrawSettings,
    cfg: float,
    at: tuple[int, int],
) -> torch.Tensor:
    import torch

    first = torch.stack([parts[0] for parts in predicted.with_prompt])
    without = predicted.without
    if without is None:
        return first
    sums = []
    for base, parts, weighed in zip(without, predicted.with_prompt, told, strict=True):
        sums.append(sum(weight * (part - base)
                        for (weight, _), part in zip(weighed, parts, strict=True)))  # fmt: skip
    relative = torch.stack([torch.as_tensor(one) for one in sums])
    if settings.thresholding is not None:
        # It speaks of the finished picture, which is linear in what the model predicts.
        a, b = to_picture(scheduler, t)
        clean = threshold(a * x_in + b * without, b * relative, settings.thresholding, cfg, *at)
        guided = (clean - a * x_in) / b
    else:
        guided = without + cfg * relative
    if settings.cfg_rescale:
        guided = rescale_guidance(guided, without + relative, settings.cfg_rescale)
    return guided


def to_picture(scheduler: Any, t: torch.Tensor) -> tuple[float, float]:
    """Tell where the model would end, from what it is shown and what it says.

    Args:
        scheduler: Between its `scale_model_input` and its `step`.
        t: The time that the model is told.

    Returns:
        a and b in: finished picture = a · model input + b · model output.
    """
    sigmas, index = getattr(scheduler, "sigmas", None), getattr(scheduler, "step_index", None)
    if sigmas is not None and index is None and hasattr(scheduler, "index_for_timestep"):
        index = scheduler.begin_index
        index = scheduler.index_for_timestep(t) if index is None else index
    if sigmas is not None and index is not None:
        sigma = _level(scheduler, sigmas, index)
    else:
        share = float(scheduler.alphas_cumprod[int(t)])
        sigma = ((1 - share) / share) ** 0.5
    alpha = 1 / (1 + sigma**2) ** 0.5
    if scheduler.config.prediction_type == "v_prediction":
        return alpha, -sigma * alpha
    return 1 / alpha, -sigma


def _level(scheduler: Any, sigmas: Any, index: int) -> float:
    """The noise level of what the model is asked; halfway, for the second calls of a step."""
    if not getattr(scheduler, "state_in_first_order", True):
        if hasattr(scheduler, "mid_point_sigma"):
            return float(scheduler.mid_point_sigma)
        if hasattr(scheduler, "sigmas_interpol"):
            # The ancestral one keeps them a place earlier.
            late = "Ancestral" in type(scheduler).__name__
            return float(scheduler.sigmas_interpol[index - late])
    return float(sigmas[index])


def _factor(parts: Parts) -> int:
    return int(2 ** (len(parts.vae.config.block_out_channels) - 1))
