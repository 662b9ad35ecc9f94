"""Payloads and infotexts: real ones in full, round trips, and what is said of odd ones."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stockpot.draw import (
    SAMPLERS,
    DrawSettings,
    FreeU,
    FreeUStage,
    Hires,
    Named,
    PlotAxis,
    Request,
    Thresholding,
    parse_infotext,
    parse_payload,
    read_parameters,
    read_payload,
    to_payload,
    to_png,
    write_infotext,
)
from stockpot.errors import RequestError

CARDS = ["sd1_01", "sd1_02", "sd1_03", "sd1_04", "sd1_05", "sd1_06", "sd2_07"]


@pytest.mark.parametrize("name", CARDS)
def test_cards_come_back_to_the_letter(data: Path, name: str) -> None:
    text = (data / "infotexts" / f"{name}.txt").read_text().strip()
    read = parse_infotext(text, name)
    assert read.notes == ()  # nothing in them is unknown
    if name == "sd1_05":
        assert len(read.request.ti_hashes) == 2
    assert write_infotext(read.request) == text
    assert parse_infotext(write_infotext(read.request)).request == read.request


def test_a_card_in_full(data: Path) -> None:
    request = parse_infotext((data / "infotexts" / "sd1_06.txt").read_text()).request
    settings = request.settings
    assert request.prompt.startswith("(aesthetic:0), (quality:0), (solo:0.98)")
    assert settings.negative.endswith("(breasts:0.5)")
    assert (settings.steps, settings.sampler, settings.cfg) == (256, "Euler", 4)
    assert (request.seed, settings.width, settings.height) == (873435189, 1792, 768)
    assert request.model == Named("21b-AstolfoMix-2020b", "28adb7ba78")
    assert request.vae == Named("vae-ft-mse-840000-ema-pruned.ckpt", "551eac7037")
    assert (settings.clip_skip, settings.noise) == (2, "NV")
    assert settings.hires == Hires(2, upscaler="Latent", steps=64, denoising=0.7)
    assert settings.freeu == FreeU((FreeUStage(1.2, 0.9), FreeUStage(1.4, 0.2)), version=2)
    assert settings.thresholding == Thresholding(mimic_scale=1, separate_channels=False, phi=0.5)


def test_an_axis_of_checkpoints(data: Path) -> None:
    (axis,) = parse_infotext((data / "infotexts" / "sd1_02.txt").read_text()).request.plot
    assert (axis.axis, axis.kind, len(axis.models)) == ("X", "Checkpoint name", 10)
    assert axis.models[1] == Named("02-vbp23-cbp2-sd.safetensors", "6075160ea7")


def test_payloads_in_full(data: Path) -> None:
    for file in sorted((data / "payloads").glob("*.json")):
        read = read_payload(file)
        payload = json.loads(file.read_text())
        assert read.notes == ()
        written = to_payload(read.request)
        silent = {"firstphase_width", "firstphase_height", "restore_faces", "tiling",
                  "wildcard_type", "reverse_scoring"}  # fmt: skip
        # Every field is in what is sent on, or is one of those that ask for nothing.
        assert set(read.silent) == silent
        assert {name: written[name] for name in payload.keys() - silent} == {
            name: payload[name] for name in payload.keys() - silent
        }
        assert parse_payload(written).request == read.request
    assert read.request.seeds() == tuple(range(3425689549, 3425689549 + 9))


names = st.text(st.sampled_from("abz _-."), max_size=12).map(str.strip)
words = st.text(st.sampled_from('ab c,:"\\()[]猫'), max_size=20).map(str.strip)
shares = st.integers(0, 20).map(lambda n: n / 20)
stages = st.builds(FreeUStage, shares, shares, shares, shares)
requests = st.builds(
    Request,
    prompt=words,
    seed=st.integers(0, 2**32),
    settings=st.builds(
        DrawSettings,
        steps=st.integers(1, 99),
        cfg=st.integers(2, 60).map(lambda n: n / 2),
        sampler=st.sampled_from(list(SAMPLERS)),
        negative=words,
        width=st.just(512),
        height=st.just(768),
        batch=st.just(1),
        schedule=st.sampled_from(["Automatic", "Karras", "SGM Uniform"]),
        clip_skip=st.integers(1, 4),
        emphasis=st.sampled_from(["Original", "No norm"]),
        noise=st.sampled_from(["CPU", "NV"]),
        step_delta=st.integers(0, 31337),
        cfg_rescale=shares,
        tiling=st.booleans(),
        thresholding=st.none()
        | st.builds(
            Thresholding,
            mimic_scale=shares,
            percentile=shares,
            mimic_mode=st.sampled_from(["Constant", "Power Up"]),
            separate_channels=st.booleans(),
            startpoint=st.sampled_from(["MEAN", "ZERO"]),
            variability=st.sampled_from(["AD", "STD"]),
            phi=shares,
        ),
        freeu=st.none()
        | st.builds(
            FreeU, st.tuples(stages, stages), shares, shares, shares, st.sampled_from([1, 2])
        ),
        hires=st.none()
        | st.builds(
            Hires,
            scale=st.integers(1, 8).map(lambda n: n / 2),
            upscaler=st.sampled_from(["Latent", "Lanczos", "Latent (bicubic)"]),
            steps=st.integers(0, 50),
            denoising=shares,
            sampler=st.sampled_from(["", "Euler a"]),
            prompt=words,
            cfg=st.sampled_from([0.0, 4.5]),
        ),
    ),
    model=st.builds(Named, names, st.sampled_from(["", "0123456789"])),
)  # fmt: skip


# The first example loads libraries, which on a busy machine takes a second.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(requests)
def test_what_is_written_is_read_back(request: Request) -> None:
    assert parse_payload(
        json.loads(json.dumps(to_payload(request)))
    ).request == dataclasses.replace(
        request, model=request.model if request.model.name else Named()
    )
    if "\n" not in request.prompt and not request.prompt.startswith("Negative prompt:"):
        assert parse_infotext(write_infotext(request)).request == request


def test_a_png_carries_its_infotext(tmp_path: Path) -> None:
    request = Request("猫, a cat", 3, DrawSettings(steps=2, negative="blur", noise="NV"))
    picture = np.zeros((4, 4, 3), np.uint8)
    file = tmp_path / "a.png"
    file.write_bytes(to_png(picture, write_infotext(request)))
    assert parse_infotext(read_parameters(file)).request.prompt == "猫, a cat"
    (tmp_path / "a.txt").write_text(write_infotext(request), encoding="utf-8")
    assert read_parameters(tmp_path / "a.txt") == read_parameters(file)
    (tmp_path / "b.png").write_bytes(to_png(picture))
    with pytest.raises(RequestError, match="b.png: there is no infotext in this file"):
        read_parameters(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"steps": "many"}, "payload: steps: a number is needed, but got 'many'"),
        ({"steps": 1.5}, "steps: a whole number is needed, but got 1.5"),
        ({"cfg_scale": True}, "cfg_scale: a number is needed, but got True"),
        ({"tiling": "yes"}, "tiling: true or false is needed, but got 'yes'"),
        ({"sampler_name": "Restart"}, "unknown sampler 'Restart'"),
        ({"scheduler": "KL Optimal"}, "unknown schedule 'KL Optimal'"),
        ({"prompt": 7}, "prompt: a text is needed, but got 7"),
        ({"sampler_name": "Eular"}, "unknown sampler 'Eular'; did you mean 'Euler'"),
        ({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, "unknown upscaler 'R-ESRGAN 4x\\+'"),
        ({"enable_hr": True, "denoising_strength": 2}, "`denoising` must be in \\[0, 1\\]"),
        ({"steps": 0}, "`steps` must be at least 1, but got 0"),
        ({"n_iter": 0}, "must be at least 1"),
        ({"override_settings": 3}, "override_settings: an object is needed"),
        ({"alwayson_scripts": {"FreeU": {"args": ["on"]}}}, "FreeU takes one object"),
    ],
)
def test_impossible_payloads_are_refused(payload: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_payload(payload)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        parse_payload({"steps": "x", "width": "y", "prompt": 3})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"restore_faces": True}, "restore_faces: true is asked for, which is not done here"),
        ({"refiner_checkpoint": "x"}, 'refiner_checkpoint: "x" is asked for'),
        ({"hr_scheduler": "Karras"}, 'hr_scheduler: "Karras" is asked for'),
        ({"cfg_scale": 0.5}, "cfg_scale: guidance of 0.5 is drawn as 1"),
        ({"styles": ["film"]}, 'styles: \\["film"\\] is asked for'),
        ({"wobble": 3}, "wobble: this field is not known here"),
        ({"override_settings": {"sd_hypernetwork": "x"}}, "sd_hypernetwork: this setting is not"),
        ({"alwayson_scripts": {"ControlNet": {}}}, "ControlNet: this script is not known here"),
    ],
)
def test_what_is_not_done_is_said(payload: dict[str, Any], message: str) -> None:
    import re

    (note,) = parse_payload(payload).notes
    assert re.search(message, str(note))


# Every field of A1111's and Forge's `/sdapi/v1/txt2img`, as their schemas list them, with what a
# client that fills in all of them sends for "nothing".
FIELDS: dict[str, Any] = {
    "prompt": "", "negative_prompt": "", "styles": [], "seed": -1, "subseed": -1,
    "subseed_strength": 0, "seed_resize_from_h": -1, "seed_resize_from_w": -1,
    "sampler_name": "Euler", "scheduler": "automatic", "batch_size": 1, "n_iter": 1, "steps": 50,
    "cfg_scale": 7, "distilled_cfg_scale": 3.5, "width": 512, "height": 512,
    "restore_faces": False, "tiling": False, "do_not_save_samples": False,
    "do_not_save_grid": False, "eta": 0, "denoising_strength": 0, "s_min_uncond": 0, "s_churn": 0,
    "s_tmax": 0, "s_tmin": 0, "s_noise": 1, "override_settings": {},
    "override_settings_restore_afterwards": True, "refiner_checkpoint": None,
    "refiner_switch_at": 0, "disable_extra_networks": False, "firstpass_image": None,
    "comments": {}, "enable_hr": False, "firstphase_width": 0, "firstphase_height": 0,
    "hr_scale": 2, "hr_upscaler": None, "hr_second_pass_steps": 0, "hr_resize_x": 0,
    "hr_resize_y": 0, "hr_checkpoint_name": None, "hr_additional_modules": None,
    "hr_sampler_name": None, "hr_scheduler": None, "hr_prompt": "", "hr_negative_prompt": "",
    "hr_cfg": 1, "hr_distilled_cfg": 3.5, "force_task_id": None, "sampler_index": "Euler",
    "script_name": None, "script_args": [], "send_images": True, "save_images": False,
    "alwayson_scripts": {}, "infotext": None,
}  # fmt: skip


def test_every_field_of_the_api_is_known() -> None:
    read = parse_payload(FIELDS)
    assert read.notes == ()
    assert read.request.settings.schedule == "Automatic"
    asking = {"restore_faces": True, "styles": ["x"], "seed_resize_from_h": 64, "s_churn": 1,
              "s_tmin": 1, "s_tmax": 9, "s_noise": 1.1, "s_min_uncond": 1, "script_name": "x",
              "script_args": [1], "refiner_checkpoint": "x", "hr_checkpoint_name": "x",
              "hr_scheduler": "Karras", "infotext": "x", "firstpass_image": "x",
              "disable_extra_networks": True, "firstphase_width": 64}  # fmt: skip
    for name, value in asking.items():
        (note,) = parse_payload({**FIELDS, name: value}).notes
        assert f"payload: {name}: " in str(note)


def test_schedules_have_short_names() -> None:
    for text, name in (("sgm_uniform", "SGM Uniform"), ("karras", "Karras"), ("Beta", "Beta")):
        assert parse_payload({"scheduler": text}).request.settings.schedule == name


def test_odd_infotexts() -> None:
    with pytest.raises(RequestError, match="ends with a line of settings"):
        parse_infotext("a cat\nand a dog")
    with pytest.raises(RequestError, match="Steps: a whole number is needed, but got 'lots'"):
        parse_infotext("x\nSteps: lots, Sampler: Euler, CFG scale: 3")
    (note,) = parse_infotext("x\nSteps: 1, Sampler: Euler, CFG scale: 3, PAG Scale: 1").notes
    assert "`PAG Scale: 1` is not known here" in str(note)


def test_values_of_axes_may_hold_commas() -> None:
    assert PlotAxis("X", "Seed", '1, 2,"3, 4"').values == ("1", "2", "3, 4")


def test_sizes_are_scaled() -> None:
    settings = DrawSettings(width=1024, height=576, hires=Hires(width=2048, height=1152))
    small = Request(settings=settings).scaled(1 / 32, 4).settings
    assert (small.width, small.height) == (32, 16)
    assert small.hires is not None and (small.hires.width, small.hires.height) == (64, 36)
