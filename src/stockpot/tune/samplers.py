"""Optimisers in optuna's terms, without memory: what they suggest follows from the study alone.

optuna's own samplers hold random streams and fitted models. Here every suggestion is made by fresh
ones, seeded by the study's seed and the trial's number, from the trials that the study holds.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from stockpot.errors import StockpotError

__all__ = [
    "ERROR_ATTR", "CmaesSampler", "OptunaSampler", "ProcessSampler", "SobolSampler",
    "UniformSampler",
]  # fmt: skip

#: The system attribute of a trial whose value is an estimate: its standard error.
ERROR_ATTR = "stockpot:error"

Array = NDArray[np.float64]

# A process of more points than this would take seconds to fit.
_MOST_POINTS = 256


def stream_seed(seed: int, *words: int | str) -> int:
    """A seed below 2³² for one use; other words give unrelated ones, on every machine.

    Args:
        seed: The study's.
        words: What it is for.

    Example:
        >>> stream_seed(1, 2) == stream_seed(1, 2), stream_seed(1, 2) == stream_seed(2, 1)
        (True, False)
    """
    text = "\0".join(map(str, (seed, *words))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")


class _Cube:
    """A search space as the unit cube: numbers become coordinates and back.

    Categories are no coordinates; they are left to independent sampling.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.space = {
            name: ranges
            for name, ranges in sorted(space.items())
            if isinstance(ranges, FloatDistribution | IntDistribution) and not ranges.single()
        }
        self.low = np.array([self._scale(r, r.low) for r in self.space.values()])
        high = np.array([self._scale(r, r.high) for r in self.space.values()])
        self.width = high - self.low
        steps = [0.0 if r.log or r.step is None else r.step for r in self.space.values()]
        self.steps = np.array(steps) / self.width if self.space else np.empty(0)

    @staticmethod
    def _scale(ranges: FloatDistribution | IntDistribution, value: float) -> float:
        return math.log(value) if ranges.log else value

    def point(self, params: Mapping[str, Any]) -> Array:
        values = [self._scale(ranges, params[name]) for name, ranges in self.space.items()]
        point: Array = np.clip((np.array(values) - self.low) / self.width, 0.0, 1.0)
        return point

    def params(self, point: Array) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for (name, ranges), value in zip(
            self.space.items(), self.low + point * self.width, strict=True
        ):
            number = math.exp(value) if ranges.log else float(value)
            if isinstance(ranges, IntDistribution):
                number = ranges.low + round((number - ranges.low) / ranges.step) * ranges.step
                out[name] = int(min(max(number, ranges.low), ranges.high))
                continue
            if ranges.step is not None:
                number = ranges.low + round((number - ranges.low) / ranges.step) * ranges.step
            out[name] = min(max(number, ranges.low), ranges.high)
        return out


class _Memoryless(BaseSampler):
    """What all have in common: seeds, the space, and uniform numbers where nothing better is known.

    Args:
        seed: The study's.
        trial: The number to count as the trial's, where the study at hand numbers otherwise.
    """

    def __init__(self, seed: int, trial: int | None = None) -> None:
        self._seed, self._trial = seed, trial

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What all finished trials have in common."""
        # A space of its own for each call, because it remembers which trials it has seen.
        space = IntersectionSearchSpace(include_pruned=True).calculate(study)
        return {name: ranges for name, ranges in space.items() if not ranges.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """All numbers at once."""
        cube = _Cube(search_space)
        if not cube.space:
            return {}
        number = self._number(trial)
        return cube.params(self._point(study, number, cube))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """One number, uniform, from a stream of its own."""
        own = stream_seed(self._seed, self._number(trial), param_name)
        return optuna.samplers.RandomSampler(seed=own).sample_independent(
            study, trial, param_name, param_distribution
        )

    def _number(self, trial: FrozenTrial) -> int:
        return trial.number if self._trial is None else self._trial

    @abstractmethod
    def _point(self, study: Study, number: int, cube: _Cube) -> Array:
        """The next point of the cube."""


@final
class UniformSampler(_Memoryless):
    """Points drawn uniformly: the reference that any optimiser has to beat."""

    def _point(self, study: Study, number: int, cube: _Cube) -> Array:
        return _uniform(self._seed, number, len(cube.space))


@final
class SobolSampler(_Memoryless):
    """Points of a scrambled Sobol sequence, the trial's number being the place in it."""

    def _point(self, study: Study, number: int, cube: _Cube) -> Array:
        from scipy.stats import qmc

        sequence = qmc.Sobol(len(cube.space), scramble=True, rng=stream_seed(self._seed, "sobol"))
        sequence.fast_forward(number)
        return np.asarray(sequence.random(1)[0])


@final
class ProcessSampler(_Memoryless):
    """A Gaussian process of our own with log expected improvement; one objective.

    Args:
        seed: The study's.
        trial: The number to count as the trial's.
        n_first: Trials that must have a value before the process is asked; those before are
            uniform. Baselines count, so that few or none remain.
    """

    def __init__(self, seed: int, trial: int | None = None, n_first: int = 5) -> None:
        super().__init__(seed, trial)
        self._n_first = n_first

    def _point(self, study: Study, number: int, cube: _Cube) -> Array:
        from stockpot.tune.surrogates import GaussianProcess, propose_point

        points, values, pending, errors = _history(study, cube)
        if len(values) < self._n_first:
            return _uniform(self._seed, number, len(cube.space))
        if len(values) > _MOST_POINTS:
            # The best show where the top is, the latest what is around it.
            latest = np.arange(len(values)) >= len(values) - _MOST_POINTS // 2
            best = np.argsort(-values, kind="stable")[: _MOST_POINTS // 2]
            latest[best] = True
            points, values, errors = points[latest], values[latest], errors[latest]
        if len(pending):
            points = np.concatenate([points, pending])
            values = np.concatenate([values, np.zeros(len(pending))])
            errors = np.concatenate([errors, np.zeros(len(pending))])
        process = GaussianProcess(points, values, n_pending=len(pending), errors=errors)
        rng = np.random.default_rng(stream_seed(self._seed, number, "process"))
        return propose_point(process, cube.steps, rng)


@final
class CmaesSampler(_Memoryless):
    """Separable CMA-ES (Ros and Hansen 2008), rebuilt from the trials for every suggestion.

    optuna's own keeps its state in the study as a pickle, which a stranger's file could use to run
    a program; and a replay needs no state. Trials with one number everywhere are baselines and
    belong to no generation.
    """

    def _point(self, study: Study, number: int, cube: _Cube) -> Array:
        from cmaes import SepCMA

        # The package wants two dimensions or more; a second one that stands still does no harm.
        d = max(len(cube.space), 2)

        def begin() -> SepCMA:
            return SepCMA(
                mean=np.full(d, 0.5),
                sigma=0.25,
                bounds=np.tile([0.0, 1.0], (d, 1)),
                seed=stream_seed(self._seed, number, "cmaes"),
            )

        points, values, _, _ = _history(study, cube)
        told = [
            (np.append(point, [0.5] * (d - len(point))), -float(value))
            for point, value in zip(points, values, strict=True)
            if len(point) == 1 or np.ptp(point) > 0
        ]
        strategy = begin()
        size = strategy.population_size
        for start in range(0, len(told) - size + 1, size):
            strategy.tell(told[start : start + size])
            if strategy.should_stop():
                strategy = begin()
        return np.asarray(strategy.ask()[: len(cube.space)])


@final
class OptunaSampler(_Memoryless):
    """One of optuna's samplers, made anew for every suggestion.

    Args:
        make: Makes it from a seed.
        seed: The study's.
        trial: The number to count as the trial's.
        continuous: Whether it is to be told that there are no steps, and be rounded: optuna's GP
            tries the levels of each stepped dimension one by one, which takes seconds.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        seed: int,
        trial: int | None = None,
        continuous: bool = False,
    ) -> None:
        super().__init__(seed, trial)
        self._make, self._continuous = make, continuous

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What the sampler wants to draw together."""
        with _quiet():
            return self._fresh(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """All of those at once."""
        asked = (
            {n: _smooth(r) for n, r in search_space.items()} if self._continuous else search_space
        )
        with _quiet():
            params = self._fresh(trial).sample_relative(study, trial, asked)
        if not self._continuous or not params:
            return params
        cube = _Cube(search_space)
        return params | cube.params(cube.point(params))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """One number, from a sampler and a stream of its own."""
        with _quiet():
            return self._fresh(trial, param_name).sample_independent(
                study, trial, param_name, param_distribution
            )

    def _fresh(self, trial: FrozenTrial, *words: str) -> BaseSampler:
        return self._make(stream_seed(self._seed, self._number(trial), *words))

    def _point(self, study: Study, number: int, cube: _Cube) -> Array:
        raise NotImplementedError("optuna's sampler makes the point")


def _quiet() -> warnings.catch_warnings[None]:
    """optuna warns of what is experimental, which is no news to whoever asks for it by name."""
    return warnings.catch_warnings(action="ignore")


def _smooth(ranges: BaseDistribution) -> BaseDistribution:
    if isinstance(ranges, IntDistribution | FloatDistribution) and not ranges.log:
        return FloatDistribution(ranges.low, ranges.high)
    return ranges


def _uniform(seed: int, number: int, n_dimensions: int) -> Array:
    return np.random.default_rng(stream_seed(seed, number, "uniform")).random(n_dimensions)


def _history(study: Study, cube: _Cube) -> tuple[Array, Array, Array, Array]:
    """Points and values (higher is better) of what is finished, points of what is running, and
    the standard errors of the values.

    In the order of their numbers, whatever came in first. A trial that was stopped counts with the
    mean of what it had reported, unless it has a value of its own.
    """
    if len(study.directions) > 1:
        raise StockpotError(
            "this optimiser follows one objective, but the study has "
            f"{len(study.directions)}; use auto, gp, tpe, qmc or random"
        )
    sign = -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0
    points: list[Array] = []
    values: list[float] = []
    pending: list[Array] = []
    errors: list[float] = []
    for trial in sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number):
        if not cube.space.keys() <= trial.params.keys():
            continue
        if trial.state == TrialState.RUNNING:
            pending.append(cube.point(trial.params))
        elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            value = _value(trial)
            if value is not None:
                points.append(cube.point(trial.params))
                values.append(sign * value)
                errors.append(float(trial.system_attrs.get(ERROR_ATTR, 0.0)))
    d = len(cube.space)
    return (
        np.array(points).reshape(-1, d),
        np.array(values, dtype=float),
        np.array(pending).reshape(-1, d),
        np.array(errors, dtype=float),
    )


def _value(trial: FrozenTrial) -> float | None:
    values: Sequence[float] = [trial.value] if trial.value is not None else []
    if trial.value is None and trial.intermediate_values:
        values = list(trial.intermediate_values.values())
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite and len(finite) == len(values) else None
