"""Weights of prompts, held against compel: parsing, token weights, weighted encodings.

`bench/compel_weights.py` prints the same comparison as a table; bench/README.md tells where the
two differ on purpose.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stockpot.checkpoints import open_checkpoint
from stockpot.draw import Painter, open_painter, read_payload

FILE = Path(__file__).parents[2] / "bench" / "compel_weights.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compel_weights", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCH = load()


@pytest.fixture(scope="module")
def painter() -> Painter:
    from stockpot.zoo import member

    with open_checkpoint(member("base").path) as source:
        return open_painter(source)


def test_the_same_prompt_in_compels_words() -> None:
    assert BENCH.for_compel(r"a (b:1.50) [c \(d\)] (e)") == r"a (b)1.5 (c \(d\))- (e)+"


@pytest.mark.parametrize("prompt", BENCH.SHARED)
def test_both_weigh_the_same(painter: Painter, prompt: str) -> None:
    assert BENCH.by_letter(BENCH.our_runs(prompt)) == BENCH.by_letter(BENCH.compel_runs(prompt))
    sides = BENCH.Sides(painter, prompt)
    assert torch.allclose(sides.our_weights, sides.weights, atol=1e-5)
    assert torch.allclose(sides.scaled, sides.expected, atol=1e-5)
    # Below 1 compel adds a blend with a prompt that lacks the word; web UIs do not.
    below = bool((sides.weights < 1).any())
    assert torch.allclose(sides.theirs, sides.expected, atol=1e-5) == (not below)
    if bool((sides.weights == 1).all()):
        assert torch.allclose(sides.theirs, sides.restored, atol=1e-6)


def test_both_parse_the_real_prompts(data: Path) -> None:
    for file in sorted((data / "payloads").glob("*.json")):
        request = read_payload(file).request
        for prompt in (request.prompt, request.settings.negative):
            ours, theirs = BENCH.our_runs(prompt), BENCH.compel_runs(prompt)
            assert BENCH.by_letter(ours) == BENCH.by_letter(theirs), file.name
