"""What keys mean: namings, alphas, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stockpot.adapters import AdapterSource, Module, find_modules, layout_of_adapter, targets_of
from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo
from stockpot.errors import CheckpointError
from stockpot.layouts import get_layout

ZOO = get_layout("zoo")
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


def file_of(tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> MemorySource:
    facts = {
        key: (TensorInfo(key, DTYPES["F32"], values.shape), values.astype("<f4").tobytes())
        for key, values in tensors.items()
    }
    return MemorySource(facts, metadata or {}, "ink")


def pair(
    down: str, up: str, rows: int = 24, columns: int = 24, rank: int = 2
) -> dict[str, np.ndarray]:
    return {down: np.ones((rank, columns)), up: np.ones((rows, rank))}


NAMINGS = {
    "kohya": ("lora_unet_" + ATTENTION.replace(".", "_") + "_to_q", "lora_down", "lora_up"),
    "kohya, the checkpoint's names": (
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", "lora_down", "lora_up"),
    "PEFT in diffusers": (f"unet.{ATTENTION}.to_q", "lora_A", "lora_B"),
    "PEFT alone": (f"base_model.model.{ATTENTION}.to_q", "lora_A", "lora_B"),
    "diffusers, old": (f"unet.{ATTENTION}.processor.to_q_lora", "down", "up"),
    "diffusers, oldest": (f"{ATTENTION}.processor.to_q_lora", "down", "up"),
    "diffusers, between": (f"unet.{ATTENTION}.to_q.lora", "down", "up"),
}  # fmt: skip


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_leads_to_the_same_tensor(naming: str) -> None:
    stem, down, up = NAMINGS[naming]
    source = file_of(pair(f"{stem}.{down}.weight", f"{stem}.{up}.weight"))
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    seen = AdapterSource(source, ZOO)
    assert list(seen.tensors) == [key] and seen.kinds == {"lora": 1}
    assert layout_of_adapter(source) is ZOO
    assert set(np.frombuffer(seen.read_bytes(key))) == {2.0}


def test_the_output_of_attention_has_two_names() -> None:
    for ending in ("to_out_0", "to_out"):
        stem = f"lora_unet_{ATTENTION.replace('.', '_')}_{ending}"
        source = file_of(pair(f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"))
        (key,) = AdapterSource(source, ZOO).tensors
        assert key.endswith("attn1.to_out.0.weight")


def test_text_encoders_of_every_kind() -> None:
    found = targets_of("sdxl")
    layer = "text_model_encoder_layers_3_self_attn_k_proj"
    one, other = found["text_encoder", layer], found["text_encoder_2", layer]
    assert one.key.endswith("text_model.encoder.layers.3.self_attn.k_proj.weight") and one.row == 0
    assert other.key.endswith("resblocks.3.attn.in_proj_weight")
    assert (other.row, other.n_rows) == (1280, 1280)
    assert found["text_encoder", layer.removeprefix("text_model_")] == one
    assert "text_encoder_2" not in {part for part, _ in targets_of("sd2")}


def test_query_key_and_value_of_openclip_are_parts_of_one_tensor() -> None:
    sdxl = get_layout("sdxl")
    stem = "lora_te2_text_model_encoder_layers_0_self_attn"
    tensors = {}
    for number, letter in enumerate("qv"):
        tensors |= pair(f"{stem}_{letter}_proj.lora_down.weight",
                        f"{stem}_{letter}_proj.lora_up.weight", 1280, 1280, 1 + number)  # fmt: skip
    seen = AdapterSource(file_of(tensors), sdxl)
    (key,) = seen.tensors
    values = np.frombuffer(seen.read_bytes(key)).reshape(3, -1)
    assert [set(part) for part in values] == [{1.0}, {0.0}, {2.0}]
    # A range that begins and ends within rows.
    out = np.empty(1280 * 1280 + 7)
    seen.read_into(key, 1280 * 1280 - 5, 2 * 1280 * 1280 + 2, out.data.cast("B"))
    assert out.tolist() == [1.0] * 5 + [0.0] * 1280 * 1280 + [2.0] * 2


def scale_of(extra: dict[str, np.ndarray], metadata: dict[str, str], stem: str) -> float:
    tensors = pair(f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", rank=4) | extra
    source = file_of(tensors, metadata)
    (module,) = find_modules(source)
    return module.scale(source, 4)


def test_alphas_come_from_tensors_or_from_diffusers_metadata() -> None:
    stem = f"unet.{ATTENTION}.to_q"

    def told(**facts: object) -> dict[str, str]:
        said = {f"unet.{name}": value for name, value in facts.items()}
        return {"lora_adapter_metadata": json.dumps(said)}

    assert scale_of({}, {}, stem) == 1
    assert scale_of({f"{stem}.alpha": np.array(2.0)}, told(lora_alpha=16), stem) == 0.5
    assert scale_of({}, told(r=4, lora_alpha=16), stem) == 4
    assert scale_of({}, told(lora_alpha=16, use_rslora=True), stem) == 8
    assert scale_of({}, told(lora_alpha=16, alpha_pattern={"attn1.to_q": 8}), stem) == 2
    assert scale_of({}, told(lora_alpha=16, alpha_pattern={"1.to_q": 8}), stem) == 4
    assert scale_of({}, {"lora_adapter_metadata": "{"}, stem) == 1


def test_full_differences_change_biases_too() -> None:
    stem = "lora_unet_down_blocks_0_resnets_0_conv1"
    source = file_of({f"{stem}.diff": np.ones((24, 24, 3, 3)), f"{stem}.diff_b": np.arange(24.0)})
    seen = AdapterSource(source, ZOO)
    weight, bias = seen.tensors
    assert seen.tensors[weight].shape == (24, 24, 3, 3)
    assert np.frombuffer(seen.read_bytes(bias)).tolist() == list(range(24))
    norm = {"lora_unet_down_blocks_0_resnets_0_norm1.w_norm": np.ones(24)}
    (key,) = AdapterSource(file_of(norm), ZOO).tensors
    assert key == "model.diffusion_model.input_blocks.1.0.in_layers.0.weight"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"x.weight": (2, 2)}, "and nothing else, but this file has x.weight"),
        ({}, "but this file has nothing at all"),
        ({"lora_unet_x.dora_scale": (2, 1)}, "must add to weights .* but this is DoRA"),
        ({"lora_unet_x.on_input": (2,)}, "this is .IA.³"),
        ({"lora_unet_x.oft_blocks": (2, 2, 2)}, "this is OFT"),
        ({"x.lora_down.weight": (2, 4), "x.lora_up.weight": (4, 2)}, "this name tells neither"),
        ({"lora_unet_x.lora_down.weight": (2, 4)}, "needs down and up matrices"),
        ({"lora_unet_x.alpha": ()}, "needs down and up matrices"),
        ({"lora_unet_x.lora_down.weight": (2, 4), "lora_unet_x.lora_up.weight": (4, 2),
          "lora_unet_x.hada_t1": (2,)}, "needs down and up matrices"),
    ],
)  # fmt: skip
def test_what_is_no_addition_is_refused(keys: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_modules(file_of({key: np.zeros(shape) for key, shape in keys.items()}))


def test_misfits_are_named() -> None:
    stem = "lora_unet_" + ATTENTION.replace(".", "_") + "_to_q"
    wrong = file_of(pair(f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", 24, 320))
    with pytest.raises(CheckpointError, match=r"would change as \[24, 320\], but is \[24, 24\]"):
        AdapterSource(wrong, ZOO)
    assert layout_of_adapter(wrong) is None
    with pytest.raises(CheckpointError, match="are of none"):
        AdapterSource(wrong, get_layout("generic"))
    odd = file_of({f"{stem}.lora_down.weight": np.ones((2, 24)),
                   f"{stem}.lora_up.weight": np.ones((24, 3))})  # fmt: skip
    seen = AdapterSource(odd, ZOO)
    with pytest.raises(CheckpointError, match="must multiply, but got .*lora_down.weight .2, 24."):
        seen.read_bytes(next(iter(seen.tensors)))
    nan = file_of({f"{stem}.lora_down.weight": np.full((2, 24), np.nan),
                   f"{stem}.lora_up.weight": np.ones((24, 2))})  # fmt: skip
    seen = AdapterSource(nan, ZOO)
    with pytest.raises(CheckpointError, match="must be finite"):
        seen.read_bytes(next(iter(seen.tensors)))


def test_modules_are_values() -> None:
    module = Module("unet", "x", "full", {"diff_b": "x.diff_b"})
    assert module.changes_bias and not module.changes_weight
