"""The example of docs/adding-a-method.md, installed as a package would be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


def run(folder: Path, *arguments: str) -> str:
    """The program, with the folder's package installed."""
    script = f"import sys; sys.path.insert(0, {str(folder)!r}); sys.argv[0] = 'stockpot'\n"
    script += "from stockpot.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_method_from_outside(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (entry,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_package.py").write_text(code, encoding="utf-8")
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    name, target = re.findall(r'^(\w+) = "(.*)"$', entry, re.MULTILINE)[0]
    (info / "entry_points.txt").write_text(f"[stockpot.methods]\n{name} = {target}\n")
    rng = np.random.default_rng(0)
    models = {n: rng.standard_normal((3, 4)).astype(np.float32) for n in "ab"}
    for stem, values in models.items():
        save_file({"w": values}, tmp_path / f"{stem}.safetensors")
    run(tmp_path, "merge", "-e", "power_mean(a, b, power=3)", "--pool", "a.safetensors",
        "--pool", "b.safetensors", "-o", "out.safetensors")  # fmt: skip
    cubes = (models["a"].astype(float) ** 3 + models["b"].astype(float) ** 3) / 2
    out = load_file(tmp_path / "out.safetensors")["w"]
    assert np.allclose(out, np.cbrt(cubes), rtol=1e-6)
    assert "(Σ sgn θᵢ |θᵢ|^power / n)^(1/power)" in run(tmp_path, "methods", "power_mean")
    assert "power_mean(*models, power=3)" in run(tmp_path, "methods")
