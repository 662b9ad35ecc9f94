"""Samplers under the names that people use, as an explicit table over diffusers' schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from stockpot.errors import UnknownNameError

__all__ = [
    "SAMPLERS", "SCHEDULES", "Sampler", "Schedule", "get_sampler", "make_scheduler", "set_steps",
]  # fmt: skip

Schedule = Literal["Automatic", "Karras", "Exponential", "Beta", "Uniform", "SGM Uniform"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
"""How noise levels are spaced; ``Automatic`` is what the sampler's name says."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """A named way from noise to a picture.

    Attributes:
        name: As in web UIs and infotexts.
        scheduler: Name of the class in `diffusers`.
        options: What to tell it, beyond the model's own noise schedule.
        order: How many times a step asks the model.
        adds_noise: Whether it draws noise on its way.
        on_path: Whether that noise is of one Brownian path for each picture, as k-diffusion's
            ``… SDE`` samplers take it; see `stockpot.draw.BrownianPath`.
    """

    name: str
    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    order: int = 1
    adds_noise: bool = False
    on_path: bool = False


_DPM_2M = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "timestep_spacing": "linspace",
    "final_sigmas_type": "zero",
}
_DPM_SDE = {**_DPM_2M, "algorithm_type": "sde-dpmsolver++"}
_KARRAS = {"use_karras_sigmas": True}
_EXPONENTIAL = {"use_exponential_sigmas": True}
_LINSPACE = {"timestep_spacing": "linspace"}
_DPM = "DPMSolverMultistepScheduler"


def _in_schedules(
    name: str, scheduler: str, options: Mapping[str, Any], order: int = 1
) -> tuple[Sampler, ...]:
    """An ``… SDE`` sampler under the three names that web UIs up to 1.8 list it by."""
    spacings = {"": {}, " Karras": _KARRAS, " Exponential": _EXPONENTIAL}
    return tuple(
        Sampler(name + end, scheduler, {**options, **more}, order, adds_noise=True, on_path=True)
        for end, more in spacings.items()
    )


_ALL = (
    Sampler("DPM++ 2M", _DPM, _DPM_2M),
    Sampler("DPM++ 2M Karras", _DPM, {**_DPM_2M, **_KARRAS}),
    # "linear" interpolates the noise level in time, at the times of k-diffusion; diffusers'
    # "log_linear" is another schedule, evenly spaced in log sigma.
    Sampler("Euler", "EulerDiscreteScheduler", {**_LINSPACE, "interpolation_type": "linear"}),
    Sampler("Euler a", "EulerAncestralDiscreteScheduler", _LINSPACE, adds_noise=True),
    Sampler("Heun", "HeunDiscreteScheduler", _LINSPACE, order=2),
    Sampler("LMS", "LMSDiscreteScheduler", _LINSPACE),
    Sampler("LMS Karras", "LMSDiscreteScheduler", {**_LINSPACE, **_KARRAS}),
    Sampler("DPM2", "KDPM2DiscreteScheduler", _LINSPACE, order=2),
    Sampler("DPM2 Karras", "KDPM2DiscreteScheduler", {**_LINSPACE, **_KARRAS}, order=2),
    Sampler("DPM2 a", "KDPM2AncestralDiscreteScheduler", _LINSPACE, order=2, adds_noise=True),
    Sampler(
        "DPM2 a Karras",
        "KDPM2AncestralDiscreteScheduler",
        {**_LINSPACE, **_KARRAS},
        order=2,
        adds_noise=True,
    ),
    *_in_schedules("DPM++ SDE", "DPMSolverSDEScheduler", _LINSPACE, order=2),
    *_in_schedules("DPM++ 2M SDE", _DPM, _DPM_SDE),
    *_in_schedules("DPM++ 2M SDE Heun", _DPM, {**_DPM_SDE, "solver_type": "heun"}),
    *_in_schedules("DPM++ 3M SDE", _DPM, {**_DPM_SDE, "solver_order": 3}),
    Sampler("UniPC", "UniPCMultistepScheduler", {**_LINSPACE, "final_sigmas_type": "zero"}),
    Sampler(
        "PLMS",
        "PNDMScheduler",
        {"timestep_spacing": "leading", "steps_offset": 1, "skip_prk_steps": True},
    ),
    Sampler(
        "DDIM",
        "DDIMScheduler",
        {
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "clip_sample": False,
            "set_alpha_to_one": False,
        },
    ),
    Sampler("DEIS", "DEISMultistepScheduler", _LINSPACE),
    Sampler(
        "DDPM",
        "DDPMScheduler",
        {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False},
        adds_noise=True,
    ),
    Sampler("LCM", "LCMScheduler", {"clip_sample": False}, adds_noise=True),
)  # fmt: skip

SAMPLERS: Mapping[str, Sampler] = MappingProxyType({sampler.name: sampler for sampler in _ALL})
"""Every sampler by name; the first is the default."""

# What of a model's scheduler file describes the model and not somebody's choice of sampler.
_MODEL_FIELDS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)

_SCHEDULE_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Automatic": {},
        "Karras": _KARRAS,
        "Exponential": _EXPONENTIAL,
        "Beta": {"use_beta_sigmas": True},
        "Uniform": _LINSPACE,
        "SGM Uniform": {"timestep_spacing": "trailing"},
    }
)


def get_sampler(name: str) -> Sampler:
    """Look up a sampler.

    Args:
        name: A key of `SAMPLERS`.

    Returns:
        The sampler.

    Raises:
        UnknownNameError: There is no such sampler.

    Example:
        >>> get_sampler("Euler").scheduler
        'EulerDiscreteScheduler'
    """
    try:
        return SAMPLERS[name]
    except KeyError:
        raise UnknownNameError("sampler", name, SAMPLERS) from None


def make_scheduler(name: str, noise: Mapping[str, Any], schedule: str = "Automatic") -> Any:
    """Make a fresh scheduler; they keep state, so each batch needs its own.

    Args:
        name: A key of `SAMPLERS`.
        noise: The model's noise schedule, as in diffusers' ``scheduler_config.json``; fields that
            speak of another sampler are left out.
        schedule: One of `SCHEDULES`, for those who name it apart from the sampler.

    Returns:
        An instance of the sampler's class in `diffusers`.

    Raises:
        UnknownNameError: There is no such sampler or schedule.
        ValueError: The sampler cannot draw with that schedule, or with a model that was trained
            to zero signal-to-noise.
        MissingExtraError: diffusers is not installed.
    """
    from stockpot.draw.libraries import require_libraries

    sampler = get_sampler(name)
    if schedule not in _SCHEDULE_OPTIONS:
        raise UnknownNameError("schedule", schedule, SCHEDULES)
    require_libraries()
    import diffusers

    kind = getattr(diffusers, sampler.scheduler)
    described = {field: noise[field] for field in _MODEL_FIELDS if noise.get(field) is not None}
    options = {**sampler.options, **_SCHEDULE_OPTIONS[schedule]}
    accepted = inspect.signature(kind.__init__).parameters
    unfit = [option for option in options if option not in accepted]
    if unfit:
        raise ValueError(f"the sampler {name} has no schedule {schedule!r}; "
                         "use another sampler, or Automatic")  # fmt: skip
    if "rescale_betas_zero_snr" not in accepted and described.pop("rescale_betas_zero_snr", False):
        raise ValueError(
            f"this model was trained to zero signal-to-noise, which the sampler {name} cannot "
            "draw with; use Euler, DDIM or DPM++ 2M"
        )
    return kind(**described, **options)


def set_steps(scheduler: Any, n_steps: int, device: Any = "cpu") -> None:
    """Lay out a scheduler's noise levels, Euler's exactly as k-diffusion does.

    k-diffusion takes log sigma between the times of training in proportion; diffusers takes sigma
    itself, which among the last steps of many departs by a part in a thousand.

    Args:
        scheduler: From `make_scheduler`.
        n_steps: Of the whole schedule.
        device: Where its tables go.
    """
    import numpy as np

    spaced = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    plain = (
        type(scheduler).__name__ == "EulerDiscreteScheduler"
        and scheduler.config.timestep_spacing == "linspace"
        and not any(scheduler.config.get(name) for name in spaced)
    )
    if not plain:
        scheduler.set_timesteps(n_steps, device=device)
        return
    products = scheduler.alphas_cumprod.double().numpy()
    logs = np.log((1 - products) / products) / 2
    times = np.linspace(len(logs) - 1, 0, n_steps)
    levels = np.exp(np.interp(times, np.arange(len(logs)), logs))
    scheduler.set_timesteps(sigmas=[*levels.tolist(), 0.0], device=device)
