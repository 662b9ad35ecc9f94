"""Textual inversions: words of one's own, as vectors in the place of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["Embedding", "find_extras", "read_embedding"]

_ENDINGS = (".safetensors", ".pt", ".bin")


@dataclass(frozen=True)
class Embedding:
    """A textual inversion.

    Attributes:
        name: The word that calls it: the file's name without its ending.
        vectors: float32 `[n_vectors, width]`, one set for each text encoder (two in SDXL).
        sha256: Of the file's bytes; its first 12 digits are what infotexts call a TI hash.
        path: Where it was read.
    """

    name: str
    vectors: tuple[torch.Tensor, ...]
    sha256: str
    path: Path


def read_embedding(path: Path, name: str = "") -> Embedding:
    """Read an embedding in any of the forms that tools write.

    Known are A1111's (``emb_params``, or ``string_to_param`` in ``.pt``), SDXL's (``clip_l`` and
    ``clip_g``) and diffusers' (one tensor under the word itself). Pickles are read as weights
    alone: nothing in them is run.

    Args:
        path: ``.safetensors``, ``.pt`` or ``.bin``.
        name: What calls it; by default the file's name.

    Returns:
        The embedding.

    Raises:
        CheckpointError: The file cannot be read, or holds no vectors.
    """
    import torch

    try:
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            content: Mapping[str, Any] = load(data)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: the embedding cannot be read: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("string_to_param"), Mapping):
        content = content["string_to_param"]
    tensors = {
        key: value.detach().float()
        for key, value in (content.items() if isinstance(content, Mapping) else ())
        if isinstance(value, torch.Tensor)
    }
    if {"clip_l", "clip_g"} <= tensors.keys():
        sets = [tensors["clip_l"], tensors["clip_g"]]
    elif len(tensors) == 1:
        sets = list(tensors.values())
    else:
        raise CheckpointError(
            f"{path}: an embedding holds one tensor, or clip_l and clip_g, but got "
            f"{', '.join(sorted(tensors)[:4]) or 'none'}"
        )
    sets = [vectors[None] if vectors.ndim == 1 else vectors for vectors in sets]
    if any(vectors.ndim != 2 or not len(vectors) for vectors in sets):
        raise CheckpointError(f"{path}: an embedding's vectors are [n, width], but these are not")
    return Embedding(name or path.stem, tuple(sets), hashlib.sha256(data).hexdigest(), path)


def find_extras(folders: Sequence[Path]) -> dict[str, Path]:
    """List the LoRAs or embeddings of folders by the names that prompts call them.

    Args:
        folders: Searched in order, subfolders too; a file is taken for itself.

    Returns:
        Paths by name; the first of a name counts.

    Raises:
        CheckpointError: One is not there.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.exists():
            raise CheckpointError(f"{folder}: a folder of LoRAs or embeddings must be there")
        files = [folder] if folder.is_file() else sorted(folder.rglob("*"))
        for file in files:
            if file.suffix in _ENDINGS and file.is_file():
                found.setdefault(file.stem, file)
    return found
