"""Look at the locked dependencies: are they all locked, and does anybody know of a hole in one?

    python .ci/audit.py

`constraints.txt` is the lock. What can be told without network must be right: every package that
`pyproject.toml` names is pinned to one version, within the range it names. Known holes are asked of
`pip-audit`; where that is not installed, or reaches nobody, this says so in a way that nobody
overlooks, and passes: a build must not depend on a stranger's server.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

SECONDS = 300


def pins(lock: Path) -> tuple[dict[str, Version], list[str]]:
    """Read the lock.

    Args:
        lock: Lines of ``NAME==VERSION``.

    Returns:
        Versions by name, and what is wrong with the lines.
    """
    found: dict[str, Version] = {}
    faults = []
    for number, line in enumerate(lock.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;,*]+)(\s*;.*)?", text)
        name = canonicalize_name(match[1]) if match else ""
        try:
            version = Version(match[2]) if match else None
        except InvalidVersion:
            version = None
        if version is None:
            faults.append(f"{lock.name}:{number}: a line must be NAME==VERSION, but is {text!r}")
        elif name in found:
            faults.append(f"{lock.name}:{number}: {name} is pinned twice")
        else:
            found[name] = version
    return found, faults


def wanted(project: Path) -> Iterator[Requirement]:
    """All that a project names, its extras included, but not itself.

    Args:
        project: A `pyproject.toml`.
    """
    said = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    lists = [said.get("dependencies", []), *said.get("optional-dependencies", {}).values()]
    for text in (text for texts in lists for text in texts):
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != canonicalize_name(said["name"]):
            yield requirement


def unlocked(project: Path, locked: dict[str, Version]) -> Iterator[str]:
    """What the lock lacks, or has in a version that the project does not want."""
    for requirement in wanted(project):
        version = locked.get(canonicalize_name(requirement.name))
        if version is None:
            yield f"{project.name}: {requirement} is not pinned in constraints.txt"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{project.name}: {requirement}, but constraints.txt pins {version}"


def known_holes(lock: Path) -> list[str] | None:
    """Ask pip-audit.

    Returns:
        A line for each known hole; None where nobody could be asked.
    """
    command = [sys.executable, "-m", "pip_audit", "-r", str(lock), "--no-deps", "--disable-pip",
               "--format", "json", "--progress-spinner", "off"]  # fmt: skip
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        told: Any = json.loads(run.stdout)
        return [
            f"{package['name']} {package.get('version', '')}: {hole['id']}"
            f" (mended in {', '.join(hole.get('fix_versions', [])) or 'no version yet'})"
            for package in told["dependencies"]
            for hole in package.get("vulns", [])
        ]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return None


def main(folder: Path) -> int:
    """Look, and say what is wrong; 1 where something is."""
    lock = folder / "constraints.txt"
    locked, faults = pins(lock)
    for project in (folder / "pyproject.toml", folder / "zoo" / "pyproject.toml"):
        if project.is_file():
            faults += unlocked(project, locked)
    holes = known_holes(lock)
    if holes is None:
        print("*" * 78)
        print("NOT AUDITED: pip-audit is not installed, or reached no list of known holes.")
        print("The lock itself was checked; whether its versions have known holes was NOT.")
        print("*" * 78)
    faults += holes or []
    for fault in faults:
        print(f"error: {fault}")
    told = "" if holes is None else f", {len(holes)} known holes"
    print(f"{len(locked)} packages locked, {len(faults) - len(holes or [])} faults{told}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(Path(os.environ.get("STOCKPOT_AUDIT", Path(__file__).parents[1]))))
