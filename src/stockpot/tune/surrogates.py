"""A Gaussian process for few evaluations of many dimensions, and where it would look next.

Numbers in, numbers out: this module knows the unit cube and nothing of studies. `GaussianProcess`
is fitted by maximum a posteriori, `propose_point` maximises the logarithm of the expected
improvement over the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr

__all__ = ["GaussianProcess", "Priors", "propose_point"]

Array = NDArray[np.float64]

# Added to every correlation matrix, so that points that nearly coincide can be told apart.
_JITTER = 1e-8
_LOG_ROOT_2PI = 0.5 * np.log(2 * np.pi)


@dataclass(frozen=True, slots=True)
class Priors:
    """What is believed before the first evaluation. Scales of logarithms are standard deviations.

    The lengthscale grows with the root of the number of dimensions, because distances do (Hvarfner
    et al. 2024, arXiv:2402.02229); without that a process in 27 dimensions believes that every
    point is on its own and searches at random.

    Attributes:
        lengthscale: Median of the lengthscale all dimensions share, for one dimension of range 1.
        lengthscale_spread: How far that may be off.
        own_spread: How much single dimensions may differ from it; 0 makes all alike.
        noise: Median of the noise's variance, as a part of the signal's.
        noise_spread: How far that may be off.
        signal_weight: With how many observations the prior of the signal's variance counts.
    """

    lengthscale: float = 0.4
    lengthscale_spread: float = 0.6
    own_spread: float = 0.4
    noise: float = 0.1
    noise_spread: float = 1.0
    signal_weight: float = 1.0


def _correlation(squared: Array) -> tuple[Array, Array]:
    """Matérn 5/2 of squared scaled distances, and its derivative by them."""
    root = np.sqrt(5 * squared)
    decay = np.exp(-root)
    return (1 + root + root * root / 3) * decay, -(5 / 6) * (1 + root) * decay


class GaussianProcess:
    """A Gaussian process with one shared and many own lengthscales, fitted to what was seen.

    Mean and variance are integrated out, the rest is at its most probable a posteriori.

    Args:
        points: Where, n×d in [0, 1].
        values: What came out, n numbers, of any scale.
        priors: What is believed before.
        n_pending: How many of the last points have no value yet (theirs are ignored). They take
            the mean that the others predict, so that the next proposal goes elsewhere (the
            "kriging believer", Ginsbourger et al. 2010).
        errors: Standard error of each value, in its scale, on top of the noise that all have; for
            values that are estimates. None for none.

    Example:
        >>> line = np.linspace(0, 1, 5)[:, None]
        >>> process = GaussianProcess(line, 3 * line[:, 0])
        >>> mean, sd = process.predict(np.array([[0.6]]))
        >>> bool(abs(mean[0] - 1.8) < 0.1), bool(0 < sd[0] < 0.5)
        (True, True)
    """

    def __init__(
        self,
        points: Array,
        values: Array,
        priors: Priors | None = None,
        n_pending: int = 0,
        errors: Array | None = None,
    ) -> None:
        self._priors = priors or Priors()
        self._n_dimensions = points.shape[1]
        seen = len(points) - n_pending
        self._mean = float(values[:seen].mean())
        self._scale = float(values[:seen].std()) or 1.0
        # As parts of the signal's variance, which is about that of the values.
        self._extra = np.zeros(len(points)) if errors is None else (errors / self._scale) ** 2
        self._fit(points[:seen], (values[:seen] - self._mean) / self._scale)
        if n_pending:
            believed, _ = self._predict(points[seen:])
            self._condition(points, np.concatenate([self._y, believed]))

    @property
    def lengthscales(self) -> Array:
        """How far one has to go in each dimension before values are unlike, in its range."""
        scales: Array = self._inverse**-0.5
        return scales

    @property
    def noise(self) -> float:
        """The noise's variance as a part of the signal's."""
        return self._noise

    @property
    def points(self) -> Array:
        """All points, also those that wait for their values."""
        return self._x

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, without noise.

        Args:
            points: m×d in [0, 1].

        Returns:
            m means and m standard deviations, in the values' scale.
        """
        mean, sd = self._predict(points)
        return self._mean + self._scale * mean, self._scale * sd

    def log_improvement(
        self, points: Array, best: float, gradient: bool = False
    ) -> tuple[Array, Array]:
        """Logarithm of the expected improvement (Ament et al. 2023, arXiv:2310.20708).

        Args:
            points: m×d.
            best: What is to be improved on, in standardised values.
            gradient: Whether the gradient is wanted too.

        Returns:
            m numbers, and their m×d gradients (or an empty array).
        """
        if not gradient:
            mean, sd = self._predict(points)
            z = (mean - best) / sd
            return _log_h(z) + np.log(sd), np.empty(0)
        mean, sd, mean_by, sd_by = self._predict_with_gradient(points)
        z = (mean - best) / sd
        log_h = _log_h(z)
        slope = np.exp(np.minimum(log_ndtr(z) - log_h, 50.0))[:, None]
        by = slope * (mean_by - z[:, None] * sd_by) / sd[:, None] + sd_by / sd[:, None]
        return log_h + np.log(sd), by

    def best_mean(self) -> tuple[float, Array]:
        """The highest standardised mean at any point, and all points' means.

        Scores are rough, and the highest of many was also lucky, so the mean is what is to be
        improved on.
        """
        mean, _ = self._predict(self._x)
        return float(mean.max()), mean

    def _fit(self, x: Array, y: Array) -> None:
        """Find the most probable lengthscales and noise by L-BFGS-B on the exact gradient."""
        priors, d = self._priors, self._n_dimensions
        log_length = np.log(priors.lengthscale) + 0.5 * np.log(d)
        squared = (x[:, None] - x[None]) ** 2
        n, own = len(y), priors.own_spread > 0 and d > 1
        weight = priors.signal_weight

        def negative_log_posterior(theta: Array) -> tuple[float, Array]:
            inverse = (
                np.exp(-2 * (theta[0] + theta[2:])) if own else np.full(d, np.exp(-2 * theta[0]))
            )
            correlation, slope = _correlation(squared @ inverse)
            noise = np.diag(np.exp(theta[1]) + _JITTER + self._extra[:n])
            factor = cho_factor(correlation + noise, lower=True)
            k_inverse = cho_solve(factor, np.eye(n))
            ones = k_inverse.sum(1)
            residual = y - (ones @ y) / ones.sum()
            a = k_inverse @ residual
            total, count = residual @ a + weight, n - 1 + weight
            z_length = (theta[0] - log_length) / priors.lengthscale_spread
            z_noise = (theta[1] - np.log(priors.noise)) / priors.noise_spread
            value = (
                0.5 * count * np.log(total / count)
                + np.log(np.diag(factor[0])).sum()
                + 0.5 * np.log(ones.sum())
                + 0.5 * (z_length**2 + z_noise**2)
            )
            by_k = 0.5 * (
                k_inverse - (count / total) * np.outer(a, a) - np.outer(ones, ones) / ones.sum()
            )
            by_length = ((by_k * slope).ravel() @ squared.reshape(n * n, d)) * (-2 * inverse)
            by = np.zeros_like(theta)
            by[0] = by_length.sum() + z_length / priors.lengthscale_spread
            by[1] = np.trace(by_k) * np.exp(theta[1]) + z_noise / priors.noise_spread
            if own:
                value += 0.5 * (theta[2:] @ theta[2:]) / priors.own_spread**2
                by[2:] = by_length + theta[2:] / priors.own_spread**2
            return float(value), by

        start = np.zeros(2 + (d if own else 0))
        start[:2] = log_length, np.log(priors.noise)
        bounds = [(log_length - 3, log_length + 3), (-9.0, 2.0)] + [(-3.0, 3.0)] * (len(start) - 2)
        found = minimize(
            negative_log_posterior,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 60, "ftol": 1e-6},
        ).x
        self._inverse = (
            np.exp(-2 * (found[0] + found[2:])) if own else np.full(d, np.exp(-2 * found[0]))
        )
        self._noise = float(np.exp(found[1]))
        self._condition(x, y)

    def _condition(self, x: Array, y: Array) -> None:
        """Solve for everything that predictions need."""
        self._x, self._y = x, y
        self._scaled = x * np.sqrt(self._inverse)
        k = _correlation(_squared_distances(self._scaled, self._scaled))[0]
        noise = np.diag(self._noise + _JITTER + self._extra[: len(y)])
        factor = cho_factor(k + noise, lower=True)
        self._k_inverse = cho_solve(factor, np.eye(len(y)))
        self._ones = self._k_inverse.sum(1)
        self._level = (self._ones @ y) / self._ones.sum()
        residual = y - self._level
        self._weights = self._k_inverse @ residual
        weight = self._priors.signal_weight
        self._variance = (residual @ self._weights + weight) / (len(y) - 1 + weight)

    def _predict(self, z: Array) -> tuple[Array, Array]:
        k, _ = _correlation(_squared_distances(z * np.sqrt(self._inverse), self._scaled))
        return self._level + k @ self._weights, np.sqrt(self._variance_at(k, k @ self._k_inverse))

    def _variance_at(self, k: Array, solved: Array) -> Array:
        # The second term is what not knowing the mean adds.
        unknown = 1 - k @ self._ones
        left = 1 - (k * solved).sum(1) + unknown**2 / self._ones.sum()
        variance: Array = self._variance * np.maximum(left, 1e-10)
        return variance

    def _predict_with_gradient(self, z: Array) -> tuple[Array, Array, Array, Array]:
        k, slope = _correlation(_squared_distances(z * np.sqrt(self._inverse), self._scaled))
        solved = k @ self._k_inverse

        def by_point(by_k: Array) -> Array:
            chained = by_k * slope
            moved: Array = 2 * (chained.sum(1)[:, None] * z - chained @ self._x) * self._inverse
            return moved

        unknown = (1 - k @ self._ones) / self._ones.sum()
        sd = np.sqrt(self._variance_at(k, solved))
        by_variance = by_point(-2 * solved - 2 * unknown[:, None] * self._ones)
        by_sd = self._variance * by_variance / (2 * sd[:, None])
        weights = np.broadcast_to(self._weights, k.shape)
        return self._level + k @ self._weights, sd, by_point(weights), by_sd


def _squared_distances(a: Array, b: Array) -> Array:
    squared: Array = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0.0)
    return squared


def _log_h(z: Array) -> Array:
    """log(φ(z) + z·Φ(z)), also where that is far below the smallest double."""
    out = np.empty_like(z)
    near = z > -1
    some = z[near]
    out[near] = np.log(np.exp(-some * some / 2 - _LOG_ROOT_2PI) + some * np.exp(log_ndtr(some)))
    w = -z[~near]
    # 1 − √(π/2)·w·erfcx(w/√2) cancels for large w, where it is 1/w².
    part = np.where(w < 1e3, 1 - np.sqrt(np.pi / 2) * w * erfcx(w / np.sqrt(2)), w**-2.0)
    out[~near] = -w * w / 2 - _LOG_ROOT_2PI + np.log(np.maximum(part, 1e-30))
    return out


def propose_point(
    process: GaussianProcess, steps: Array, rng: np.random.Generator, n_starts: int = 3
) -> Array:
    """The point of the largest expected improvement that was not yet asked for.

    Starts are the best of points from the whole cube, of corners, and of neighbours of the best
    points so far; L-BFGS-B climbs from them together; on a grid a walk along its axes ends it.

    Args:
        process: Fitted to what is known.
        steps: Distance of a dimension's grid points, or 0 where there is no grid; d numbers.
        rng: Where starts come from.
        n_starts: How many come from the candidates, and from the best points.

    Returns:
        d numbers in [0, 1], on the grid.

    Example:
        >>> line = np.linspace(0, 1, 5)[:, None]
        >>> process = GaussianProcess(line, -((line[:, 0] - 0.6) ** 2))
        >>> x = propose_point(process, np.array([0.1]), np.random.default_rng(0))
        >>> bool(0.5 <= x[0] <= 0.7)
        True
    """
    best, means = process.best_mean()
    d = process.points.shape[1]
    top = process.points[np.argsort(-means, kind="stable")[: n_starts + 1]]

    def gain(points: Array) -> Array:
        return process.log_improvement(points, best)[0]

    pool = [rng.random((400, d)), rng.integers(0, 2, (200, d)).astype(float)]
    for point in top:
        for width in (0.05, 0.15, 0.3):
            moved = rng.random((30, d)) < rng.choice([0.2, 0.5, 1.0], size=(30, 1))
            pool.append(np.clip(point + moved * rng.normal(0, width, (30, d)), 0, 1))
    candidates = np.concatenate(pool)
    order = np.argsort(-gain(candidates), kind="stable")[:n_starts]
    near = np.clip(top[:n_starts] + rng.normal(0, 0.02, top[:n_starts].shape), 0, 1)
    starts = np.concatenate([candidates[order], near])

    def climb(flat: Array) -> tuple[float, Array]:
        value, by = process.log_improvement(flat.reshape(starts.shape), best, gradient=True)
        return -float(value.sum()), -by.ravel()

    options: dict[str, Any] = {"maxiter": 80, "ftol": 1e-7}
    found = minimize(
        climb, starts.ravel(), jac=True, method="L-BFGS-B", bounds=[(0, 1)] * starts.size,
        options=options,
    )  # fmt: skip
    points = _on_grid(np.concatenate([found.x.reshape(starts.shape), starts]), steps)
    values = gain(points)
    here, value = points[values.argmax()], values.max()
    for _ in range(4 * d):
        around = _neighbours(here, steps)
        if not len(around):
            return np.asarray(here)
        values = gain(around)
        if values.max() <= value + 1e-9:
            break
        here, value = around[values.argmax()], values.max()
    return _not_seen(here, process.points, steps, gain, rng)


def _not_seen(here: Array, seen: Array, steps: Array, gain: Any, rng: np.random.Generator) -> Array:
    """The point itself, or the best near it that was not asked for: an answer would be the same."""
    d = len(here)
    for around in (
        np.concatenate([here[None], _neighbours(here, steps)]),
        _on_grid(rng.random((1000, d)), steps),
    ):
        fresh = (np.abs(around[:, None] - seen[None]).max(2) > 1e-9).all(1)
        if fresh[0] and (around[0] == here).all():
            return here
        if fresh.any():
            return np.asarray(around[fresh][gain(around[fresh]).argmax()])
    return here


def _levels(steps: Array) -> Array:
    """How many steps there are up to 1; ranges that no whole number of steps fills end below."""
    return np.floor(1 / np.where(steps > 0, steps, 1.0) + 1e-9)


def _on_grid(points: Array, steps: Array) -> Array:
    safe = np.where(steps > 0, steps, 1.0)
    rounded = np.minimum(np.round(points / safe), _levels(steps)) * safe
    return np.clip(np.where(steps > 0, rounded, points), 0.0, 1.0)


def _neighbours(point: Array, steps: Array) -> Array:
    """Points one step away along one axis."""
    moves = np.concatenate([np.diag(steps), -np.diag(steps)])
    moves = moves[np.abs(moves).sum(1) > 0]
    around = point + moves
    inside = ((around > -1e-9) & (around < 1 + 1e-9)).all(1)
    return _on_grid(around[inside], steps)
