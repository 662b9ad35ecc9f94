"""Placeholder until the optimisers' room is merged: optuna's samplers by name."""

from __future__ import annotations

from typing import Any

__all__ = ["make_sampler"]


def make_sampler(name: str, seed: int, *, trial: int = 0, n_dimensions: int = 1) -> Any:
    """Make a sampler for one ask."""
    import optuna

    own = (seed * 1_000_003 + trial * 7919) % 2**32
    if name == "random":
        return optuna.samplers.RandomSampler(seed=own)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=own)
    return optuna.samplers.GPSampler(seed=own, warn_independent_sampling=False)
