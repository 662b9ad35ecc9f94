"""LoRA and LyCORIS files: what their keys and factors mean, as differences of checkpoints.

Example:
    >>> import numpy as np
    >>> Low(np.array([[2.0]]), np.array([[3.0, 1.0]]), 0.5).rows(0, 1).tolist()
    [[3.0, 1.0]]
"""

from stockpot.adapters.deltas import AdapterSource, Target, layout_of_adapter, targets_of
from stockpot.adapters.extraction import Extracted, Extraction, extract_lora
from stockpot.adapters.factors import Change, Elementwise, Full, Kronecker, Low
from stockpot.adapters.modules import ENDINGS, Module, find_modules, flat_name, has_modules

__all__ = [
    "ENDINGS",
    "AdapterSource",
    "Change",
    "Elementwise",
    "Extracted",
    "Extraction",
    "Full",
    "Kronecker",
    "Low",
    "Module",
    "Target",
    "extract_lora",
    "find_modules",
    "flat_name",
    "has_modules",
    "layout_of_adapter",
    "targets_of",
]
