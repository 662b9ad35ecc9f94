"""Small pools in memory, and the zoo's comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt
import pytest

from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo, open_checkpoint
from stockpot.compare import Comparison, compare
from stockpot.zoo import family

Arrays = Mapping[str, npt.NDArray[np.generic]]
MakeSource = Callable[[Arrays], MemorySource]

_NAMES = {"f2": "F16", "f4": "F32", "f8": "F64", "i8": "I64"}


def source_of(arrays: Arrays) -> MemorySource:
    """A checkpoint in memory from numpy arrays."""
    return MemorySource(
        {
            key: (TensorInfo(key, DTYPES[_NAMES[a.dtype.str[1:]]], a.shape), a.tobytes())
            for key, a in arrays.items()
        }
    )


@pytest.fixture(scope="session")
def make_source() -> MakeSource:
    """Give `source_of` to tests."""
    return source_of


@pytest.fixture(scope="session")
def zoo() -> Iterator[Comparison]:
    """All members of the zoo, compared by block, with the base named."""
    with ExitStack() as stack:
        sources = {m.name: stack.enter_context(open_checkpoint(m.path)) for m in family()}
        yield compare(sources, base="base")
