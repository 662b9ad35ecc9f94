"""Verdicts: against scipy, by laws, and honest where there is little to go by."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stockpot.tune import Verdict, bootstrap_mean, compare_marks

SCORES = st.dictionaries(
    st.tuples(st.integers(0, 7), st.integers(0, 2)).map(lambda t: f"p{t[0]}#{t[1]}"),
    st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
    max_size=20,
)


def row(values: list[float] | np.ndarray, n_seeds: int = 1) -> dict[str, float]:
    return {f"p{i // n_seeds}#{i % n_seeds}": float(v) for i, v in enumerate(values)}


def test_interval_and_p_are_scipys() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.2, 1, 60), rng.normal(0, 1, 60)
    found = compare_marks(row(a), row(b), n_boot=20_000)
    # The tails of the expanded percentile interval, from Student's quantile.
    tail = stats.norm.cdf(stats.t.ppf(0.025, 59) * math.sqrt(60 / 59))
    reference = stats.bootstrap(
        (a - b,), np.mean, confidence_level=1 - 2 * tail, n_resamples=20_000,
        method="percentile", rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    width = reference.high - reference.low
    assert found.low == pytest.approx(reference.low, abs=0.03 * width)
    assert found.high == pytest.approx(reference.high, abs=0.03 * width)
    assert found.difference == pytest.approx(np.mean(a - b))
    assert found.p == pytest.approx(stats.wilcoxon(a, b).pvalue)


def test_the_interval_of_a_normal_mean_is_students() -> None:
    values = np.random.default_rng(3).normal(size=8)
    low, high = bootstrap_mean([values[i : i + 1] for i in range(8)], level=0.8, n_boot=200_000,
                                 seed=0)  # fmt: skip
    t = stats.t.interval(0.8, 7, values.mean(), stats.sem(values))
    assert high - low == pytest.approx(t[1] - t[0], rel=0.05)


def test_seeds_of_one_payload_are_not_independent_prompts() -> None:
    rng = np.random.default_rng(4)
    # All seeds of a payload agree: 48 tasks say no more than 8 prompts do.
    differences = np.repeat(rng.normal(0.5, 1, 8), 6)
    clustered = compare_marks(row(differences, 6), row(0 * differences, 6))
    single = compare_marks(row(differences[::6]), row(0 * differences[::6]))
    assert (clustered.n_tasks, clustered.n_payloads, clustered.unit) == (48, 8, "payloads")
    assert clustered.high - clustered.low == pytest.approx(single.high - single.low, rel=0.05)
    naive = compare_marks(row(differences), row(0 * differences))
    assert naive.high - naive.low < 0.6 * (clustered.high - clustered.low)


def test_few_payloads_are_told() -> None:
    a = row(np.linspace(1, 2, 12), 3)
    found = compare_marks(a, {name: value - 1 for name, value in a.items()})
    assert found.better == "yes" and found.unit == "seeds" and found.n_payloads == 4
    assert "for these prompts only, since payloads are too few to resample" in found.text
    named = compare_marks(a, {name: 0.0 for name in a}, payloads={n: n for n in a})
    assert named.unit == "payloads" and "for these prompts" not in named.text


@pytest.mark.parametrize(("n", "answer"), [(0, "cannot tell"), (5, "cannot tell"), (6, "yes")])
def test_nothing_is_concluded_from_too_few(n: int, answer: str) -> None:
    found = compare_marks(row([1.0] * n), row([0.0] * n))
    assert found.better == answer
    assert (found.low, found.high) == ((1, 1) if n == 6 else (-math.inf, math.inf))
    if n == 5:
        assert "5 tasks of 5 payloads are too few for an interval" in found.text
    assert compare_marks(row([1.0] * 5), row([0.0] * 5), level=0.9).better == "yes"


def test_words() -> None:
    a, b = row(np.arange(8.0)), row(np.arange(8.0) + 1)
    found = compare_marks(a, {**b, "z#0": 1.0}, than="the parent")
    assert found.better == "no"
    assert found.text == (
        "better than the parent: no (mean difference -1, 95 % interval -1 to -1, 8 tasks of 8 "
        "payloads, Wilcoxon p 0.0078; 1 that only one of them has left out)"
    )
    assert compare_marks({}, b).text == (
        "better than the uniform mix: cannot tell (no task was drawn for both; 8 that only one of "
        "them has left out)"
    )


def test_bad_numbers() -> None:
    with pytest.raises(ValueError, match="`level` must be inside"):
        compare_marks({}, {}, level=1)
    with pytest.raises(ValueError, match="must be finite"):
        compare_marks({"a": math.nan}, {"a": 1.0})
    with pytest.raises(ValueError, match="two groups"):
        bootstrap_mean([np.ones(3)], level=0.9, n_boot=10, seed=0)


def mirrored(verdict: Verdict) -> tuple[object, ...]:
    answer = {"yes": "no", "no": "yes"}.get(verdict.better, verdict.better)
    return answer, -verdict.difference, -verdict.high, -verdict.low, verdict.p


@settings(max_examples=40, deadline=None)
@given(SCORES, st.randoms())
def test_order_of_tasks_is_nothing_and_sides_mirror(
    pairs: dict[str, tuple[float, float]], chance: object
) -> None:
    a, b = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
    one, two = compare_marks(a, b, n_boot=200), compare_marks(b, a, n_boot=200)
    assert (one.better, one.difference, one.low, one.high, one.p) == mirrored(two)
    names = list(a)
    chance.shuffle(names)  # type: ignore[attr-defined]
    assert compare_marks({n: a[n] for n in names}, b, n_boot=200) == one
    if one.better != "cannot tell":
        assert (one.low > 0) == (one.better == "yes") == (one.difference > 0)
    assert one.low <= one.high


@settings(max_examples=20, deadline=None)
@given(SCORES)
def test_equal_marks_cannot_be_told_apart(pairs: dict[str, tuple[float, float]]) -> None:
    a = {name: pair[0] for name, pair in pairs.items()}
    found = compare_marks(a, dict(a), n_boot=200)
    assert (found.better, found.difference, found.p) == ("cannot tell", 0, 1)
