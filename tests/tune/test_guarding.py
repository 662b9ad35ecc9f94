"""The guard finds what was planted, and nothing else."""

import numpy as np

from stockpot.tune import GUARDED, Mark, guard, picture_facts

RNG = np.random.default_rng(0)


def pictures(n: int = 10) -> list[np.ndarray]:
    return [RNG.integers(40, 215, (24, 24, 3)).astype(np.uint8) for _ in range(n)]


def marks(some: list[np.ndarray]) -> list[Mark]:
    return [Mark(f"p{i}#0", {}, picture_facts(p)) for i, p in enumerate(some)]


def blurred(picture: np.ndarray) -> np.ndarray:
    x = picture.astype(float)
    return ((x + np.roll(x, 1, 0) + np.roll(x, 1, 1) + np.roll(x, (1, 1), (0, 1))) / 4).astype(
        np.uint8
    )


def garish(picture: np.ndarray) -> np.ndarray:
    x = picture.astype(float)
    grey = x.mean(axis=2, keepdims=True)
    return np.clip(grey + 2.5 * (x - grey), 0, 255).astype(np.uint8)


def test_blur_and_garish_colours_are_found() -> None:
    plain = pictures()
    parents = {"a": marks(plain), "b": marks(pictures())}
    found = {d.fact: d for d in guard(marks([blurred(p) for p in plain]), parents)}
    assert found["detail"].side == "below" and found["sharpness"].side == "below"
    assert "detail energy is" in str(found["detail"].problem)
    assert found["detail"].problem.code == "drift"
    found = {d.fact: d for d in guard(marks([garish(p) for p in plain]), parents)}
    assert found["colourfulness"].side == "above"
    assert found["colourfulness"].value > 1.5 * found["colourfulness"].parents_value


def test_a_parent_does_not_drift_nor_does_what_lies_between() -> None:
    plain = pictures()
    parents = {"a": marks(plain), "b": marks([blurred(p) for p in plain])}
    assert guard(parents["a"], parents) == ()
    half = [((p.astype(int) + blurred(p)) // 2).astype(np.uint8) for p in plain]
    assert guard(marks(half), parents) == ()


def test_small_drifts_and_few_tasks_are_passed_over() -> None:
    def at(value: float, n: int = 10) -> list[Mark]:
        return [Mark(f"p{i}#0", {}, {"contrast": value + i / 1000}) for i in range(n)]

    assert guard(at(0.31), {"a": at(0.3)}) == ()
    (drift,) = guard(at(0.31), {"a": at(0.3)}, tolerance=0.01)
    assert (drift.fact, drift.side, drift.verdict.n_tasks) == ("contrast", "above", 10)
    assert guard(at(0.6, 5), {"a": at(0.3, 5)}) == ()
    assert guard(at(0.6), {}) == () == guard([], {"a": at(0.3)})


def test_what_is_watched_is_measured() -> None:
    assert GUARDED.keys() <= picture_facts(pictures(1)[0]).keys()
