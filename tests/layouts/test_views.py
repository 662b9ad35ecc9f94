"""Other programs' names, read as a checkpoint's."""

from __future__ import annotations

import pytest

from stockpot.checkpoints import DTYPES, GeneratedSource, Source, TensorInfo
from stockpot.layouts import (
    Component,
    as_checkpoint,
    detect,
    get_layout,
    moved,
    part_of,
    restricted,
)

COMPONENTS = [
    (name, part.component.name) for name in ("sd1", "sd2", "sdxl", "zoo")
    for part in get_layout(name).parts
]  # fmt: skip


def component(layout: str, name: str) -> Component:
    part = part_of(get_layout(layout), name)
    assert part is not None
    return part.component


def headers(shapes: dict[str, tuple[int, ...]], **metadata: str) -> Source:
    """A checkpoint of which only the header is there."""

    def refuse(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        raise AssertionError("a view reads headers only")

    infos = [TensorInfo(key, DTYPES["F16"], shape) for key, shape in shapes.items()]
    return GeneratedSource(infos, refuse, {k.replace("_", "."): v for k, v in metadata.items()})


def shapes_of(layout: str, *components: str) -> dict[str, tuple[int, ...]]:
    specs = get_layout(layout).specs.values()
    return {s.key: s.shape for s in specs if s.cell.component in components and s.role != "counter"}


def without_prefix(layout: str, name: str) -> dict[str, tuple[int, ...]]:
    prefix = component(layout, name).prefix
    return {key.removeprefix(prefix): shape for key, shape in shapes_of(layout, name).items()}


@pytest.mark.parametrize(("layout", "name"), COMPONENTS)
def test_a_component_alone_gets_its_prefix(layout: str, name: str) -> None:
    seen = as_checkpoint(headers(without_prefix(layout, name)))
    detection = detect({key: info.shape for key, info in seen.tensors.items()})
    twins = {"vae": {"sd1", "sd2", "sdxl"}, "te0": {"sd1"}}
    expected = {layout} if layout == "zoo" else twins.get(name, {layout})
    assert detection.layout.name in expected
    assert not detection.fit.unknown
    assert detection.fit.missing_components == tuple(
        part.component.name
        for part in detection.layout.parts
        if not any(key.startswith(part.component.prefix) for key in seen.tensors)
    )
    assert len(seen.tensors) == len(without_prefix(layout, name))


@pytest.mark.parametrize("start", ["", "transformer.", "model.", "diffusion_model."])
def test_a_part_of_the_prefix_may_be_there(start: str) -> None:
    layout, name = {
        "": ("sd1", "te"), "transformer.": ("sd1", "te"),
        "model.": ("sdxl", "te1"), "diffusion_model.": ("zoo", "unet"),
    }[start]  # fmt: skip
    found = {start + key: shape for key, shape in without_prefix(layout, name).items()}
    assert set(as_checkpoint(headers(found)).tensors) == set(shapes_of(layout, name))


def test_clip_l_is_what_the_file_says_it_is() -> None:
    found = without_prefix("sdxl", "te0")
    seen = as_checkpoint(headers(found, modelspec_architecture="stable-diffusion-xl-v1-base"))
    assert set(seen.tensors) == set(shapes_of("sdxl", "te0"))
    assert set(as_checkpoint(headers(found)).tensors) == set(shapes_of("sd1", "te"))


def test_names_of_a_checkpoint_stay() -> None:
    source = headers(shapes_of("zoo", "unet", "te"))
    assert as_checkpoint(source) is source


def test_names_that_nothing_explains_stay() -> None:
    source = headers({"lora_unet_down.weight": (4, 4), "encoder.conv_in.weight": (128, 3, 3, 3)})
    assert as_checkpoint(source) is source


def test_keys_without_a_meaning_keep_their_names() -> None:
    found = {**without_prefix("zoo", "vae"), "loss.logvar": ()}
    seen = as_checkpoint(headers(found))
    assert set(seen.tensors) == {*shapes_of("zoo", "vae"), "loss.logvar"}


def test_a_wrong_shape_is_not_hidden() -> None:
    found = without_prefix("zoo", "vae")
    found["decoder.conv_out.bias"] = (4,)
    seen = as_checkpoint(headers(found))
    fit = get_layout("zoo").fit({key: info.shape for key, info in seen.tensors.items()})
    assert fit.mismatched == (("first_stage_model.decoder.conv_out.bias", (4,), (3,)),)


def test_clip_l_moves_between_architectures() -> None:
    sd1, sdxl = get_layout("sd1"), get_layout("sdxl")
    seen = moved(headers(shapes_of("sd1", "unet", "te", "vae")), sd1, sdxl, ["te0", "vae"])
    assert seen is not None
    assert set(seen.tensors) == set(shapes_of("sdxl", "te0", "vae"))


@pytest.mark.parametrize(("source", "target", "name"), [
    ("sd1", "sdxl", "unet"), ("sd1", "sdxl", "te1"), ("sd2", "sd1", "te"), ("zoo", "sd1", "vae"),
    ("sd1", "sdxl", "ema"),
])  # fmt: skip
def test_what_differs_does_not_move(source: str, target: str, name: str) -> None:
    model = headers(shapes_of(source, "unet"))
    assert moved(model, get_layout(source), get_layout(target), [name]) is None


def test_some_components_only() -> None:
    seen = restricted(headers(shapes_of("zoo", "unet", "te", "vae")), get_layout("zoo"), {"te"})
    assert set(seen.tensors) == set(shapes_of("zoo", "te"))
