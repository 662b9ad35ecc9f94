"""The table of methods: what runs for every function of recipes that is one.

A new method is a row of `stockpot.recipes.FUNCTIONS` and a row here; one from outside is an entry
point of the group ``stockpot.methods``, named as its function, that leads to a `Method`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from stockpot.errors import UnknownNameError
from stockpot.methods import columns, elements, masks, matching, spans, spectral, trimming
from stockpot.methods.contract import Method, Task, Work, by_element, by_gram, by_ranks, by_tensor
from stockpot.methods.magnitudes import counts_bytes
from stockpot.recipes import FUNCTIONS, PLUGINS

__all__ = ["METHODS", "get_method"]


def _counting(name: str, start: Callable[[Task], Work]) -> Method:
    return Method(
        FUNCTIONS[name], start, passes=1, scratch=lambda n: n + 8,
        held=lambda n, shape, _: counts_bytes(n) + (n << 18),
        memory="a panel, and about 0.7 MB of counts for each input", feeds=name == "trimmed",
        looks_first=name == "trimmed",
    )  # fmt: skip


def _svd_seconds(shape: tuple[int, ...]) -> float:
    """Some 20 operations for each element and singular value, at a few billion a second."""
    size = math.prod(shape)
    short = min(shape[0], size // shape[0]) if len(shape) > 1 and size else 0
    return 20 * size * short / 1e10


_ROWS: Iterable[Method] = (
    by_gram(FUNCTIONS["slerp"], spans.slerp),
    by_gram(FUNCTIONS["karcher_mean"], spans.karcher_mean),
    by_gram(FUNCTIONS["stock"], spans.stock),
    by_gram(FUNCTIONS["geometric_median"], spans.geometric_median),
    by_ranks(FUNCTIONS["element_geometric_median"], elements.all_places,
             elements.element_geometric_median, walking=lambda n: n + 12),
    by_ranks(FUNCTIONS["median"], elements.middle_places, elements.median,
             walking=lambda n: 5),
    by_ranks(FUNCTIONS["trimmed_mean"], elements.inner_places, elements.trimmed_mean,
             walking=lambda n: n + 3),
    Method(FUNCTIONS["elected"], elements.Elected, scratch=lambda n: n + 4, passes_on=True),
    by_element(FUNCTIONS["kept_mean"], elements.mean_of_kept, scratch=lambda n: 4),
    by_element(FUNCTIONS["train_difference"], elements.train_difference, scratch=lambda n: 6),
    _counting("trimmed", trimming.Trimmed),
    _counting("top_k_sum", trimming.TopK),
    Method(
        FUNCTIONS["masked"], masks.Masked, passes=lambda given: 2 if given["eps"] else 0,
        scratch=lambda n: 14, held=masks.held_by_masks, needs_identities=True,
        memory="a panel; with eps, a bit for each element and about 0.7 MB for each input",
        feeds=True, passes_on=True, looks_first=True,
    ),
    by_tensor(FUNCTIONS["isotropic"], spectral.isotropic, 7, _svd_seconds),
    by_tensor(FUNCTIONS["low_rank"], spectral.low_rank, 7, _svd_seconds),
    by_tensor(FUNCTIONS["smoothed"], columns.smoothed, 6),
    Method(FUNCTIONS["cosine_a"], lambda task: columns.Cosine(task, whole=False), passes=1,
           scratch=lambda n: 4, held=lambda n, shape, _: 64 * (1 << 18) + 32 * _width(shape),
           memory="a panel, and four doubles for each column"),
    Method(FUNCTIONS["cosine_b"], lambda task: columns.Cosine(task, whole=True), passes=1,
           scratch=lambda n: 4, held=lambda n, shape, _: 64 * (1 << 18) + 32 * _width(shape),
           memory="a panel, and four doubles for each column"),
    Method(FUNCTIONS["tensor_swap"], columns.TensorSwap, scratch=lambda n: 4),
    Method(FUNCTIONS["rebasin"], matching.Permuted, passes=1, scratch=lambda n: 0, matches=True,
           held=lambda n, shape, _: matching.held_by_matching(shape),
           memory="four whole tensors, and a matrix of a layer's units by units"),
)  # fmt: skip


def _width(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:])


#: Every method that comes with Stockpot, by name.
METHODS: Mapping[str, Method] = MappingProxyType({row.name: row for row in _ROWS})


def get_method(name: str) -> Method:
    """Find a method, here or in an installed package.

    Args:
        name: Of its function.

    Returns:
        Its row.

    Raises:
        UnknownNameError: There is none.

    Example:
        >>> get_method("geometric_median").n_passes({})
        1
    """
    if name in METHODS:
        return METHODS[name]
    for entry in entry_points(group=PLUGINS, name=name):
        found = entry.load()
        if isinstance(found, Method) and found.name == name:
            return found
    raise UnknownNameError("method", name, METHODS)
