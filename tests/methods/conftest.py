"""Small models of made-up tensors, and a merge of them by expression."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo
from stockpot.engine import Settings, merge_in_memory
from stockpot.recipes import make_recipe

Arrays = dict[str, np.ndarray]
#: Shapes of every kind: a matrix, a convolution, a vector, one element, none, no axis.
SHAPES = {"matrix": (37, 61), "conv": (6, 5, 3, 3), "bias": (70,), "one": (1,), "none": (0, 4),
          "scalar": ()}  # fmt: skip
KINDS = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}


def source(arrays: Arrays, name: str) -> MemorySource:
    """A checkpoint of arrays."""
    tensors = {
        key: (TensorInfo(key, DTYPES[KINDS[value.dtype]], value.shape), value.tobytes())
        for key, value in arrays.items()
    }
    return MemorySource(tensors, {}, name)


def arrays_of(merged: MemorySource) -> Arrays:
    """The tensors of a checkpoint as arrays; bfloat16 as its bits."""
    kinds = {name: dtype for dtype, name in KINDS.items()} | {"BF16": np.dtype(np.uint16)}
    return {
        key: np.frombuffer(merged.read_bytes(key), kinds[info.dtype.name]).reshape(info.shape)
        for key, info in merged.tensors.items()
    }


@pytest.fixture(scope="session")
def family() -> dict[str, Arrays]:
    """A base and five models near it, in half precision."""
    rng = np.random.default_rng(20)
    base = {key: 0.05 * rng.standard_normal(shape) for key, shape in SHAPES.items()}
    models = {"base": base}
    for name in "abcde":
        models[name] = {
            key: value + 0.005 * rng.standard_normal(value.shape) for key, value in base.items()
        }
    return {
        name: {key: np.asarray(value, np.float16) for key, value in one.items()}
        for name, one in models.items()
    }


Merge = Callable[..., Arrays]


@pytest.fixture
def merge(family: Mapping[str, Arrays]) -> Merge:
    """Merge by expression: ``merge("median(a, b)", chunk_elements=64)``; other models by name."""

    def run(
        expression: str, models: Mapping[str, Arrays] | None = None, dtype: str | None = None,
        **settings: object,
    ) -> Arrays:  # fmt: skip
        sources = {name: source(arrays, name) for name, arrays in (models or family).items()}
        recipe = make_recipe(expression, {name: f"{name}.safetensors" for name in sources})
        options = Settings(**{"threads": 1, **settings})  # type: ignore[arg-type]
        return arrays_of(merge_in_memory(recipe, sources, dtype=dtype, settings=options))

    return run
