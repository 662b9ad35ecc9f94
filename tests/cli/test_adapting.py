"""`stockpot lora`: what people type, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from stockpot.checkpoints import open_checkpoint
from stockpot.cli.main import app
from stockpot.engine import read_history
from stockpot.zoo import extras, member

BASE, TUNED = str(member("base").path), str(member("style-striped").path)
LORAS = [str(extra.path) for extra in extras() if extra.kind == "lora"]


def test_extract_and_bake(tmp_path: Path) -> None:
    lora, baked = str(tmp_path / "ink.safetensors"), tmp_path / "baked.safetensors"
    done = CliRunner().invoke(app, ["lora", "extract", TUNED, BASE, "-o", lora, "--rank", "4"])
    assert done.exit_code == 0, done.output
    assert "192 layers; it holds" in done.output and "--conv-rank takes convolutions" in done.output
    told = CliRunner().invoke(
        app, ["lora", "extract", TUNED, BASE, "-o", lora, "--overwrite", "--json"]
    )
    facts = json.loads(told.stdout)
    assert 0.9 < facts["kept"] <= 1 and facts["layers"][0]["rank"] == 24 and facts["left_out"]
    done = CliRunner().invoke(
        app, ["lora", "bake", BASE, f"{lora}:0.8", f"{LORAS[0]}:-1e-1", LORAS[1], "--te", "0.5",
              "-o", str(baked)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    with open_checkpoint(baked) as source:
        history = read_history(source.metadata)
    assert history is not None
    assert "base + 0.8*components(te=0.5, unet=1)*lora(ink)" in history.last.recipe


def test_mistakes_end_with_a_sentence(tmp_path: Path) -> None:
    out = str(tmp_path / "x.safetensors")
    wrong = CliRunner().invoke(app, ["lora", "extract", TUNED, BASE, "-o", out, "--clamp", "2"])
    assert wrong.exit_code == 2 and "quantile above 0" in wrong.output
    no_lora = CliRunner().invoke(app, ["lora", "bake", BASE, TUNED, "-o", out])
    assert no_lora.exit_code != 0 and not Path(out).exists()
