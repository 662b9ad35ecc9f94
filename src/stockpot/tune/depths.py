"""Where blocks lie in a UNet, and smooth curves over that: fewer numbers than blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["curve_matrix", "group_by_depth", "group_by_part", "place_on_path"]

_BLOCK = re.compile(r"(IN|M|OUT)(\d\d)")
_BLOCKS_A_LEVEL = 3


def place_on_path(labels: Sequence[str]) -> dict[str, int]:
    """Put blocks in the order in which data flow through a UNet.

    Args:
        labels: Blocks of a profile. What is called ``TIME`` counts with the first input block and
            ``OUT`` with the last output block, as other tools have it.

    Returns:
        Position of each block on the way, from 0; what is not on it (``BASE``, ``VAE``) is absent.

    Example:
        >>> place_on_path(["BASE", "IN00", "IN01", "M00", "OUT00", "OUT", "TIME"])
        {'IN00': 0, 'IN01': 1, 'M00': 2, 'OUT00': 3, 'OUT': 3, 'TIME': 0}
    """
    ranks = {"IN": 0, "M": 1, "OUT": 2}
    numbered = sorted(
        (ranks[match[1]], int(match[2]), label)
        for label in labels
        if (match := _BLOCK.fullmatch(label))
    )
    places = {label: index for index, (_, _, label) in enumerate(numbered)}
    if numbered and "OUT" in labels:
        places["OUT"] = len(numbered) - 1
    if numbered and "TIME" in labels:
        places["TIME"] = 0
    return places


def group_by_depth(labels: Sequence[str]) -> dict[str, str]:
    """Group the blocks that work at the same resolution, on the way down and up.

    Args:
        labels: Blocks of a profile.

    Returns:
        Group of each block: ``depth0`` is the full resolution, ``middle`` the middle block; what
        lies elsewhere is absent.

    Example:
        >>> found = group_by_depth(["IN00", "IN05", "M00", "OUT00", "OUT05"])
        >>> found["IN00"], found["OUT05"], found["IN05"], found["OUT00"], found["M00"]
        ('depth0', 'depth0', 'depth1', 'depth1', 'middle')
    """
    matches = {label: match for label in labels if (match := _BLOCK.fullmatch(label))}
    n_out = 1 + max((int(m[2]) for m in matches.values() if m[1] == "OUT"), default=-1)
    groups = {}
    for label, match in matches.items():
        if match[1] == "M":
            groups[label] = "middle"
        else:
            index = int(match[2]) if match[1] == "IN" else n_out - 1 - int(match[2])
            groups[label] = f"depth{index // _BLOCKS_A_LEVEL}"
    if matches:
        groups |= {label: "depth0" for label in ("OUT", "TIME") if label in labels}
    return groups


def group_by_part(labels: Sequence[str]) -> dict[str, str]:
    """Group blocks into the way down, the middle and the way up.

    Args:
        labels: Blocks of a profile.

    Example:
        >>> group_by_part(["BASE", "IN00", "M00", "OUT00", "TIME"])
        {'IN00': 'IN', 'M00': 'M', 'OUT00': 'OUT', 'TIME': 'IN'}
    """
    groups = {label: match[1] for label in labels if (match := _BLOCK.fullmatch(label))}
    if groups:
        groups |= {k: v for k, v in {"OUT": "OUT", "TIME": "IN"}.items() if k in labels}
    return groups


def curve_matrix(positions: Sequence[int], n_nodes: int) -> npt.NDArray[np.float64]:
    """Say how the values of a smooth curve follow from its values at a few nodes.

    The curve is the sum of the first `n_nodes` cosines (those of the DCT-II) that goes through
    the nodes, which lie evenly. So its numbers are weights that one can read, and not
    coefficients, whose ranges depend on each other.

    Args:
        positions: Where the curve is wanted: steps on the way, from 0.
        n_nodes: How many cosines; 1 is a constant.

    Returns:
        Matrix ``[positions, nodes]``; rows sum to 1.

    Example:
        >>> curve_matrix([0, 1, 2, 3], 2).round(2).tolist()
        [[1.15, -0.15], [0.77, 0.23], [0.23, 0.77], [-0.15, 1.15]]
    """
    import numpy as np

    places = np.asarray(positions, float)
    n_places = places.max() + 1
    orders = np.arange(n_nodes)
    wanted = np.cos(np.pi * np.outer((places + 0.5) / n_places, orders))
    nodes = np.cos(np.pi * np.outer((np.arange(n_nodes) + 0.5) / n_nodes, orders))
    return np.asarray(np.linalg.solve(nodes.T, wanted.T).T)
