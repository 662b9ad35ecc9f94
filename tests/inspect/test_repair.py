"""Repair: only what is broken changes, all or nothing, and nothing is made up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stockpot.checkpoints import open_checkpoint
from stockpot.engine import read_history
from stockpot.errors import CheckpointError, OutputExistsError, PreflightError
from stockpot.inspect import Wanted, inspect_path, plan_repair, repair
from stockpot.layouts import get_layout

ZOO = get_layout("zoo")
IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
KEY = "model.diffusion_model.middle_block.0.in_layers.2.weight"
Arrays = dict[str, np.ndarray]


def arrays_of(seed: int, kind: type = np.float16, *components: str) -> Arrays:
    found = {}
    for number, (key, spec) in enumerate(ZOO.specs.items()):
        if spec.optional or (components and spec.cell.component not in components):
            continue
        rng = np.random.default_rng([seed, number])
        found[key] = rng.standard_normal(spec.shape).astype(kind)
    return found


@pytest.fixture
def mend(tmp_path: Path) -> Callable[..., Path]:
    """Write files, mend the first with the second, and give the result's path."""

    def run(arrays: Arrays, base: Arrays | None = None, **metadata: str) -> Path:
        save_file(arrays, tmp_path / "in.safetensors", metadata)
        output = tmp_path / "out.safetensors"
        with open_checkpoint(tmp_path / "in.safetensors") as source:
            if base is None:
                repair(source, output)
            else:
                save_file(base, tmp_path / "base.safetensors")
                with open_checkpoint(tmp_path / "base.safetensors") as other:
                    repair(source, output, base=other)
        return output

    return run


def test_only_broken_values_are_replaced(mend: Callable[..., Path]) -> None:
    mine, base = arrays_of(1), arrays_of(2, np.float32)
    mine[KEY].flat[[0, 7, 1000]] = np.nan, np.inf, -np.inf
    mended = load_file(mend(mine, base))
    broken = ~np.isfinite(mine[KEY])
    assert broken.sum() == 3
    expected = np.where(broken, base[KEY].astype(np.float16), mine[KEY])
    assert mended[KEY].tobytes() == expected.tobytes()
    rest = set(mine) - {KEY}
    assert set(mended) == set(mine)
    assert all(mended[key].tobytes() == mine[key].tobytes() for key in rest)


def test_missing_tensors_come_in_the_type_of_their_component(mend: Callable[..., Path]) -> None:
    mine, base = arrays_of(1), arrays_of(2, np.float32)
    base["model_ema.num_updates"] = np.array(3, np.int32)
    base["what.is.this"] = np.ones(2, np.float32)
    base[IDS] = np.arange(77).reshape(1, 77)
    lost = [KEY, *(key for key in mine if key.startswith("first_stage_model."))]
    kept = {key: array for key, array in mine.items() if key not in lost}
    path = mend(kept, base)
    mended = load_file(path)
    assert set(mended) == set(mine)  # nothing but what was missing
    assert mended[KEY].dtype == np.float16
    assert mended[KEY].tobytes() == base[KEY].astype(np.float16).tobytes()
    assert mended[lost[1]].dtype == np.float32  # an absent component has no type of its own
    assert all(mended[key].tobytes() == kept[key].tobytes() for key in kept)
    with open_checkpoint(path) as source:
        history = read_history(source.metadata)
    assert history is not None and "file | base" in history.last.recipe


def test_metadata_stay_and_say_what_was_done(mend: Callable[..., Path]) -> None:
    mine = arrays_of(1)
    mine[IDS] = np.zeros((1, 77), np.int64)
    told = {"modelspec.title": "My model", "note": "ünïcode"}
    with open_checkpoint(mend(mine, **told)) as source:
        metadata = dict(source.metadata)
    assert told.items() <= metadata.items()
    assert json.loads(metadata["stockpot.repair"]) == [{"code": "position-ids-wrong", "key": IDS}]
    assert inspect_path(Path(source.name), Wanted(deep=True)).problems == ()


@pytest.mark.parametrize("values", [np.arange(77)[::-1].copy(), np.arange(77, dtype=np.float16)])
def test_a_text_encoder_of_its_own_keeps_its_names(
    values: np.ndarray, mend: Callable[..., Path]
) -> None:
    prefix = "cond_stage_model.transformer."
    mine = {k.removeprefix(prefix): v for k, v in arrays_of(1, np.float16, "te").items()}
    mine[IDS.removeprefix(prefix)] = values.reshape(1, 77)
    path = mend(mine)
    mended = load_file(path)
    assert set(mended) == set(mine)
    assert mended[IDS.removeprefix(prefix)].tolist() == [list(range(77))]
    assert inspect_path(path, Wanted(deep=True)).problems == ()


def test_a_lone_component_is_filled_and_stays_alone(mend: Callable[..., Path]) -> None:
    prefix = "first_stage_model."
    mine = {k.removeprefix(prefix): v for k, v in arrays_of(1, np.float16, "vae").items()}
    lost = "decoder.conv_out.weight"
    del mine[lost]
    base = arrays_of(2)
    path = mend(mine, base)
    mended = load_file(path)
    assert set(mended) == {*mine, lost}
    assert mended[lost].tobytes() == base[prefix + lost].tobytes()
    assert inspect_path(path).problems == ()


def test_more_broken_tensors_than_are_listed(mend: Callable[..., Path]) -> None:
    mine, base = arrays_of(1), arrays_of(2)
    broken = [key for key in mine if key.startswith("model.diffusion_model.")][:300]
    for key in broken:
        mine[key].flat[0] = np.nan
    mended = load_file(mend(mine, base))
    assert all(mended[key].flat[0] == base[key].flat[0] for key in broken)


def nan_in(key: str, seed: int = 1) -> Arrays:
    arrays = arrays_of(seed)
    arrays[key].flat[0] = np.nan
    return arrays


@pytest.mark.parametrize(
    ("mine", "base", "error", "message"),
    [
        (lambda: arrays_of(1), None, PreflightError, "no problem that a repair would mend"),
        (lambda: nan_in(KEY), None, PreflightError, "name a model with --base"),
        (lambda: nan_in(KEY), lambda: nan_in(KEY, 2), CheckpointError, "must be finite"),
        (lambda: nan_in(KEY), lambda: {k: v for k, v in arrays_of(2).items() if k != KEY},
         PreflightError, "the base lacks it too"),
        (lambda: nan_in(KEY), lambda: {"a": np.ones(3, np.float16)}, PreflightError,
         "of the file's architecture"),
        (lambda: arrays_of(1, np.float16, "unet", "te"),
         lambda: arrays_of(2, np.float16, "unet", "te"), PreflightError, "the base lacks it too"),
        (lambda: arrays_of(1, np.float16, "unet", "te"), None, PreflightError,
         "no problem that a repair would mend"),
    ],
)  # fmt: skip
def test_what_cannot_be_mended_is_refused_and_nothing_is_written(
    mine: Callable[[], Arrays],
    base: Callable[[], Arrays] | None,
    error: type[Exception],
    message: str,
    mend: Callable[..., Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        mend(mine(), base() if base else None)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_an_output_is_never_replaced_unasked_nor_an_input(tmp_path: Path) -> None:
    mine = arrays_of(1)
    mine[IDS] = np.zeros((1, 77), np.int64)
    path = tmp_path / "in.safetensors"
    save_file(mine, path)
    before = path.read_bytes()
    (tmp_path / "there").write_text("mine")
    with open_checkpoint(path) as source:
        with pytest.raises(OutputExistsError):
            repair(source, tmp_path / "there")
        with pytest.raises(PreflightError, match="never written to"):
            repair(source, path, overwrite=True)
    assert path.read_bytes() == before and (tmp_path / "there").read_text() == "mine"


def test_a_plan_says_what_would_be_done(tmp_path: Path) -> None:
    mine = nan_in(KEY)
    mine[IDS] = np.zeros((1, 77), np.float32)
    mine["odd"] = np.ones(2, np.float16)
    save_file(mine, tmp_path / "in.safetensors")
    save_file(arrays_of(2), tmp_path / "base.safetensors")
    with (
        open_checkpoint(tmp_path / "in.safetensors") as source,
        open_checkpoint(tmp_path / "base.safetensors") as base,
    ):
        alone, helped = plan_repair(source), plan_repair(source, base)
    assert [p.code for p in alone.mended] == ["position-ids-float"]
    assert [(p.code, p.where) for p in alone.needs_base] == [("nan", KEY)]
    assert [p.code for p in helped.mended] == ["position-ids-float", "nan"]
    assert [p.code for p in helped.left] == ["unknown-key"] and helped.needs_base == ()


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_real_shapes(name: str, tmp_path: Path) -> None:
    """Only the VAE and small tensors of each: names and shapes are what differs."""
    specs = {
        key: spec
        for key, spec in get_layout(name).specs.items()
        if not spec.optional and (math.prod(spec.shape) < 5000 or spec.cell.component == "vae")
    }
    mine = {key: np.full(spec.shape, 0.5, np.float16) for key, spec in specs.items()}
    square = "first_stage_model.encoder.mid.attn_1.k.weight"
    mine[square] = mine[square].reshape(512, 512)
    save_file(mine, tmp_path / "in.safetensors")
    with open_checkpoint(tmp_path / "in.safetensors") as source:
        found = plan_repair(source)
    assert [p.code for p in found.mended] == ["reshaped"]
    assert {p.code for p in found.needs_base} == {"missing-key"}
    assert found.found.architecture == name
