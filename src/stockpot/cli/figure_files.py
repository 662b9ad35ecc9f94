"""Figures as files: PNG to look at, CSV and JSON to go on with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.checkpoints import write_whole
from stockpot.errors import OutputExistsError

if TYPE_CHECKING:
    from stockpot.report import Chart

__all__ = ["write_charts"]


def write_charts(
    charts: Mapping[str, Chart], folder: Path, *, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write every figure as a picture and as numbers.

    Args:
        charts: By name; characters that are no part of plain file names become ``_``.
        folder: Where; made if it is not there.
        overwrite: Replace files of the same name.

    Returns:
        The files.

    Raises:
        OutputExistsError: One of them is there already; then none is written.
    """
    from stockpot.report import chart_csv, chart_json, draw_chart

    files: dict[Path, bytes] = {}
    for name, chart in charts.items():
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        files[folder / f"{stem}.png"] = draw_chart(chart)
        files[folder / f"{stem}.csv"] = chart_csv(chart).encode()
        files[folder / f"{stem}.json"] = chart_json(chart).encode()
    for file in files:
        if file.exists() and not overwrite:
            raise OutputExistsError(f"{file}: the file is there already; allow overwriting it")
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        write_whole(file, content)
    return tuple(files)
