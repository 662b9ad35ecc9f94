"""Methods on singular values; each holds one tensor as doubles.

A tensor counts as the matrix ``[first axis, all others]``; those of one axis or none stay as they
are, since they have no directions to balance.
"""

from __future__ import annotations

import numpy as np

from stockpot.methods.contract import Doubles, Parameters

__all__ = ["isotropic", "low_rank"]


def isotropic(delta: Doubles, parameters: Parameters) -> Doubles:
    """Draw singular values towards their mean: S ← S̄ + z(S − S̄).

    Args:
        delta: The delta of a tensor.
        parameters: ``z``: 0 makes them equal (Iso-C, arXiv 2502.04959), 1 changes nothing.

    Returns:
        The new delta, of the same shape and the same sum of singular values for z in 0 … 1.

    Example:
        >>> from fractions import Fraction
        >>> isotropic(np.diag([3.0, 1.0]), {"z": Fraction(0)}).round(12).tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """
    z = float(parameters["z"])
    if delta.ndim < 2 or delta.size == 0 or z == 1 or not delta.any():
        return delta
    u, s, vt = np.linalg.svd(delta.reshape(len(delta), -1), full_matrices=False)
    mean = s.mean()
    u *= mean + z * (s - mean)
    result: Doubles = (u @ vt).reshape(delta.shape)
    return result


def low_rank(delta: Doubles, parameters: Parameters) -> Doubles:
    """The nearest delta of a rank (Eckart and Young 1936).

    Args:
        delta: The delta of a tensor.
        parameters: ``rank``: how many singular values stay.

    Returns:
        The new delta, of the same shape.

    Example:
        >>> from fractions import Fraction
        >>> low_rank(np.diag([3.0, 1.0]), {"rank": Fraction(1)}).round(12).tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    rank = int(parameters["rank"])
    if delta.ndim < 2 or delta.size == 0 or rank >= min(len(delta), delta.size // len(delta)):
        return delta
    u, s, vt = np.linalg.svd(delta.reshape(len(delta), -1), full_matrices=False)
    result: Doubles = ((u[:, :rank] * s[:rank]) @ vt[:rank]).reshape(delta.shape)
    return result
