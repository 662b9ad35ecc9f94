"""Detection: right on what is known, honest on what is not."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.layouts import LAYOUTS, Shape, detect, get_layout

KNOWN = ["sd1", "sd2", "sdxl", "zoo"]
UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = ("cond_stage_model.", "conditioner.")
FIRST = f"{UNET}input_blocks.0.0.weight"


def checkpoint(name: str, *prefixes: str) -> dict[str, Shape]:
    return {
        key: spec.shape
        for key, spec in get_layout(name).specs.items()
        if not spec.optional and key.startswith(prefixes or ("",))
    }


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("part", ["whole", "unet", "te", "unet+vae", "unet+te"])
def test_whole_and_partial_files(name: str, part: str) -> None:
    prefixes = {"whole": "", "unet": UNET, "te": TEXT, "unet+vae": (UNET, VAE)}.get(
        part, (UNET, *TEXT)
    )
    wanted = (prefixes,) if isinstance(prefixes, str) else prefixes
    answer = detect(checkpoint(name, *wanted))
    assert answer.layout.name == name
    assert answer.also == ()
    assert not answer.fit.unknown and not answer.fit.mismatched
    there = {key.split(".")[0] for key in checkpoint(name, *wanted)}
    assert ("vae" in answer.fit.missing_components) == ("first_stage_model" not in there)


def test_a_vae_alone_belongs_to_several_families_and_says_so() -> None:
    answer = detect(checkpoint("sdxl", VAE))
    assert {answer.layout.name, *answer.also} == {"sd1", "sd2", "sdxl"}
    assert answer.evidence[-1] == "what is there is the same in sd1, sd2, sdxl"
    assert detect(checkpoint("zoo", VAE)).also == ()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sd1", "attn2.to_k.weight is [320, 768], as in Stable Diffusion 1"),
        ("sd2", "attn2.to_k.weight is [320, 1024], as in Stable Diffusion 2"),
        ("sdxl", "resblocks.9.mlp.c_proj.bias is [1280], as in Stable Diffusion XL"),
        ("sdxl", "label_emb.0.0.weight is [1280, 2816], as in Stable Diffusion XL"),
    ],
)
def test_evidence_names_key_shape_and_counts(name: str, sentence: str) -> None:
    evidence = "\n".join(detect(checkpoint(name)).evidence)
    assert sentence in evidence
    n_unet = 1680 if name == "sdxl" else 686
    assert f"UNet: {n_unet} of {n_unet} keys, shapes included" in evidence


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("step", [2, 7, 100])
def test_a_pruned_file_is_still_what_it_is(name: str, step: int) -> None:
    whole = checkpoint(name)
    gone = [key for index, key in enumerate(whole) if index % step == 0]
    answer = detect({key: shape for key, shape in whole.items() if key not in set(gone)})
    assert answer.layout.name == name
    assert answer.fit.missing == tuple(gone)
    assert any("missing" in line for line in answer.evidence)


@pytest.mark.parametrize("name", KNOWN)
def test_novelai_names_ema_schedules_and_markers_change_nothing(name: str) -> None:
    layout = get_layout(name)
    tensors = {key: spec.shape for key, spec in layout.specs.items()}
    tensors = {key.replace("text_model.", ""): shape for key, shape in tensors.items()}
    for key, shape in checkpoint(name, UNET).items():
        tensors["model_ema." + key.removeprefix("model.").replace(".", "")] = shape
    tensors["model_ema.num_updates"] = ()
    answer = detect(tensors)
    assert answer.layout.name == name
    assert answer.fit.complete
    assert "v_pred is there: the model predicts velocities, not noise" in answer.evidence


@pytest.mark.parametrize(
    ("n_inputs", "word"), [(9, "inpainting"), (8, "pix2pix"), (5, "depth"), (7, "")]
)
def test_models_with_more_inputs(n_inputs: int, word: str) -> None:
    answer = detect({**checkpoint("sd1"), FIRST: (320, n_inputs, 3, 3)})
    assert answer.layout.name == "sd1"
    assert answer.fit.mismatched == ((FIRST, (320, n_inputs, 3, 3), (320, 4, 3, 3)),)
    evidence = "\n".join(answer.evidence)
    assert "1 of another shape" in evidence
    assert (f"takes {n_inputs} channels instead of 4" in evidence) == bool(word)
    assert word in evidence


def test_convolutions_saved_as_matrices_and_the_other_way() -> None:
    for name in KNOWN:
        tensors = checkpoint(name)
        for key, spec in get_layout(name).specs.items():
            if key in tensors and spec.alternatives:
                tensors[key] = spec.alternatives[0]
        answer = detect(tensors)
        assert answer.layout.name == name
        assert answer.fit.complete and len(answer.fit.reshaped) >= 30


def test_a_mixed_file_is_its_unet() -> None:
    tensors = {**checkpoint("sd1", UNET, VAE), **checkpoint("sd2", *TEXT)}
    answer = detect(tensors)
    assert answer.layout.name == "sd1"
    assert answer.fit.missing_components == ("te",)
    assert len(answer.fit.unknown) == len(checkpoint("sd2", *TEXT))
    assert any("keys have no meaning in Stable Diffusion 1" in line for line in answer.evidence)


def test_a_vae_never_speaks_for_a_foreign_unet() -> None:
    foreign: dict[str, Shape] = {
        f"{UNET}joint_blocks.{i}.x_block.attn.qkv.weight": (4608, 1536) for i in range(24)
    }
    answer = detect({**foreign, **checkpoint("sd1", VAE)})
    assert answer.layout.name == "generic"
    assert "the names are those of Stable Diffusion 3" in answer.evidence
    for title in ("1", "2", "XL"):
        assert any(line.startswith(f"not Stable Diffusion {title}") for line in answer.evidence)


def test_right_names_with_wrong_shapes_are_generic_and_told() -> None:
    wide = {key: tuple(2 * n for n in shape) for key, shape in checkpoint("sd1").items()}
    answer = detect(wide)
    assert answer.layout.name == "generic"
    line = next(line for line in answer.evidence if line.startswith("not Stable Diffusion 1"))
    assert "0 of 686 keys of its UNet are there, 686 have another shape" in line
    assert "is [2560, 640], not [1280, 320]" in line


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("down_blocks.0.resnets.0.conv1.weight", "diffusers folder"),
        ("lora_unet_mid_block_attentions_0_proj_in.alpha", "a LoRA"),
        ("decoder.up.0.block.0.conv1.weight", "one component without its prefix"),
        ("emb_params", "no key begins as those"),
    ],
)
def test_other_kinds_of_file_are_generic(key: str, hint: str) -> None:
    answer = detect({key: (4, 4)})
    assert answer.layout.name == "generic"
    assert any(hint in line for line in answer.evidence)


def test_an_empty_file() -> None:
    assert detect({}).evidence == ("the file has no tensors",)


shapes = st.lists(st.integers() | st.sampled_from([10**5000, -1, 0]), max_size=12).map(tuple)
keys = st.text(max_size=30) | st.sampled_from(
    [FIRST, UNET, VAE, "cond_stage_model.", "conditioner.embedders.0.transformer.", "model_ema."]
    + list(get_layout("sdxl").specs)[::97]
)


@given(tensors=st.dictionaries(keys, shapes, max_size=30))
@settings(max_examples=200, deadline=None)
def test_hostile_headers_get_an_answer(tensors: dict[str, Shape]) -> None:
    answer = detect(tensors)
    assert answer.layout in LAYOUTS.values()
    assert answer.evidence
    assert all(len(line) < 1000 and line.isprintable() for line in answer.evidence)


def test_a_hostile_header_beside_a_whole_model() -> None:
    tensors = {**checkpoint("sd1"), FIRST: (10**5000, *[1] * 1000)}
    assert detect(tensors).layout.name == "sd1"
    huge = {key: (10**5000,) for key in checkpoint("sd1")}
    assert detect(huge).layout.name == "generic"
    assert any("too large" in line for line in detect(huge).evidence)


def test_time_is_linear_in_the_keys() -> None:
    extra: dict[str, Shape] = {
        f"cond_stage_model.transformer.{UNET}{i}.weight": (i,) for i in range(200_000)
    }
    tensors = {**extra, **checkpoint("sdxl")}
    start = time.process_time()
    answer = detect(tensors)
    # Takes under a second; the bound is for busy machines, and far below anything quadratic.
    assert time.process_time() - start < 20
    assert answer.layout.name == "sdxl"
    assert len(answer.fit.unknown) == 200_000


def test_fit_is_fast() -> None:
    layout, tensors = get_layout("sdxl"), checkpoint("sdxl")
    layout.fit(tensors)
    times = []
    for _ in range(10):
        start = time.process_time()
        layout.fit(tensors)
        times.append(time.process_time() - start)
    assert min(times) < 0.02
