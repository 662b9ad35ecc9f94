"""The world of captioned shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.zoo.shapes import (
    ATTRIBUTES,
    BACKGROUNDS,
    BASE_STYLES,
    COLOURS,
    EXTRA_STYLE,
    STYLES,
    Scene,
    all_scenes,
    caption,
    parse,
    parse_scene,
    render,
)

scenes = st.builds(Scene, **{name: st.sampled_from(words) for name, words in ATTRIBUTES.items()})
templates = st.sampled_from(["sentence", "tags"])
omits = st.sets(st.sampled_from(sorted(ATTRIBUTES)))


@settings(deadline=None)
@given(scenes, templates)
def test_caption_round_trip(scene: Scene, template: str) -> None:
    assert parse_scene(caption(scene, template=template)) == scene  # type: ignore[arg-type]


@settings(deadline=None)
@given(scenes, omits, templates)
def test_caption_says_what_is_not_omitted(scene: Scene, omit: set[str], template: str) -> None:
    text = caption(scene, omit=omit, template=template)  # type: ignore[arg-type]
    said = {name: getattr(scene, name) for name in ATTRIBUTES if name not in omit}
    assert parse(text) == said
    assert (text == "") == (not said)


@settings(deadline=None, max_examples=40)
@given(scenes, st.integers(0, 2**32 - 1))
def test_render_repeats_and_shows_the_background(scene: Scene, seed: int) -> None:
    picture = render(scene, np.random.default_rng(seed))
    again = render(scene, np.random.default_rng(seed))
    assert picture.dtype == np.uint8 and picture.shape == (32, 32, 3)
    assert np.array_equal(picture, again)
    # The top corners are outside every shape.
    assert tuple(picture[0, 0]) == BACKGROUNDS[scene.background]
    assert tuple(picture[0, -1]) == BACKGROUNDS[scene.background]


def test_flat_shapes_have_their_colour() -> None:
    for colour, rgb in COLOURS.items():
        picture = render(Scene("flat", "large", colour, "cross", "white"), np.random.default_rng(1))
        assert tuple(picture[16, 16]) == rgb


def test_no_word_belongs_to_two_attributes() -> None:
    words = [word for group in ATTRIBUTES.values() for word in group]
    assert len(words) == len(set(words))


def test_all_scenes_are_distinct_and_leave_out_the_extra_style() -> None:
    everything = list(all_scenes())
    assert len(everything) == len(set(everything)) == 4 * 2 * 8 * 8 * 6
    assert {scene.style for scene in everything} == set(BASE_STYLES)
    assert EXTRA_STYLE not in BASE_STYLES
    assert len(list(all_scenes(STYLES))) == 5 * 768


def test_two_scenes_never_look_the_same() -> None:
    few = list(all_scenes(STYLES))[::7]
    pictures = {render(scene, np.random.default_rng(3)).tobytes() for scene in few}
    assert len(pictures) == len(few)


def test_helpful_errors() -> None:
    with pytest.raises(ValueError, match=r"`colour` must be one of .*, but got 'mauve'"):
        Scene("flat", "large", "mauve", "circle", "white")
    with pytest.raises(ValueError, match="names two colours: 'red' and 'blue'"):
        parse("a red blue circle")
    with pytest.raises(ValueError, match="must name every attribute, but lacks .*'style'"):
        parse_scene("a red circle")
    with pytest.raises(ValueError, match="`omit` must name attributes"):
        caption(next(all_scenes()), omit={"hue"})
