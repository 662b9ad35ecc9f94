"""Products of factors: hand-computed, in whatever range, and as PEFT multiplies them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from stockpot.adapters import Change, Elementwise, Full, Kronecker, Low, find_modules
from stockpot.checkpoints import open_checkpoint


def test_answers_by_hand() -> None:
    up, down = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    low = Low(up, down, 0.5)
    assert low.rows(0, 2).tolist() == [[0.5, 1.0, 1.5], [0.0, -0.5, -0.5]]
    both = Elementwise(Low(up, down, 1.0), Low(down.T[:2], down, 1.0), 2.0)
    # up·down = [[1, 2, 3], [0, -1, -1]], times the identity's product [[1, 0, 1], [0, 1, 1]].
    assert both.rows(0, 2).tolist() == [[2.0, 0.0, 6.0], [0.0, -2.0, -2.0]]
    kron = Kronecker(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), 0.5)
    assert kron.rows(0, 2).tolist() == [[1.5, 3.0], [2.0, 4.0]]
    assert Full(up).rows(1, 2).tolist() == [[0.0, -1.0]]


def changes(seed: int, halves: bool) -> list[Change]:
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        values = random.normal(size=shape)
        return values.astype(np.float16).astype(np.float64) if halves else values

    low = Low(draw(12, 5), draw(5, 700), 0.3, halves)
    other = Low(draw(12, 3), draw(3, 700), 1.0, halves)
    return [low, Elementwise(low, other, 0.7), Kronecker(draw(4, 7), draw(3, 100), 1.5)]


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 5), st.booleans())
def test_no_cut_of_the_rows_shows(one: int, other: int, seed: int, halves: bool) -> None:
    start, stop = sorted((one, other))
    for change in changes(seed, halves):
        whole = change.rows(0, 12)
        assert whole.shape == (change.n_rows, change.n_columns) == (12, 700)
        assert change.rows(start, stop).tobytes() == whole[start:stop].tobytes()
        assert np.allclose(change.quickly(), whole, rtol=1e-12, atol=1e-12)


def test_a_library_takes_over_only_where_its_order_cannot_show() -> None:
    random = np.random.default_rng(1)
    small = [(0.1 * random.normal(size=s)).astype(np.float16).astype(float)
             for s in ((40, 32), (32, 900))]  # fmt: skip
    in_order = Low(*small, 1.0).rows(0, 40)
    assert Low(*small, 1.0, halves=True).rows(0, 40).tobytes() == in_order.tobytes()
    large = [1000 * values for values in small]
    assert (
        Low(*large, 1.0, halves=True).rows(0, 40).tobytes()
        == Low(*large, 1.0).rows(0, 40).tobytes()
    )


class Net(torch.nn.Module):
    """Layers under names that an adapter of a UNet may have."""

    def __init__(self) -> None:
        super().__init__()
        self.down_blocks = torch.nn.ModuleDict(
            {
                "line": torch.nn.Linear(12, 18),
                "wide": torch.nn.Conv2d(6, 8, 3),
                "thin": torch.nn.Conv2d(6, 9, 1),
            }
        )


CONFIGS = {
    "lora": lambda names: LoraConfig(r=4, lora_alpha=2, target_modules=names),
    "loha": lambda names: LoHaConfig(r=4, alpha=2, target_modules=names),
    "loha-core": lambda names: LoHaConfig(
        r=4, alpha=2, target_modules=names, use_effective_conv2d=True
    ),
    "lokr": lambda names: LoKrConfig(r=2, alpha=1, target_modules=names),
    "lokr-both": lambda names: LoKrConfig(r=1, alpha=3, target_modules=names, decompose_both=True),
    "lokr-core": lambda names: LoKrConfig(
        r=1, alpha=3, target_modules=names, use_effective_conv2d=True, decompose_both=True
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_products_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = get_peft_model(Net(), CONFIGS[kind](["line", "wide", "thin"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name or "hada_" in name or "lokr_" in name:
            torch.nn.init.normal_(parameter)
    state = {k: v.contiguous() for k, v in get_peft_model_state_dict(model).items()}
    layers = {
        name: layer
        for name, layer in model.base_model.model.down_blocks.items()
        if hasattr(layer, "get_delta_weight")
    }
    for name, layer in layers.items():
        whole = f"base_model.model.down_blocks.{name}.lokr_w2" in state and (
            f"base_model.model.down_blocks.{name}.lokr_w1" in state
        )
        if not whole:
            config = model.peft_config["default"]
            alpha = getattr(config, "lora_alpha", None) or config.alpha
            state[f"base_model.model.down_blocks.{name}.alpha"] = torch.tensor(float(alpha))
        else:
            # PEFT scales whole factors too; LyCORIS, where the format comes from, does not.
            layer.scaling["default"] = 1.0
    save_file(state, tmp_path / "net.safetensors")
    with open_checkpoint(tmp_path / "net.safetensors") as source:
        modules = find_modules(source)
        assert {module.name for module in modules} == {f"down_blocks_{name}" for name in layers}
        for module in modules:
            expected = layers[module.name.removeprefix("down_blocks_")].get_delta_weight("default")
            got = module.read(source)
            assert (got.n_rows, got.n_columns) == (len(expected), expected[0].numel())
            difference = got.rows(0, got.n_rows) - expected.detach().flatten(1).double().numpy()
            assert np.abs(difference).max() < 1e-5 * expected.abs().max()
