"""Methods whose result lies in the span of the inputs: weights from inner products alone.

One pass sums the n×n inner products of a tensor, any number of iterations run on n×n numbers, and
one more pass sums the weighted rows. Nothing here sees a tensor.
"""

from __future__ import annotations

import math

import numpy as np

from stockpot.methods.contract import Doubles, Parameters
from stockpot.methods.gram import Gram

__all__ = ["geometric_median", "karcher_mean", "slerp", "stock"]


def geometric_median(gram: Gram, parameters: Parameters) -> list[float]:
    """Weights of the point with the least sum of distances to all inputs.

    Weiszfeld's iteration (1937; for robust aggregation arXiv 1912.13445), from the mean on:
    wᵢ ∝ 1/max(‖xᵢ − y‖, eps_guard). With y = Σ wⱼxⱼ the distances follow from the inner products:
    ‖xᵢ − y‖² = Gᵢᵢ − 2(Gw)ᵢ + wᵀGw.

    Args:
        gram: Of the inputs.
        parameters: ``maxiter``; ``ftol``: it stops once the sum of distances changes by less than
            this share of it; ``eps_guard``.

    Returns:
        A weight for each input, at least 0; they sum to 1.

    Example:
        >>> from fractions import Fraction as F
        >>> from stockpot.methods import GramAccumulator
        >>> sums = GramAccumulator(3)
        >>> sums.add(np.array([[0.0, 0.0], [0.0, 0.0], [9.0, 9.0]]))
        >>> options = {"maxiter": F(100), "ftol": F(0), "eps_guard": F(1, 10**6)}
        >>> [round(w, 6) for w in geometric_median(sums.finish(), options)]
        [0.5, 0.5, 0.0]
    """
    inner = gram.inner
    n = len(inner)
    guard, ftol = float(parameters["eps_guard"]), float(parameters["ftol"])
    weights = np.full(n, 1 / n)
    distances = _distances(inner, gram.squared, weights)
    before = float(distances.sum())
    for _ in range(int(parameters["maxiter"])):
        weights = 1 / np.maximum(distances, guard) if guard else _inverse(distances)
        weights /= weights.sum()
        distances = _distances(inner, gram.squared, weights)
        now = float(distances.sum())
        if abs(before - now) <= ftol * now:
            break
        before = now
    return [float(weight) for weight in weights]


def _distances(inner: Doubles, squared: Doubles, weights: Doubles) -> Doubles:
    # Σⱼ wⱼ‖xᵢ − xⱼ‖² − (spread of y): no whole rows take part, so near inputs keep their digits.
    # One after the other, and the last sum exactly: a matrix library has an order for each machine.
    towards = np.add.reduce(squared * weights[:, None], axis=0)
    spread = math.fsum((weights * towards).tolist()) / 2
    result: Doubles = np.sqrt(np.maximum(towards - spread, 0.0))
    return result


def _inverse(distances: Doubles) -> Doubles:
    there = distances == 0
    return there.astype(np.float64) if there.any() else 1 / distances


def stock(gram: Gram, parameters: Parameters) -> list[float]:
    """Weights of model stock (arXiv 2403.19522): the mean delta, scaled by the deltas' angle.

    t = n·c/(1 + (n − 1)·c) with c the mean cosine of all pairs, taken as 0 where it is below: then
    nothing speaks for a direction. A delta shorter than ``cos_eps_guard`` has no angle, and its
    pairs do not count.

    Args:
        gram: Of the deltas.
        parameters: ``cos_eps_guard``.

    Returns:
        t/n for each; 1 for a single delta.
    """
    products = gram.products()
    n = len(products)
    if n == 1:
        return [1.0]
    lengths = np.sqrt(np.maximum(products.diagonal(), 0))
    guard = float(parameters["cos_eps_guard"])
    total, pairs = 0.0, 0
    for i in range(n):
        for j in range(i + 1, n):
            if min(lengths[i], lengths[j]) > guard:
                total += float(products[i, j] / (lengths[i] * lengths[j]))
                pairs += 1
    cosine = min(max(total / pairs, 0.0), 1.0) if pairs else 0.0
    return [cosine / (1 + (n - 1) * cosine)] * n


def slerp(gram: Gram, parameters: Parameters) -> list[float]:
    """Weights of spherical interpolation between two tensors.

    The direction moves along the great circle, the norm from the one to the other. Tensors that
    point the same way, or exactly against each other, or are zero, are interpolated on the line.

    Args:
        gram: Of a and b.
        parameters: ``t``: 0 is a, 1 is b.

    Returns:
        A weight for each.
    """
    t = float(parameters["t"])
    products = gram.products()
    a, b = (math.sqrt(max(float(products[i, i]), 0.0)) for i in range(2))
    line = [1 - t, t]
    if a == 0 or b == 0 or t in (0, 1):
        return line
    # From the distance where they are near: the cosine has lost those digits.
    chord = math.sqrt(max(float(gram.squared[0, 1]) - (a - b) ** 2, 0.0) / (a * b))
    omega = 2 * math.asin(min(chord / 2, 1.0))
    if omega < 1e-7 or math.pi - omega < 1e-7:
        return line
    norm = (1 - t) * a + t * b
    return [
        norm * math.sin((1 - t) * omega) / (math.sin(omega) * a),
        norm * math.sin(t * omega) / (math.sin(omega) * b),
    ]


def karcher_mean(gram: Gram, parameters: Parameters) -> list[float]:
    """Weights of the mean of directions on the sphere, times the mean of the norms.

    The Karcher mean (1977) of the unit vectors uᵢ: the point m with Σ log_m(uᵢ) = 0, found by
    following that sum. Inputs of zeros have no direction and count only for the norm; where the
    directions cancel, the plain mean is taken.

    Args:
        gram: Of the inputs.
        parameters: None.

    Returns:
        A weight for each.
    """
    products = gram.products()
    n = len(products)
    lengths = np.sqrt(np.maximum(products.diagonal(), 0))
    some = np.flatnonzero(lengths > 0)
    plain = [1 / n] * n
    if len(some) == 0:
        return plain
    cosines = np.clip(products[np.ix_(some, some)] / np.outer(lengths[some], lengths[some]), -1, 1)
    m = np.full(len(some), 1 / len(some))
    for _ in range(100):
        square = float(m @ cosines @ m)
        if square < 1e-20:
            return plain
        m /= math.sqrt(square)
        towards = np.clip(cosines @ m, -1, 1)
        angles = np.arccos(towards)
        # log_m(u) = (u − ⟨u, m⟩m)·ω/sin ω
        sines = np.sqrt(1 - towards**2)
        factor = np.divide(angles, sines, out=np.ones_like(angles), where=sines > 1e-12)
        step = factor / len(some)
        tangent = step - float(step @ towards) * m
        length = math.sqrt(max(float(tangent @ cosines @ tangent), 0.0))
        if length < 1e-12:
            break
        m = math.cos(length) * m + math.sin(length) / length * tangent
    m /= math.sqrt(float(m @ cosines @ m))
    norm = float(lengths.sum()) / n
    result = np.zeros(n)
    result[some] = norm * m / lengths[some]
    return [float(weight) for weight in result]
