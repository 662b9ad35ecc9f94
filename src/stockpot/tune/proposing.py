"""The next candidate's numbers, as a function of seed, trial number and the trials before alone.

optuna's samplers remember things: random streams, fitted models, counters in the study. A study
that is killed and taken up again would then go on otherwise than one that was not. So every
proposal is made by a new sampler on a copy of the study in memory, and the trial is written with
all that came out, in one piece.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stockpot.tune.optimisers import make_sampler
from stockpot.tune.spaces import Dial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Proposal", "distributions_of", "is_worse", "propose"]

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
                    system_attrs={k: v for k, v in trial.system_attrs.items() if k != _STUDY_ATTRS},
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


def _values(trial: FrozenTrial) -> list[float] | None:
    from optuna.trial import TrialState

    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return None if trial.values is None else list(trial.values)
    return None


def is_worse(
    mine: Mapping[str, float], best: Mapping[str, float], p: float, least: int = 3
) -> bool:
    """Whether a candidate can be stopped: worse than the best so far by Wilcoxon's paired test.

    Args:
        mine: Its scores by task, as far as it got.
        best: Those of the best candidate that was not stopped.
        p: How sure to be. The test is made after every task, so that a candidate that is as good
            as the best is stopped more often than `p` says.
        least: Tasks before the first test; fewer than three decide nothing.

    Returns:
        Whether to stop. Never where the mean of the differences speaks for it.

    Example:
        >>> best = {f"t{i}": 0.5 + i / 100 for i in range(6)}
        >>> worse = {name: score - 0.1 + 0.01 * i for i, (name, score) in enumerate(best.items())}
        >>> is_worse(worse, best, 0.1), is_worse(best, worse, 0.1)
        (True, False)
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    shared = [name for name in mine if name in best]
    if len(shared) < max(least, 2) or sum(mine[n] - best[n] for n in shared) >= 0:
        return False
    steps = {name: step for step, name in enumerate(shared)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=p, n_startup_steps=least)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        # Only shared tasks: the pruner also compares means, which must be over the same tasks.
        values = {step: best[name] for name, step in steps.items()}
        study.add_trial(
            create_trial(value=sum(values.values()) / len(values), intermediate_values=values)
        )
        mine_now = create_trial(
            state=TrialState.RUNNING,
            intermediate_values={step: mine[name] for name, step in steps.items()},
        )
        return bool(pruner.prune(study, mine_now))
