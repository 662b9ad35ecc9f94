"""Distances of a pool as plain matrices by component: what clustering and maps start from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from stockpot.compare.comparison import Comparison, Place
from stockpot.errors import CheckpointError

__all__ = ["DistanceTable", "distance_table", "read_distance_table"]

Doubles = npt.NDArray[np.float64]
_MOST_BYTES = 200_000_000


@final
@dataclass(frozen=True, eq=False)
class DistanceTable:
    """Euclidean distances of every pair, by component.

    Attributes:
        names: Of the models.
        matrices: By component, shape ``[n, n]``, symmetric with a zero diagonal; NaN where a pair
            has nothing in common.
        silent: Components whose matrix is zero everywhere in a file that does not say what it
            compared: all models may be equal there, or none may have it.
    """

    names: tuple[str, ...]
    matrices: Mapping[str, Doubles]
    silent: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same in the AstolfoMix author's format, with null for what was not compared.

        Returns:
            ``dm``: matrices by component; ``ml``: names.
        """
        return {
            "dm": {
                name: [[None if np.isnan(x) else float(x) for x in row] for row in matrix]
                for name, matrix in self.matrices.items()
            },
            "ml": list(self.names),
        }


def distance_table(comparison: Comparison) -> DistanceTable:
    """Take the distances out of a comparison.

    Args:
        comparison: What was found.

    Returns:
        One matrix a component.
    """
    return DistanceTable(
        comparison.names,
        {name: comparison.pairs(Place(name)).distances() for name in comparison.components},
    )


def read_distance_table(path: str | os.PathLike[str]) -> DistanceTable:
    """Read distances as the AstolfoMix author's notebook saves them.

    The format: JSON with ``dm``, matrices by component (``unet``, ``te``, ``vae`` and ``other``;
    ``te0`` and ``te1`` for SDXL), each the square root of the summed squares over the keys, and
    ``ml``, file names. A component that no model has is a matrix of zeros there.

    Args:
        path: The file.

    Returns:
        The distances; the mean of both where the two halves of a matrix differ by rounding.

    Raises:
        CheckpointError: The file is not of this format.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"{path}: a distance file may have {_MOST_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        names = tuple(str(name) for name in content["ml"])
        matrices = {str(name): _matrix(rows, len(names)) for name, rows in content["dm"].items()}
    except OSError as error:
        raise CheckpointError(f"{path}: the file cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: distances must be JSON with `dm` (matrices by component) and `ml` (names), "
            f"but this is not ({type(error).__name__}: {error})"
        ) from error
    silent = tuple(name for name, matrix in matrices.items() if not np.nan_to_num(matrix).any())
    return DistanceTable(names, matrices, silent)


def _matrix(rows: Any, n: int) -> Doubles:
    values = [[np.nan if value is None else float(value) for value in row] for row in rows]
    matrix = np.array(values, np.float64).reshape(len(values), -1) if values else np.zeros((0, 0))
    if matrix.shape != (n, n):
        raise ValueError(f"a matrix must be {n} x {n}, but is {list(matrix.shape)}")
    known = matrix[~np.isnan(matrix)]
    if (known < 0).any() or np.isinf(known).any() or np.nan_to_num(matrix.diagonal()).any():
        raise ValueError("distances must be finite, not below zero, and zero on the diagonal")
    if not np.allclose(matrix, matrix.T, rtol=1e-3, atol=1e-6, equal_nan=True):
        raise ValueError("a matrix must be symmetric")
    result: Doubles = (matrix + matrix.T) / 2
    return result
