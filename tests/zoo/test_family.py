"""The installed family: its index tells the truth about its files."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from stockpot.errors import UnknownNameError
from stockpot.zoo import Member, ZooNotInstalled, extras, family, member, zoo_path
from stockpot.zoo.shapes import ATTRIBUTES

MEMBERS = family()
N_UNET_KEYS = 686
POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
each = pytest.mark.parametrize("found", MEMBERS, ids=lambda m: m.name)


def header(file: Path) -> dict[str, dict[str, object]]:
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size])


def test_roles_and_parents() -> None:
    names = [m.name for m in MEMBERS]
    assert len(names) == len(set(names))
    assert MEMBERS[0].role == "base" and MEMBERS[0].parent is None
    for place, m in enumerate(MEMBERS[1:], start=1):
        assert m.parent in names[:place]
        assert set(m.subset) <= set(ATTRIBUTES)
        assert all(set(words) <= set(ATTRIBUTES[name]) for name, words in m.subset.items())
    assert [m.name for m in MEMBERS if "striped" in m.subset.get("style", ())] == ["style-striped"]
    roles = {m.role for m in MEMBERS}
    assert roles >= {"style", "content", "grandchild", "outlier", "v-prediction"}


@each
def test_file_is_as_the_index_says(found: Member) -> None:
    entries = header(found.path)
    metadata = entries.pop("__metadata__")
    assert metadata["format"] == "pt"
    assert list(entries) and len(entries) == found.n_keys
    assert found.path.name == found.file and found.path.stem == found.name
    assert sum(key.startswith("model.diffusion_model.") for key in entries) == N_UNET_KEYS
    assert any(key.startswith("first_stage_model.") for key in entries) == found.has_vae
    assert ("model_ema.decay" in entries) == found.has_ema
    assert (POSITION_IDS in entries) == found.has_position_ids
    assert ("alphas_cumprod" in entries) == found.has_schedule
    assert ("v_pred" in entries) == (found.prediction == "v")
    other = {key: e["dtype"] for key, e in entries.items() if e["dtype"] != "F16"}
    assert other.pop(POSITION_IDS, "I64") == "I64"
    assert other.pop("model_ema.num_updates", "I32") == "I32"
    assert set(other.values()) <= {"F32"} and all("." not in k or "ema" in k for k in other)


@each
def test_values_are_finite_and_the_library_opens_it(found: Member) -> None:
    with safe_open(found.path, framework="numpy") as file:
        for key in file.keys():
            values = file.get_tensor(key)
            assert np.isfinite(values).all(), key
        if found.has_position_ids:
            assert np.array_equal(file.get_tensor(POSITION_IDS), np.arange(77)[None])


def test_the_ema_names_have_no_dots_inside() -> None:
    for found in MEMBERS:
        if found.has_ema:
            keys = set(header(found.path))
            for key in keys:
                if key.startswith("model.diffusion_model."):
                    flat = key.removeprefix("model.").replace(".", "")
                    assert f"model_ema.{flat}" in keys


def test_the_same_shapes_everywhere() -> None:
    base = header(MEMBERS[0].path)
    for found in MEMBERS[1:]:
        for key, entry in header(found.path).items():
            if key in base and key != "__metadata__":
                assert entry["shape"] == base[key]["shape"], (found.name, key)


def test_only_what_was_trained_moved() -> None:
    prefixes = {
        "te": "cond_stage_model.transformer.text_model.encoder",
        "vae-decoder": "first_stage_model.decoder.",
        "vae-encoder": "first_stage_model.encoder.",
        "unet": "model.diffusion_model.",
    }
    with safe_open(MEMBERS[0].path, framework="numpy") as base:
        for found in MEMBERS[1:]:
            with safe_open(found.path, framework="numpy") as file:
                for component, prefix in prefixes.items():
                    keys = [k for k in file.keys() if k.startswith(prefix)]
                    moved = any(
                        not np.array_equal(base.get_tensor(k), file.get_tensor(k)) for k in keys
                    )
                    ancestors = {m.name: m for m in MEMBERS}
                    line, parent = set(found.trained), found.parent
                    while parent not in (None, "base"):
                        line |= set(ancestors[str(parent)].trained)
                        parent = ancestors[str(parent)].parent
                    assert moved == (component in line and bool(keys)), (found.name, component)


def test_extras_are_there() -> None:
    kinds = [(extra.kind, extra.trained_on == "base") for extra in extras()]
    assert sorted(kinds) == sorted(
        (kind, on_base) for kind in ("lora", "embedding") for on_base in (True, False)
    )
    for extra in extras():
        with safe_open(extra.path, framework="numpy") as file:
            keys = list(file.keys())
            if extra.kind == "embedding":
                assert keys == ["emb_params"] and file.get_tensor("emb_params").shape[1] == 64
            elif extra.naming == "kohya":
                assert all(key.startswith(("lora_unet_", "lora_te_")) for key in keys)
                assert sum(key.endswith(".alpha") for key in keys) * 3 == len(keys)
            assert all(np.isfinite(file.get_tensor(key)).all() for key in keys)
        member(extra.trained_on)


def test_everything_fits_the_limit() -> None:
    total = sum(file.stat().st_size for file in zoo_path().rglob("*") if file.is_file())
    assert total <= 95_000_000


def test_unknown_member_suggests() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'style-glossy'"):
        member("style-glosy")


def test_absent_zoo_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ZooNotInstalled, match="pip install ./zoo"):
        zoo_path()


def test_import_loads_no_torch() -> None:
    code = (
        "import sys, stockpot.zoo, stockpot.zoo.shapes, stockpot.zoo.variants, stockpot.scores;"
        "stockpot.zoo.family();"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'diffusers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@each
def test_diffusers_loads_every_file(found: Member) -> None:
    import diffusers

    vae = {}
    if not found.has_vae:
        vae["vae"] = open_pipeline(diffusers, MEMBERS[0].path).vae
    pipeline = open_pipeline(diffusers, found.path, **vae)
    with safe_open(found.path, framework="numpy") as file:
        key = "model.diffusion_model.output_blocks.11.1.proj_out.weight"
        mine = pipeline.unet.up_blocks[3].attentions[2].proj_out.weight.detach().numpy()
        assert np.array_equal(mine, file.get_tensor(key).astype(np.float32))
        key = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
        mine = pipeline.text_encoder.text_model.final_layer_norm.weight.detach().numpy()
        assert np.array_equal(mine, file.get_tensor(key).astype(np.float32))


def open_pipeline(diffusers, file: Path, **parts):  # type: ignore[no-untyped-def]
    return diffusers.StableDiffusionPipeline.from_single_file(
        str(file),
        config=str(zoo_path() / "config"),
        local_files_only=True,
        safety_checker=None,
        **parts,
    )
