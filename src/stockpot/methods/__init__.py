"""How to merge a panel: plain functions on rows, one file a family; inner products of rows."""

from stockpot.methods.doubtful import find_nonfinite
from stockpot.methods.gram import (
    BLOCK_ELEMENTS,
    Gram,
    GramAccumulator,
    one_blas_thread,
    sum_grams,
    widen,
)
from stockpot.methods.linear import HAS_COMPILED_KERNEL, Row, RowFacts, combine

__all__ = [
    "BLOCK_ELEMENTS",
    "HAS_COMPILED_KERNEL",
    "Gram",
    "GramAccumulator",
    "Row",
    "RowFacts",
    "combine",
    "find_nonfinite",
    "one_blas_thread",
    "sum_grams",
    "widen",
]
