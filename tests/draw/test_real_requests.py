"""Every real payload and card, drawn on the zoo at a small size: each field honoured or told."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint
from stockpot.draw import (
    Painter,
    Request,
    draw_request,
    open_painter,
    parse_infotext,
    read_payload,
)
from stockpot.draw import to_payload as payload_of

PAYLOADS = "sd1_mercedes sd1_russia sd1_saree sd1_sydney sd2_hijab sd2_original test-9img".split()
CARDS = "sd1_01 sd1_02 sd1_03 sd1_04 sd1_05 sd1_06 sd2_07".split()


@pytest.fixture(scope="module")
def painter() -> Iterator[Painter]:
    from stockpot.zoo import member

    with open_checkpoint(member("base").path) as source:
        yield open_painter(source)


def small(request: Request) -> Request:
    """A fortieth of the size and a few steps; all else as it is."""
    hires = request.settings.hires
    if hires is not None and hires.steps:
        hires = dataclasses.replace(hires, steps=2)
    settings = dataclasses.replace(request.settings, steps=2, hires=hires)
    return dataclasses.replace(request, settings=settings).scaled(1 / 40, 8)


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_are_drawn(painter: Painter, data: Path, name: str) -> None:
    read = read_payload(data / "payloads" / f"{name}.json")
    request = small(read.request)
    finished, notes = draw_request(painter, request)
    assert notes == [] and read.notes == ()
    asked = json.loads((data / "payloads" / f"{name}.json").read_text())
    assert len(finished) == asked["n_iter"] * asked["batch_size"]
    settings = request.settings
    assert settings.width and settings.height and settings.hires
    _, (width, height) = settings.hires.sizes(settings.width, settings.height)
    for i, one in enumerate(finished):
        assert one.picture.shape == (height // 4 * 4, width // 4 * 4, 3)
        assert one.picture.std() > 1
        back = parse_infotext(one.infotext).request
        assert back.seed == asked["seed"] + i
        same = dataclasses.replace(
            back, seed=request.seed, n_pictures=request.n_pictures, version="", extra=()
        )
        assert payload_of(same) == payload_of(
            dataclasses.replace(request, settings=dataclasses.replace(settings, batch=1))
        )


@pytest.mark.parametrize("name", CARDS)
def test_cards_are_drawn(painter: Painter, data: Path, name: str) -> None:
    read = parse_infotext((data / "infotexts" / f"{name}.txt").read_text(), name)
    request = small(read.request)
    (one,), notes = draw_request(painter, request)
    # The one embedding that a card names is not in the zoo, and that is said.
    assert [note.code for note in notes] == (["embedding"] if name == "sd1_05" else [])
    back = parse_infotext(one.infotext).request
    assert back.settings == dataclasses.replace(request.settings, batch=1)
    assert back.plot == request.plot
    for part in ("freeu", "thresholding", "hires"):
        if getattr(request.settings, part) is None:
            continue
        settings = dataclasses.replace(request.settings, **{part: None})
        (other,), _ = draw_request(painter, dataclasses.replace(request, settings=settings))
        same = other.picture.shape == one.picture.shape
        assert not same or not np.array_equal(other.picture, one.picture), part
