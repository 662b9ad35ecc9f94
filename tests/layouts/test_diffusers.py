"""Names and configurations of diffusers folders, against diffusers and transformers themselves."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from stockpot.checkpoints import DTYPES, GeneratedSource, Place, TensorInfo
from stockpot.errors import LayoutError
from stockpot.layouts import (
    as_checkpoint,
    diffusers_files,
    diffusers_places,
    get_layout,
    part_of,
)

LAYOUTS = ["sd1", "sd2", "sdxl", "zoo"]
COMPONENTS = [(n, part.component.name) for n in LAYOUTS for part in get_layout(n).parts]
FOLDERS = {"unet": "unet", "te": "text_encoder", "te0": "text_encoder", "te1": "text_encoder_2",
           "vae": "vae"}  # fmt: skip


def infos_of(layout: str, optional: bool = False) -> dict[str, TensorInfo]:
    specs = get_layout(layout).specs.values()
    return {s.key: TensorInfo(s.key, DTYPES["F32"], s.shape) for s in specs
            if optional or not s.optional}  # fmt: skip


def places_of(layout: str, component: str) -> dict[str, tuple[Place, ...]]:
    infos = infos_of(layout)
    cells = get_layout(layout).cell_of
    places = diffusers_places(get_layout(layout), infos)
    return {key: found for key, found in places.items() if cells(key).component == component}


def config_of(layout: str, component: str) -> dict[str, Any]:
    files = diffusers_files(get_layout(layout), infos_of(layout))
    found: dict[str, Any] = json.loads(files[f"{FOLDERS[component]}/config.json"])
    return found


def built(config: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network from a configuration, without memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        if "_class_name" in config:
            kinds = {"UNet2DConditionModel": UNet2DConditionModel, "AutoencoderKL": AutoencoderKL}
            model: torch.nn.Module = kinds[config["_class_name"]].from_config(dict(config))
            return model
        (kind,) = config["architectures"]
        kinds = {c.__name__: c for c in (CLIPTextModel, CLIPTextModelWithProjection)}
        model = kinds[kind](CLIPTextConfig(**config))
        return model


@pytest.mark.parametrize(("layout", "component"), COMPONENTS)
def test_names_and_shapes_are_those_of_the_network_that_the_configuration_builds(
    layout: str, component: str
) -> None:
    network = built(config_of(layout, component))
    expected = {
        # transformers 5 keeps the inner names bare for the model without a projection.
        name if component in ("unet", "vae") or name.startswith("text_") else f"text_model.{name}":
        tuple(value.shape)
        for name, value in network.state_dict().items()
        if not name.endswith("position_ids")
    }  # fmt: skip
    places = [place for found in places_of(layout, component).values() for place in found]
    assert {place.key: place.shape for place in places} == expected
    assert len(places) == len(expected)


def tagged(layout: str, component: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Tensors of the right shapes that take no memory and say which one they are."""
    tensors, tags = {}, {}
    for number, key in enumerate(places_of(layout, component)):
        shape = get_layout(layout).specs[key].shape
        tags[key] = float(number)
        if "in_proj" in key:  # the thirds differ; width does not matter
            thirds = torch.arange(3).repeat_interleave(shape[0] // 3) / 4 + number
            tensors[key] = thirds if len(shape) == 1 else thirds[:, None]
        elif key.endswith("text_projection"):
            tensors[key] = (torch.arange(shape[0]) / 10_000 + number)[:, None].expand(shape)
        else:
            tensors[key] = torch.full((1,), float(number)).expand(shape)
    return tensors, tags


@pytest.mark.parametrize(("layout", "component"), COMPONENTS)
def test_diffusers_own_converter_says_the_same(layout: str, component: str) -> None:
    from diffusers.loaders import single_file_utils as theirs

    tensors, tags = tagged(layout, component)
    part = part_of(get_layout(layout), component)
    assert part is not None
    config = config_of(layout, component)
    if component == "unet":
        converted = theirs.convert_ldm_unet_checkpoint(dict(tensors), dict(config))
    elif component == "vae":
        converted = theirs.convert_ldm_vae_checkpoint(dict(tensors), dict(config))
    elif part.component.prefix.endswith(".model."):
        network = type("N", (), {"config": type("C", (), config)})
        converted = theirs.convert_open_clip_checkpoint(
            network, dict(tensors), part.component.prefix
        )
    else:
        converted = theirs.convert_ldm_clip_checkpoint(dict(tensors), part.component.prefix)
    found = {}
    for key, places in places_of(layout, component).items():
        for i, place in enumerate(places):
            value = converted[place.key]
            found[place.key] = float(value.flatten()[0])
            assert found[place.key] == tags[key] + (i / 4 if len(places) > 1 else 0), place.key
            if place.transposed:
                assert value[0, 3] - value[0, 0] == pytest.approx(3 / 10_000, rel=0.1)
            elif len(places) == 1:
                assert tuple(value.shape) == place.shape
    assert found.keys() == converted.keys()


def canonical(key: str, index: np.ndarray) -> np.ndarray:
    """What the element of a key is: tells which key and which element it is."""
    return ((index + zlib.crc32(key.encode())) % 16_777_213).astype("<f4")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_reads_as_the_checkpoint_that_it_was_made_of(layout: str) -> None:
    wanted = infos_of(layout)
    where = {}
    for key, places in diffusers_places(get_layout(layout), wanted).items():
        for place in places:
            where[f"{place.file.partition('/')[0]}/{place.key}"] = (key, place)
    assert {key for key, _ in where.values()} == set(wanted)

    def generate(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        key, place = where[info.key]
        index = np.arange(start, stop)
        if place.transposed:
            rows, columns = place.shape
            index = index % columns * rows + index // columns
        out[:] = canonical(key, index + place.start).tobytes()

    infos = [TensorInfo(name, DTYPES["F32"], place.shape) for name, (_, place) in where.items()]
    seen = as_checkpoint(GeneratedSource(infos, generate))
    assert {key: info.shape for key, info in seen.tensors.items()} == {
        key: info.shape for key, info in wanted.items()
    }
    rng = np.random.default_rng(0)
    for key, info in seen.tensors.items():
        n = info.n_elements
        start = int(rng.integers(0, n))
        stop = min(n, start + 1 + int(rng.integers(0, 5000)))
        out = bytearray(4 * (stop - start))
        seen.read_into(key, start, stop, memoryview(out))
        assert out == canonical(key, np.arange(start, stop)).tobytes(), key


@pytest.mark.parametrize(("layout", "component"), COMPONENTS)
def test_one_file_of_a_folder_alone(layout: str, component: str) -> None:
    infos = [
        TensorInfo(place.key, DTYPES["F16"], place.shape)
        for found in places_of(layout, component).values()
        for place in found
    ]
    for names in (str, lambda name: name.removeprefix("text_model.")):  # transformers 5.6
        renamed = [TensorInfo(names(i.key), i.dtype, i.shape) for i in infos]
        seen = as_checkpoint(GeneratedSource(renamed, lambda *_: None))
        assert len(seen.tensors) == len(places_of(layout, component))
        assert not any(key.startswith(("text_model", "encoder.", "down_")) for key in seen.tensors)


def test_a_vae_of_early_diffusers() -> None:
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    infos = []
    for found in places_of("sd1", "vae").values():
        for place in found:
            key = place.key
            for new, old in names.items():
                key = key.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
            infos.append(TensorInfo(key, DTYPES["F16"], place.shape))
    assert any("query" in info.key for info in infos)
    seen = as_checkpoint(GeneratedSource(infos, lambda *_: None))
    assert set(seen.tensors) == set(places_of("sd1", "vae"))


def test_what_a_pipeline_has_besides_the_model_is_passed_over() -> None:
    infos = [TensorInfo(f"{FOLDERS[part]}/{place.key}", DTYPES["F16"], place.shape)
             for part in ("unet", "te", "vae")
             for found in places_of("zoo", part).values() for place in found]  # fmt: skip
    infos.append(TensorInfo("safety_checker/visual_projection.weight", DTYPES["F16"], (2, 2)))
    infos.append(TensorInfo("unet/extra.weight", DTYPES["F16"], (2, 2)))
    seen = as_checkpoint(GeneratedSource(infos, lambda *_: None))
    assert set(seen.tensors) == set(infos_of("zoo")) | {"unet/extra.weight"}


def test_what_the_scheduler_says_becomes_a_marker() -> None:
    infos = [TensorInfo(f"unet/{place.key}", DTYPES["F16"], place.shape)
             for found in places_of("zoo", "unet").values() for place in found]  # fmt: skip
    says = {"diffusers.prediction_type": "v_prediction"}
    seen = as_checkpoint(GeneratedSource(infos, lambda *_: None, says))
    assert (seen.tensors["v_pred"].shape, seen.read_bytes("v_pred")) == ((0,), b"")
    assert "ztsnr" not in seen.tensors


def test_a_folder_of_an_unknown_architecture() -> None:
    with pytest.raises(LayoutError, match="can be written for sd1, sd2, sdxl, zoo"):
        diffusers_places(get_layout("generic"), {})
