"""Optimisers: what they suggest follows from the study alone, lies on the grid, and finds tops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from stockpot.errors import StockpotError, UnknownNameError
from stockpot.tune import OPTIMISERS, Dial, make_sampler, propose

NAMES = sorted(OPTIMISERS)
Function = Callable[[Mapping[str, float]], float]


@pytest.fixture(autouse=True)
def _silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def space(n: int, step: float | None = None) -> dict[str, BaseDistribution]:
    return {f"w{i:02d}": FloatDistribution(0, 1, step=step) for i in range(n)}


def bowl(top: float = 0.7) -> Function:
    return lambda params: -sum((value - top) ** 2 for value in params.values())


def begin(name: str, seed: int, ranges: Mapping[str, BaseDistribution]) -> Study:
    """A study whose baselines stand first."""
    study = optuna.create_study(direction="maximize", sampler=make_sampler(name, seed))
    for value in (0.0, 1.0, 0.5):
        study.enqueue_trial({key: value for key in ranges})
    return study


def go_on(study: Study, ranges: dict[str, BaseDistribution], f: Function, n: int) -> Study:
    for _ in range(n):
        trial = study.ask(ranges)
        study.tell(trial, f(trial.params))
    return study


def copy_of(study: Study, name: str, seed: int, order: list[int]) -> Study:
    """The same trials in a fresh study with a fresh sampler, as after a kill."""
    fresh = optuna.create_study(direction="maximize", sampler=make_sampler(name, seed))
    trials = study.get_trials()
    for number in order:
        fresh.add_trial(trials[number])
    return fresh


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_search_suggests_what_an_uninterrupted_one_does(name: str) -> None:
    ranges = space(4, 0.05)
    whole = go_on(begin(name, 5, ranges), ranges, bowl(), 14)
    cut = go_on(copy_of(whole, name, 5, list(range(12))), ranges, bowl(), 2)
    assert [t.params for t in cut.trials] == [t.params for t in whole.trials]
    other = go_on(begin(name, 6, ranges), ranges, bowl(), 5)
    assert [t.params for t in other.trials[3:]] != [t.params for t in whole.trials[3:5]]


@pytest.mark.parametrize("name", NAMES)
def test_a_suggestion_can_be_asked_twice_and_depends_on_the_number(name: str) -> None:
    ranges = space(3)
    study = go_on(begin(name, 1, ranges), ranges, bowl(), 12)

    def asked(trial: int | None) -> dict[str, float]:
        again = copy_of(study, name, 1, list(range(12)))
        again.sampler = make_sampler(name, 1, trial=trial, n_dimensions=3)
        return dict(again.ask(ranges).params)

    assert asked(None) == asked(None) == asked(12)
    # What a process wants most may well not depend on where its climbs began.
    if name not in ("auto", "gp"):
        assert asked(13) != asked(12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 54])
def test_suggestions_stay_in_range_and_on_the_grid(name: str, n: int) -> None:
    ranges: dict[str, BaseDistribution] = {}
    for i in range(n):
        ranges[f"w{i}"] = [
            FloatDistribution(-2, 3, step=0.25),
            IntDistribution(3, 9, step=3),
            FloatDistribution(0.5, 4),
            FloatDistribution(1e-3, 10, log=True),
        ][i % 4]
    study = optuna.create_study(direction="maximize", sampler=make_sampler(name, 3, n_dimensions=n))
    n_trials = 13 if n < 54 or name != "gp" else 12
    go_on(study, ranges, lambda params: -sum(params.values()), n_trials)
    for trial in study.trials:
        for key, value in trial.params.items():
            step = getattr(ranges[key], "step", None)
            assert ranges[key]._contains(ranges[key].to_internal_repr(value))
            if step:
                steps = (value - ranges[key].low) / step  # type: ignore[attr-defined]
                assert steps == pytest.approx(round(steps), abs=1e-9)


@pytest.mark.parametrize(("name", "n"), [("auto", 25), ("cmaes", 80), ("tpe", 40)])
def test_optimisers_beat_random_on_a_smooth_bowl_in_27_dimensions(name: str, n: int) -> None:
    ranges = space(27, 0.1 if name == "auto" else None)
    better = 0
    for seed in range(3):
        ours = go_on(begin(name, seed, ranges), ranges, bowl(0.8), n)
        rng = np.random.default_rng(seed)
        drawn = -((rng.random((n, 27)) - 0.8) ** 2).sum(1).max()
        better += ours.best_value > max(drawn, bowl(0.8)(dict.fromkeys(ranges, 0.5)))
    assert better == 3


def test_auto_never_asks_twice_for_the_same_point_of_a_grid() -> None:
    ranges = space(2, 0.25)
    study = go_on(begin("auto", 2, ranges), ranges, bowl(), 25)
    points = {tuple(trial.params.values()) for trial in study.trials[5:]}
    assert len(points) >= 19


def test_auto_sees_a_plain_line() -> None:
    ranges = space(1, 0.05)
    study = go_on(begin("auto", 0, ranges), ranges, bowl(0.35), 10)
    assert study.best_params["w00"] == pytest.approx(0.35)


def test_auto_spreads_the_trials_that_run_at_once() -> None:
    ranges = space(6)
    study = go_on(begin("auto", 4, ranges), ranges, bowl(), 10)
    running = [study.ask(ranges).params for _ in range(4)]
    points = np.array([list(params.values()) for params in running])
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)[np.triu_indices(4, 1)]
    assert distances.min() > 0.01


def test_stopped_and_failed_trials_do_no_harm() -> None:
    ranges = space(5, 0.1)
    study = go_on(begin("auto", 7, ranges), ranges, bowl(), 8)
    stopped = study.ask(ranges)
    stopped.report(-4.0, 0)
    stopped.report(-5.0, 1)
    study.tell(stopped, state=TrialState.PRUNED)
    nameless = study.ask(ranges)
    study.tell(nameless, state=TrialState.PRUNED)
    study.tell(study.ask(ranges), state=TrialState.FAIL)
    go_on(study, ranges, bowl(), 5)
    assert stopped.params not in [trial.params for trial in study.trials[9:]]
    assert all(math.isfinite(trial.value) for trial in study.trials[-5:] if trial.value is not None)


def test_the_order_in_which_trials_ended_does_not_matter() -> None:
    ranges = space(3)
    study = go_on(begin("auto", 9, ranges), ranges, bowl(), 9)
    first = study.ask(ranges)
    second = study.ask(ranges)
    orders = ((first, second), (second, first))
    outcomes = []
    for order in orders:
        fresh = copy_of(study, "auto", 9, list(range(9)))
        asked = {trial.number: fresh.ask(ranges) for trial in (first, second)}
        for trial in order:
            fresh.tell(asked[trial.number], bowl()(asked[trial.number].params))
        outcomes.append(fresh.ask(ranges).params)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("name", ["auto", "gp", "tpe", "qmc", "random"])
def test_several_objectives(name: str) -> None:
    ranges = space(2, 0.1)
    study = optuna.create_study(
        directions=["maximize", "maximize"], sampler=make_sampler(name, 1, n_objectives=2)
    )
    for _ in range(13):
        trial = study.ask(ranges)
        study.tell(trial, [trial.params["w00"], -trial.params["w01"]])
    assert len(study.best_trials) >= 1


def test_minimising_is_maximising_the_opposite() -> None:
    ranges = space(2)
    up = go_on(begin("auto", 1, ranges), ranges, bowl(), 9)
    down = optuna.create_study(direction="minimize", sampler=make_sampler("auto", 1))
    for trial in up.trials:
        down.add_trial(
            create_trial(params=trial.params, distributions=ranges, value=-(trial.value or 0.0))
        )
    assert up.ask(ranges).params == down.ask(ranges).params


def test_a_space_that_grows_begins_again() -> None:
    study = go_on(begin("auto", 1, space(2)), space(2), bowl(), 7)
    go_on(study, space(4), bowl(), 3)
    assert set(study.trials[-1].params) == set(space(4))


def test_unknown_names_and_impossible_wishes_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cmaes'"):
        make_sampler("cmae", 1)
    with pytest.raises(StockpotError, match="cmaes can follow 1 objective, but there are 2"):
        make_sampler("cmaes", 1, n_objectives=2)
    with pytest.raises(StockpotError, match="something to search"):
        make_sampler("auto", 1, n_dimensions=0)
    two = optuna.create_study(directions=["maximize"] * 2, sampler=make_sampler("auto", 1))
    two.add_trial(
        create_trial(params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}, values=[1, 2])
    )
    with pytest.raises(StockpotError, match="follows one objective, but the study has 2"):
        two.ask({"x": FloatDistribution(0, 1)})


def test_qmc_is_one_sequence_whatever_was_asked_before() -> None:
    ranges = space(3)
    study = go_on(begin("qmc", 8, ranges), ranges, bowl(), 11)
    points = np.array([list(trial.params.values()) for trial in study.trials[3:]])
    # Eight Sobol points in a row, from the fourth on: each half of each axis has about half.
    halves = (points < 0.5).sum(0)
    assert ((halves >= 2) & (halves <= 6)).all()
    assert len({tuple(point) for point in points}) == 8


def test_an_estimate_counts_as_far_as_it_is_sure() -> None:
    """A bowl with its top at 0.6, and a stopped trial there that says it is a hole: as an exact
    value it keeps the search away, as a guess it does not."""
    dial = Dial("w", 0.0, 1.0)
    ranges = {"w": FloatDistribution(0.0, 1.0)}
    places = [0.0, 0.15, 0.3, 0.45, 0.75, 0.9, 1.0]
    trials = [
        create_trial(value=-((x - 0.6) ** 2), params={"w": x}, distributions=ranges) for x in places
    ]

    def asked(error: float) -> float:
        stopped = create_trial(state=TrialState.PRUNED, value=-1.0, params={"w": 0.6},
                               distributions=ranges, user_attrs={"value_error": error})  # fmt: skip
        return propose([dial], [*trials, stopped], "auto", 3, 8).dials["w"]

    assert abs(asked(100.0) - 0.6) < 0.05
    assert abs(asked(0.0) - 0.6) > 0.1
