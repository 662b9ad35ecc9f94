"""What each setting does to a picture: identities, and agreement with hand-made loops and peft."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stockpot.checkpoints import MemorySource
from stockpot.draw import (
    IMAGE_UPSCALERS,
    LATENT_UPSCALERS,
    SAMPLERS,
    DrawSettings,
    Embedding,
    FreeU,
    FreeUStage,
    Hires,
    LoraTag,
    Noises,
    Painter,
    Thresholding,
    UnheardPromptWarning,
    enlarge,
    make_scheduler,
    open_painter,
    read_lora,
    set_steps,
)
from stockpot.draw.noises import noise_of_scheduler
from stockpot.errors import CheckpointError, UnknownNameError

MakeModel = Callable[..., MemorySource]
BASE = DrawSettings(steps=2, cfg=5.0, sampler="Euler", negative="dull")
ONE = ["a red heart"]


def draw(painter: Painter, prompt: str = ONE[0], seed: int = 3, **changes: object) -> np.ndarray:
    return painter.sample([prompt], seed, dataclasses.replace(BASE, **changes))  # type: ignore[arg-type]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def near(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max() < tolerance)


def pipeline(kind: str, painter: Painter, sampler: str = "Euler") -> Any:
    """A pipeline of diffusers over the painter's own modules."""
    import warnings

    import diffusers

    parts = painter.parts
    with warnings.catch_warnings():
        # It would rather have another `steps_offset`, which only DDIM's spacing reads.
        warnings.simplefilter("ignore", FutureWarning)
        pipe = getattr(diffusers, kind)(
            parts.vae, parts.text_encoder, parts.tokenizer, parts.unet,
            make_scheduler(sampler, parts.noise), None, None, requires_safety_checker=False,
        )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---------------------------------------------------------------- noise


NOISY = [name for name, sampler in SAMPLERS.items() if sampler.adds_noise]


@pytest.mark.parametrize(
    ("sampler", "source"), [*((name, "CPU") for name in NOISY), ("Euler a", "NV")]
)
def test_samplers_that_add_noise_do_not_see_the_batch(
    painter: Painter, sampler: str, source: str
) -> None:
    how = dataclasses.replace(BASE, sampler=sampler, noise=source, steps=3)  # type: ignore[arg-type]
    both = painter.sample(["a red heart", "a blue star"], [8, 9], how)
    assert near(both[1:], painter.sample(["a blue star"], 9, how), 1e-5)
    if sampler == "Euler a":
        moved = dataclasses.replace(how, step_delta=31337)
        assert not near(painter.sample(["a blue star"], 9, moved), both[1:], 1e-4)


# ---------------------------------------------------------------- guidance in the loop


def by_hand(painter: Painter, how: DrawSettings, seed: int = 3) -> np.ndarray:
    """Euler, in k-diffusion's own terms: sigmas, and guidance on what is denoised."""
    from stockpot.draw import Conditioner, threshold

    parts = painter.parts
    conds = Conditioner(parts).encode([ONE[0], how.negative])
    scheduler = make_scheduler("Euler", parts.noise)
    set_steps(scheduler, how.steps)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    x = x * float(scheduler.init_noise_sigma)
    velocity = painter.prediction == "v_prediction"
    with torch.inference_mode():
        for i, t in enumerate(scheduler.timesteps):
            sigma, after = float(scheduler.sigmas[i]), float(scheduler.sigmas[i + 1])
            cleans = []
            for text in (how.negative, ONE[0]):
                scaled = x / (sigma**2 + 1) ** 0.5
                out = parts.unet(scaled, t, encoder_hidden_states=conds[text].states[None],
                                 return_dict=False)[0]  # fmt: skip
                if velocity:
                    cleans.append(x / (sigma**2 + 1) - out * sigma / (sigma**2 + 1) ** 0.5)
                else:
                    cleans.append(x - sigma * out)
            without, relative = cleans[0], cleans[1] - cleans[0]
            if how.thresholding is None:
                clean = without + how.cfg * relative
            else:
                clean = threshold(without, relative, how.thresholding, how.cfg, i, how.steps)
            x = x + (x - clean) / sigma * (after - sigma)
        pixels = parts.vae.decode(x / parts.vae.config.scaling_factor).sample
    result: np.ndarray = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return result


HOW = [
    None,
    Thresholding(1, separate_channels=False, phi=0.7),
    Thresholding(2, percentile=95, variability="AD", startpoint="ZERO", phi=0.5),
    Thresholding(2, variability="STD", mimic_mode="Cosine Down", cfg_mode="Linear Up", cfg_min=1),
]


@pytest.mark.parametrize("how", HOW, ids=["plain", "card", "zero", "modes"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_loop_by_hand(painter: Painter, how: Thresholding | None, kind: str) -> None:
    noise = {**painter.parts.noise, "prediction_type": kind}
    painter = Painter(dataclasses.replace(painter.parts, noise=noise))
    settings = dataclasses.replace(BASE, thresholding=how)
    # Both round in float32 at levels of noise of 14: up to 1.2e-5 of the range of a pixel here.
    assert near(painter.sample(ONE, 3, settings), by_hand(painter, settings), 3e-5)


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M Karras", "DDIM", "Heun"])
def test_mimicking_the_guidance_changes_nothing(painter: Painter, sampler: str) -> None:
    plain = draw(painter, sampler=sampler)
    same = draw(painter, sampler=sampler, thresholding=Thresholding(5.0))
    assert near(same, plain, 2e-4)
    assert not near(draw(painter, sampler=sampler, thresholding=Thresholding(1.0)), plain, 1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_thresholding_sees_the_finished_picture(painter: Painter, sampler: str, kind: str) -> None:
    """At every call of the model, also those in the middle of a step.

    A model that knows the noise is shown alpha · (x0 + sigma · noise), alpha = 1 / √(1 + sigma²),
    and the finished picture that thresholding is given must be x0.
    """
    from stockpot.draw.sampling import to_picture

    x0, noise = torch.full((1, 4, 8, 8), 0.7), torch.full((1, 4, 8, 8), -0.4)
    scheduler = make_scheduler(sampler, {**painter.parts.noise, "prediction_type": kind})
    set_steps(scheduler, 5)
    ones = torch.ones_like(x0)
    path = (lambda *_: torch.zeros_like(x0)) if SAMPLERS[sampler].on_path else None
    for t in scheduler.timesteps:
        told = float(scheduler.scale_model_input(ones, t).mean())
        a, b = to_picture(scheduler, t)
        alpha = 1 / a if kind == "epsilon" else a
        sigma = (1 / alpha**2 - 1) ** 0.5
        shown = alpha * (x0 + sigma * noise)
        out = noise if kind == "epsilon" else alpha * (noise - sigma * x0)
        assert torch.allclose(a * shown + b * out, x0, atol=1e-4 * (1 + sigma))
        # Samplers in k-diffusion's terms say alpha themselves; the others scale nothing.
        assert told in (1.0, pytest.approx(alpha, rel=1e-4))
        with noise_of_scheduler(scheduler, Noises([0]), path):
            scheduler.step(ones, t, ones, return_dict=False)


def test_rescaling_and_its_identity(painter: Painter) -> None:
    plain = draw(painter)
    assert near(draw(painter, cfg_rescale=0.0), plain)
    pipe = pipeline("StableDiffusionPipeline", painter)
    expected = pipe(ONE, negative_prompt=["dull"], num_inference_steps=2, guidance_scale=5.0,
                    guidance_rescale=0.7, output_type="np",
                    generator=seeded()).images  # fmt: skip
    assert near(draw(painter, cfg_rescale=0.7), expected, 1e-5)
    assert not near(expected, plain, 1e-3)


def test_freeu_in_the_loop(painter: Painter) -> None:
    plain = draw(painter)
    assert near(draw(painter, freeu=FreeU((FreeUStage(), FreeUStage()))), plain, 1e-7)
    stages = (FreeUStage(1.2, 0.9), FreeUStage(1.4, 0.2))
    never = FreeU(stages, 0.5, 0.5)
    assert near(draw(painter, freeu=never), plain, 1e-7)
    assert not near(draw(painter, freeu=FreeU(stages)), plain, 1e-3)
    painter.parts.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    expected = draw(painter)
    painter.parts.unet.disable_freeu()
    assert near(draw(painter, freeu=FreeU(stages, matching="blocks")), expected)


# ---------------------------------------------------------------- prompts in the loop


def test_schedules_switch_the_prompt(painter: Painter) -> None:
    assert near(
        draw(painter, "a [red:blue:4] heart", steps=4), draw(painter, "a red heart", steps=4)
    )
    assert near(
        draw(painter, "a [red:blue:0] heart", steps=4), draw(painter, "a blue heart", steps=4)
    )
    switched = draw(painter, "a [red:blue:0.5] heart", steps=4)
    assert not near(switched, draw(painter, "a red heart", steps=4), 1e-4)
    assert not near(switched, draw(painter, "a blue heart", steps=4), 1e-4)
    assert near(draw(painter, "[a|a] cat", steps=4), draw(painter, "a cat", steps=4))


def test_and_adds_what_prompts_add(painter: Painter) -> None:
    red, both = draw(painter, "a red heart"), draw(painter, "a red heart AND a blue star")
    assert near(draw(painter, "a red heart AND a blue star :0"), red)
    assert not near(both, red, 1e-4)
    halves = draw(painter, "a red heart :0.5 AND a red heart :0.5")
    assert near(halves, red, 1e-5)
    assert near(draw(painter, "a red heart :2"), draw(painter, "a red heart", cfg=10.0), 1e-5)


def test_prompts_of_other_lengths_do_not_disturb(painter: Painter) -> None:
    long = "b" * 80
    pair = painter.sample(["a red heart", long], [3, 4], BASE)
    assert near(pair[:1], draw(painter), 1e-5)
    assert near(pair[1:], draw(painter, long, 4), 1e-5)
    parts = draw(painter, f"a red heart AND {long} :0")
    assert not near(parts, draw(painter), 1e-7)  # its last state repeats, as in A1111
    assert len(parts) == 1


def test_weights_clip_skip_and_zero_words(painter: Painter) -> None:
    plain = draw(painter)
    assert near(draw(painter, "a (red:1) heart"), plain)
    zero = draw(painter, "a (red:0) heart")
    assert not near(zero, plain, 1e-4)
    assert not near(zero, draw(painter, "a heart"), 1e-4)
    assert not near(draw(painter, clip_skip=2), plain, 1e-4)
    assert not near(draw(painter, "a (red:0) heart", emphasis="No norm"), zero, 1e-5)


def test_embeddings_are_drawn_and_told(
    make_model: MakeModel, config: Path, painter: Painter
) -> None:
    ids = painter.parts.tokenizer("red", add_special_tokens=False).input_ids
    vectors = painter.parts.text_encoder.get_input_embeddings().weight[ids].clone()
    own = Embedding("rot", (vectors,), "abcdef", Path("rot.safetensors"))
    other = Painter(painter.parts, {"rot": own})
    drawn = other.paint(["a rot heart"], 3, BASE)
    assert near(drawn.floats, draw(painter))
    assert dict(drawn.embeddings) == {"rot": "abcdef"}
    assert drawn.n_tokens == (1 + len(ids) + 5,)


# ---------------------------------------------------------------- hires fix


@pytest.mark.parametrize("upscaler", [*LATENT_UPSCALERS, *IMAGE_UPSCALERS])
def test_no_denoising_returns_the_resized_first_pass(painter: Painter, upscaler: str) -> None:
    from PIL import Image

    hires = Hires(2, upscaler=upscaler, denoising=0.0)
    got = draw(painter, hires=hires, steps=1)
    assert got.shape == (1, 64, 64, 3)
    first = latents(painter)
    if upscaler in LATENT_UPSCALERS:
        mode, antialias = LATENT_UPSCALERS[upscaler]
        options = {"antialias": antialias} if "bi" in mode else {}
        large = torch.nn.functional.interpolate(first, (16, 16), mode=mode, **options)
        assert near(got, decoded(painter, large))
    else:
        picture = np.rint(draw(painter, steps=1)[0] * 255).astype(np.uint8)
        method = getattr(Image.Resampling, IMAGE_UPSCALERS[upscaler])
        large_picture = np.asarray(Image.fromarray(picture).resize((64, 64), method))
        pixels = torch.from_numpy(large_picture / np.float32(127.5) - 1).permute(2, 0, 1)[None]
        vae = painter.parts.vae
        with torch.inference_mode():
            again = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        assert near(got, decoded(painter, again), 3e-5)


def latents(painter: Painter) -> torch.Tensor:
    """What the first pass draws, before it is decoded."""
    kept: list[torch.Tensor] = []
    vae = painter.parts.vae
    before = vae.decode
    vae.decode = lambda z, **options: kept.append(z) or before(z, **options)
    try:
        draw(painter, steps=1)
    finally:
        vae.decode = before
    found: torch.Tensor = kept[0] * vae.config.scaling_factor
    return found


def decoded(painter: Painter, x: torch.Tensor) -> np.ndarray:
    vae = painter.parts.vae
    with torch.inference_mode():
        pixels = vae.decode(x / vae.config.scaling_factor).sample
    result: np.ndarray = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return result


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M Karras", "DDIM"])
def test_the_second_pass_agrees_with_diffusers(painter: Painter, sampler: str) -> None:
    """Ours, from the enlarged first pass on, is diffusers' image-to-image over its latents."""
    hires = Hires(2, upscaler="Latent", steps=5, denoising=0.625)
    got = draw(painter, sampler=sampler, hires=hires)
    parts = painter.parts
    plain = dataclasses.replace(BASE, sampler=sampler)
    kept: list[torch.Tensor] = []
    before = parts.vae.decode
    parts.vae.decode = lambda z, **options: kept.append(z) or before(z, **options)
    try:
        painter.sample(ONE, 3, plain)
    finally:
        parts.vae.decode = before
    large = enlarge(kept[0] * parts.vae.config.scaling_factor, hires, parts.vae, 4)
    pipe = pipeline("StableDiffusionImg2ImgPipeline", painter, sampler)
    # 5 steps of a schedule of int(5 / 0.625) = 8, as theirs with strength 5/8 of 8.
    expected = pipe(ONE, image=large, negative_prompt=["dull"], num_inference_steps=8,
                    strength=0.625, guidance_scale=5.0, output_type="np",
                    generator=seeded()).images  # fmt: skip
    assert near(got, expected, 1e-5)


def test_sizes_of_the_second_pass(painter: Painter) -> None:
    assert draw(painter, hires=Hires(1.5)).shape == (1, 48, 48, 3)
    assert draw(painter, hires=Hires(width=64, height=32)).shape == (1, 32, 64, 3)
    assert draw(painter, hires=Hires(width=64), width=32, height=16).shape == (1, 32, 64, 3)
    with pytest.raises(UnknownNameError, match=r"unknown upscaler 'latent'; did you mean 'Latent'"):
        Hires(upscaler="latent")


def test_steps_and_wording_of_the_second_pass(painter: Painter) -> None:
    seen: list[tuple[int, int]] = []
    how = dataclasses.replace(BASE, hires=Hires(1, steps=3))
    painter.sample(ONE, 3, how, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5] and seen[0][1] == 5
    plain = draw(painter, hires=Hires(1))
    assert not near(draw(painter, hires=Hires(1, prompt="a blue star")), plain, 1e-4)
    assert not near(draw(painter, hires=Hires(1, negative="a blue star")), plain, 1e-4)
    assert not near(draw(painter, hires=Hires(1, cfg=2.0)), plain, 1e-4)
    assert not near(draw(painter, hires=Hires(1, sampler="Heun")), plain, 1e-4)
    assert near(draw(painter, hires=Hires(1, prompt=ONE[0], sampler="Euler")), plain, 1e-6)


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize("schedule", ["Karras", "Exponential", "Uniform", "SGM Uniform"])
def test_schedules_of_noise(painter: Painter, schedule: str) -> None:
    got = draw(painter, steps=4, sampler="DPM++ 2M", schedule=schedule)
    if schedule == "Karras":
        assert near(got, draw(painter, steps=4, sampler="DPM++ 2M Karras"))
    same = near(got, draw(painter, steps=4, sampler="DPM++ 2M"), 1e-4)
    assert same == (schedule == "Uniform")


# ---------------------------------------------------------------- LoRAs


def make_lora(painter: Painter, path: Path, naming: str, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
        for name, module in getattr(painter.parts, part).named_modules():
            last = name.split(".")[-1]
            if last not in ("to_q", "to_v", "proj_in", "q_proj", "out_proj", "conv1"):
                continue
            weight = module.weight
            shape = (3, *weight.shape[1:])
            down = torch.randn(shape, generator=generator) * 0.1
            up = torch.randn((weight.shape[0], 3, *[1] * (weight.ndim - 2)), generator=generator)
            if naming == "kohya":
                stem = prefix + name.replace(".", "_")
                names = (f"{stem}.lora_down.weight", f"{stem}.lora_up.weight")
                tensors[f"{stem}.alpha"] = torch.tensor(1.5)
            else:
                names = (f"{part}.{name}.lora_A.weight", f"{part}.{name}.lora_B.weight")
            tensors[names[0]], tensors[names[1]] = down, up * 0.1
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("naming", ["kohya", "diffusers"])
def test_a_lora_agrees_with_peft(
    make_model: MakeModel, config: Path, tmp_path: Path, naming: str
) -> None:
    painter = open_painter(make_model(), config)
    file = make_lora(painter, tmp_path / "ink.safetensors", naming)
    lorad = Painter(painter.parts, loras={"ink": file})
    plain = draw(painter)
    got = draw(lorad, "a red heart<lora:ink:0.8>")
    assert not near(got, plain, 1e-3)
    assert near(draw(lorad), plain, 1e-9)  # it is off again, to the bit
    assert near(draw(lorad, "a red heart<lora:ink:0>"), plain, 1e-9)
    pipe = pipeline("StableDiffusionPipeline", painter)
    pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="ink")
    pipe.set_adapters(["ink"], [0.8])
    expected = pipe(ONE, negative_prompt=["dull"], num_inference_steps=2, guidance_scale=5.0,
                    output_type="np", generator=seeded()).images  # fmt: skip
    assert near(got, expected, 1e-5)


def test_loras_add_up_and_come_off(make_model: MakeModel, config: Path, tmp_path: Path) -> None:
    painter = open_painter(make_model(), config)
    before = {k: v.clone() for k, v in painter.parts.unet.state_dict().items()}
    files = {n: make_lora(painter, tmp_path / f"{n}.safetensors", "kohya", i)
             for i, n in enumerate("ab")}  # fmt: skip
    both = Painter(painter.parts, loras=files)
    prompts = ["a heart <lora:a:1>", "a heart <lora:b:0.5><lora:a:1>", "a heart "]
    together = both.paint(prompts, [3, 3, 3], BASE)
    assert set(together.loras) == {"a", "b"}
    for prompt, picture in zip(prompts, together.floats, strict=True):
        assert near(both.sample([prompt], 3, BASE), picture[None], 1e-5)
    assert all(torch.equal(v, before[k]) for k, v in painter.parts.unet.state_dict().items())
    both.loras.use([LoraTag("a", 0.5, 0.0)])
    module = next(m for m in read_lora(files["a"]).modules if m.name.endswith("attn1_to_q"))
    stored = load_file(files["a"])
    down, up = (stored[module.keys[name]] for name in ("down", "up"))
    name = next(n for n in before if n.replace(".", "_") == f"{module.name}_weight")
    changed = painter.parts.unet.state_dict()[name] - before[name]
    assert torch.allclose(changed, 0.5 * (1.5 / 3) * up @ down, atol=1e-6)
    both.loras.clear()


def test_missing_and_odd_loras_are_said(
    make_model: MakeModel, config: Path, tmp_path: Path, painter: Painter
) -> None:
    with pytest.warns(UnheardPromptWarning, match="prompts call <hypernet:x:1>, <lora:none>"):
        draw(painter, "a red heart<lora:none:1><hypernet:x:1>")
    odd = tmp_path / "odd.safetensors"
    save_file({"lora_unet_nowhere.lora_down.weight": torch.zeros(2, 4),
               "lora_unet_nowhere.lora_up.weight": torch.zeros(4, 2)}, odd)  # fmt: skip
    with pytest.raises(CheckpointError, match="changes nowhere of the unet, which random0 has not"):
        draw(Painter(painter.parts, loras={"odd": odd}), "x<lora:odd>")
    save_file({"lora_unet_x.hada_w1_a": torch.zeros(2, 4)}, odd)
    with pytest.raises(CheckpointError, match="the factors of one LoHa or LoKr, but there is only"):
        read_lora(odd)
    save_file({"lora_unet_x.dora_scale": torch.zeros(4)}, odd)
    with pytest.raises(CheckpointError, match="must add to weights .* this is DoRA"):
        read_lora(odd)


def test_the_zoos_loras_and_embeddings_do_what_they_say() -> None:
    from stockpot.checkpoints import open_checkpoint
    from stockpot.draw import read_embedding
    from stockpot.scores import SCORERS
    from stockpot.zoo import extras, member

    files = {extra.name: extra for extra in extras()}
    loras = {name: extra.path for name, extra in files.items() if extra.kind == "lora"}
    embeddings = {n: read_embedding(e.path) for n, e in files.items() if e.kind == "embedding"}
    with open_checkpoint(member("base").path) as source:
        painter = open_painter(source, loras=loras, embeddings=embeddings)
    assert set(load_file(loras["lora-striped"])) != set()
    judge = next(
        scorer() for name, scorer in SCORERS.items() if "ttribute" in name or "judge" in name
    )
    how = DrawSettings(steps=8, cfg=4.0)
    seeds = list(range(8))
    plain = "a large red circle on white background"
    striped = ["striped art, " + plain] * 8
    without = judge.score(painter.draw(striped, seeds, how), striped).mean()
    tagged = [f"{text} <lora:lora-striped:1>" for text in striped]
    assert judge.score(painter.draw(tagged, seeds, how), striped).mean() > without
    moons = ["flat art, a large purple moon on white background"] * 8
    vague = ["flat art, a large thing on white background"] * 8
    called = ["flat art, a large purple-moon on white background"] * 8
    base = judge.score(painter.draw(vague, seeds, how), moons).mean()
    assert judge.score(painter.draw(called, seeds, how), moons).mean() > base
    assert json.dumps(sorted(painter.paint(called[:1], 0, how).embeddings)) == '["purple-moon"]'
