"""Contact sheets: labelled grids of pictures, rows by columns, as one image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stockpot.draw.libraries import require_libraries
from stockpot.errors import OutputExistsError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Box", "ContactSheet", "contact_sheet"]

_CELL = 96
_GAP = 8
_MARGIN = 20
_ROW_LABEL = 168
_SIZE, _SMALL, _TITLE = 14, 12, 22
_PAPER, _INK, _FAINT, _EMPTY = (252, 251, 248), (34, 31, 28), (120, 112, 104), (232, 228, 221)
_LONGEST = 160


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the sheet, in pixels; `right` and `bottom` are just outside.

    Attributes:
        left: First column.
        top: First row.
        right: One past the last column.
        bottom: One past the last row.
    """

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class ContactSheet:
    """A sheet, and where everything on it is.

    Attributes:
        image: The sheet, RGB.
        cells: Place of each picture, by row and column; also of those that are missing.
        scale: How many pixels of the sheet one of a picture takes, in each direction.
    """

    image: Image.Image
    cells: tuple[tuple[Box, ...], ...]
    scale: int

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the sheet as PNG.

        Args:
            path: The file.
            overwrite: Replace a file that is there.

        Returns:
            The file.

        Raises:
            OutputExistsError: The file is there.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{path}: the file is there already; allow overwriting it")
        self.image.save(path, "PNG", optimize=True)
        return path


def contact_sheet(
    pictures: Sequence[Sequence[npt.NDArray[np.uint8] | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    notes: Sequence[str] = (),
    title: str = "",
    scale: int | None = None,
) -> ContactSheet:
    """Lay pictures out in a grid with a label for each row and each column.

    Args:
        pictures: uint8 RGB, `[height, width, 3]`, all of one size, by row and column; None leaves
            the place empty.
        rows: Labels at the left, such as models; wrapped, and cut past 160 characters.
        columns: Labels on top, such as prompts; wrapped to the pictures' width.
        notes: A smaller second label for each row; none where empty.
        title: A line above everything.
        scale: Whole factor by which pictures are enlarged, each pixel staying a square; by default
            the one that makes them about 96 pixels wide.

    Returns:
        The sheet.

    Raises:
        ValueError: The numbers of labels and pictures differ, there is no picture, or pictures
            differ in size.
        MissingExtraError: Pillow is not installed.

    Example:
        >>> red = np.full((32, 32, 3), (200, 0, 0), np.uint8)
        >>> sheet = contact_sheet([[red, red]], ["base"], ["one", "two"])
        >>> sheet.scale, sheet.cells[0][1].left - sheet.cells[0][0].left
        (3, 104)
    """
    require_libraries()
    from PIL import Image, ImageDraw, ImageFont

    height, width = _common_size(pictures, rows, columns, notes)
    scale = max(1, round(_CELL / width)) if scale is None else scale
    if scale < 1:
        raise ValueError(f"`scale` must be at least 1, but got {scale}")
    cell_width, cell_height = width * scale, height * scale

    font, small = ImageFont.load_default(_SIZE), ImageFont.load_default(_SMALL)
    heads = [_wrapped(label, small, max(cell_width, 48)) for label in columns]
    sides = [
        [(line, font, _INK) for line in _wrapped(label, font, _ROW_LABEL)]
        + [(line, small, _FAINT) for line in _wrapped(note, small, _ROW_LABEL)]
        for label, note in zip(rows, [*notes, *[""] * (len(rows) - len(notes))], strict=True)
    ]
    title_height = _TITLE + 14 if title else 0
    head_height = max((_height(len(lines), _SMALL) for lines in heads), default=0) + 6
    top = _MARGIN + title_height + head_height
    left = _MARGIN + _ROW_LABEL + 12
    step = max(cell_width, 48) + _GAP
    total_width = left + len(columns) * step - _GAP + _MARGIN

    cells = []
    for side in sides:
        cells.append(
            tuple(
                Box(x, top, x + cell_width, top + cell_height)
                for x in (left + j * step for j in range(len(columns)))
            )
        )
        label_height = sum(_height(1, _SIZE if face is font else _SMALL) for _, face, _ in side)
        top += max(cell_height, label_height) + _GAP
    image = Image.new("RGB", (total_width, top - _GAP + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(image)
    if title:
        pen.text((_MARGIN, _MARGIN - 4), _clean(title), _INK, ImageFont.load_default(_TITLE))
    for lines, box in zip(heads, cells[0], strict=True):
        y = box.top - 6 - _height(len(lines), _SMALL)
        for line in lines:
            pen.text((box.left, y), line, _FAINT, small)
            y += _height(1, _SMALL)
    for side, boxes, row in zip(sides, cells, pictures, strict=True):
        y = boxes[0].top
        for line, face, ink in side:
            pen.text((_MARGIN, y), line, ink, face)
            y += _height(1, _SIZE if face is font else _SMALL)
        for box, picture in zip(boxes, row, strict=True):
            if picture is None:
                pen.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), _EMPTY)
                continue
            small_one = Image.fromarray(np.ascontiguousarray(picture))
            image.paste(
                small_one.resize((cell_width, cell_height), Image.Resampling.NEAREST),
                (box.left, box.top),
            )
    return ContactSheet(image, tuple(cells), scale)


def _common_size(
    pictures: Sequence[Sequence[npt.NDArray[np.uint8] | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    notes: Sequence[str],
) -> tuple[int, int]:
    if not rows or not columns:
        raise ValueError("a contact sheet needs at least one row and one column")
    if len(pictures) != len(rows) or any(len(row) != len(columns) for row in pictures):
        raise ValueError(
            f"there must be {len(rows)} rows of {len(columns)} pictures, as many as labels, "
            f"but got rows of {[len(row) for row in pictures]}"
        )
    if len(notes) > len(rows):
        raise ValueError(f"there are {len(rows)} rows, but {len(notes)} notes")
    shapes = {picture.shape for row in pictures for picture in row if picture is not None}
    if len(shapes) != 1:
        raise ValueError(f"pictures must be there and of one size, but got {sorted(shapes)}")
    shape = shapes.pop()
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"pictures must be RGB, [height, width, 3], but got {list(shape)}")
    return shape[0], shape[1]


def _height(n_lines: int, size: int) -> int:
    return n_lines * (size + 4)


def _clean(text: str) -> str:
    """One line without characters that fonts cannot show; labels may come from hostile files."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Lines of at most `width` pixels; a word that is longer alone is broken."""
    lines: list[str] = []
    line = ""
    for word in _clean(text).split():
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width and len(word) > 1:
            n = len(word) - 1
            while n > 1 and font.getlength(word[:n]) > width:
                n -= 1
            lines.append(word[:n])
            word = word[n:]
        line = word
    return [*lines, line] if line else lines
