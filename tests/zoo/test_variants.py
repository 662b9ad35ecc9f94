"""Each variant differs from its member in the one way that it claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from stockpot.errors import UnknownNameError
from stockpot.zoo import member
from stockpot.zoo.variants import VARIANTS, derive

BASE = member("base").path
TEXT = "cond_stage_model.transformer."
POSITION_IDS = TEXT + "text_model.embeddings.position_ids"


@pytest.fixture(scope="module")
def base() -> dict[str, np.ndarray]:
    return load_file(BASE)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k], equal_nan=True) for k in a
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_claims(name: str, tmp_path: Path, base: dict[str, np.ndarray]) -> None:
    before = BASE.read_bytes()
    file = derive(BASE, name, tmp_path)
    assert file == tmp_path / f"base.{name}.safetensors"
    assert BASE.read_bytes() == before
    assert (file.read_bytes() == before) == (name == "copy")
    if not VARIANTS[name].whole:
        with pytest.raises(SafetensorError):
            safe_open(file, framework="numpy")
    elif name != "bf16":  # numpy has no bf16
        assert same(load_file(file), base) == VARIANTS[name].same_weights


def test_missing_key(tmp_path: Path, base: dict[str, np.ndarray]) -> None:
    found = load_file(derive(BASE, "missing-key", tmp_path))
    assert len(found) == len(base) - 1 and found.keys() < base.keys()


def test_nan(tmp_path: Path, base: dict[str, np.ndarray]) -> None:
    found = load_file(derive(BASE, "nan", tmp_path))
    assert sum(int(np.isnan(v).sum()) for v in found.values()) == 1


def test_fp32_is_exact(tmp_path: Path, base: dict[str, np.ndarray]) -> None:
    found = load_file(derive(BASE, "fp32", tmp_path))
    assert found.keys() == base.keys()
    for key, value in base.items():
        if value.dtype == np.float16:
            assert found[key].dtype == np.float32 and np.array_equal(found[key], value)


def test_bf16_is_the_nearest(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file as load_torch

    base, found = load_torch(BASE), load_torch(derive(BASE, "bf16", tmp_path))
    for key, value in base.items():
        if value.dtype == torch.float16:
            assert torch.equal(found[key], value.to(torch.bfloat16)), key


def test_float_position_ids(tmp_path: Path, base: dict[str, np.ndarray]) -> None:
    found = load_file(derive(BASE, "float-position-ids", tmp_path))
    assert found[POSITION_IDS].dtype == np.float32
    wrong = found[POSITION_IDS].astype(np.int64) != base[POSITION_IDS]
    assert 0 < wrong.sum() < 77


def test_nai_names(tmp_path: Path, base: dict[str, np.ndarray]) -> None:
    found = load_file(derive(BASE, "nai-names", tmp_path))
    assert not any("text_model." in key for key in found)
    assert TEXT + "embeddings.token_embedding.weight" in found and len(found) == len(base)


def test_unet_only(tmp_path: Path) -> None:
    found = load_file(derive(BASE, "unet-only", tmp_path))
    assert len(found) == 686 and all(key.startswith("model.diffusion_model.") for key in found)


def test_unknown_variant(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'truncated'"):
        derive(BASE, "truncate", tmp_path)
