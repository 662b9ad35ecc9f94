"""Samplers under the names that people use, as an explicit table over diffusers' schedulers.

Only samplers that add no noise on their way are here: their pictures depend on the first noise
alone, so that a seed gives one picture in whatever batch it is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stockpot.errors import UnknownNameError

__all__ = ["SAMPLERS", "Sampler", "get_sampler", "make_scheduler"]


@dataclass(frozen=True, slots=True)
class Sampler:
    """A named way from noise to a picture.

    Attributes:
        name: As in web UIs and infotexts.
        scheduler: Name of the class in `diffusers`.
        options: What to tell it, beyond the model's own noise schedule.
    """

    name: str
    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)


_DPM_2M = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "timestep_spacing": "linspace",
    "final_sigmas_type": "zero",
}

_ALL = (
    Sampler("DPM++ 2M", "DPMSolverMultistepScheduler", _DPM_2M),
    Sampler(
        "DPM++ 2M Karras", "DPMSolverMultistepScheduler", {**_DPM_2M, "use_karras_sigmas": True}
    ),
    # "linear" interpolates the noise level in time, at the times of k-diffusion; diffusers'
    # "log_linear" is another schedule, evenly spaced in log sigma.
    Sampler(
        "Euler",
        "EulerDiscreteScheduler",
        {"timestep_spacing": "linspace", "interpolation_type": "linear"},
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
)

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


def make_scheduler(name: str, noise: Mapping[str, Any]) -> Any:
    """Make a fresh scheduler; they keep state, so each batch needs its own.

    Args:
        name: A key of `SAMPLERS`.
        noise: The model's noise schedule, as in diffusers' ``scheduler_config.json``; fields that
            speak of another sampler are left out.

    Returns:
        An instance of the sampler's class in `diffusers`.

    Raises:
        UnknownNameError: There is no such sampler.
        MissingExtraError: diffusers is not installed.
    """
    from stockpot.draw.libraries import require_libraries

    sampler = get_sampler(name)
    require_libraries()
    import diffusers

    described = {field: noise[field] for field in _MODEL_FIELDS if field in noise}
    return getattr(diffusers, sampler.scheduler)(**described, **sampler.options)
