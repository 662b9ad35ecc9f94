"""Diffusers folders, written and read: the same model as the single file."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stockpot.checkpoints import (
    DTYPES,
    GeneratedSource,
    MemorySource,
    TensorInfo,
    open_checkpoint,
    storage,
)
from stockpot.engine import (
    Form,
    MergeResult,
    Pipeline,
    Settings,
    arranged,
    convert,
    in_form,
    make_plan,
    merge,
    swap,
)
from stockpot.errors import (
    CheckpointError,
    LayoutError,
    OutputExistsError,
    PreflightError,
    UnconfirmedError,
)
from stockpot.layouts import get_layout
from stockpot.recipes import make_recipe

Save = Callable[..., Path]
Model = Callable[..., dict[str, torch.Tensor]]
MakeModel = Callable[..., MemorySource]
Hashes = Callable[[Path], dict[str, str]]


@pytest.fixture
def whole(save: Save, model: Model) -> Path:
    return save("whole", model("unet", "te", "vae"))


def to_folder(path: Path, output: Path, pipeline: Pipeline = Pipeline()) -> MergeResult:  # noqa: B008
    return merge(convert(path), output, form="diffusers", pipeline=pipeline)


def test_there_and_back_is_the_same_model(whole: Path, tmp_path: Path, hashes_of: Hashes) -> None:
    made = to_folder(whole, tmp_path / "folder")
    back = merge(convert(tmp_path / "folder"), tmp_path / "back.safetensors")
    assert made.content_hash == back.content_hash
    before, after = load_file(whole), load_file(back.path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert hashes_of(tmp_path / "folder") == made.components == hashes_of(whole)


def test_a_folder_merges_with_a_file(
    save: Save, model: Model, whole: Path, tmp_path: Path, hashes_of: Hashes
) -> None:
    other = save("other", model("unet", "te", "vae", seed=1))
    to_folder(other, tmp_path / "folder")
    mix = "0.25*a + 0.75*b"
    files = make_recipe(mix, {"a": str(whole), "b": str(other)})
    mixed = make_recipe(mix, {"a": str(whole), "b": str(tmp_path / "folder")})
    one = merge(files, tmp_path / "one.safetensors")
    two = merge(mixed, tmp_path / "two.safetensors")
    assert one.content_hash == two.content_hash
    vae = tmp_path / "folder" / "vae" / "diffusion_pytorch_model.safetensors"
    swapped = merge(swap(whole, {"vae": vae}), tmp_path / "three.safetensors")
    assert swapped.components["vae"] == hashes_of(other)["vae"]


def test_diffusers_loads_what_was_written_as_it_loads_the_file(
    config: Path, make_model: MakeModel, save: Save, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    source = make_model()
    tensors = {
        key: torch.frombuffer(bytearray(source.read_bytes(key)), dtype=torch.float16)
        .reshape(info.shape)
        for key, info in source.tensors.items()
    }  # fmt: skip
    path = save("random", tensors)
    result = to_folder(path, tmp_path / "folder", Pipeline(config))
    assert not result.notes  # nothing is missing
    ours = StableDiffusionPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    theirs = StableDiffusionPipeline.from_single_file(
        str(path), config=str(config), local_files_only=True, safety_checker=None
    )
    assert isinstance(ours.text_encoder, CLIPTextModel)
    for part in ("unet", "vae", "text_encoder"):
        a, b = getattr(ours, part).state_dict(), getattr(theirs, part).state_dict()
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key].float(), b[key].float()) for key in a), part
    for file in ("unet/config.json", "tokenizer/vocab.json", "model_index.json"):
        if (config / file).exists():
            assert (tmp_path / "folder" / file).read_bytes() == (config / file).read_bytes()


def test_without_a_config_the_missing_tokenizer_is_named(whole: Path, tmp_path: Path) -> None:
    result = to_folder(whole, tmp_path / "folder")
    assert [problem.code for problem in result.notes] == ["no-tokenizer"]
    unet = json.loads((tmp_path / "folder" / "unet" / "config.json").read_text())
    assert unet["block_out_channels"] == [24, 40, 56, 56]


def test_the_marker_goes_into_the_schedulers_file_and_comes_back(
    save: Save, model: Model, tmp_path: Path
) -> None:
    tensors = model("unet", "te", "vae") | {"v_pred": torch.zeros(1), "betas": torch.zeros(1000)}
    average = {"model_ema.diffusion_modelout2bias": torch.ones(4)}
    made = to_folder(save("v", tensors | average), tmp_path / "folder")
    assert "no place for them: 1 of the keys" in str(made.notes[0]) and "model_ema" in str(
        made.notes[0]
    )
    scheduler = json.loads((tmp_path / "folder/scheduler/scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    back = merge(convert(tmp_path / "folder"), tmp_path / "back.safetensors")
    assert back.content_hash == made.content_hash
    assert load_file(back.path).keys() == tensors.keys() - {"betas"}


def test_the_user_may_say_what_the_unet_predicts(whole: Path, config: Path, tmp_path: Path) -> None:
    to_folder(whole, tmp_path / "folder", Pipeline(config, "v_prediction"))
    scheduler = json.loads((tmp_path / "folder/scheduler/scheduler_config.json").read_text())
    assert (scheduler["prediction_type"], scheduler["steps_offset"]) == ("v_prediction", 1)


def test_types_by_component_hold_in_a_folder(whole: Path, tmp_path: Path) -> None:
    merge(convert(whole), tmp_path / "f", form="diffusers", dtype={"model": "fp16", "vae": "fp32"})
    vae = load_file(tmp_path / "f" / "vae" / "diffusion_pytorch_model.safetensors")
    unet = load_file(tmp_path / "f" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in vae.values()} == {torch.float32}
    assert {t.dtype for t in unet.values()} == {torch.float16}


def test_what_sd2_has_and_diffusers_has_not_is_named() -> None:
    def nothing(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        raise AssertionError("a plan reads headers only")

    specs = get_layout("sd2").specs.values()
    infos = [TensorInfo(s.key, DTYPES["F16"], s.shape) for s in specs if s.role == "weight"]
    source = GeneratedSource(infos, nothing)
    recipe = in_form(make_recipe("a", {"a": "a.safetensors"}), "diffusers")
    plan, arrangement = arranged(make_plan(recipe, {"a": source}))
    assert arrangement is not None
    notes = {problem.code: str(problem) for problem in plan.notes}
    assert notes.keys() == {"no-place", "prediction", "no-tokenizer"}
    assert "no place for them: 14 of the keys" in notes["no-place"]
    assert not any(".resblocks.23." in key for key in plan.tensors)
    assert len(arrangement.places) == len(plan.tensors) == 686 + 280 + 248
    said = arranged(make_plan(recipe, {"a": source}), Pipeline(prediction="epsilon"))[0]
    assert "prediction" not in {problem.code for problem in said.notes}


def test_a_folder_is_all_or_nothing(whole: Path, tmp_path: Path) -> None:
    to_folder(whole, tmp_path / "folder")
    before = (tmp_path / "folder" / "model_index.json").stat()
    with pytest.raises(OutputExistsError, match="never replaced"):
        merge(convert(whole), tmp_path / "folder", form="diffusers",
              settings=Settings(overwrite=True))  # fmt: skip
    assert (tmp_path / "folder" / "model_index.json").stat().st_mtime_ns == before.st_mtime_ns
    tensors = load_file(whole)
    tensors["first_stage_model.decoder.conv_out.bias"][0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="must be finite"):
        to_folder(tmp_path / "nan.safetensors", tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {
        "folder", "nan.safetensors", "whole.safetensors"
    }  # fmt: skip


def test_a_config_of_another_model_is_refused(whole: Path, config: Path, tmp_path: Path) -> None:
    wrong = json.loads((config / "unet" / "config.json").read_text())
    other = tmp_path / "config"
    (other / "unet").mkdir(parents=True)
    (other / "model_index.json").write_text("{}")
    wrong["cross_attention_dim"], wrong["block_out_channels"] = 768, [320, 640]
    (other / "unet" / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(PreflightError) as caught:
        to_folder(whole, tmp_path / "folder", Pipeline(other))
    assert [problem.code for problem in caught.value.problems] == ["config", "config"]
    assert "cross_attention_dim must be 64 for these weights, but is 768" in str(caught.value)
    (other / "unet" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        to_folder(whole, tmp_path / "folder", Pipeline(other))
    with pytest.raises(CheckpointError, match="must have a model_index"):
        to_folder(whole, tmp_path / "folder", Pipeline(tmp_path))


def test_an_unknown_architecture_has_no_names_in_diffusers(save: Save, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="can be written for"):
        to_folder(save("strange"), tmp_path / "folder")


def test_the_recipe_says_the_form(whole: Path, tmp_path: Path) -> None:
    text = in_form(convert(whole), "diffusers").to_yaml()
    assert "save:\n  form: diffusers\n" in text
    result = merge(in_form(convert(whole), "diffusers"), tmp_path / "folder")
    with open_checkpoint(result.path) as source:
        assert "form: diffusers" in source.metadata["stockpot.recipe"]


@pytest.mark.parametrize("form", ["checkpoint", "diffusers"])
def test_a_name_that_the_disk_does_not_confirm(
    form: Form, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "made"
    place.mkdir()
    output = place / "out"
    sync = storage.sync_folder

    def broken(folder: Path) -> None:
        if folder == place and output.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(folder)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "sync_folder", broken)
        with pytest.raises(UnconfirmedError, match="complete and has its name") as caught:
            merge(convert(whole), output, form=form)
    assert not getattr(caught.value, "__notes__", [])  # all is done: nothing is kept for later
    merge(convert(whole), place / "again", form=form)
    assert written(output) == written(place / "again")
    assert sorted(path.name for path in place.iterdir()) == ["again", "out"]


def written(output: Path) -> dict[str, bytes]:
    files = [output] if output.is_file() else [p for p in output.rglob("*") if p.is_file()]
    return {str(file.relative_to(output)): file.read_bytes() for file in files}
