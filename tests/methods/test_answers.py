"""Hand-computed answers for every method, and independent computations of the larger ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stockpot.methods import GramAccumulator, Task, get_method
from stockpot.methods.randomness import random_bits, stream_of
from stockpot.recipes import FUNCTIONS

Arrays = dict[str, np.ndarray]
Merge = Callable[..., Arrays]


def values(**models: list[float]) -> dict[str, Arrays]:
    """Models of one tensor of doubles."""
    return {name: {"w": np.array(row, np.float64)} for name, row in models.items()}


SMALL = values(
    base=[0.0, 0.0, 0.0, 0.0],
    a=[4.0, 1.0, -2.0, 0.0],
    b=[2.0, -3.0, -1.0, 0.0],
    c=[-1.0, -1.0, 5.0, 1.0],
)


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("median(a, b, c)", [2, -1, -1, 0]),
        ("median(a, b)", [3, -1, -1.5, 0]),
        ("trimmed_mean(a, b, c, base, cut=1/4)", [1, -0.5, -0.5, 0]),
        ("element_geometric_median(a, b, c)", [2, -1, -1, 0]),
        ("task_arithmetic(base, a, b, scale=1/2)", [3, -1, -1.5, 0]),
        ("amplify(a, b)", [0, -7, 0, 0]),
        # Signs by magnitude: 5+, 3-, 2+, 1+.
        ("ties(base, a, b, c, keep=1)", [3, -2, 5, 1]),
        # Signs by heads: +, -, -, +.
        ("ties_soup(base, a, b, c)", [3, -2, -1.5, 1]),
        # The largest of four elements each: 4, -3, 5.
        ("ties(base, a, b, c, keep=1/4)", [4, -3, 5, 0]),
        ("ties(base, a, b, c, keep=1/4, scale=1/2)", [2, -1.5, 2.5, 0]),
        # Without the largest and the two smallest; c has two that equal the threshold.
        ("breadcrumbs(base, a, b, c, keep=1/4, cut=1/4)", [1 / 3, -1 / 3, -2 / 3, 1 / 3]),
        ("train_difference(a, b, c, 1)",
         [4 + 1.8 * 3 * 2 / 5, 1 - 1.8 * 2 * 4 / 6, -2 - 1.8 * 6 * 1 / 7, 0]),
        # What is left of a, b and c: 4 0 0 0, 2 -3 0 0, 0 -1 5 1.
        ("base + mean(elected(a - base, b - base, c - base))", [2, -4 / 3, 5 / 3, 1 / 3]),
        ("base + kept_mean(a - base, b - base, c - base)", [5 / 3, -1, 2 / 3, 1]),
        ("base + mean(trimmed(a - base, b - base, c - base, keep=1/4))", [4 / 3, -1, 5 / 3, 0]),
        ("base + mean(masked(a - base, b - base, p=1))", [0, 0, 0, 0]),
        ("base + mean(masked(a - base, b - base, p=0))", [3, -1, -1.5, 0]),
        # Heads: +, +, -, +. So a is left whole, twice of three, and is the median.
        ("tgmd(base, a, a, c, p=0)", [4, 1, -2, 0]),
        ("dgmla(base, a, a, c, p=0, eps=0)", [4, 1, -2, 0]),
        ("ties_dropout(base, a, b, c, p=0, keep=1)", [3, -2, 5, 1]),
        # Nothing is known of a layer here, so nothing moves; see also test_a_layer_by_hand.
        ("rebasin(a, b)", [2, -3, -1, 0]),
        ("basin_sum(a, b, 1/4)", [2.5, -2, -1.25, 0]),
        ("tensor_swap(a, b, 1/4, 3/4)", [4, -3, -1, 0]),
        ("top_k_sum(a, b, 1/2)", [2, -3, -2, 0]),
        ("cosine_a(a, b, 0)", [2 + 2 * 7 / math.sqrt(21 * 14), -3 + 4 * 7 / math.sqrt(21 * 14),
                               -1 - 7 / math.sqrt(21 * 14), 0]),
        ("cosine_b(a, b, 0)", [2 + 2 * 7 / math.sqrt(21 * 14), -3 + 4 * 7 / math.sqrt(21 * 14),
                               -1 - 7 / math.sqrt(21 * 14), 0]),
    ],
)  # fmt: skip
def test_hand_computed(expression: str, answer: list[float], merge: Merge) -> None:
    assert merge(expression, SMALL)["w"] == pytest.approx(answer, abs=1e-5)


def test_directions(merge: Merge) -> None:
    plane = values(base=[1.0, 0.0], a=[2.0, 0.0], b=[0.0, 4.0], c=[-2.0, 0.0])
    third = math.pi / 6
    assert merge("slerp(a, b, 1/3)", plane)["w"] == pytest.approx(
        [8 / 3 * math.cos(third), 8 / 3 * math.sin(third)]
    )
    assert merge("slerp(a, c, 1/4)", plane)["w"] == pytest.approx([1, 0])
    middle = 3 / math.sqrt(2)
    assert merge("karcher_mean(a, b)", plane)["w"] == pytest.approx([middle, middle])
    assert merge("karcher_mean(a, c)", plane)["w"] == pytest.approx([0, 0])
    # Deltas (1, 0) and (-1, 4): the cosine is below 0, so the base stays.
    assert merge("model_stock(base, a, b)", plane)["w"] == pytest.approx([1, 0])
    near = values(base=[0.0, 0.0], a=[1.0, 1.0], b=[1.0, 0.0])
    t = math.sqrt(2) / (1 + math.sqrt(1 / 2))
    assert merge("model_stock(base, a, b)", near)["w"] == pytest.approx([t, t / 2])
    stock = merge("base + stock(a - base, b - base)", near)["w"]
    assert stock == pytest.approx([t, t / 2])


def test_singular_values(merge: Merge) -> None:
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    base = np.array([[1.0, 2.0], [3.0, 4.0]])
    models = {"base": {"w": base}, "a": {"w": base + turn @ np.diag([5.0, 1.0])}}
    isotropic = base + turn @ np.diag([3.0, 3.0])
    assert merge("iso_c(base, a)", models)["w"] == pytest.approx(isotropic)
    alone = merge("base + isotropic(a - base, z=0)", models)["w"]
    assert alone == pytest.approx(isotropic)
    half = base + turn @ np.diag([4.0, 2.0])
    assert merge("iso_z(base, a, z=0.5)", models)["w"] == pytest.approx(half)
    one = base + turn @ np.diag([5.0, 0.0])
    assert merge("base + low_rank(a - base, rank=1)", models)["w"] == pytest.approx(one)


def test_smoothing_takes_spikes_and_leaves_levels(merge: Merge) -> None:
    zero = [0.0] * 5
    spike = values(base=zero, a=[0.0, 0.0, 9.0, 0.0, 0.0], b=[2.0] * 5)
    assert merge("base + smoothed(a - base)", spike)["w"] == pytest.approx(zero)
    assert merge("base + smoothed(b - base)", spike)["w"] == pytest.approx([2.0] * 5)


def test_every_method_has_an_answer_by_hand() -> None:
    """Whose call stands in this file, where answers are worked out."""
    text = Path(__file__).read_text(encoding="utf-8")
    running = {name for name, row in FUNCTIONS.items() if row.kind in ("method", "composed")}
    assert not {name for name in running if not re.search(rf"\b{name}\(", text)}


def test_smoothing_agrees_with_windows_and_sums(merge: Merge) -> None:
    rng = np.random.default_rng(4)
    delta = rng.standard_normal((5, 6))
    zero = np.zeros_like(delta)
    models = {"a": {"w": zero}, "b": {"w": delta}, "c": {"w": zero}}
    mirrored = np.pad(delta, 1, mode="symmetric")
    median = np.array([[np.median(mirrored[i : i + 3, j : j + 3]) for j in range(6)]
                       for i in range(5)])  # fmt: skip
    bell = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    bell /= bell.sum()
    wide = np.pad(median, 4, mode="symmetric")
    rows = sum(weight * wide[k : k + 5] for k, weight in enumerate(bell))
    both = sum(weight * rows[:, k : k + 6] for k, weight in enumerate(bell))
    assert merge("smooth_add(a, b, c, 2)", models)["w"] == pytest.approx(2 * both)


# --- the geometric median: weights from inner products are Weiszfeld on whole tensors -----------


def weiszfeld(points: np.ndarray, iterations: int = 100, guard: float = 1e-6) -> np.ndarray:
    """The textbook's iteration on whole rows."""
    y = points.mean(axis=0)
    for _ in range(iterations):
        weights = 1 / np.maximum(np.linalg.norm(points - y, axis=1), guard)
        y = weights @ points / weights.sum()
    return y


@pytest.mark.parametrize("spread", [1e-4, 1e-2, 1.0])
def test_the_geometric_median_is_weiszfelds(spread: float, merge: Merge) -> None:
    rng = np.random.default_rng(8)
    centre = rng.standard_normal(3000)
    sizes = spread * np.array([0.2, 0.5, 1, 1, 2, 6])
    points = centre + sizes[:, None] * rng.standard_normal((6, 3000))
    points[1] = points[0] + 0.1 * (points[1] - centre)  # two near each other
    models = {name: {"w": row} for name, row in zip("abcdef", points, strict=True)}
    got = merge("geometric_median(a, b, c, d, e, f)", models, chunk_elements=640)["w"]
    reference = weiszfeld(points)
    spread_there = np.linalg.norm(points - reference, axis=1).min()
    assert np.linalg.norm(got - reference) <= 1e-6 * spread_there


def test_a_corrupted_minority_does_not_move_the_median(merge: Merge) -> None:
    rng = np.random.default_rng(9)
    honest = rng.standard_normal((12, 4000))
    corrupted = 1e4 + rng.standard_normal((8, 4000))  # 40 % of twenty, all to one side
    points = np.concatenate([honest, corrupted])
    models = {f"m{i}": {"w": row} for i, row in enumerate(points)}
    names = ", ".join(models)
    middle = honest.mean(axis=0)
    reach = np.linalg.norm(honest - middle, axis=1).max()
    median = merge(f"geometric_median({names})", models)["w"]
    assert np.linalg.norm(median - middle) < reach
    assert np.linalg.norm(merge(f"median({names})", models)["w"] - middle) < 2 * reach
    assert np.linalg.norm(merge(f"mean({names})", models)["w"] - middle) > 1000 * reach


def test_the_element_median_is_the_median_where_it_is_one(merge: Merge) -> None:
    rng = np.random.default_rng(2)
    models = {name: {"w": rng.standard_normal(50)} for name in "abcde"}
    names = ", ".join(models)
    exact = merge(f"median({names})", models)["w"]
    near = merge(f"element_geometric_median({names}, maxiter=2000, eps_guard=1e-9)", models)["w"]
    assert near == pytest.approx(exact, abs=1e-3)


# --- masks ---------------------------------------------------------------------------------------


def run(task: Task, panel: np.ndarray, step: int = 128) -> np.ndarray:
    """A method over a tensor, panel by panel."""
    work = get_method("masked").start(task)
    cuts = range(0, panel.shape[1], step)
    while work.wants_pass:
        for start in cuts:
            work.gather(start, panel[:, start : start + step])
        work.finish_pass()
    return np.concatenate([work.rows(s, panel[:, s : s + step]) for s in cuts], axis=1)


def mid_ranks(row: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the middle of theirs, by a sort."""
    ordered = np.sort(row)
    first = np.searchsorted(ordered, row, "left")
    last = np.searchsorted(ordered, row, "right")
    return (first + 1 + last) / 2


KINDS = {
    "half": lambda rng: (
        (0.03 + 0.003 * rng.standard_normal((3, 5000))).astype(np.float16) - np.float16(0.03)
    ),
    "continuous": lambda rng: rng.standard_normal((3, 5000)),
    "tiny": lambda rng: 1e-12 * rng.standard_normal((3, 5000)),
    "few": lambda rng: rng.integers(-2, 3, (3, 5000)),
    "zeros": lambda rng: np.zeros((3, 5000)),
}


@pytest.mark.parametrize("most_open", [1 << 18, 40])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_by_rank_are_exact(
    kind: str, compiled: bool, most_open: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against ranks from a sort, for values that share bins, that fall below all bins, that tie."""
    monkeypatch.setattr("stockpot.methods.masks._MOST_OPEN", most_open)
    panel = np.asarray(KINDS[kind](np.random.default_rng(1)), np.float64)
    names = (b"one", b"two", b"two")
    for eps in (Fraction(-1, 10), Fraction(1, 2)):
        parameters = {"p": Fraction(3, 10), "eps": eps, "rescale": Fraction(0),
                      "seed": Fraction(5)}  # fmt: skip
        got = run(Task("key", (5000,), 3, parameters, names, compiled), panel)
        for i, row in enumerate(panel):
            random = random_bits(stream_of(5, names[i], "key", int(i == 2)), 0, 5000)
            chance = 0.7 + float(eps / 5000) * (mid_ranks(np.abs(row)) - 2500.5)
            keep = random < np.clip(chance, 0, 1) * 2**53
            assert (got[i] == row * keep).all()


def test_random_numbers_are_spread_evenly_and_apart() -> None:
    n = 200_000
    streams = [stream_of(1, b"x", "a", 0), stream_of(2, b"x", "a", 0), stream_of(1, b"y", "a", 0),
               stream_of(1, b"x", "b", 0), stream_of(1, b"x", "a", 1)]  # fmt: skip
    draws = np.array([random_bits(stream, 0, n) for stream in streams]) / 2**53
    assert draws.min() >= 0 and draws.max() < 1
    for row in draws:
        counts = np.bincount((row * 100).astype(int), minlength=100)
        assert ((counts - n / 100) ** 2 / (n / 100)).sum() < 180  # chi-square, 99 degrees
        assert abs(np.corrcoef(row[1:], row[:-1])[0, 1]) < 0.01
    others = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(others).max() < 0.01


def test_dropped_shares_and_rescaling(merge: Merge) -> None:
    rng = np.random.default_rng(3)
    base, delta = np.zeros(100_000), rng.standard_normal(100_000)
    models = {"base": {"w": base}, "a": {"w": delta}}
    dropped = merge("drop(base, a, p=0.3, seed=1)", models)["w"]
    assert abs((dropped == 0).mean() - 0.3) < 0.01
    rescaled = merge("dare(base, a, p=0.3, seed=1)", models)["w"]
    assert rescaled == pytest.approx(dropped / 0.7)
    large = np.abs(delta) > np.median(np.abs(delta))
    favoured = merge("della(base, a, p=0.5, eps=0.6, seed=1)", models)["w"] != 0
    assert abs(favoured[large].mean() - 0.65) < 0.01 and abs(favoured[~large].mean() - 0.35) < 0.01


def test_sums_of_inner_products_serve_methods_alone() -> None:
    """A method by inner products can be called from Python."""
    from stockpot.methods.spans import slerp

    sums = GramAccumulator(2)
    sums.add(np.array([[1.0, 0.0], [0.0, 1.0]]))
    half = math.sqrt(1 / 2)
    assert slerp(sums.finish(), {"t": Fraction(1, 2)}) == pytest.approx([half, half])
    assert "slerp" in FUNCTIONS
