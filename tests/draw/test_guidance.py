"""Thresholding, rescaling, FreeU: identities, hand-made tensors, agreement with diffusers."""

import math

import pytest
import torch

from stockpot.draw import (
    THRESHOLD_MODES,
    FreeU,
    FreeUStage,
    Thresholding,
    filter_low,
    freeu_hooks,
    rescale_guidance,
    scale_backbone,
    threshold,
)


def predictions(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 6, 5, generator=generator), torch.randn(
        3, 4, 6, 5, generator=generator
    )


def by_hand(without: torch.Tensor, relative: torch.Tensor, how: Thresholding,
            cfg: float) -> torch.Tensor:  # fmt: skip
    """The definition once more, picture by picture and channel by channel, in float64."""
    out = torch.empty_like(without, dtype=torch.float64)
    for i in range(len(without)):
        mimic = (without[i] + relative[i] * how.mimic_scale).double()
        real = (without[i] + relative[i] * cfg).double()
        m = mimic - mimic.mean((1, 2), keepdim=True)
        c = real - real.mean((1, 2), keepdim=True)
        groups = [[k] for k in range(4)] if how.separate_channels else [[0, 1, 2, 3]]
        for group in groups:
            if how.variability == "STD":
                r_m, r_c = m[group].std(), c[group].std()
            else:
                r_m = m[group].abs().max()
                ordered = c[group].abs().flatten().sort().values
                at = how.percentile / 100 * (len(ordered) - 1)
                low, high = ordered[math.floor(at)], ordered[math.ceil(at)]
                r_c = low + (high - low) * (at - math.floor(at))
            for k in group:
                if how.startpoint == "ZERO":
                    result = real[k] * r_m / r_c
                elif how.variability == "STD":
                    result = c[k] / r_c * r_m + real[k].mean()
                else:
                    top = max(r_m, r_c)
                    result = c[k].clamp(-top, top) / top * r_m + real[k].mean()
                out[i, k] = how.phi * result + (1 - how.phi) * real[k]
    return out.float()


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("startpoint", ["MEAN", "ZERO"])
@pytest.mark.parametrize("variability", ["AD", "STD"])
@pytest.mark.parametrize(("percentile", "phi"), [(100.0, 1.0), (97.0, 0.3), (90.0, 0.7)])
def test_thresholding_by_hand(
    separate: bool, startpoint: str, variability: str, percentile: float, phi: float
) -> None:
    how = Thresholding(1.5, percentile, separate_channels=separate, startpoint=startpoint,  # type: ignore[arg-type]
                       variability=variability, phi=phi)  # type: ignore[arg-type]  # fmt: skip
    without, relative = predictions()
    got = threshold(without, relative, how, 6.0)
    assert torch.allclose(got, by_hand(without, relative, how, 6.0), atol=1e-5)
    assert not torch.allclose(got, without + 6 * relative, atol=1e-2)


@pytest.mark.parametrize("startpoint", ["MEAN", "ZERO"])
@pytest.mark.parametrize("variability", ["AD", "STD"])
@pytest.mark.parametrize("separate", [True, False])
def test_mimicking_the_guidance_itself_changes_nothing(
    startpoint: str, variability: str, separate: bool
) -> None:
    how = Thresholding(6.0, startpoint=startpoint, variability=variability,  # type: ignore[arg-type]
                       separate_channels=separate)  # fmt: skip
    without, relative = predictions()
    assert torch.allclose(threshold(without, relative, how, 6.0), without + 6 * relative, atol=1e-5)


def test_phi_zero_is_plain_guidance_and_pictures_are_alone() -> None:
    without, relative = predictions()
    plain = threshold(without, relative, Thresholding(1, phi=0.0), 6.0)
    assert torch.allclose(plain, without + 6 * relative, atol=1e-6)
    how = Thresholding(1, separate_channels=False)
    whole = threshold(without, relative, how, 6.0)
    alone = threshold(without[1:2], relative[1:2], how, 6.0)
    assert torch.equal(whole[1:2], alone)
    flat = torch.zeros(1, 4, 2, 2)
    assert torch.equal(threshold(flat, flat, how, 6.0), flat)


@pytest.mark.parametrize("mode", THRESHOLD_MODES)
def test_modes_at_both_ends(mode: str) -> None:
    how = Thresholding(8, mimic_mode=mode, mimic_min=2, power=2)  # type: ignore[arg-type]
    start, end = how.scales(5, 0, 11)[0], how.scales(5, 10, 11)[0]
    cosine = 2 + 6 * math.cos(1)
    expected = {
        "Constant": (8, 8), "Linear Down": (8, 2), "Cosine Down": (8, 2), "Linear Up": (2, 8),
        "Half Cosine Down": (8, cosine), "Cosine Up": (2, 8), "Half Cosine Up": (2, 10 - cosine),
        "Power Up": (2, 8), "Power Down": (8, 2), "Linear Repeating": (8, 8),
        "Cosine Repeating": (8, 8), "Sawtooth": (2, 2),
    }[mode]  # fmt: skip
    assert (start, end) == pytest.approx(expected)
    assert how.scales(5, 3, 11)[1] == 5


@pytest.mark.parametrize(
    "options", [{"phi": 2}, {"percentile": 101}, {"variability": "MAD"}, {"mimic_mode": "Up"}]
)
def test_impossible_settings(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Thresholding(**options)  # type: ignore[arg-type]


def test_rescaling_agrees_with_diffusers() -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    guided, text = predictions(3)
    for share in (0.0, 0.4, 0.7, 1.0):
        expected = rescale_noise_cfg(guided, text, share)
        assert torch.allclose(rescale_guidance(guided, text, share), expected, atol=1e-6)
    assert torch.equal(rescale_guidance(guided, text, 0.0), guided)


# ---------------------------------------------------------------- FreeU


def unet() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=8, layers_per_block=2, cross_attention_dim=8, attention_head_dim=4,
        block_out_channels=(8, 16, 24, 24), norm_num_groups=4,
    )  # fmt: skip
    result: torch.nn.Module = model.eval().requires_grad_(False)
    return result


def run(model: torch.nn.Module, freeu: FreeU | None = None, strength: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 3, 8, generator=generator)
    with torch.no_grad(), freeu_hooks(model, freeu) as acting:
        acting.value = strength
        out: torch.Tensor = model(x, 500, encoder_hidden_states=context, return_dict=False)[0]
    return out


STAGES = (FreeUStage(1.2, 0.9), FreeUStage(1.4, 0.2))


def test_freeu_by_blocks_agrees_with_diffusers() -> None:
    model = unet()
    model.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    expected = run(model)
    model.disable_freeu()
    got = run(model, FreeU(STAGES, matching="blocks"))
    assert torch.allclose(got, expected, atol=1e-5)
    assert not torch.allclose(got, run(model), atol=1e-3)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("matching", ["channels", "blocks"])
def test_factors_of_one_change_nothing(version: int, matching: str) -> None:
    model = unet()
    plain = run(model)
    same = FreeU((FreeUStage(), FreeUStage()), version=version, matching=matching)  # type: ignore[arg-type]
    assert torch.equal(run(model, same), plain)
    strong = FreeU(STAGES, version=version, matching=matching)  # type: ignore[arg-type]
    assert torch.equal(run(model, strong, 0.0), plain)
    assert not torch.equal(run(model, strong), plain)
    assert torch.equal(run(model), plain)  # the hooks are gone


def test_freeu_by_channels_acts_on_every_block_of_that_width() -> None:
    """Widths 24, 24, 16, 8: the web UI's extension scales seven blocks as stage 1, three as 2."""
    model = unet()
    seen: list[tuple[int, int]] = []

    def watch(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append((inputs[0].shape[1], int((inputs[0] == 0).flatten(2).all(2)[0].sum())))

    zero = FreeU((FreeUStage(0.0, 1.0), FreeUStage(0.0, 1.0)))
    with freeu_hooks(model, zero):
        resnets = [resnet for block in model.up_blocks for resnet in block.resnets]  # type: ignore[union-attr]
        for resnet in resnets:
            resnet.register_forward_pre_hook(watch)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            model(torch.randn(1, 4, 8, 8, generator=generator), 5,
                  encoder_hidden_states=torch.randn(1, 3, 8, generator=generator))  # fmt: skip
    # Half of 24 channels and the region's end; half of 16 and the end; nothing at width 8.
    assert [n for _, n in seen] == [13] * 7 + [9] * 3 + [0] * 2


def test_backbone_by_hand() -> None:
    x = torch.arange(16.0).reshape(1, 4, 2, 2)
    stage = FreeUStage(1.5, 1.0)
    one = scale_backbone(x, FreeU((stage,), matching="blocks"), stage)
    assert torch.equal(one[:, 2:], x[:, 2:])
    assert torch.allclose(one[:, :2], x[:, :2] * 1.5)
    two = scale_backbone(x, FreeU((stage,), version=2, matching="blocks"), stage)
    # Means over channels are 6, 7, 8, 9: normalised 0, 1/3, 2/3, 1.
    factor = torch.tensor([[1, 1 + 0.5 / 3], [1 + 1 / 3, 1.5]])
    assert torch.allclose(two[:, :2], x[:, :2] * factor)
    assert torch.equal(two[:, 2:], x[:, 2:])
    half = scale_backbone(x, FreeU((stage,), matching="blocks"), stage, 0.5)
    assert torch.allclose(half[:, :2], x[:, :2] * 1.25)
    level = torch.ones(1, 4, 2, 2)
    assert torch.equal(scale_backbone(level, FreeU((stage,), version=2), stage), level)


def test_filter_by_hand_and_by_diffusers() -> None:
    from diffusers.utils.torch_utils import fourier_filter

    x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(filter_low(x, 0.0, 0.2), fourier_filter(x, 1, 0.2), atol=1e-5)
    level = torch.full((1, 1, 4, 4), 2.0)
    assert torch.allclose(filter_low(level, 0.0, 0.5), level / 2)  # all of it is low
    assert torch.allclose(filter_low(level, 0.0, 1.0, 0.5), level)
    assert torch.equal(filter_low(x, 0.0, 1.0), x)
    assert torch.allclose(filter_low(x, 0.0, 0.5, 0.5), x / 2, atol=1e-6)
    assert torch.allclose(
        filter_low(torch.ones(1, 1, 1, 1), 0.0, 0.5), torch.full((1, 1, 1, 1), 0.5)
    )


@pytest.mark.parametrize(
    ("smoothness", "expected"),
    [
        (0.0, [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]),
        (1.0, [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0, 0, 0]),
        (0.5, [0, 0.25, 1, 0.875, 0.75, 0.625, 0, 0, 0, 0]),
    ],
)
def test_schedule_by_hand(smoothness: float, expected: list[float]) -> None:
    freeu = FreeU(STAGES, 0.2, 0.6, smoothness)
    assert [freeu.strength(step, 10) for step in range(10)] == pytest.approx(expected)


def test_freeu_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="`version` must be 1 or 2, but got 3"):
        FreeU((), version=3)
    with pytest.raises(ValueError, match="'channels' or 'blocks', but got 'x'"):
        FreeU((), matching="x")  # type: ignore[arg-type]
