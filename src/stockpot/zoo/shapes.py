"""Captioned pictures of simple shapes: the world that the zoo's models draw.

A `Scene` names five attributes (style, size, colour, shape, background). `caption` says it in
words, `render` draws it as a 32x32 RGB picture, `parse` reads the attributes back from any
sentence. The world is small on purpose: whether a model drew what was asked can be *measured*.

Only numpy is needed; nothing here loads torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "ATTRIBUTES",
    "BASE_STYLES",
    "BACKGROUNDS",
    "COLOURS",
    "EXTRA_STYLE",
    "IMAGE_SIZE",
    "SHAPES",
    "SIZES",
    "STYLES",
    "Scene",
    "Template",
    "all_scenes",
    "caption",
    "parse",
    "parse_scene",
    "render",
]

IMAGE_SIZE = 32
"""Width and height of every picture, in pixels."""

COLOURS: MappingProxyType[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (220, 40, 40),
        "orange": (250, 140, 20),
        "yellow": (250, 220, 40),
        "green": (40, 165, 60),
        "teal": (0, 175, 170),
        "blue": (50, 90, 230),
        "purple": (140, 60, 190),
        "pink": (250, 130, 190),
    }
)
"""The eight colours of shapes, as sRGB bytes."""

BACKGROUNDS: MappingProxyType[str, tuple[int, int, int]] = MappingProxyType(
    {
        "white": (250, 250, 250),
        "cream": (245, 230, 190),
        "sky": (170, 215, 250),
        "grey": (128, 128, 128),
        "navy": (20, 30, 90),
        "black": (12, 12, 12),
    }
)
"""The six colours of backgrounds, as sRGB bytes."""

BASE_STYLES = ("flat", "outline", "glossy", "shaded")
"""The styles that the base model was shown."""

EXTRA_STYLE = "striped"
"""The style that one member of the family alone was shown."""

STYLES = (*BASE_STYLES, EXTRA_STYLE)
"""All five styles."""

SIZES: MappingProxyType[str, float] = MappingProxyType({"small": 6.5, "large": 12.0})
"""The two sizes, as the shape's mean radius in pixels."""

Points = npt.NDArray[np.float64]
Template = Literal["sentence", "tags"]


@dataclass(frozen=True, order=True)
class Scene:
    """What one picture shows: one word for each of the five attributes.

    Attributes:
        style: One of `STYLES`.
        size: One of `SIZES`.
        colour: One of `COLOURS`.
        shape: One of `SHAPES`.
        background: One of `BACKGROUNDS`.

    Raises:
        ValueError: A word is not one of its attribute's words.

    Examples:
        >>> Scene("glossy", "large", "red", "heart", "navy").shape
        'heart'
    """

    style: str
    size: str
    colour: str
    shape: str
    background: str

    def __post_init__(self) -> None:
        for attribute, words in ATTRIBUTES.items():
            word = getattr(self, attribute)
            if word not in words:
                raise ValueError(f"`{attribute}` must be one of {words}, but got {word!r}.")


# ---------------------------------------------------------------- geometry (unit radius, y down)


def _regular(radii: tuple[float, ...], turn: float = 0.0) -> Points:
    """Corners at equal angles from the top, clockwise, with the given radii: `[n, 2]`."""
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii) + turn
    return np.stack([np.sin(angles) * radii, -np.cos(angles) * radii], axis=1)


def _heart() -> Points:
    """The sine heart curve, scaled to about unit radius: `[40, 2]`."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -(y + 2.0)], axis=1) / 15.0


def _moon() -> Points:
    """A crescent open to the right: the unit disc less a disc beside it: `[40, 2]`."""
    cut, shift = 0.8, 0.62
    corner_x = (1 - cut**2 + shift**2) / (2 * shift)
    outer_end = np.arccos(corner_x)
    inner_end = np.arctan2(np.sin(outer_end), corner_x - shift)
    outer = np.linspace(outer_end, 2 * np.pi - outer_end, 24)
    inner = np.linspace(2 * np.pi - inner_end, inner_end, 18)[1:-1]
    arc = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    bite = np.stack([shift + cut * np.cos(inner), cut * np.sin(inner)], axis=1)
    corners: Points = np.concatenate([arc, bite]) * 1.1 + np.array([0.2, 0.0])
    return corners


def _cross() -> Points:
    """A plus sign with arms 0.7 wide: `[12, 2]`."""
    a, b = 0.36, 1.0
    x = [-a, a, a, b, b, a, a, -a, -a, -b, -b, -a]
    y = [-b, -b, -a, -a, a, a, b, b, a, a, -a, -a]
    return np.stack([x, y], axis=1).astype(np.float64)


_OUTLINES: dict[str, Callable[[], Points]] = {
    "circle": lambda: _regular((0.95,) * 36),
    "square": lambda: _regular((1.2,) * 4, np.pi / 4),
    "triangle": lambda: _regular((1.2,) * 3) + np.array([0.0, 0.2]),
    "diamond": lambda: _regular((1.15, 0.8, 1.15, 0.8)),
    "star": lambda: _regular((1.2, 0.5) * 5),
    "heart": _heart,
    "cross": _cross,
    "moon": _moon,
}

SHAPES = tuple(_OUTLINES)
"""The eight shapes."""

ATTRIBUTES: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "style": STYLES,
        "size": tuple(SIZES),
        "colour": tuple(COLOURS),
        "shape": SHAPES,
        "background": tuple(BACKGROUNDS),
    }
)
"""Each attribute's words; no word belongs to two attributes. The judge's heads follow this order"""

_ATTRIBUTE_OF = {word: name for name, words in ATTRIBUTES.items() for word in words}


@cache
def _outline(shape: str) -> Points:
    return _OUTLINES[shape]()


def _signed_distance(points: Points, corners: Points) -> npt.NDArray[np.float64]:
    """Distance of each point to a polygon's border, negative inside.

    Args:
        points: `[n, 2]`.
        corners: `[m, 2]`, in order around the polygon.

    Returns:
        `[n]`.
    """
    x, y = points[:, 0:1], points[:, 1:2]
    x0, y0 = corners[:, 0], corners[:, 1]
    y1 = np.roll(y0, -1)
    dx, dy = np.roll(x0, -1) - x0, y1 - y0
    away_x, away_y = x - x0, y - y0  # [n, m]
    along = np.clip((away_x * dx + away_y * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    distance = np.sqrt(((away_x - along * dx) ** 2 + (away_y - along * dy) ** 2).min(axis=1))
    # Even-odd rule: count the edges that a ray to the right crosses. Level edges cross nothing.
    spans = (y0 <= y) != (y1 <= y)
    slope = dx / np.where(dy == 0, 1.0, dy)
    inside = (spans & (away_x < away_y * slope)).sum(axis=1) % 2 == 1
    signed: npt.NDArray[np.float64] = np.where(inside, -distance, distance)
    return signed


# ---------------------------------------------------------------- words


def caption(scene: Scene, *, omit: Collection[str] = (), template: Template = "sentence") -> str:
    """Say a scene in words.

    Args:
        scene: What to say.
        omit: Attributes to leave unsaid, such as `{"style", "background"}`.
        template: `"sentence"` (the form that benchmarks use) or `"tags"` (comma-separated).

    Returns:
        The caption; empty when everything is omitted.

    Raises:
        ValueError: `omit` names something that is no attribute.

    Examples:
        >>> scene = Scene("glossy", "large", "red", "heart", "navy")
        >>> caption(scene)
        'glossy art, a large red heart on navy background'
        >>> caption(scene, omit={"style", "background"})
        'a large red heart'
        >>> caption(scene, template="tags")
        'red heart, large, navy background, glossy art'
    """
    unknown = set(omit) - set(ATTRIBUTES)
    if unknown:
        raise ValueError(f"`omit` must name attributes {tuple(ATTRIBUTES)}, got {sorted(unknown)}.")
    said = {name: getattr(scene, name) for name in ATTRIBUTES if name not in omit}
    style = f"{said['style']} art" if "style" in said else ""
    background = f"{said['background']} background" if "background" in said else ""
    if template == "tags":
        thing = " ".join(said[name] for name in ("colour", "shape") if name in said)
        return ", ".join(part for part in (thing, said.get("size"), background, style) if part)
    thing = " ".join(said[name] for name in ("size", "colour", "shape") if name in said)
    thing = f"a {thing}" if thing else ""
    thing = " on ".join(part for part in (thing, background) if part)
    return ", ".join(part for part in (style, thing) if part)


def parse(text: str) -> dict[str, str]:
    """Find the attributes that a text names.

    Args:
        text: Any text; words that are no attribute's word are passed over.

    Returns:
        Attribute to word, in the order of `ATTRIBUTES`; attributes that are not named are absent.

    Raises:
        ValueError: Two different words for one attribute.

    Examples:
        >>> parse("a red heart, please")
        {'colour': 'red', 'shape': 'heart'}
    """
    found: dict[str, str] = {}
    for word in "".join(c if c.isalnum() else " " for c in text.lower()).split():
        attribute = _ATTRIBUTE_OF.get(word)
        if attribute is not None and found.setdefault(attribute, word) != word:
            raise ValueError(f"{text!r} names two {attribute}s: {found[attribute]!r} and {word!r}.")
    return {name: found[name] for name in ATTRIBUTES if name in found}


def parse_scene(text: str) -> Scene:
    """Read a whole scene back from a caption: the inverse of `caption`.

    Args:
        text: A text that names all five attributes.

    Returns:
        The scene.

    Raises:
        ValueError: An attribute is not named, or is named twice.

    Examples:
        >>> parse_scene("flat art, a small blue star on white background").colour
        'blue'
    """
    found = parse(text)
    missing = [name for name in ATTRIBUTES if name not in found]
    if missing:
        raise ValueError(f"{text!r} must name every attribute, but lacks {missing}.")
    return Scene(**found)


def all_scenes(styles: Collection[str] = BASE_STYLES) -> Iterator[Scene]:
    """Go through every scene of the given styles, in a fixed order.

    Args:
        styles: Styles to include; the base model's four unless told.

    Returns:
        An iterator of `len(styles) * 768` scenes.

    Examples:
        >>> sum(1 for _ in all_scenes())
        3072
    """
    for words in itertools.product(styles, SIZES, COLOURS, SHAPES, BACKGROUNDS):
        yield Scene(*words)


# ---------------------------------------------------------------- pictures


def render(scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw a scene.

    The place and the exact size vary with the generator; everything else is fixed by the scene.
    Edges are smoothed by 2x2 samples a pixel, each with a soft border.

    Args:
        scene: What to draw.
        rng: Source of the jitter: at most 2.5 pixels for small shapes, 1 for large, size +-6 %.

    Returns:
        uint8 RGB, `[32, 32, 3]`.

    Examples:
        >>> picture = render(
        ...     Scene("flat", "large", "red", "circle", "white"), np.random.default_rng(0)
        ... )
        >>> picture.shape, picture[16, 16].tolist()
        ((32, 32, 3), [220, 40, 40])
    """
    reach = 2.5 if scene.size == "small" else 1.0
    centre = IMAGE_SIZE / 2 + rng.uniform(-reach, reach, size=2)
    radius = SIZES[scene.size] * rng.uniform(0.94, 1.06)

    n = 2 * IMAGE_SIZE
    axis = (np.arange(n) + 0.5) / 2
    x, y = (axis - centre[0])[None, :], (axis - centre[1])[:, None]
    points = np.stack(np.broadcast_arrays(x, y), axis=-1).reshape(-1, 2) / radius
    depth = -_signed_distance(points, _outline(scene.shape)).reshape(n, n) * radius  # pixels inside

    background = np.array(BACKGROUNDS[scene.background], dtype=np.float64)
    colour = np.array(COLOURS[scene.colour], dtype=np.float64)
    cover = _soft(depth)
    fill = np.broadcast_to(colour, (n, n, 3))
    match scene.style:
        case "outline":
            cover = cover * (1 - _soft(depth - 2.0))
        case "glossy":
            # A dark rim, and a white spot up and to the left.
            fill = _blend(fill * 0.55, fill, _soft(depth - 1.6))
            spot = 0.42 * radius - np.hypot(x + 0.28 * radius, y + 0.3 * radius)
            fill = _blend(fill, np.full(3, 255.0), 0.9 * _soft(spot))
        case "shaded":
            fill = _blend(fill, fill * 0.4, _soft((x + y) / np.sqrt(2)))
        case "striped":
            stripe = _soft((np.abs((y / 5.0) % 1.0 - 0.5) - 0.25) * 5.0)
            fill = _blend(fill, colour * 0.15 + 255.0 * 0.85, np.broadcast_to(stripe, (n, n)))
    picture = _blend(np.broadcast_to(background, (n, n, 3)), fill, cover)
    picture = picture.reshape(IMAGE_SIZE, 2, IMAGE_SIZE, 2, 3).mean(axis=(1, 3))
    as_bytes: npt.NDArray[np.uint8] = np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
    return as_bytes


def _soft(depth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turn a depth in pixels into coverage in [0, 1], with a border half a pixel wide."""
    return np.clip(depth * 2 + 0.5, 0.0, 1.0)


def _blend(
    below: npt.NDArray[np.float64], above: npt.NDArray[np.float64], cover: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return below + (above - below) * cover[..., None]
