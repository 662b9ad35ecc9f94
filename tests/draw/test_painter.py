"""Drawing: agreement with diffusers, seeds, batches, sources."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stockpot.checkpoints import FileSink, MemorySource, open_checkpoint
from stockpot.draw import (
    SAMPLERS,
    BrokenPictureWarning,
    CutPromptWarning,
    DrawSettings,
    Painter,
    make_scheduler,
    open_painter,
)
from stockpot.engine import merge_in_memory
from stockpot.errors import UnknownNameError
from stockpot.recipes import make_recipe

MakeModel = Callable[..., MemorySource]
PROMPTS = ["a red heart", "a blue star on white", "a red heart"]
QUICK = DrawSettings(steps=3, cfg=5.0, negative="blurry")


def write(source: MemorySource, path: Path) -> Path:
    sink = FileSink(path, dict(source.tensors), dict(source.metadata))
    for key in source.tensors:
        sink.write(key, 0, memoryview(source.read_bytes(key)))
        sink.tensor_done(key, None)
    sink.commit(dict(source.metadata))
    return path


def walk_with_diffusers(scheduler: Any, seeds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of diffusers' own Brownian trees: its DPM++ SDE has them, the others are given them."""
    from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

    if hasattr(scheduler, "noise_sampler_seed"):
        scheduler.noise_sampler_seed = seeds
        return

    def draw(shape: tuple[int, ...], **_: object) -> torch.Tensor:
        sigmas, at = scheduler.sigmas, scheduler.step_index
        if sigmas[at + 1] == 0:
            return torch.zeros(shape)
        low, high = float(sigmas[sigmas > 0].min()), float(sigmas.max())
        tree = BrownianTreeNoiseSampler(torch.zeros(shape), low, high, seeds)  # type: ignore[arg-type]
        found: torch.Tensor = tree(sigmas[at], sigmas[at + 1])
        return found

    monkeypatch.setattr(sys.modules[type(scheduler).__module__], "randn_tensor", draw)


# diffusers asks its tree for levels beside its ends, by their rounding.
@pytest.mark.filterwarnings("ignore:Should have t:UserWarning")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_agrees_with_the_pipeline_of_diffusers(
    painter: Painter, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionPipeline

    parts = painter.parts
    with warnings.catch_warnings():
        # The pipeline would rather have another `steps_offset`, which only DDIM's spacing reads.
        warnings.simplefilter("ignore", FutureWarning)
        pipe = StableDiffusionPipeline(
            parts.vae,
            parts.text_encoder,
            parts.tokenizer,
            parts.unet,
            make_scheduler(sampler, parts.noise),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    seeds = [7, 8, 1000]
    if SAMPLERS[sampler].on_path:
        walk_with_diffusers(pipe.scheduler, seeds, monkeypatch)
    expected = pipe(
        PROMPTS,
        negative_prompt=["blurry"] * 3,
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images
    settings = DrawSettings(steps=3, cfg=5.0, negative="blurry", sampler=sampler)
    got = painter.sample(PROMPTS, seeds, settings)
    assert got.shape == expected.shape == (3, 32, 32, 3)
    assert np.abs(got - expected).max() < 1e-5
    assert got.std() > 0.01
    if sampler == "Euler":
        assert np.array_equal(painter.draw(PROMPTS, seeds, settings), np.rint(got * 255))


def test_no_guidance_takes_no_negative_prompt(painter: Painter) -> None:
    plain = painter.sample(["a red heart"], 3, DrawSettings(steps=2, cfg=1.0))
    other = painter.sample(["a red heart"], 3, DrawSettings(steps=2, cfg=1.0, negative="blue"))
    assert np.array_equal(plain, other)
    guided = painter.sample(["a red heart"], 3, DrawSettings(steps=2, cfg=5.0))
    negative = painter.sample(["a red heart"], 3, DrawSettings(steps=2, cfg=5.0, negative="blue"))
    assert not np.array_equal(guided, negative)


def test_a_seed_gives_one_picture_whatever_the_batch(painter: Painter) -> None:
    prompts = [f"a {word} circle" for word in ("red", "blue", "green", "pink", "teal")]
    whole = painter.sample(prompts, 40, QUICK)
    for batch in (1, 2, 3):
        some = DrawSettings(steps=3, cfg=5.0, negative="blurry", batch=batch)
        assert np.abs(painter.sample(prompts, 40, some) - whole).max() < 1e-5
    alone = painter.sample([prompts[3]], [43], QUICK)
    assert np.abs(alone[0] - whole[3]).max() < 1e-5
    backwards = painter.sample(prompts[::-1], [44, 43, 42, 41, 40], QUICK)
    assert np.abs(backwards[::-1] - whole).max() < 1e-5
    assert np.abs(whole[0] - whole[1]).max() > 1e-2


def test_same_call_same_bytes(painter: Painter) -> None:
    first = painter.draw(PROMPTS, 5, QUICK)
    assert first.dtype == np.uint8
    assert np.array_equal(first, painter.draw(PROMPTS, 5, QUICK))


def test_memory_and_disk_give_the_same_bits(
    make_model: MakeModel, config: Path, tmp_path: Path
) -> None:
    sources = {"a": make_model(1), "b": make_model(2)}
    recipe = make_recipe("mean(a, b)", {"a": "a.safetensors", "b": "b.safetensors"})
    merged = merge_in_memory(recipe, sources)
    in_memory = open_painter(merged, config).sample(PROMPTS, 0, QUICK)
    with open_checkpoint(write(merged, tmp_path / "soup.safetensors")) as source:
        painter = open_painter(source, config)
    # The source is closed: nothing may be read late.
    assert np.array_equal(painter.sample(PROMPTS, 0, QUICK), in_memory)


def test_diffusers_opens_what_the_engine_wrote(
    make_model: MakeModel, config: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    model = make_model(3)
    pipe = StableDiffusionPipeline.from_single_file(
        str(write(model, tmp_path / "model.safetensors")),
        config=str(config),
        local_files_only=True,
    )
    parts = open_painter(model, config).parts
    for ours, theirs in (
        (parts.unet, pipe.unet),
        (parts.vae, pipe.vae),
        (parts.text_encoder, pipe.text_encoder),
    ):
        mine, other = ours.state_dict(), theirs.state_dict()
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key].float()) for key in mine)


def test_size_can_be_chosen(painter: Painter) -> None:
    settings = DrawSettings(steps=1, width=48, height=16)
    assert painter.draw(["a red heart"], 0, settings).shape == (1, 16, 48, 3)
    with pytest.raises(ValueError, match="`width` must be a multiple of 4, but got 30"):
        painter.draw(["a red heart"], 0, DrawSettings(steps=1, width=30))


def test_no_prompts_no_pictures(painter: Painter) -> None:
    assert painter.draw([], 0, QUICK).shape == (0, 32, 32, 3)


def test_progress_counts_steps_of_pictures(painter: Painter) -> None:
    seen: list[tuple[int, int]] = []
    settings = DrawSettings(steps=2, batch=2)
    painter.draw(PROMPTS, 0, settings, lambda done, total: seen.append((done, total)))
    assert seen == [(2, 6), (4, 6), (5, 6), (6, 6)]


def test_a_cut_prompt_is_said(painter: Painter) -> None:
    long = "x" * 70 + " and the word lost"
    with pytest.warns(
        CutPromptWarning, match="at most 75 tokens, but got 84; left out: 'e word lost'"
    ):
        painter.draw([long], 0, DrawSettings(steps=1, max_chunks=1))


def test_a_broken_model_is_said(make_model: MakeModel, config: Path) -> None:
    painter = open_painter(make_model(), config)
    painter.parts.vae.post_quant_conv.bias.data.fill_(float("nan"))
    with pytest.warns(BrokenPictureWarning, match="random0: 2 of 2 pictures hold NaN"):
        pictures = painter.draw(PROMPTS[:2], 0, DrawSettings(steps=1))
    assert not pictures.any()


def test_seeds_are_checked(painter: Painter) -> None:
    with pytest.raises(ValueError, match="one seed for each prompt, but got 2 for 3"):
        painter.draw(PROMPTS, [1, 2], QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1, but got 0"),
        ({"batch": 0}, "`batch` must be at least 1, but got 0"),
        ({"cfg": 0.5}, "`cfg` must be a finite number from 1 on, but got 0.5"),
        ({"cfg": float("nan")}, "`cfg` must be a finite number"),
    ],
)
def test_settings_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DrawSettings(**options)


def test_unknown_sampler_suggests() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown sampler 'DPM\+\+ 2m'; did you mean"):
        DrawSettings(sampler="DPM++ 2m")
