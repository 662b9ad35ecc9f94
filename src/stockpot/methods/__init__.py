"""How to merge a panel: plain functions on rows, one file a family."""

from stockpot.methods.doubtful import find_nonfinite
from stockpot.methods.linear import HAS_COMPILED_KERNEL, Row, RowFacts, combine

__all__ = ["HAS_COMPILED_KERNEL", "Row", "RowFacts", "combine", "find_nonfinite"]
