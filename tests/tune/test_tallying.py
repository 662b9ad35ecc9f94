"""Tallies: hand-computed answers, laws of means, and errors that name the task."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.draw import Request
from stockpot.errors import TallyError, UnknownNameError
from stockpot.tune import AUTOMBW_TALLIES, TALLIES, Mark, Task, check_tally, scores_of, tally

POSITIVE = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20)
ANY = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)
SIGNED = ("arithmetic", "cubic", "median", "min", "max", "midrange")


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("arithmetic", 12 / 5),
        ("geometric", 8**0.2),
        ("harmonic", 5 / (4 + 1 / 8)),
        ("quadratic", math.sqrt(68 / 5)),
        ("cubic", (516 / 5) ** (1 / 3)),
        ("median", 1.0),
        ("min", 1.0),
        ("max", 8.0),
        ("midrange", 4.5),
        ("min/max", 0.125),
        ("arithmetic/geometric*arithmetic", 2.4 / 8**0.2 * 2.4),
        (" max * min / max ", 1.0),
    ],
)
def test_answers_by_hand(name: str, answer: float) -> None:
    assert tally([1, 1, 1, 8, 1], name) == pytest.approx(answer, rel=1e-14)


@given(POSITIVE)
def test_answers_are_those_of_the_standard_library(values: list[float]) -> None:
    for name, reference in (
        ("arithmetic", statistics.fmean),
        ("geometric", statistics.geometric_mean),
        ("harmonic", statistics.harmonic_mean),
        ("median", statistics.median),
    ):
        assert tally(values, name) == pytest.approx(reference(values), rel=1e-12)


@given(POSITIVE, st.sampled_from(list(TALLIES)), st.randoms())
def test_means_are_bounded_and_know_no_order(
    values: list[float], name: str, chance: object
) -> None:
    found = tally(values, name)
    assert min(values) <= found <= max(values)
    shuffled = list(values)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert tally(shuffled, name) == found
    assert tally({f"t{i}": value for i, value in enumerate(values)}, name) == found
    assert tally([values[0]] * 3, name) == pytest.approx(values[0], rel=1e-14)


@given(ANY, st.sampled_from(SIGNED))
def test_signed_scores_have_signed_tallies(values: list[float], name: str) -> None:
    mirror = {"min": "max", "max": "min"}.get(name, name)
    assert min(values) <= tally(values, name) <= max(values)
    assert tally([-value for value in values], mirror) == -tally(values, name)


@given(POSITIVE)
def test_means_are_in_order(values: list[float]) -> None:
    names = ("min", "harmonic", "geometric", "arithmetic", "quadratic", "cubic", "max")
    found = [tally(values, name) for name in names]
    assert all(a <= b * (1 + 1e-12) for a, b in zip(found, found[1:], strict=False))


@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=8), st.sampled_from(list(TALLIES)))
def test_nothing_overflows(values: list[float], name: str) -> None:
    assert math.isfinite(tally(values, name))


@pytest.mark.parametrize("name", ["geometric", "harmonic", "quadratic", "min/max"])
def test_what_cannot_be_negative_names_the_task(name: str) -> None:
    with pytest.raises(
        TallyError, match=r"`.*` needs scores from 0 on, but cat#1 has -0.5; choose"
    ):
        tally({"cat#0": 0.5, "cat#1": -0.5}, name)


def test_zeros() -> None:
    assert tally([0, 4], "geometric") == tally([0, 4], "harmonic") == 0
    with pytest.raises(TallyError, match="divides by its `harmonic`, which is 0"):
        tally([0, 4], "arithmetic/harmonic")


def test_bad_scores_and_names() -> None:
    with pytest.raises(TallyError, match="at least one score"):
        tally([])
    with pytest.raises(TallyError, match=r"score 1 \(counted from 0\) has nan"):
        tally([1, math.nan])
    with pytest.raises(UnknownNameError, match="did you mean 'harmonic'"):
        check_tally("min/harmonik")


def test_the_names_of_autombw() -> None:
    assert tally([1, 4], AUTOMBW_TALLIES["A/G Mean"]) == pytest.approx(2.5 / 2 * 2.5)
    assert tally([1, 4], AUTOMBW_TALLIES["A/H Mean"]) == pytest.approx(2.5 / 1.6 * 2.5)
    assert tally([1, 4], AUTOMBW_TALLIES["G/H Mean"]) == pytest.approx(2 / 1.6 * 2.5)
    for name in AUTOMBW_TALLIES.values():
        check_tally(name)


def test_scores_count_as_the_exam_says() -> None:
    tasks = [Task(name, "p", Request("x", 1), reverse=name == "b") for name in "abc"]
    marks = [Mark("b", {"s": 2.0}), Mark("a", {"s": 1.0}), Mark("z", {"s": 9.0})]
    assert scores_of(tasks, marks, "s") == {"a": 1.0, "b": -2.0}
    with pytest.raises(UnknownNameError, match="unknown scorer 't'"):
        scores_of(tasks, marks, "t")
