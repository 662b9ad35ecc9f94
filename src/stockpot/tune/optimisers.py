"""The optimisers that a search can follow: one table, and one function that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from stockpot.errors import MissingExtraError, StockpotError, UnknownNameError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["OPTIMISERS", "Optimiser", "check_optimiser", "make_sampler"]


@final
@dataclass(frozen=True, slots=True)
class Optimiser:
    """An entry of the table.

    Attributes:
        good_for: When to take it.
        source: Where it is described.
        n_objectives: How many numbers it can follow at once; None is any.
    """

    good_for: str
    source: str
    n_objectives: int | None = None


OPTIMISERS: Mapping[str, Optimiser] = MappingProxyType(
    {
        "auto": Optimiser(
            "few evaluations of 1 to 54 numbers: a Gaussian process of our own; several "
            "objectives as gp does",
            "Hvarfner et al. 2024, arXiv:2402.02229; Ament et al. 2023, arXiv:2310.20708",
        ),
        "gp": Optimiser(
            "optuna's Gaussian process, which learns each number's importance on its own; "
            "several objectives by expected hypervolume",
            "optuna GPSampler; Ament et al. 2023, arXiv:2310.20708",
        ),
        "tpe": Optimiser(
            "hundreds of evaluations, numbers that matter one by one",
            "Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization",
        ),
        "cmaes": Optimiser(
            "hundreds of evaluations, many workers, rough scores",
            "Ros and Hansen 2008, A Simple Modification in CMA-ES (separable)",
            n_objectives=1,
        ),
        "qmc": Optimiser(
            "an even picture of the whole space, also for later analysis",
            "Sobol 1967, scrambled as by Owen 1998",
        ),
        "random": Optimiser(
            "the reference: what no optimiser at all finds",
            "Bergstra and Bengio 2012, Random Search for Hyper-Parameter Optimization",
        ),
    }
)


def check_optimiser(name: str, n_objectives: int = 1) -> None:
    """Look whether an optimiser is there and can do what is asked.

    Args:
        name: As for `make_sampler`.
        n_objectives: How many are maximised.

    Raises:
        UnknownNameError: No optimiser has that name.
        StockpotError: It cannot follow that many objectives.

    Example:
        >>> check_optimiser("cmaes", 2)
        Traceback (most recent call last):
        ...
        stockpot.errors.StockpotError: cmaes can follow 1 objective, but there are 2; use ...
    """
    if name not in OPTIMISERS:
        raise UnknownNameError("optimiser", name, OPTIMISERS)
    most = OPTIMISERS[name].n_objectives
    if most is not None and n_objectives > most:
        others = ", ".join(key for key, entry in OPTIMISERS.items() if entry.n_objectives is None)
        raise StockpotError(
            f"{name} can follow {most} objective, but there are {n_objectives}; use {others}"
        )


def make_sampler(
    name: str, seed: int, *, trial: int | None = None, n_dimensions: int = 1, n_objectives: int = 1
) -> BaseSampler:
    """Make an optimiser as an optuna sampler whose suggestions follow from the study alone.

    The next numbers are a function of the seed, the trial's number, and the trials that are
    finished or running. A search that was killed and goes on suggests what it would have.

    Args:
        name: A key of `OPTIMISERS`.
        seed: Of the search; another one gives other suggestions.
        trial: The number to count as that of every trial it is asked for. Without it, the trial's
            own.
        n_dimensions: How many numbers are searched, above 0.
        n_objectives: How many are maximised.

    Returns:
        The sampler; it keeps nothing between two suggestions.

    Raises:
        UnknownNameError: No optimiser has that name.
        StockpotError: It cannot follow that many objectives, or there is nothing to search.
        MissingExtraError: optuna, scipy or cmaes is not installed.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(direction="maximize", sampler=make_sampler("auto", 1))
        >>> study.optimize(lambda trial: -((trial.suggest_float("x", 0, 1) - 0.3) ** 2), n_trials=9)
        >>> abs(study.best_params["x"] - 0.3) < 0.1
        True
    """
    check_optimiser(name, n_objectives)
    if n_dimensions < 1 or n_objectives < 1:
        raise StockpotError(
            "there must be something to search and to maximise, but got "
            f"{n_dimensions} dimensions and {n_objectives} objectives"
        )
    try:
        import optuna

        from stockpot.tune import samplers
    except ImportError as error:
        raise MissingExtraError("searching", "tune") from error
    if name == "auto" and n_objectives == 1:
        return samplers.ProcessSampler(seed, trial)
    if name == "cmaes":
        return samplers.CmaesSampler(seed, trial)
    if name == "qmc":
        return samplers.SobolSampler(seed, trial)
    if name == "random":
        return samplers.UniformSampler(seed, trial)

    def make(own: int) -> BaseSampler:
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=own)
        return optuna.samplers.GPSampler(seed=own, warn_independent_sampling=False)

    return samplers.OptunaSampler(make, seed, trial, continuous=name != "tpe")
