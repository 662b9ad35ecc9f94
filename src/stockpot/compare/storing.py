"""A comparison as one small safetensors file, from which every later question is answered.

One tensor a part: ``g0000.inner`` and ``g0000.squared`` ``[m, m]``, ``g0000.rows`` ``[3, m]``
(⟨dᵢ, p⟩, squared rounding error, kurtosis), all F64, for each group; the rest is JSON in the
metadata under ``stockpot.comparison``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from stockpot.checkpoints import DTYPES, FileSink, Source, TensorInfo, open_checkpoint
from stockpot.compare.comparison import (
    Comparison,
    Doubles,
    Exclusion,
    Group,
    ModelFacts,
    Place,
)
from stockpot.errors import CheckpointError
from stockpot.methods import Gram

__all__ = ["load_comparison", "save_comparison"]

_KEY = "stockpot.comparison"
_VERSION = 1
_ROWS = ("cross", "rounding", "kurtosis")


def save_comparison(
    comparison: Comparison, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a comparison to a file.

    Args:
        comparison: What to keep. Its models' paths become relative to the file.
        path: The file; it appears only when complete.
        overwrite: Replace a file that is there.

    Returns:
        The file.

    Raises:
        OutputExistsError: The file is there.
        OutputError: It cannot be written.
        VerificationError: The disk does not hold what was written.
    """
    path = Path(path)
    arrays: dict[str, Doubles] = {}
    for number, group in enumerate(comparison.groups):
        gram = group.gram
        arrays[f"g{number:04}.inner"] = gram.inner
        arrays[f"g{number:04}.squared"] = gram.squared
        arrays[f"g{number:04}.rows"] = np.array([gram.cross, group.rounding, group.kurtosis])
    infos = {key: TensorInfo(key, DTYPES["F64"], array.shape) for key, array in arrays.items()}
    metadata = {_KEY: json.dumps(_described(comparison, path.parent), ensure_ascii=False)}
    sink = FileSink(path, infos, metadata, overwrite=overwrite)
    try:
        for key, array in arrays.items():
            data = np.ascontiguousarray(array, "<f8").data.cast("B")
            sink.write(key, 0, data)
            # With its hash each is read back from the disk before the file gets its name.
            sink.tensor_done(key, blake3(data).hexdigest())
        sink.commit(metadata)
    except BaseException:
        sink.abort()
        raise
    return path


def load_comparison(path: str | os.PathLike[str]) -> Comparison:
    """Read a comparison back.

    Args:
        path: What `save_comparison` wrote. It may come from a stranger: everything is checked.

    Returns:
        The comparison; paths of models are as they can be opened from here.

    Raises:
        CheckpointError: The file is not a comparison, or it contradicts itself.
    """
    path = Path(path)
    with open_checkpoint(path) as source:
        text = source.metadata.get(_KEY)
        if text is None:
            raise CheckpointError(
                f"{path}: this is no comparison; make one with: stockpot compare FILES -o FOLDER"
            )
        try:
            described = json.loads(text)
            if described["version"] != _VERSION:
                raise CheckpointError(
                    f"{path}: the comparison's version must be {_VERSION}, but is "
                    f"{described['version']!r}; make it again"
                )
            found = _comparison(described, source)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"{path}: the comparison contradicts itself ({error}); make it again"
            ) from error
    models = [
        replace(model, path=os.path.join(path.parent, model.path)) if model.path else model
        for model in found.models
    ]
    return replace(found, models=tuple(models))


def _described(comparison: Comparison, folder: Path) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "by": comparison.by,
        "base": comparison.base,
        "layout": comparison.layout,
        "models": [
            {
                "name": model.name,
                "path": _relative(model.path, folder),
                "layout": model.layout,
                "content": model.content,
                "components": dict(model.components),
                "dtypes": dict(model.dtypes),
            }
            for model in comparison.models
        ],
        "groups": [
            {
                "place": [group.place.component, group.place.block, group.place.key],
                "members": list(group.members),
                "n_tensors": group.n_tensors,
                "n_matrices": group.n_matrices,
                "n_elements": group.gram.n_elements,
                "pivot": group.gram.pivot,
                "pivot_square": group.gram.pivot_square,
            }
            for group in comparison.groups
        ],
        "sizes": [
            [component, block, row.tolist()] for (component, block), row in comparison.sizes.items()
        ],
        "exclusions": [
            [e.model, e.component, e.reason, e.n_keys, e.n_elements, list(e.keys)]
            for e in comparison.exclusions
        ],
    }


def _relative(path: str, folder: Path) -> str:
    if not path:
        return ""
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # another drive
        return os.path.abspath(path)


def _comparison(described: Mapping[str, Any], source: Source) -> Comparison:
    models = tuple(
        ModelFacts(
            str(m["name"]), str(m["path"]), str(m["layout"]), str(m["content"]),
            _texts(m["components"]), _texts(m["dtypes"]),
        )
        for m in described["models"]
    )  # fmt: skip
    n = len(models)
    if not n or len({model.name for model in models}) != n:
        raise ValueError("models must have names of their own")
    base = described["base"]
    if base is not None:
        _index(base, n)
    sizes = {}
    for component, block, row in described["sizes"]:
        counts = np.array([_count(value) for value in row], np.int64)
        if counts.shape != (n,):
            raise ValueError("sizes must be given for every model")
        sizes[str(component), str(block)] = counts
    return Comparison(
        models,
        base,
        str(described["by"]),
        str(described["layout"]),
        tuple(_group(entry, number, source, n) for number, entry in enumerate(described["groups"])),
        sizes,
        tuple(
            Exclusion(_index(model, n), str(component), str(reason), _count(keys), _count(elements),
                      tuple(map(str, shown)))
            for model, component, reason, keys, elements, shown in described["exclusions"]
        ),
    )  # fmt: skip


def _group(entry: Mapping[str, Any], number: int, source: Source, n: int) -> Group:
    members = tuple(_index(member, n) for member in entry["members"])
    m = len(members)
    if not m or list(members) != sorted(set(members)):
        raise ValueError("members of a group must ascend")
    component, block, key = map(str, entry["place"])
    inner = _array(source, f"g{number:04}.inner", (m, m))
    squared = _array(source, f"g{number:04}.squared", (m, m))
    rows = _array(source, f"g{number:04}.rows", (len(_ROWS), m))
    if (squared < 0).any() or (squared != squared.T).any() or squared.diagonal().any():
        raise ValueError("squared distances must be symmetric, and none below zero")
    square = float(entry["pivot_square"])
    if not np.isfinite(square):
        raise ValueError("numbers must be finite")
    gram = Gram(
        _index(entry["pivot"], m), _count(entry["n_elements"]), inner, rows[0], square, squared
    )
    return Group(
        Place(component, block, key), members, _count(entry["n_tensors"]), gram, rows[1], rows[2],
        _count(entry["n_matrices"]),
    )  # fmt: skip


def _array(source: Source, key: str, shape: tuple[int, ...]) -> Doubles:
    info = source.tensors[key]
    if info.shape != shape or info.dtype.name != "F64":
        raise ValueError(f"{key} must be F64 {list(shape)}, but is {info.dtype} {list(info.shape)}")
    array = np.frombuffer(source.read_bytes(key), "<f8").reshape(shape).astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("numbers must be finite")
    return array


def _index(value: Any, n: int) -> int:
    if type(value) is not int or not 0 <= value < n:
        raise ValueError(f"an index must be below {n}, but is {value!r}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"a count must be a whole number, but is {value!r}")
    return value


def _texts(value: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()}
