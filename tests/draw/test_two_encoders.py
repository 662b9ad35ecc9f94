"""SDXL's two text encoders and SD2's one: small ones, held against diffusers' own pipelines."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.draw import (
    Conditioner,
    DrawSettings,
    Embedding,
    Painter,
    Parts,
    apply_emphasis,
    make_scheduler,
)

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
         "num_train_timesteps": 1000, "prediction_type": "epsilon"}  # fmt: skip
TEXT = {"vocab_size": 520, "num_attention_heads": 2, "bos_token_id": 512, "eos_token_id": 513,
        "pad_token_id": 513, "max_position_embeddings": 77}  # fmt: skip


def modules(two: bool) -> Parts:
    import diffusers
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    torch.manual_seed(0)
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    names = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    words = {name: i for i, name in enumerate(names)}

    def tokenizer(pad: str) -> CLIPTokenizer:
        return CLIPTokenizer(vocab=words, merges=[], model_max_length=77, pad_token=pad)

    first = CLIPTextModel(CLIPTextConfig(hidden_size=16, intermediate_size=32,
                                         num_hidden_layers=3, **TEXT))  # fmt: skip
    second = CLIPTextModelWithProjection(
        CLIPTextConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=3,
                       projection_dim=24, hidden_act="gelu", **TEXT)
    )  # fmt: skip
    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
             "projection_class_embeddings_input_dim": 24 + 6 * 8}  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
        cross_attention_dim=40 if two else 16, **(extra if two else {}),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=16,
        scaling_factor=0.2,
    )  # fmt: skip
    for module in (first, second, unet, vae):
        module.eval().requires_grad_(False)
    return Parts(
        "small", unet, vae, first, tokenizer("<|endoftext|>" if two else "!"), dict(NOISE),
        "sdxl" if two else "sd2", second if two else None, tokenizer("!") if two else None,
    )  # fmt: skip


HOW = DrawSettings(steps=3, cfg=5.0, sampler="Euler", negative="dull")
PROMPTS = ["a red heart", "a blue star, on white"]


def run(pipe: object, negative: str = "dull") -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        images: np.ndarray = pipe(  # type: ignore[operator]
            PROMPTS, negative_prompt=[negative] * 2 if negative else None, num_inference_steps=3,
            guidance_scale=5.0, output_type="np",
            generator=[torch.Generator().manual_seed(s) for s in (4, 5)],
        ).images  # fmt: skip
    return images


@pytest.mark.parametrize("negative", ["dull", ""])
def test_sdxl_agrees_with_diffusers(negative: str) -> None:
    import dataclasses

    from diffusers import StableDiffusionXLPipeline

    parts = modules(two=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipe = StableDiffusionXLPipeline(
            parts.vae, parts.text_encoder, parts.text_encoder_2, parts.tokenizer,
            parts.tokenizer_2, parts.unet, make_scheduler("Euler", parts.noise),
            add_watermarker=False,
        )  # fmt: skip
    how = dataclasses.replace(HOW, negative=negative)
    got = Painter(parts).sample(PROMPTS, 4, how)
    assert np.abs(got - run(pipe, negative)).max() < 1e-5
    assert got.std() > 0.01


def test_sd2_agrees_with_diffusers() -> None:
    from diffusers import StableDiffusionPipeline

    parts = modules(two=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipe = StableDiffusionPipeline(
            parts.vae, parts.text_encoder, parts.tokenizer, parts.unet,
            make_scheduler("Euler", parts.noise), None, None, requires_safety_checker=False,
        )  # fmt: skip
    got = Painter(parts).sample(PROMPTS, 4, HOW)
    assert np.abs(got - run(pipe)).max() < 1e-5
    import dataclasses

    skipped = Painter(parts).sample(PROMPTS, 4, dataclasses.replace(HOW, clip_skip=2))
    assert np.array_equal(skipped, got)  # SD2 does not read it


def test_emphasis_and_embeddings_reach_both_encoders() -> None:
    parts = modules(two=True)
    plain = Conditioner(parts).encode(["ab c"])["ab c"].states
    got = Conditioner(parts).encode(["(ab:1.5) c"])["(ab:1.5) c"].states
    weights = torch.ones(77)
    weights[1:3] = 1.5
    expected = torch.cat([apply_emphasis(plain[:, :16], weights, "Original"),
                          apply_emphasis(plain[:, 16:], weights, "Original")], 1)  # fmt: skip
    assert torch.allclose(got, expected, atol=1e-6)
    ids = parts.tokenizer("ab", add_special_tokens=False).input_ids
    vectors = tuple(
        model.get_input_embeddings().weight[ids].clone()
        for model in (parts.text_encoder, parts.text_encoder_2)
    )
    own = Embedding("zz9", vectors, "00", Path("zz9.safetensors"))
    called = Conditioner(parts, {"zz9": own}).encode(["zz9 c"])["zz9 c"]
    assert torch.allclose(called.states, plain, atol=1e-6)
    one = Embedding("zz9", vectors[:1], "00", Path("zz9.safetensors"))
    assert not Conditioner(parts, {"zz9": one}).encode(["zz9 c"]) == {}
    assert not torch.allclose(
        Conditioner(parts, {"zz9": one}).encode(["zz9 c"])["zz9 c"].states, plain, atol=1e-2
    )


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DDIM"])
def test_zero_snr_agrees_with_diffusers(sampler: str) -> None:
    import dataclasses

    from diffusers import StableDiffusionPipeline

    parts = modules(two=False)
    noise = {**NOISE, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    parts = dataclasses.replace(parts, noise=noise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipe = StableDiffusionPipeline(
            parts.vae, parts.text_encoder, parts.tokenizer, parts.unet,
            make_scheduler(sampler, noise), None, None, requires_safety_checker=False,
        )  # fmt: skip
    got = Painter(parts).sample(PROMPTS, 4, dataclasses.replace(HOW, sampler=sampler))
    assert np.isfinite(got).all()
    assert np.abs(got - run(pipe)).max() < 2e-4
