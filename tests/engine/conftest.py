"""Small checkpoints: any keys for the generic layout, and the zoo's shapes where keys matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stockpot.checkpoints import content_hash, hash_tensors, open_checkpoint
from stockpot.layouts import as_checkpoint, detect, get_layout

Save = Callable[..., Path]
Model = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save tensors as ``NAME.safetensors``; without tensors, two of a made-up model."""

    def write(name: str, tensors: dict[str, torch.Tensor] | None = None, seed: int = 0) -> Path:
        if tensors is None:
            noise = torch.Generator().manual_seed(seed)
            tensors = {
                "b.weight": torch.randn(70, 30, generator=noise).half(),
                "a.bias": torch.randn(70, generator=noise).half(),
                "scalar": torch.randn((), generator=noise).half(),
            }
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path, {"format": "pt", "from": name})
        return path

    return write


@pytest.fixture(scope="session")
def model() -> Model:
    """Random fp16 tensors of the zoo's shapes, for some components."""

    def make(*components: str, seed: int = 0) -> dict[str, torch.Tensor]:
        noise = torch.Generator().manual_seed(seed)
        return {
            key: (torch.randn(spec.shape, generator=noise) * 0.03).half()
            for key, spec in get_layout("zoo").specs.items()
            if not spec.optional and spec.cell.component in components
        }

    return make


@pytest.fixture
def hashes_of() -> Callable[[Path], dict[str, str]]:
    """Hash each component of whatever can be opened, from its bytes."""

    def hash_components(path: Path) -> dict[str, str]:
        with as_checkpoint(open_checkpoint(path)) as source:
            layout = detect({key: info.shape for key, info in source.tensors.items()}).layout
            digests = hash_tensors(source)
            members: dict[str, list[str]] = {}
            for key in source.tensors:
                members.setdefault(layout.cell_of(key).component, []).append(key)
            return {
                name: content_hash(
                    {key: source.tensors[key] for key in keys}, digests, layout.relative_key
                )
                for name, keys in members.items()
            }

    return hash_components
