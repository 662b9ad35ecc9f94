"""What studies conclude with: permutation tests, intervals, corrections for many questions.

Everything is a function of its arguments and a seed, so that a page can be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stockpot.errors import MissingExtraError

__all__ = [
    "Interval", "Mantel", "bootstrap_means", "correlate", "holm", "mantel", "random_orders",
    "sign_flips",
]  # fmt: skip

Doubles = npt.NDArray[np.float64]
How = Literal["spearman", "pearson"]

_FEWEST_GROUPS = 5


@dataclass(frozen=True, slots=True)
class Interval:
    """A number, and what it may be as well.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
        level: Of the interval.

    Example:
        >>> str(Interval(0.5, 0.25, 0.75))
        '0.5 (95 % interval 0.25 to 0.75)'
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        ends = f"{100 * self.level:g} % interval {self.low:.3g} to {self.high:.3g}"
        return f"{self.value:.3g} ({ends})"

    def to_json(self) -> dict[str, float]:
        """The same as plain data."""
        return {"value": self.value, "low": self.low, "high": self.high, "level": self.level}


@dataclass(frozen=True, slots=True)
class Mantel:
    """Whether two matrices of distances go together.

    Attributes:
        r: Correlation of their entries above the diagonal.
        p: Share of relabellings of the objects, the true one included, whose correlation is as
            high or higher: one-sided.
        n_permutations: How many relabellings were drawn at random.
        n_objects: How many objects the matrices are of.
        how: ``spearman`` (ranks) or ``pearson``.
    """

    r: float
    p: float
    n_permutations: int
    n_objects: int
    how: How


def mantel(
    a: Doubles, b: Doubles, *, how: How = "spearman", n_permutations: int = 1000, seed: int = 0
) -> Mantel:
    """Test whether objects that are far apart in one way are far apart in another (Mantel, 1967).

    Entries of a matrix of distances are not independent, so the correlation's usual p is wrong;
    here the objects of one matrix are relabelled at random instead.

    Args:
        a: Distances, symmetric, shape ``[n, n]`` with n ≥ 4; the diagonal does not count.
        b: The same objects in the same order.
        how: Of ranks (ties get their mean rank), or of the numbers themselves.
        n_permutations: How many relabellings; p cannot be below 1/(n_permutations + 1).
        seed: Of the relabellings.

    Returns:
        The test; r is NaN and p 1 where a matrix is all the same.

    Raises:
        ValueError: The matrices are not square, not of one size, too small, or not finite.

    Example:
        >>> place = np.arange(6.0)
        >>> a = abs(place[:, None] - place)
        >>> found = mantel(a, a**2, n_permutations=99)
        >>> found.r, found.p <= 0.05
        (1.0, True)
    """
    n = len(a)
    if a.shape != (n, n) or b.shape != (n, n) or n < 4:
        raise ValueError(f"two matrices of 4 or more objects are needed, got {a.shape}, {b.shape}")
    if n_permutations < 1:
        raise ValueError(f"there must be at least 1 permutation, but got {n_permutations}")
    upper = np.triu_indices(n, 1)
    if not (np.isfinite(a[upper]).all() and np.isfinite(b[upper]).all()):
        raise ValueError("every distance must be known")
    x, y = _standard(a[upper], how), _standard(b[upper], how)
    if not x.any() or not y.any():
        return Mantel(float("nan"), 1.0, n_permutations, n, how)
    square = np.zeros((n, n))
    square[upper] = x
    square += square.T
    r = float(x @ y)
    rng = np.random.default_rng(seed)
    count = 1
    for _ in range(n_permutations):
        order = rng.permutation(n)
        count += float(square[np.ix_(order, order)][upper] @ y) >= r - 1e-12
    return Mantel(round(r, 12), count / (n_permutations + 1), n_permutations, n, how)


def correlate(x: Doubles, y: Doubles, how: How = "spearman") -> float:
    """Correlate two lists of numbers.

    Args:
        x: Finite numbers.
        y: As many.
        how: Of ranks, or of the numbers themselves.

    Returns:
        -1 to 1; NaN where one list is all the same.

    Example:
        >>> correlate(np.array([1.0, 2.0, 9.0]), np.array([1.0, 4.0, 5.0]))
        1.0
    """
    a, b = _standard(x, how), _standard(y, how)
    return round(float(a @ b), 12) if a.any() and b.any() else float("nan")


def bootstrap_means(
    rows: Doubles,
    statistic: Callable[[Doubles], float],
    groups: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap any function of the mean over tasks: a ratio, a correlation, a difference.

    Tasks are drawn with replacement; with five groups or more, groups first and then tasks within
    each, since pictures of one prompt are alike. Percentile ends.

    Args:
        rows: One row a task, shape ``[n, k]``; what belongs together is in one row, and stays so.
        statistic: From the means of the columns, shape ``[k]``, to a number; results that are not
            finite are left out.
        groups: Each task's payload; None resamples tasks alone.
        level: Of the interval, inside (0, 1).
        n_boot: Resamplings.
        seed: Of the resampling.

    Returns:
        The statistic of the plain means, and its interval; infinite ends with fewer than two
        tasks.

    Raises:
        ValueError: There are no tasks, or as many groups as tasks are not given.

    Example:
        >>> rows = np.array([[2.0, 1.0], [4.0, 2.0], [6.0, 3.0]])
        >>> bootstrap_means(rows, lambda mean: mean[0] / mean[1], n_boot=50)
        Interval(value=2.0, low=2.0, high=2.0, level=0.95)
    """
    n = len(rows)
    if n < 1 or (groups is not None and len(groups) != n):
        raise ValueError("a bootstrap needs tasks, and the group of each")
    value = float(statistic(rows.mean(axis=0)))
    if n < 2:
        return Interval(value, -np.inf, np.inf, level)
    rng = np.random.default_rng(seed)
    counts = _drawn_counts(n, groups, n_boot, rng)
    means = counts @ rows / counts.sum(axis=1, keepdims=True)
    found = np.array([statistic(mean) for mean in means])
    found = found[np.isfinite(found)]
    if not len(found):
        return Interval(value, -np.inf, np.inf, level)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Correct p for having asked many questions at once (Holm, 1979).

    Args:
        p: By question.

    Returns:
        Corrected, by question: where it is below 0.05, the chance that *any* such finding is
        false is below 0.05.

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    ranked = sorted(p, key=lambda name: (p[name], name))
    least, found = 0.0, {}
    for i, name in enumerate(ranked):
        least = max(least, min(1.0, (len(ranked) - i) * p[name]))
        found[name] = least
    return {name: found[name] for name in p}


def sign_flips(
    differences: Doubles, groups: Sequence[str] | None = None, *, n_flips: int = 10_000,
    seed: int = 0,
) -> float:  # fmt: skip
    """Test whether paired differences are about zero (Fisher's randomisation test).

    If two candidates draw alike, each payload could as well have come out the other way round; so
    signs are flipped at random, those of a payload together where there are five payloads or more.

    Args:
        differences: One a task, shape ``[n]``; or a vector a task, shape ``[n, width]``, whose
            mean's length is then what counts.
        groups: Each task's payload; None flips tasks by themselves.
        n_flips: How often; p cannot be below 1/(n_flips + 1), nor below what so few groups allow.
        seed: Of the flips.

    Returns:
        Two-sided p.

    Raises:
        ValueError: There are no tasks, or as many groups as tasks are not given.

    Example:
        >>> sign_flips(np.array([0.1, -0.1, 0.2, -0.2])) > 0.5
        True
        >>> sign_flips(np.full(16, 0.3)) < 0.001
        True
    """
    n = len(differences)
    if n < 1 or (groups is not None and len(groups) != n):
        raise ValueError("a test needs tasks, and the group of each")
    rows = differences.reshape(n, -1)
    names = list(dict.fromkeys(groups)) if groups is not None else []
    if len(names) >= _FEWEST_GROUPS and groups is not None:
        place = np.array([names.index(group) for group in groups])
        rows = np.stack([rows[place == i].sum(axis=0) for i in range(len(names))])
    # Lengths of all flipped sums come from the products of rows, however wide these are.
    products = rows @ rows.T
    reached = float(products.sum())
    rng = np.random.default_rng(seed)
    signs = rng.integers(0, 2, (n_flips, len(rows))) * 2.0 - 1.0
    flipped = np.einsum("ij,jk,ik->i", signs, products, signs, optimize=True)
    slack = 1e-9 * float(np.abs(products).sum())
    return float((1 + (flipped >= reached - slack).sum()) / (n_flips + 1))


def random_orders(n: int, n_orders: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Draw orders of n things; every call with more orders begins with the same ones.

    Args:
        n: How many things.
        n_orders: How many orders; they may repeat.
        seed: Of the drawing.

    Example:
        >>> random_orders(3, 2) == random_orders(3, 5)[:2]
        True
    """
    rng = np.random.default_rng(seed)
    return tuple(tuple(int(i) for i in rng.permutation(n)) for _ in range(n_orders))


def _standard(values: Doubles, how: How) -> Doubles:
    """Centred and of length 1, so that a product of two is their correlation; 0 where flat."""
    if how == "spearman":
        try:
            from scipy import stats
        except ImportError as error:
            raise MissingExtraError("a rank correlation", "tune") from error
        values = np.asarray(stats.rankdata(values), np.float64)
    centred = values - values.mean()
    length = float(np.linalg.norm(centred))
    scale = float(np.abs(values).max(initial=0.0)) * np.sqrt(len(values))
    return centred / length if length > 1e-13 * scale else np.zeros_like(centred)


def _drawn_counts(
    n: int, groups: Sequence[str] | None, n_boot: int, rng: np.random.Generator
) -> Doubles:
    """How often each task is drawn in each resampling, shape ``[n_boot, n]``."""
    of: dict[str, list[int]] = {}
    for i in range(n):
        of.setdefault(groups[i] if groups is not None else str(i), []).append(i)
    if len(of) < _FEWEST_GROUPS:
        return rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64)
    counts = np.zeros((n_boot, n))
    clusters = list(of.values())
    times = rng.multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)), size=n_boot)
    for k, members in enumerate(clusters):
        size = len(members)
        drawn = rng.multinomial(times[:, k] * size, np.full(size, 1 / size))
        counts[:, members] = drawn
    return counts
