"""What a file is: whole models of real shape, their parts, and small files of every trainer."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stockpot.checkpoints import GeneratedSource, open_checkpoint
from stockpot.inspect import Inspection, Wanted, identify, inspect_checkpoint, inspect_path
from stockpot.layouts import Shape, get_layout
from stockpot.zoo import extras, family, zoo_path

UNET, VAE = "model.diffusion_model.", "first_stage_model."
FIRST = f"{UNET}input_blocks.0.0.weight"
COMPONENTS = {
    "sd1": ["unet", "te", "vae"],
    "sd2": ["unet", "te", "vae"],
    "sdxl": ["unet", "te0", "te1", "vae"],
}
N_PARAMS = {"sd1": 859_520_964, "sd2": 865_910_724, "sdxl": 2_567_463_684}


def shapes_of(name: str, *components: str) -> dict[str, Shape]:
    return {
        key: spec.shape
        for key, spec in get_layout(name).specs.items()
        if not spec.optional and (not components or spec.cell.component in components)
    }


@pytest.fixture
def seen(sparse: Callable[..., Path]) -> Callable[..., Inspection]:
    """Write a sparse file and inspect its header."""

    def make(shapes: dict[str, Shape], dtype: str = "F16", **metadata: str) -> Inspection:
        with open_checkpoint(sparse("x.safetensors", shapes, dtype, **metadata)) as source:
            return inspect_checkpoint(source)

    return make


def codes(found: Inspection) -> set[str]:
    return {problem.code for problem in found.problems}


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_whole_checkpoint(name: str, seen: Callable[..., Inspection]) -> None:
    found = seen(shapes_of(name))
    assert (found.kind, found.architecture) == ("checkpoint", name)
    assert list(found.components) == COMPONENTS[name]
    assert found.components["unet"].n_params == N_PARAMS[name]
    assert all(facts.dtypes == {"F16": facts.n_keys} for facts in found.components.values())
    assert all(facts.hash is None for facts in found.components.values())
    assert found.problems == () and found.missing == () and found.content_hash is None
    assert found.traits.input_channels == 4 and found.traits.prediction is None
    texts = {component for component in COMPONENTS[name] if component.startswith("te")}
    absent = {"sd1": {"te"}, "sd2": set(), "sdxl": {"te0"}}[name]
    assert dict(found.traits.position_ids) == dict.fromkeys(absent, "absent") and absent <= texts
    assert found.evidence


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("component", ["unet", "vae", "te", "te0", "te1"])
def test_one_component_alone(
    name: str, component: str, bare: bool, seen: Callable[..., Inspection]
) -> None:
    if component not in COMPONENTS[name]:
        return
    layout = get_layout(name)
    prefix = next(c.prefix for c in layout.components if c.name == component)
    shapes = shapes_of(name, component)
    if bare:
        shapes = {key.removeprefix(prefix): shape for key, shape in shapes.items()}
    found = seen(shapes)
    assert found.kind == {"unet": "unet", "vae": "vae"}.get(component, "text-encoder")
    assert found.problems == ()
    shared = {"sd1", "sd2", "sdxl"} if component == "vae" else {name}
    if component in ("te", "te0") and bare and name in ("sd1", "sdxl"):
        shared = {"sd1", "sdxl"}  # both have CLIP-L
    assert found.architecture in shared
    (facts,) = found.components.values()
    assert facts.n_keys == layout.n_required[component]


def test_parts_missing_foreign_and_doubled(seen: Callable[..., Inspection]) -> None:
    found = seen(shapes_of("sd1", "unet", "te"))
    assert found.missing == ("vae",) and codes(found) == {"missing-component"}
    found = seen({**shapes_of("sd1", "unet", "vae"), **shapes_of("sd2", "te")})
    assert dict(found.foreign) == {"text encoder (OpenCLIP-H)": len(shapes_of("sd2", "te"))}
    assert codes(found) == {"foreign-component"} and found.missing == ("te",)
    lost = next(iter(shapes_of("sd2", "unet")))
    shapes = {k: s for k, s in shapes_of("sd2").items() if k != lost}
    found = seen({**shapes, "what.is.this": (3,)})
    assert [(p.code, p.where) for p in found.problems] == [
        ("missing-key", lost),
        ("unknown-key", "what.is.this"),
    ]
    assert found.components["unet"].n_missing == 1


@pytest.mark.parametrize(("n", "purpose"), [(9, "inpainting"), (8, "instruct-pix2pix"),
                                            (5, "depth to image")])  # fmt: skip
def test_models_with_more_inputs(n: int, purpose: str, seen: Callable[..., Inspection]) -> None:
    found = seen({**shapes_of("sd1"), FIRST: (320, n, 3, 3)})
    assert (found.traits.input_channels, found.traits.purpose) == (n, purpose)
    assert found.problems == ()
    bare = {key.removeprefix(UNET): s for key, s in shapes_of("sd1", "unet").items()}
    found = seen({**bare, FIRST.removeprefix(UNET): (320, n, 3, 3)})
    assert found.traits.purpose == purpose


@pytest.mark.parametrize(("name", "key"), [
    ("sd1", "cond_stage_model.transformer.text_model.embeddings.position_ids"),
    ("sdxl", "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"),
])  # fmt: skip
def test_position_ids_of_real_shapes(
    name: str, key: str, shaped: Callable[..., GeneratedSource]
) -> None:
    te = "te" if name == "sd1" else "te0"
    found = inspect_checkpoint(shaped(shapes_of(name), counters=[key]))
    assert found.traits.position_ids == {te: "right"} and found.problems == ()
    found = inspect_checkpoint(shaped({**shapes_of(name), key: (1, 77)}))
    assert found.traits.position_ids == {te: "float"}
    assert [(p.code, p.where) for p in found.problems] == [("position-ids-float", key)]


def test_markers_and_metadata_say_what_it_predicts(seen: Callable[..., Inspection]) -> None:
    shapes = shapes_of("sdxl")
    found = seen({**shapes, "v_pred": (0,), "ztsnr": (0,)})
    assert (found.traits.prediction, found.traits.prediction_from) == ("v", "v_pred")
    assert found.traits.zero_terminal_snr and found.problems == ()
    assert found.architecture == "sdxl"
    field = {"modelspec.prediction_type": "epsilon"}
    assert seen(shapes, **field).traits.prediction == "epsilon"
    found = seen({**shapes, "v_pred": (0,)}, **field)
    assert found.traits.prediction == "v" and codes(found) == {"prediction-conflict"}


def test_width_ema_and_claims(seen: Callable[..., Inspection]) -> None:
    shapes = shapes_of("sd1")
    found = seen(shapes, "F32")
    assert codes(found) == {"wide"} and found.waste.wide == found.n_bytes // 2
    assert found.waste.lossless is None
    ema = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): shape
        for key, shape in shapes_of("sd1", "unet").items()
    }
    found = seen({**shapes, **ema})
    assert found.traits.ema and codes(found) == {"ema"}
    assert found.waste.ema == found.components["unet"].n_bytes
    claim = {"modelspec.architecture": "stable-diffusion-xl-v1-base"}
    assert codes(seen(shapes, **claim)) == {"other-claim"}
    assert codes(seen(shapes_of("sdxl"), **claim)) == set()


KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SMALL: list[tuple[dict[str, Shape], dict[str, str], str, str, str]] = [
    ({f"{KEY}.lora_down.weight": (16, 768), f"{KEY}.lora_up.weight": (320, 16),
      f"{KEY}.alpha": ()}, {}, "lora", "LoRA", "sd1"),
    ({f"{KEY}.lora_down.weight": (4, 1024)}, {}, "lora", "LoRA", "sd2"),
    ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 1280)}, {},
     "lora", "LoRA", "sdxl"),
    ({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (4, 2048)}, {},
     "lora", "LoRA", "sdxl"),
    ({"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight":
      (4, 768)}, {}, "lora", "LoRA", "sd1"),
    ({f"{KEY}.lora_down.weight": (4, 768), "lora_unet_conv_in.lora_down.weight": (4, 4, 3, 3)}, {},
     "lycoris", "LyCORIS (LoCon)", "sd1"),
    ({f"{KEY}.hada_w1_a": (320, 8), f"{KEY}.hada_w1_b": (8, 768)}, {},
     "lycoris", "LyCORIS (LoHa)", "sd1"),
    ({f"{KEY}.lokr_w1": (16, 32), f"{KEY}.lokr_w2": (20, 64)}, {},
     "lycoris", "LyCORIS (LoKr)", "sdxl"),
    ({f"{KEY}.lokr_w1": (16, 24), f"{KEY}.lokr_w2_a": (20, 4), f"{KEY}.lokr_w2_b": (4, 32)}, {},
     "lycoris", "LyCORIS (LoKr)", "sd1"),
    ({f"{KEY}.on_input": (), f"{KEY}.weight": (320,)}, {"ss_base_model_version": "sd_v1"},
     "lycoris", "LyCORIS ((IA)³)", "sd1"),
    ({f"{KEY}.oft_blocks": (4, 80, 80)}, {"ss_base_model_version": "sdxl_base_v1-0"},
     "lycoris", "LyCORIS (OFT)", "sdxl"),
    ({f"{KEY}.diff": (320, 768)}, {}, "lycoris", "LyCORIS (full difference)", "sd1"),
    ({"emb_params": (8, 768)}, {}, "textual-inversion", "textual inversion", "sd1"),
    ({"emb_params": (3, 1024)}, {}, "textual-inversion", "textual inversion", "sd2"),
    ({"<cat>": (768,)}, {}, "textual-inversion", "textual inversion", "sd1"),
    ({"clip_l": (2, 768), "clip_g": (2, 1280)}, {}, "textual-inversion", "textual inversion",
     "sdxl"),
    ({"control_model.time_embed.0.weight": (1280, 320)},
     {"modelspec.architecture": "stable-diffusion-v1/controlnet"}, "controlnet", "ControlNet",
     "sd1"),
    ({"a.weight": (3, 3)}, {}, "unknown", "unknown kind of file", "generic"),
    ({}, {}, "unknown", "unknown kind of file", "generic"),
    ({f"{UNET}joint_blocks.{n}.x.weight": (5, 5) for n in range(30)}, {}, "checkpoint",
     "checkpoint of an unknown architecture", "generic"),
    ({"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768)}, {},
     "unet", "UNet alone, in diffusers' names", "sd1"),
    ({"unet/down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 2048),
      "text_encoder/text_model.a": (1,), "text_encoder_2/text_model.a": (1,), "vae/b": (1,)}, {},
     "diffusers", "diffusers folder", "sdxl"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(SMALL)))
def test_small_files_are_named_for_what_they_are(number: int) -> None:
    shapes, metadata, kind, title, architecture = SMALL[number]
    found = identify(shapes, metadata)
    assert (found.kind, found.title, found.architecture) == (kind, title, architecture)
    assert found.evidence
    assert all(found.component_of(key) for key in shapes)


def test_facts_of_an_adapter() -> None:
    shapes: dict[str, Shape] = {f"{KEY}_{n}.lora_down.weight": (16, 768) for n in range(3)}
    shapes[f"{KEY}_9.lora_down.weight"] = (4, 768)
    shapes[f"{KEY}_9.dora_scale"] = (1, 768)
    facts = identify(shapes, {}).facts
    assert dict(facts) == {
        "rank": "16 and 1 others",
        "modules": "4",
        "weight decomposition": "DoRA",
    }


def test_parts_of_a_diffusers_folder_and_their_relative_names() -> None:
    shapes: dict[str, Shape] = {"unet/a": (1,), "text_encoder/b": (1,), "vae/c": (1,)}
    found = identify(shapes, {})
    assert [found.component_of(key) for key in shapes] == ["unet", "te", "vae"]
    assert [found.relative_key(key) for key in shapes] == ["a", "b", "c"]


@pytest.mark.parametrize("member", family(), ids=lambda member: member.name)
def test_members_of_the_zoo(member) -> None:  # type: ignore[no-untyped-def]
    found = inspect_path(member.path)
    assert (found.kind, found.architecture) == ("checkpoint", "zoo")
    assert ("vae" in found.components) == member.has_vae == ("vae" not in found.missing)
    assert found.traits.ema == member.has_ema == ("ema" in found.components)
    assert found.traits.position_ids == {"te": "right" if member.has_position_ids else "absent"}
    assert found.traits.prediction == ("v" if member.prediction == "v" else None)
    assert sum(facts.n_keys for facts in found.components.values()) == member.n_keys
    expected = set() if member.has_vae else {"missing-component"}
    expected |= {"ema"} if member.has_ema else set()
    assert codes(found) == expected


@pytest.mark.parametrize("extra", extras(), ids=lambda extra: extra.name)
def test_extras_of_the_zoo(extra) -> None:  # type: ignore[no-untyped-def]
    found = inspect_path(extra.path)
    kind = {"lora": "lora", "embedding": "textual-inversion"}[extra.kind]
    assert (found.kind, found.architecture, found.problems) == (kind, "zoo", ())


def test_other_files_of_the_zoo() -> None:
    assert inspect_path(zoo_path() / "clip" / "model.safetensors").kind == "clip"
    judge = inspect_path(zoo_path() / "judge.safetensors")
    assert (judge.kind, judge.architecture) == ("unknown", "generic")


def test_torch_files_are_looked_at_like_others(tmp_path: Path) -> None:
    good, evil = tmp_path / "good.ckpt", tmp_path / "evil.ckpt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "callbacks": {"x": 1}, "epoch": 3}, good)

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    torch.save({"state_dict": {"a": torch.ones(2), "b": Evil()}}, evil)
    found = inspect_path(good, Wanted(file=True))
    assert found.components["model"].n_params == 2
    assert found.file_hashes is not None
    assert found.file_hashes.sha256 == hashlib.sha256(good.read_bytes()).hexdigest()
    assert any(p.code == "file" and "callbacks" in p.message for p in found.problems)
    (problem,) = inspect_path(evil).problems
    assert problem.code == "unsafe" and "nothing was run" in problem.message
