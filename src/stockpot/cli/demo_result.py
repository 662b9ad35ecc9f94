"""What the demo made, for its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stockpot.draw import DrawSettings, Pictures
from stockpot.engine import MergeResult
from stockpot.inspect import Inspection

__all__ = ["FILES", "SOUP", "DemoResult", "Inspected"]

SOUP = "soup"
FILES = ("demo.html", "contact-sheet.png", "soup.yaml", "soup.safetensors")


@dataclass(frozen=True)
class Inspected:
    """What the demo found out about one file.

    Attributes:
        name: Of the member.
        role: Of the member.
        n_bytes: Size of the file.
        found: What its keys and bytes say, with hashes.
        complete: Names of the components that are all there.
        velocity: Whether it says that it predicts velocities.
        left_out: Why it is not in the soup; empty when it is.
    """

    name: str
    role: str
    n_bytes: int
    found: Inspection
    complete: tuple[str, ...]
    velocity: bool
    left_out: str

    @property
    def model_hash(self) -> str:
        """A1111's ``Model hash``, from the whole file."""
        return self.found.file_hashes.autov2 if self.found.file_hashes else "–"


@dataclass(frozen=True)
class DemoResult:
    """What the demo made.

    Attributes:
        page: The page.
        sheet: The contact sheet as PNG.
        recipe: The recipe of the soup.
        soup: The merged checkpoint.
        parents: What went in, the base first.
        merged: How the merge went.
        rows: Names of the drawn models, in the order of `pictures`.
        prompts: What was drawn.
        pictures: uint8, `[n_rows, n_prompts, n_seeds, height, width, 3]`.
        scores: By scorer, `[n_rows, n_prompts, n_seeds]`.
        settings: How pictures were drawn.
        elapsed_s: Seconds of each step, in order.
    """

    page: Path
    sheet: Path
    recipe: Path
    soup: Path
    parents: tuple[Inspected, ...]
    merged: MergeResult
    rows: tuple[str, ...]
    prompts: tuple[str, ...]
    pictures: Pictures
    scores: Mapping[str, np.ndarray]
    settings: DrawSettings
    elapsed_s: Mapping[str, float]
