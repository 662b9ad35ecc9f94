"""Does a page open in a browser, from a file, without a network and without complaints?

Opens a page in headless Chromium at desktop and phone width, light and dark, saves screenshots,
and fails on any message of the console, any drawing that did not appear, and any element that a
name smuggled in. See bench/README.md.

    python bench/look_at_page.py seen/comparison.html --out shots
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = {"desktop": (1280, 6000), "phone": (390, 9000)}


def browse(page: Path, profile: str, *arguments: str) -> tuple[str, str]:
    """Run Chromium on a page; its output and its messages."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=20000", f"--user-data-dir={profile}", *arguments,
        page.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.stdout, done.stderr


def main() -> None:
    """Look, and say what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the screenshots")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    page: Path = arguments.page
    html = page.read_text(encoding="utf-8")
    n_figures = html.count('<div class="figure">')
    bad = []
    with tempfile.TemporaryDirectory() as profile:
        for name, (width, height) in SIZES.items():
            # A window has a least width; a frame in it has none.
            framed = Path(profile) / f"{name}.html"
            framed.write_text(
                f'<iframe src="{page.resolve().as_uri()}" width="{width}" height="{height}" '
                'style="border:0;position:absolute;inset:0"></iframe>',
                encoding="utf-8",
            )
            for scheme, setting in (("light", 1), ("dark", 0)):
                shot = arguments.out / f"{page.stem}-{name}-{scheme}.png"
                _, said = browse(
                    framed, profile, f"--window-size={width},{height}", f"--screenshot={shot}",
                    f"--blink-settings=preferredColorScheme={setting}",
                )  # fmt: skip
                lines = [line for line in said.splitlines() if "CONSOLE" in line]
                bad += [f"{name}, {scheme}: {line}" for line in lines]
                print(shot)
        dom, _ = browse(page, profile, "--window-size=1280,20000", "--dump-dom")
    n_drawn = len(re.findall(r'<div class="plot[^"]*js-plotly-plot', dom))
    if n_drawn != n_figures:
        bad.append(f"{n_drawn} of {n_figures} figures were drawn")
    n_pictures, n_here = dom.count("<img"), html.count("<img")
    if n_pictures != n_here:
        bad.append(f"{n_pictures} pictures where the page has {n_here}: a name was obeyed")
    for line in bad:
        print(line, file=sys.stderr)
    print(f"{n_drawn} figures, {len(bad)} complaints")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
