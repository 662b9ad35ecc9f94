"""Architectures of other packages: the worked example of the page, and packages that are broken."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stockpot.layouts import LAYOUTS, detect, get_layout, known_layouts
from stockpot.layouts.registry import ENTRY_POINTS

PAGE = Path(__file__).parents[2].joinpath("docs", "adding-an-architecture.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL))
WARNING = re.findall(r"```text\nwarning: (.*?)\n```", PAGE)[0]
SHOWN = re.findall(r"```text\n(pebble.*?)```", PAGE, re.DOTALL)[0]

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package where Python finds it, as pip would."""
    known_layouts.cache_clear()

    def put(code: str = BLOCKS["python"], project: str = BLOCKS["toml"]) -> Path:
        facts = tomllib.loads(project)["project"]
        site = tmp_path / "site"
        info = site / f"{facts['name'].replace('-', '_')}-{facts['version']}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {facts['name']}\nVersion: {facts['version']}\n"
        )
        points = facts["entry-points"][ENTRY_POINTS]
        lines = [f"[{ENTRY_POINTS}]", *(f"{name} = {where}" for name, where in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        (site / "stockpot_pebble.py").write_text(code)
        monkeypatch.syspath_prepend(site)
        return site

    yield put
    known_layouts.cache_clear()
    sys.modules.pop("stockpot_pebble", None)


def make_file(path: Path, seed: int) -> dict[str, torch.Tensor]:
    """A checkpoint of the example's shapes."""
    noise = torch.Generator().manual_seed(seed)
    tensors = {
        key: torch.randn(spec.shape, generator=noise).half()
        for key, spec in get_layout("pebble").specs.items()
        if spec.role == "weight"
    }
    save_file(tensors, path)
    return tensors


def stockpot(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program with the package installed."""
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from stockpot.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=site.parent
    )


def test_the_page_says_what_happens(install: Install, tmp_path: Path) -> None:
    site = install()
    layout = get_layout("pebble")
    assert list(known_layouts()) == [*LAYOUTS, "pebble"]
    assert str(layout.cell_of("pebble.layers.1.mlp.bias")) == "unet.layer01"
    one = make_file(tmp_path / "pebble.safetensors", 1)
    two = make_file(tmp_path / "pebble2.safetensors", 2)
    answer = detect({key: tuple(tensor.shape) for key, tensor in one.items()})
    assert answer.layout is layout and answer.fit.complete
    assert "\n".join(answer.evidence) + "\n" == SHOWN

    told = stockpot(site, "inspect", "pebble.safetensors")
    assert told.returncode == 0, told.stderr
    assert "Pebble" in told.stdout and "pebble.patch.weight is [32, 4, 2, 2]" in told.stdout

    (tmp_path / "mix.yaml").write_text(BLOCKS["yaml"])
    merged = stockpot(site, "merge", "mix.yaml", "-o", "out.safetensors", "--dtype", "fp16")
    assert merged.returncode == 0, merged.stderr
    out = load_file(tmp_path / "out.safetensors")
    key = "pebble.final.weight"
    mean = 0.75 * one[key].double() + 0.25 * two[key].double()
    assert torch.equal(out[key], mean.half())
    assert torch.equal(out["text.text_model.final_layer_norm.bias"],
                       one["text.text_model.final_layer_norm.bias"])  # fmt: skip
    vae = "first_stage_model.decoder.conv_out.bias"
    assert torch.equal(out[vae], two[vae])


BROKEN = {
    "no import": ("raise RuntimeError('no')", "RuntimeError('no')"),
    "an end": ("raise SystemExit(3)", "SystemExit(3)"),
    "no such thing": ("x = 1", "has no attribute 'pebble'"),
    "no layout": ("pebble = 3", "an entry point must be a Layout, but is a int"),
    "another name": (
        BLOCKS["python"].replace('"pebble",', '"rock",'),
        "the layout is called 'rock', but its entry point 'pebble'",
    ),
    "another component": (
        BLOCKS["python"].replace('Component("unet"', 'Component("dit"'),
        "its components must be different ones of unet, te, te0, te1, vae, but are dit, te, vae",
    ),
    "no prefix": (
        BLOCKS["python"].replace('"pebble.")', '"")'),
        "each component must have a prefix",
    ),
    "a key twice": (
        BLOCKS["python"].replace('"final", "final"', '"patch", "final"'),
        "a key stands twice in its tables",
    ),
    "no components": (
        "from stockpot.layouts import Layout\npebble = Layout('pebble', 'Pebble')",
        "it has no components",
    ),
    "rows that fail": (
        BLOCKS["python"].replace("width = self.width", "width = 1 / 0"),
        "ZeroDivisionError",
    ),
    "no such telltale": (
        BLOCKS["python"].replace('("pebble.patch.weight",)', '("pebble.stone",)'),
        "the telltale 'pebble.stone' is none of its keys",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_package_is_left_out_with_a_warning(install: Install, kind: str) -> None:
    code, reason = BROKEN[kind]
    install(code)
    with pytest.warns(UserWarning, match="is left out") as caught:
        assert list(known_layouts()) == list(LAYOUTS)
    (one,) = caught
    assert reason in str(one.message)
    assert "'pebble' of the package stockpot-pebble" in str(one.message)
    shapes = {key: spec.shape for key, spec in get_layout("sd1").specs.items()}
    assert detect(shapes).layout is get_layout("sd1")


def test_a_name_of_ours_cannot_be_taken(install: Install) -> None:
    install(
        BLOCKS["python"].replace('"pebble",', '"sd1",'),
        BLOCKS["toml"].replace("pebble = ", "sd1 = "),
    )
    with pytest.warns(UserWarning, match="'sd1' of the package stockpot-pebble .* is taken"):
        assert known_layouts()["sd1"] is LAYOUTS["sd1"]


def test_the_program_prints_the_warning_of_the_page_and_goes_on(
    install: Install, tmp_path: Path
) -> None:
    code, _ = BROKEN["no such telltale"]
    site = install(code)
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    told = stockpot(site, "inspect", "a.safetensors")
    assert told.returncode == 0
    assert f"warning: {WARNING}\n" in told.stderr
    assert "layouts/registry.py" not in told.stderr
    known_layouts.cache_clear()
    with pytest.warns(UserWarning, match=re.escape(WARNING)):
        known_layouts()
