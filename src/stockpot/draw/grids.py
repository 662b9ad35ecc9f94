"""Grids: one picture for each combination of values, drawn mix by mix, and taken up again.

A cell's file is named by all that its picture depends on. So a grid that was interrupted goes on
where it was, and one that has grown draws only what is new.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stockpot.draw.infotext import parse_infotext
from stockpot.draw.payloads import to_payload
from stockpot.draw.pictures import from_png, read_parameters
from stockpot.draw.requests import Named, Request
from stockpot.draw.studio import draw_singles, write_file
from stockpot.errors import Problem, RequestError

if TYPE_CHECKING:
    from stockpot.draw.mixing import LiveMix
    from stockpot.recipes import Recipe

__all__ = ["Axis", "CellMix", "DrawnGrid", "GridCell", "difference", "draw_grid", "parse_axis"]


@dataclass(frozen=True, slots=True)
class Axis:
    """What changes along one side of a grid.

    Attributes:
        name: Such as ``cfg``, ``model``, ``seed``, or a payload's field.
        values: What it takes, as text.
    """

    name: str
    values: tuple[str, ...]

    def label(self, i: int) -> str:
        """Say one value.

        Args:
            i: Which.

        Returns:
            The value; with the axis's name before numbers.

        Example:
            >>> Axis("cfg", ("4", "7")).label(1), Axis("prompt", ("a cat",)).label(0)
            ('cfg 7', 'a cat')
        """
        value = self.values[i]
        wordy = self.name in ("model", "prompt", "te", "vae", "sampler", "negative")
        if self.name in ("model", "te", "vae") and value.endswith(".safetensors"):
            return Path(value).stem
        return value if wordy else f"{self.name.replace('_', ' ')} {value}"


def parse_axis(text: str) -> Axis:
    """Read an axis: ``name=value,value``; values with commas stand in quotes.

    ``1-4`` counts, ``0-1(+0.25)`` counts in steps, and ``@file`` takes each line of a file.

    Args:
        text: As typed.

    Returns:
        The axis.

    Raises:
        RequestError: There is no name, or no value.

    Example:
        >>> parse_axis('prompt="a cat, red",a dog').values
        ('a cat, red', 'a dog')
        >>> parse_axis("seed=1-3,9").values
        ('1', '2', '3', '9')
    """
    name, equals, rest = text.partition("=")
    name = name.strip().lower().replace(" ", "_")
    values: list[str] = []
    if rest.startswith("@"):
        lines = Path(rest[1:]).read_text(encoding="utf-8").splitlines()
        values = [line for line in lines if line.strip()]
    else:
        for row in csv.reader([rest], skipinitialspace=True):
            for value in row:
                values += _counted(value.strip()) if name not in ("prompt", "model") else [value]
    values = [value.strip() for value in values if value.strip()]
    if not equals or not name or not values:
        raise RequestError([Problem("axis", "an axis is name=value,value, such as cfg=4,7; but got "
                                    f"{text!r}")])  # fmt: skip
    return Axis(name, tuple(values))


def _counted(value: str) -> list[str]:
    import re
    from fractions import Fraction

    number = r"(-?\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"{number}\s*-\s*{number}(?:\s*\(\+{number}\))?", value)
    if not found:
        return [value]
    first, last = Fraction(found.group(1)), Fraction(found.group(2))
    step = Fraction(found.group(3) or 1)
    if step <= 0 or last < first or (last - first) / step > 10_000:
        return [value]
    n = int((last - first) / step) + 1
    decimals = [first + i * step for i in range(n)]
    return [str(d.numerator) if d.denominator == 1 else repr(float(d)) for d in decimals]


@dataclass(frozen=True)
class CellMix:
    """What cells are drawn with.

    Attributes:
        recipe: Over the grid's common pool.
        identity: A text that differs where the weights do.
        named: What infotexts call it.
        text: What it is made of, for infotexts.
    """

    recipe: Recipe
    identity: str
    named: Named = Named()
    text: str = ""


@dataclass(frozen=True)
class GridCell:
    """One place of a grid.

    Attributes:
        at: Its place on each axis.
        mix: Which of the grid's mixes.
        request: What to draw; one picture, with a seed.
    """

    at: tuple[int, ...]
    mix: int
    request: Request

    def file_name(self, mix: CellMix) -> str:
        """Name the cell's file by all that its picture depends on.

        Args:
            mix: Its mix.

        Returns:
            The name, with ``.png``.
        """
        content = [mix.identity, to_payload(self.request)]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{digest[:20]}.png"


@dataclass(frozen=True)
class DrawnGrid:
    """A grid that is complete.

    Attributes:
        cells: In the order that was given.
        files: One for each.
        n_drawn: How many were drawn now; the others were there.
        n_changed: Tensors that changes of the mix wrote, in all.
    """

    cells: tuple[GridCell, ...]
    files: tuple[Path, ...]
    n_drawn: int
    n_changed: int

    def picture(self, i: int) -> npt.NDArray[np.uint8]:
        """Read a cell's picture.

        Args:
            i: Which cell.

        Returns:
            uint8 RGB, `[height, width, 3]`.
        """
        return from_png(self.files[i].read_bytes())


def draw_grid(
    live: LiveMix,
    mixes: Sequence[CellMix],
    cells: Sequence[GridCell],
    folder: Path,
    *,
    vae: Named = Named(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
) -> DrawnGrid:
    """Draw all cells that are not there yet.

    Args:
        live: What draws, over the pool of all mixes.
        mixes: What cells draw with; each is made once.
        cells: Of the grid.
        folder: For the cells' files; it exists.
        vae: What infotexts call the VAE, where it is another one.
        progress: Called with the cells that are done, and all that were missing.

    Returns:
        The grid.
    """
    files = [folder / cell.file_name(mixes[cell.mix]) for cell in cells]
    missing = [i for i, file in enumerate(files) if not _is_there(file, cells[i].request)]
    # Cells of one mix go together: changing weights costs more than anything else.
    missing.sort(key=lambda i: cells[i].mix)
    done = n_changed = 0
    for number in dict.fromkeys(cells[i].mix for i in missing):
        places = [i for i in missing if cells[i].mix == number]
        mix = mixes[number]
        n_changed += live.show(mix.recipe).n_changed
        for start in range(0, len(places), _AT_ONCE):
            some = places[start : start + _AT_ONCE]
            finished = draw_singles(live.painter, [cells[i].request for i in some],
                                    model=mix.named, vae=vae, mix=mix.text)  # fmt: skip
            for i, one in zip(some, finished, strict=True):
                write_file(files[i], one.png)
            done += len(some)
            if progress is not None:
                progress(done, len(missing))
    return DrawnGrid(tuple(cells), tuple(files), len(missing), n_changed)


_AT_ONCE = 64


def _is_there(file: Path, request: Request) -> bool:
    """Whether a cell's file holds its picture: it is whole, and its infotext says so."""
    try:
        found = parse_infotext(read_parameters(file)).request
        from_png(file.read_bytes())
    except (RequestError, ValueError, OSError):
        return False
    return (found.seed, found.settings.steps) == (request.seed, request.settings.steps)


def difference(
    a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], gain: float = 2.0
) -> npt.NDArray[np.uint8]:
    """Show where two pictures differ: grey where they agree.

    Args:
        a: uint8 RGB, `[height, width, 3]`.
        b: Of the same size.
        gain: By what differences are multiplied.

    Returns:
        uint8 RGB: 128 + gain · (a - b) / 2, clamped.

    Raises:
        ValueError: The pictures differ in size.

    Example:
        >>> difference(np.full((1, 1, 3), 9, np.uint8), np.full((1, 1, 3), 5, np.uint8)).tolist()
        [[[132, 132, 132]]]
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures must be of one size, but got {a.shape} and {b.shape}")
    change = (a.astype(np.float64) - b.astype(np.float64)) * gain / 2
    shown: npt.NDArray[np.uint8] = np.clip(np.rint(128 + change), 0, 255).astype(np.uint8)
    return shown
