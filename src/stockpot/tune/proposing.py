"""The next candidate's numbers, as a function of seed, trial number and the trials before alone.

optuna's samplers remember things: random streams, fitted models, counters in the study. A study
that is killed and taken up again would then go on otherwise than one that was not. So every
proposal is made by a new sampler on a copy of the study in memory, and the trial is written with
all that came out, in one piece.
"""

from __future__ import annotations

import json
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stockpot.errors import MissingExtraError
from stockpot.tune.optimisers import make_sampler
from stockpot.tune.spaces import Dial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Proposal", "distributions_of", "is_worse", "predict_difference", "propose"]

_STUDY_ATTRS = "stockpot:study"


@dataclass(frozen=True, slots=True)
class Proposal:
    """Numbers to try.

    Attributes:
        dials: A number for each dial.
        system_attrs: What the optimiser wants to find again with this trial.
    """

    dials: Mapping[str, float]
    system_attrs: Mapping[str, Any]


def distributions_of(dials: Sequence[Dial]) -> dict[str, Any]:
    """Ranges of dials in optuna's terms."""
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        dial.name: IntDistribution(int(dial.low), int(dial.high))
        if dial.whole
        else FloatDistribution(dial.low, dial.high)
        for dial in dials
    }


def propose(
    dials: Sequence[Dial],
    trials: Sequence[FrozenTrial],
    optimiser: str,
    seed: int,
    number: int,
    n_objectives: int = 1,
) -> Proposal:
    """Ask an optimiser for the next numbers.

    Args:
        dials: Of the space.
        trials: All before, in order. Those without these dials are left out; one that was stopped
            counts with its estimate, one that failed with the worst values of all, one that runs
            is known to run.
        optimiser: A key of `stockpot.tune.OPTIMISERS`.
        seed: Of the study.
        number: Of the new trial.
        n_objectives: How many numbers are maximised.

    Returns:
        A number for each dial. Equal arguments give equal numbers.
    """
    import optuna
    from optuna.storages import InMemoryStorage
    from optuna.trial import TrialState, create_trial

    ranges = distributions_of(dials)
    known = [trial for trial in trials if trial.params.keys() == ranges.keys()]
    finished = [values for trial in known if (values := _values(trial)) is not None]
    worst = [min(column) for column in zip(*finished, strict=True)] if finished else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna's remarks on what is experimental
        sampler = make_sampler(
            optimiser, seed, trial=number, n_dimensions=len(dials), n_objectives=n_objectives
        )
        storage = InMemoryStorage()
        study = optuna.create_study(
            storage=storage, sampler=sampler, directions=["maximize"] * n_objectives
        )
        study_id = storage.get_study_id_from_name(study.study_name)
        for trial in known:
            values = _values(trial)
            if trial.state == TrialState.FAIL:
                values = worst
            if values is None and trial.state != TrialState.RUNNING:
                continue
            study.add_trial(
                create_trial(
                    state=TrialState.RUNNING if values is None else TrialState.COMPLETE,
                    values=values,
                    params=trial.params,
                    distributions=ranges,
                    system_attrs=_system_attrs(trial),
                )
            )
            for key, value in json.loads(trial.system_attrs.get(_STUDY_ATTRS, "{}")).items():
                storage.set_study_system_attr(study_id, key, value)
        before = storage.get_study_system_attrs(study_id)
        study.ask(ranges)
        asked = storage.get_all_trials(study_id)[-1]
        after = storage.get_study_system_attrs(study_id)
    attrs = dict(asked.system_attrs)
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    if changed:
        attrs[_STUDY_ATTRS] = json.dumps(changed)
    return Proposal(dict(asked.params), attrs)


def _system_attrs(trial: FrozenTrial) -> dict[str, Any]:
    attrs = {k: v for k, v in trial.system_attrs.items() if k != _STUDY_ATTRS}
    if "value_error" in trial.user_attrs:
        from stockpot.tune.samplers import ERROR_ATTR

        attrs[ERROR_ATTR] = trial.user_attrs["value_error"]
    return attrs


def _values(trial: FrozenTrial) -> list[float] | None:
    from optuna.trial import TrialState

    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return None if trial.values is None else list(trial.values)
    return None


def is_worse(
    mine: Mapping[str, float], best: Mapping[str, float], p: float, least: int = 4
) -> bool:
    """Whether a candidate can be stopped: too unlikely to be ahead of the best in the end.

    The question is not whether it would be worse on pictures in general, but whether the tasks that
    are left can still bring it ahead on this exam; the nearer the end, the less they can. Their
    mean difference is predicted from those so far by Student's interval for the mean of further
    normal numbers (Hahn and Meeker, Statistical Intervals, 1991, section 4.8).

    Args:
        mine: Its scores by task, as far as it got.
        best: Those of the best candidate that was not stopped, for all tasks.
        p: The chance to come out ahead below which it is stopped, inside (0, 1). It is looked at
            again and again, so that somewhat more than `p` of those that would end ahead by a
            hair are stopped.
        least: Tasks before the first look; fewer than two decide nothing.

    Returns:
        Whether to stop. Never where it is ahead so far, and never after the last task.

    Raises:
        MissingExtraError: scipy is not installed.

    Example:
        >>> best = {f"t{i}": 0.5 + i / 100 for i in range(9)}
        >>> worse = {f"t{i}": 0.4 + i / 50 for i in range(5)}
        >>> is_worse(worse, best, 0.2), is_worse(best, worse, 0.2)
        (True, False)
    """
    n_seen = sum(name in best for name in mine)
    if n_seen < max(least, 2) or n_seen >= len(best):
        return False
    mean, error = predict_difference(mine, best)
    if mean >= 0 or not error:
        return mean < 0
    try:
        from scipy import special
    except ImportError as missing:
        raise MissingExtraError("stopping early", "tune") from missing
    return float(special.stdtr(n_seen - 1, mean / error)) < p


def predict_difference(mine: Mapping[str, float], best: Mapping[str, float]) -> tuple[float, float]:
    """Predict by how much a candidate's mean score will be above the best's after all tasks.

    Args:
        mine: Its scores by task; at least two that the best has too.
        best: Those of the best candidate, for all tasks.

    Returns:
        The mean difference so far, and its standard error as a prediction of that over all tasks:
        0 when all are known.

    Example:
        >>> predict_difference({"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0})
        (1.0, 0.7071067811865476)
    """
    differences = [mine[name] - best[name] for name in mine if name in best]
    n, n_all = len(differences), len(best)
    left = max(n_all - n, 0)
    return statistics.fmean(differences), statistics.stdev(differences) * math.sqrt(
        left / (n * n_all)
    )
