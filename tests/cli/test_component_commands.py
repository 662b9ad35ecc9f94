"""The commands on parts of a model, as people type them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stockpot.layouts import get_layout


def stockpot(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stockpot", *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, timeout=120,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints of the zoo's shape, a and b."""
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        specs = [s for s in get_layout("zoo").specs.values() if not s.optional]
        tensors = {s.key: rng.standard_normal(s.shape).astype(np.float16) for s in specs}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_out_and_in_again(folder: Path) -> None:
    taken = stockpot("extract", "b.safetensors", "vae", "-o", "vae.safetensors", folder=folder)
    assert taken.returncode == 0, taken.stderr
    assert "decoder.conv_out.bias" in load_file(folder / "vae.safetensors")
    for command in (
        ["swap", "a.safetensors", "--vae", "vae.safetensors", "--te", "b.safetensors"],
        ["inject", "a.safetensors", "vae=vae.safetensors", "te=b.safetensors"],
    ):
        result = stockpot(*command, "-o", f"{command[0]}.safetensors", folder=folder)
        assert result.returncode == 0, result.stderr
        assert " from 3 models in " in result.stdout
    swapped = (folder / "swap.safetensors").read_bytes()
    assert swapped == (folder / "inject.safetensors").read_bytes()
    told = stockpot("recipe", "of", "swap.safetensors", folder=folder)
    assert told.returncode == 0 and ": vae = vae" in told.stdout and ": vae = b" in told.stdout


def test_prune_and_types_by_component(folder: Path) -> None:
    result = stockpot(
        "prune", "a.safetensors", "-o", "p.safetensors", "--dtype", "bf16",
        "--dtype", "unet=fp8_e4m3", "--dtype", "vae=fp32", "--json", folder=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["components"].keys() == {"unet", "te", "vae"}
    seen = json.loads(stockpot("inspect", "p.safetensors", "--json", folder=folder).stdout)
    kinds = {name: list(facts["dtypes"]) for name, facts in seen[0]["components"].items()}
    assert kinds == {"unet": ["F8_E4M3"], "te": ["BF16"], "vae": ["F32"]}


def test_unprune_needs_a_base(folder: Path) -> None:
    assert (
        stockpot("unprune", "a.safetensors", "-o", "u.safetensors", folder=folder).returncode == 2
    )
    stockpot("extract", "a.safetensors", "unet", "-o", "u.safetensors", folder=folder)
    result = stockpot(
        "unprune", "u.safetensors", "--base", "b.safetensors", "-o", "f.safetensors", folder=folder
    )
    assert result.returncode == 0, result.stderr
    a, b, full = (load_file(folder / f"{name}.safetensors") for name in "abf")
    first, last = "model.diffusion_model.out.2.bias", "first_stage_model.decoder.conv_out.bias"
    assert (full[first] == a[first]).all() and (full[last] == b[last]).all()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["swap", "a.safetensors"], 2, "name a donor"),
        (["inject", "a.safetensors", "vae"], 2, "write COMPONENT=FILE"),
        (["inject", "a.safetensors", "vae=b.safetensors", "vae=a.safetensors"], 2, "two donors"),
        (["extract", "a.safetensors", "te1"], 1, "unknown component"),
        (["extract", "a.safetensors", "ear"], 1, "unknown component"),
        (["prune", "a.safetensors", "--dtype", "fp16", "--dtype", "bf16"], 2, "two types"),
        (["prune", "a.safetensors", "--dtype", "vae=fp12"], 1, "unknown dtype 'fp12'"),
        (["prune", "nobody.safetensors"], 1, "cannot be opened"),
    ],
)
def test_mistakes(folder: Path, arguments: list[str], code: int, message: str) -> None:
    result = stockpot(*arguments, "-o", "x.safetensors", folder=folder)
    assert (result.returncode, "Traceback" in result.stderr) == (code, False)
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert {path.name for path in folder.iterdir()} == {"a.safetensors", "b.safetensors"}


def test_recipe_same_sees_through_the_order_of_steps(folder: Path) -> None:
    def run(*arguments: str) -> str:
        result = stockpot(*arguments, folder=folder)
        assert result.returncode == 0, result.stderr
        return result.stdout

    run("convert", "a.safetensors", "-o", "base.safetensors", "--dtype", "te=bf16")
    run("mean", "a.safetensors", "b.safetensors", "-o", "ab.safetensors")
    run("swap", "ab.safetensors", "--te", "base.safetensors", "-o", "after.safetensors")
    for name in "ab":
        run("swap", f"{name}.safetensors", "--te", "base.safetensors", "-o", f"r{name}.safetensors")
    run("mean", "ra.safetensors", "rb.safetensors", "-o", "before.safetensors")
    assert "the same model" in run("recipe", "same", "after.safetensors", "before.safetensors")
    differs = stockpot("recipe", "diff", "ab.safetensors", "before.safetensors", folder=folder)
    assert differs.returncode == 1
    assert "te.embeddings … te.final" in differs.stdout and "unet" not in differs.stdout


def test_convert_to_a_folder_and_back(folder: Path) -> None:
    made = stockpot("convert", "a.safetensors", "-o", "a", "--json", folder=folder)
    assert made.returncode == 0, made.stderr
    assert "has no tokenizer" in made.stderr
    back = stockpot("convert", "a", "-o", "back.safetensors", "--json", folder=folder)
    hashes = [json.loads(result.stdout)["content_hash"] for result in (made, back)]
    assert hashes[0] == hashes[1]
    told = stockpot("recipe", "of", "back.safetensors", folder=folder)
    assert told.stdout.count("model = a") == 2  # both steps, though neither changed a weight
    seen = json.loads(stockpot("inspect", "a", "--json", folder=folder).stdout)
    assert seen[0]["architecture"] == "zoo" and not seen[0]["problems"]
    again = stockpot("convert", "b.safetensors", "-o", "a", "--overwrite", folder=folder)
    assert again.returncode == 1 and "a folder is never replaced" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.ckpt"], "no .ckpt"),
        (["-o", "x.safetensors", "--prediction", "epsilon"], "belong to a diffusers folder"),
        (["-o", "x", "--prediction", "noise"], "must be epsilon or v_prediction"),
    ],
)
def test_convert_refuses(folder: Path, arguments: list[str], message: str) -> None:
    result = stockpot("convert", "a.safetensors", *arguments, folder=folder)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
