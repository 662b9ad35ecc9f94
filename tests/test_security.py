"""What `docs/security.md` says: its tests exist, and nothing uses the network unasked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from stockpot.zoo import zoo_path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

PROGRAM = """
import sys
seen = []
def hook(event, arguments):
    # A name looked up, a connection, a datagram, an address opened: whatever the module.
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
                 "socket.sendmsg", "socket.bind", "urllib.Request", "http.client.connect",
                 "ftplib.connect", "smtplib.connect", "webbrowser.open"):
        where = str(arguments[1:])[:200]
        # requests asks once whether this machine has IPv6, without sending anything.
        if (event, where) != ("socket.bind", "(('::1', 0),)"):
            seen.append((event, where))
sys.addaudithook(hook)
import json
from pathlib import Path
from stockpot.cli import main
for words in json.loads(Path("commands.json").read_text()):
    sys.argv = ["stockpot", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
if len(sys.argv) and seen:
    sys.exit(f"the network was used: {seen}")
print("quiet")
"""
COMMANDS = [
    "mean a.safetensors b.safetensors -o m.safetensors",
    "merge -e ties(a,b,c) --pool a.safetensors --pool b.safetensors --pool c.safetensors -o t.st",
    "inspect . --json",
    "verify m.safetensors --pool .",
    "replay m.safetensors --pool . -o again.safetensors",
    "recipe of m.safetensors",
    "recipe fold r.yaml",
    "compare a.safetensors b.safetensors c.safetensors -o seen",
    "explain m.safetensors --pool a.safetensors b.safetensors c.safetensors -o made",
    "convert z.safetensors -o folder",
    "score p.png --score piqe --score colourfulness",
    "methods",
    "draw z.safetensors --payload p.json -o pictures",
    "grid z.safetensors --payload p.json -x seed=1-2 -o grid",
]


def named_paths() -> list[str]:
    return sorted(set(re.findall(r"`((?:tests|bench|\.ci)/[\w./]+)`", PAGE)))


def test_every_threat_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 17
    for row in rows:
        assert re.search(r"`(tests/[\w./]+)`", row.split("|")[-2]), row


@pytest.mark.parametrize("path", named_paths())
def test_what_the_page_names_is_there(path: str) -> None:
    place = ROOT / path
    assert place.exists()
    if place.suffix == ".py" and path.startswith("tests/"):
        assert re.search(r"^def test_", place.read_text(encoding="utf-8"), re.MULTILINE)


def run(folder: Path, commands: list[str], program: str = PROGRAM) -> str:
    (folder / "commands.json").write_text(json.dumps([line.split() for line in commands]))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "STOCKPOT_CACHE": str(folder / "cache")},
    )  # fmt: skip
    return done.stdout.splitlines()[-1] if done.returncode == 0 else done.stderr[-3000:]


@pytest.mark.slow
def test_no_command_uses_the_network_unasked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "abc":
        weights = rng.standard_normal((8, 9)).astype(np.float16)
        save_file({"k.weight": weights, "n.bias": weights[0].copy()},
                  tmp_path / f"{name}.safetensors")  # fmt: skip
    (tmp_path / "r.yaml").write_text("stockpot: 1\npool: {a: a.safetensors}\nmix: {model: a}\n")
    (tmp_path / "z.safetensors").symlink_to(zoo_path() / "base.safetensors")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "p.png")
    (tmp_path / "p.json").write_text(
        '{"prompt": "a cat", "steps": 1, "width": 32, "height": 32, "sampler_name": "Euler"}'
    )
    assert run(tmp_path, COMMANDS) == "quiet"


def test_the_look_at_the_network_sees_it(tmp_path: Path) -> None:
    asked = "draw --prompt a --via http://127.0.0.1:9 --timeout 1 -o pictures"
    told = run(tmp_path, [asked], PROGRAM.replace("assert not end.code, words", "pass"))
    assert "the network was used" in told and "127.0.0.1" in told
