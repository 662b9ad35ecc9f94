"""What a file may lack, carry and be called, and what is said when it does not do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stockpot.checkpoints import MemorySource
from stockpot.draw import DrawSettings, Parts, load_parts, make_scheduler, open_painter
from stockpot.errors import LayoutError

MakeModel = Callable[..., MemorySource]
ONE_STEP = DrawSettings(steps=1)
TE = "cond_stage_model.transformer."


def weights(parts: Parts, name: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = getattr(parts, name).state_dict()
    return state


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("component", "title", "option"),
    [("vae", "VAE", "--vae"), ("te", r"text encoder \(small CLIP\)", "--te")],
)
def test_a_missing_component_is_named_and_can_be_given(
    make_model: MakeModel, config: Path, component: str, title: str, option: str
) -> None:
    pruned = make_model(1, without=(component,))
    with pytest.raises(
        LayoutError, match=f"random1: the checkpoint has no {title}; give one with {option}"
    ):
        open_painter(pruned, config)
    other = make_model(2)
    painter = open_painter(pruned, config, **{component: other})
    folder = {"vae": "vae", "te": "text_encoder"}[component]
    assert equal(weights(painter.parts, folder), weights(load_parts(other, config), folder))
    assert equal(weights(painter.parts, "unet"), weights(load_parts(make_model(1), config), "unet"))
    assert painter.draw(["a red heart"], 0, ONE_STEP).shape == (1, 32, 32, 3)


def test_a_missing_unet_is_named(make_model: MakeModel, config: Path) -> None:
    with pytest.raises(LayoutError, match="random0: the checkpoint has no UNet"):
        open_painter(make_model(without=("unet",)), config)


def test_a_vae_alone_can_be_given(make_model: MakeModel, config: Path) -> None:
    prefix = "first_stage_model."
    alone = make_model(5, without=("unet", "te"), rename=lambda key: key.removeprefix(prefix))
    assert "decoder.conv_in.bias" in alone.tensors
    parts = load_parts(make_model(1), config, vae=alone)
    assert equal(weights(parts, "vae"), weights(load_parts(make_model(5), config), "vae"))


def test_a_vae_under_other_names_can_be_given(
    make_model: MakeModel, config: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from stockpot.checkpoints import open_checkpoint

    other = load_parts(make_model(5), config)
    save_file(weights(other, "vae"), tmp_path / "vae.safetensors")
    with open_checkpoint(tmp_path / "vae.safetensors") as source:
        assert "decoder.mid_block.resnets.0.conv1.weight" in source.tensors
        parts = load_parts(make_model(1), config, vae=source)
    assert equal(weights(parts, "vae"), weights(other, "vae"))


def test_one_missing_key_is_named(make_model: MakeModel, config: Path) -> None:
    key = "model.diffusion_model.out.2.bias"
    broken = make_model(rename=lambda name: "spare" if name == key else name)
    with pytest.raises(LayoutError, match=f"lacks 1 of its keys \\({key}\\); the file is incompl"):
        open_painter(broken, config)


def test_novelai_names_and_position_ids_do_not_disturb(make_model: MakeModel, config: Path) -> None:
    plain = load_parts(make_model(), config)
    renamed = make_model(
        rename=lambda key: key.replace(f"{TE}text_model.", TE),
        extra={f"{TE}embeddings.position_ids": bytes(77), "unheard.of": b"x"},
    )
    assert f"{TE}final_layer_norm.bias" in renamed.tensors
    parts = load_parts(renamed, config)
    assert equal(weights(parts, "text_encoder"), weights(plain, "text_encoder"))
    assert equal(weights(parts, "unet"), weights(plain, "unet"))


def test_v_prediction_is_read_from_the_marker(make_model: MakeModel, config: Path) -> None:
    epsilon = open_painter(make_model(), config)
    velocity = open_painter(make_model(extra={"v_pred": b""}), config)
    forced = open_painter(make_model(extra={"v_pred": b""}), config, prediction="epsilon")
    assert (epsilon.prediction, velocity.prediction) == ("epsilon", "v_prediction")
    settings = DrawSettings(steps=3)
    pictures = [
        painter.draw(["a red heart"], 0, settings) for painter in (epsilon, velocity, forced)
    ]
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])


def test_v_prediction_turns_velocity_into_noise(make_model: MakeModel, config: Path) -> None:
    """From noise x at level sigma, one Euler step to 0 gives x0 = alpha (x - ...) by hand."""
    noise = load_parts(make_model(extra={"v_pred": b""}), config).noise
    scheduler = make_scheduler("Euler", noise)
    scheduler.set_timesteps(1)
    t = scheduler.timesteps[0]
    sigma = float(scheduler.sigmas[0])
    x, v = torch.full((1, 4, 2, 2), 3.0), torch.full((1, 4, 2, 2), 0.5)
    scheduler.scale_model_input(x, t)
    out = scheduler.step(v, t, x, return_dict=False)[0]
    # x = x0 + sigma n and v = (n - sigma x0) / sqrt(1 + sigma^2), so that
    # x0 = x / (1 + sigma^2) - v sigma / sqrt(1 + sigma^2).
    expected = 3.0 / (1 + sigma**2) - 0.5 * sigma / (1 + sigma**2) ** 0.5
    assert torch.allclose(out, torch.full_like(out, expected), atol=1e-5)


def test_zero_terminal_snr_is_read_from_the_marker(make_model: MakeModel, config: Path) -> None:
    parts = load_parts(make_model(extra={"v_pred": b"", "ztsnr": b""}), config)
    scheduler = make_scheduler("Euler", parts.noise)
    assert scheduler.alphas_cumprod[-1] < 1e-6
    plain = make_scheduler("Euler", load_parts(make_model(), config).noise)
    assert plain.alphas_cumprod[-1] > 1e-3


def test_unknown_prediction_is_refused(make_model: MakeModel, config: Path) -> None:
    with pytest.raises(ValueError, match="must be 'epsilon' or 'v_prediction', but got 'v'"):
        load_parts(make_model(), config, prediction="v")


def test_other_architectures_are_refused_with_evidence(config: Path) -> None:
    from stockpot.checkpoints import DTYPES, GeneratedSource, TensorInfo

    infos = [TensorInfo(f"net.{i}.weight", DTYPES["F16"], (4, 4)) for i in range(9)]
    source = GeneratedSource(infos, lambda *_: None, name="big.safetensors")
    with pytest.raises(LayoutError, match="big.safetensors: drawing knows the layouts sd1, sd2, sdx"
                       "l, zoo, but this file is "):  # fmt: skip
        open_painter(source, config)


def test_a_folder_of_another_model_is_refused(
    make_model: MakeModel, config: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    folder = tmp_path / "config"
    shutil.copytree(config, folder)
    file = folder / "unet" / "config.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps({**described, "cross_attention_dim": 16}))
    with pytest.raises(LayoutError, match="random0: the weights do not fit .*config.json"):
        open_painter(make_model(), folder)
    file.write_text(json.dumps({**described, "layers_per_block": 1}))
    with pytest.raises(LayoutError, match="random0: the weights do not fit .*config.json"):
        open_painter(make_model(), folder)
    file.write_text(json.dumps(described))
    file = folder / "text_encoder" / "config.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps({**described, "num_hidden_layers": 1}))
    with pytest.raises(LayoutError, match="random0: the text encoder does not fit .*config.json"):
        open_painter(make_model(), folder)


def test_wrong_shape_and_dtype_are_named(make_model: MakeModel, config: Path) -> None:
    key = "model.diffusion_model.out.2.bias"
    broken = make_model(rename=lambda name: "spare" if name == key else name, extra={key: b"12345"})
    with pytest.raises(LayoutError, match=f"random0: {key}: .* has \\[4\\] here, but got \\[5\\]"):
        open_painter(broken, config)
    broken = make_model(rename=lambda name: "spare" if name == key else name, extra={key: b"1234"})
    with pytest.raises(LayoutError, match=f"random0: {key}: weights must be floats, but got U8"):
        open_painter(broken, config)
