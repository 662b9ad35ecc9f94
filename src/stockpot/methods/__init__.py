"""How to merge a panel: plain functions on rows, one file a family; inner products of rows."""

from stockpot.methods.contract import (
    Doubles,
    Method,
    Parameters,
    Task,
    Work,
    by_element,
    by_gram,
    by_ranks,
    by_tensor,
    weighted_rows,
)
from stockpot.methods.devices import CPU, Device, begin, open_device, runs_on_devices
from stockpot.methods.doubtful import find_nonfinite, with_zeros
from stockpot.methods.feeds import Feed, is_finite
from stockpot.methods.gram import (
    BLOCK_ELEMENTS,
    Gram,
    GramAccumulator,
    one_blas_thread,
    sum_grams,
    widen,
)
from stockpot.methods.linear import HAS_COMPILED_KERNEL, Row, RowFacts, combine, narrow
from stockpot.methods.matching import best_order, order_blocks
from stockpot.methods.ranking import ranked
from stockpot.methods.table import METHODS, get_method

__all__ = [
    "BLOCK_ELEMENTS",
    "CPU",
    "HAS_COMPILED_KERNEL",
    "METHODS",
    "Device",
    "Doubles",
    "Feed",
    "Gram",
    "GramAccumulator",
    "Method",
    "Parameters",
    "Row",
    "RowFacts",
    "Task",
    "Work",
    "begin",
    "best_order",
    "by_element",
    "by_gram",
    "by_ranks",
    "by_tensor",
    "combine",
    "find_nonfinite",
    "get_method",
    "is_finite",
    "narrow",
    "one_blas_thread",
    "open_device",
    "order_blocks",
    "ranked",
    "runs_on_devices",
    "sum_grams",
    "weighted_rows",
    "widen",
    "with_zeros",
]
