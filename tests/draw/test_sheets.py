"""Contact sheets: where pictures and labels are."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from stockpot.draw import contact_sheet, to_png
from stockpot.errors import OutputExistsError

Picture = npt.NDArray[np.uint8]


def pictures(n_rows: int, n_columns: int, size: int = 32) -> list[list[Picture]]:
    rng = np.random.default_rng(0)
    return [
        [rng.integers(0, 256, (size, size, 3), np.uint8) for _ in range(n_columns)]
        for _ in range(n_rows)
    ]


def test_every_pixel_becomes_a_square_at_its_place() -> None:
    grid = pictures(3, 4)
    sheet = contact_sheet(grid, ["base", "soup", "x" * 60], ["a", "b c d e f g " * 8, "", "d"])
    array = np.asarray(sheet.image)
    assert sheet.scale == 3
    for row, boxes in zip(grid, sheet.cells, strict=True):
        for picture, box in zip(row, boxes, strict=True):
            shown = array[box.top : box.bottom, box.left : box.right]
            assert np.array_equal(shown, picture.repeat(3, axis=0).repeat(3, axis=1))


def test_cells_do_not_overlap_and_lie_inside() -> None:
    sheet = contact_sheet(pictures(2, 3, 8), ["a" * 300, "b"], ["x", "y", "z"], scale=2)
    boxes = [box for row in sheet.cells for box in row]
    assert all(box.right - box.left == box.bottom - box.top == 16 for box in boxes)
    assert max(box.right for box in boxes) < sheet.image.width
    assert max(box.bottom for box in boxes) < sheet.image.height
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            apart = one.left >= other.right or one.top >= other.bottom
            assert apart or one.right <= other.left or one.bottom <= other.top


def test_labels_are_drawn_beside_and_above_and_never_on_pictures() -> None:
    black = [[np.zeros((32, 32, 3), np.uint8)] * 2]
    bare = np.asarray(contact_sheet(black, [""], ["", ""]).image)
    sheet = contact_sheet(black, ["a name"], ["one", "two"], notes=["left out"], title="Title")
    array = np.asarray(sheet.image)
    paper = bare[0, 0]
    left, top = sheet.cells[0][0].left, sheet.cells[0][0].top
    assert (array[top:, :left] != paper).any()
    assert (array[:top, left:] != paper).any()
    for box in sheet.cells[0]:
        assert not array[box.top : box.bottom, box.left : box.right].any()


def test_a_missing_picture_leaves_its_place_empty() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    sheet = contact_sheet([[black, None]], ["a"], ["x", "y"], scale=4)
    box = sheet.cells[0][1]
    shown = np.asarray(sheet.image)[box.top : box.bottom, box.left : box.right]
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 1
    assert shown.min() > 200


@pytest.mark.parametrize(
    "label",
    ["line\nbreak", "\x00\x1b[31m", "名前", "<img onerror=alert(1)>", "\u202eevil", "🍲" * 99],
)
def test_hostile_labels_are_drawn(label: str) -> None:
    sheet = contact_sheet(pictures(1, 1), [label], [label], notes=[label], title=label)
    assert sheet.image.width < 600


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (["a"], ["x", "y"], "there must be 1 rows of 2 pictures"),
        (["a", "b", "c"], ["x", "y"], "there must be 3 rows of 2 pictures"),
        ([], [], "at least one row and one column"),
    ],
)
def test_numbers_of_labels_are_checked(rows: list[str], columns: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contact_sheet(pictures(2, 2), rows, columns)


def test_sizes_are_checked() -> None:
    grid = [[*pictures(1, 1)[0], *pictures(1, 1, 8)[0]]]
    with pytest.raises(ValueError, match="of one size, but got"):
        contact_sheet(grid, ["a"], ["x", "y"])
    with pytest.raises(ValueError, match="`scale` must be at least 1, but got 0"):
        contact_sheet(pictures(1, 1), ["a"], ["x"], scale=0)


def test_a_sheet_is_saved_and_never_written_over(tmp_path: Path) -> None:
    sheet = contact_sheet(pictures(1, 2), ["a"], ["x", "y"])
    path = sheet.save(tmp_path / "sheet.png")
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), np.asarray(sheet.image))
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="sheet.png: the file is there already"):
        contact_sheet(pictures(1, 1), ["b"], ["x"]).save(path)
    assert path.read_bytes() == before
    sheet.save(path, overwrite=True)


def test_png_round_trip(tmp_path: Path) -> None:
    picture = pictures(1, 1)[0][0]
    (tmp_path / "a.png").write_bytes(to_png(picture))
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), picture)
    with pytest.raises(ValueError, match=r"must be uint8 RGB .* but got float64 \[2, 2\]"):
        to_png(np.zeros((2, 2)))  # type: ignore[arg-type]
