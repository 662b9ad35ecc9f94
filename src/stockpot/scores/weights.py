"""From files to networks: read with care, put into their places strictly.

transformers fills what a file lacks with random numbers and says so in a log; scores of such a
network would be noise. Here every tensor has its place, and every place its tensor, or nothing is
scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import CheckpointError, ScorerError, UnknownNameError

__all__ = ["DTYPES", "find_weights", "get_dtype", "load_strictly", "read_weights"]

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""What networks of scorers may compute in."""

_NAMES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_MOST_NAMED = 6
Module = TypeVar("Module", bound=nn.Module)


def get_dtype(name: str) -> torch.dtype:
    """Find what to compute in.

    Args:
        name: One of `DTYPES`.

    Returns:
        torch's type.

    Raises:
        UnknownNameError: There is no such type here.
    """
    if name not in DTYPES:
        raise UnknownNameError("dtype", name, DTYPES)
    return DTYPES[name]


def find_weights(folder: Path) -> Path:
    """Find the weights of a Hugging Face model.

    Args:
        folder: A local folder.

    Returns:
        Its ``model.safetensors``, the index of its parts, or ``pytorch_model.bin``.

    Raises:
        ScorerError: It has none of them.
    """
    for name in WEIGHTS.split("|"):
        if (folder / name).is_file():
            return folder / name
    raise ScorerError(f"{folder}: there must be a file {WEIGHTS.replace('|', ' or ')}")


WEIGHTS = "model.safetensors|model.safetensors.index.json|pytorch_model.bin"


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a file of weights, without running anything that is in it.

    Args:
        path: ``.safetensors``, a sharded one's index, or ``.pt``, ``.pth``, ``.bin``. Where the
            tensors stand under ``state_dict`` or ``model``, as trainers save them, they are found.

    Returns:
        Tensors by name, as they are in the file.

    Raises:
        CheckpointError: The file is not there, damaged, or holds something else.
    """
    tensors = {}
    with open_checkpoint(path) as source:
        for key, info in source.tensors.items():
            if info.dtype.name not in _NAMES:
                raise CheckpointError(f"{path}: {key}: a scorer cannot use {info.dtype.name}")
            values = torch.empty(info.n_elements, dtype=_NAMES[info.dtype.name])
            if info.n_elements:
                room = values.view(torch.uint8).numpy().data
                source.read_into(key, 0, info.n_elements, room)
            tensors[key] = values.reshape(info.shape)
    return tensors


def load_strictly(
    build: Callable[[], Module],
    weights: Mapping[str, torch.Tensor],
    where: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    unused: Sequence[str] = (),
) -> Module:
    """Build a network and give every parameter its tensor.

    Args:
        build: Makes the network; called where tensors take no memory.
        weights: By name.
        where: The file, for messages.
        dtype: What to compute in.
        device: Where.
        unused: Names, or ends of names, that may be in the file and are of no use here.

    Returns:
        The network, in evaluation mode, without gradients.

    Raises:
        ScorerError: A tensor is missing, superfluous, of another shape or not finite: all are
            named.
    """
    with torch.device("meta"):
        network = build()
    places = network.state_dict()
    useful = {key: value for key, value in weights.items()
              if key in places or not key.endswith(tuple(unused))}  # fmt: skip
    problems = [
        *_named("missing", sorted(places.keys() - useful.keys())),
        *_named("unknown", sorted(useful.keys() - places.keys())),
        *_named("of another shape", [
            f"{key} {list(useful[key].shape)} instead of {list(place.shape)}"
            for key, place in places.items()
            if key in useful and useful[key].shape != place.shape
        ]),
        *_named("not finite", [
            key for key, value in useful.items()
            if value.is_floating_point() and not bool(torch.isfinite(value).all())
        ]),
    ]  # fmt: skip
    if problems:
        raise ScorerError(f"{where}: these are not the weights that the network has: "
                          + "; ".join(problems))  # fmt: skip
    cast = {
        key: value.to(device, dtype if value.is_floating_point() else None)
        for key, value in useful.items()
    }
    network.load_state_dict(cast, strict=True, assign=True)
    _count_positions(network, device)
    return network.eval().requires_grad_(False)


def _named(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return [f"{len(names)} {what} ({', '.join(names[:_MOST_NAMED])}{more})"]


def _count_positions(network: nn.Module, device: str) -> None:
    """Fill buffers that are in no file: transformers numbers positions in them."""
    for module in network.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                assert name == "position_ids", name
                numbers: Any = torch.arange(buffer.shape[-1], device=device)
                module.register_buffer(name, numbers.expand(buffer.shape), persistent=False)
