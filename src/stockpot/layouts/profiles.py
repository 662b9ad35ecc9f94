"""Block-weight profiles: which number of a list belongs to which block.

Tools disagree on the order of the list and on what happens to keys outside of the numbered
blocks, so a list of numbers means nothing without the name of its profile. What a profile has no
number for stays as it is in the first model: EMA copies, schedules and unknown keys always do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TypeVar

from stockpot.errors import LayoutError, UnknownNameError
from stockpot.layouts._base import Cell
from stockpot.layouts._layout import Layout

__all__ = [
    "PROFILES",
    "Profile",
    "get_profile",
    "profiles_for",
    "spread",
    "supermerger_26_to_20",
]

T = TypeVar("T")

_SMALL = ("sd1", "sd2", "zoo")
_LARGE = ("sdxl",)
_TEXT_ENCODERS = ("te", "te0", "te1")


@dataclass(frozen=True)
class Profile:
    """What each number of a block-weight list stands for.

    Attributes:
        name: How recipes call it.
        length: How many numbers a list has.
        labels: What the tool calls each of them, in the order of the list.
        source: The tool and its rule, in one sentence.
        layouts: Names of the layouts that have these blocks.
        elsewhere: Pairs of a block of another name, or a component, and the label that it goes
            by; what is neither a label nor here stays as it is in the first model.

    Example:
        >>> profile = get_profile("supermerger")
        >>> profile.labels[profile.index_of(Cell("unet", "time_embed"))]
        'IN00'
    """

    name: str
    length: int
    labels: tuple[str, ...]
    source: str
    layouts: tuple[str, ...]
    elsewhere: tuple[tuple[str, str], ...]

    def index_of(self, cell: Cell) -> int | None:
        """Say which number of the list a cell follows.

        Args:
            cell: A cell of one of the profile's layouts.

        Returns:
            The index, from 0; None where the cell stays as it is in the first model.

        Example:
            >>> get_profile("autombw").index_of(Cell("unet", "OUT00"))
            14
            >>> get_profile("autombw").index_of(Cell("te", "final")) is None
            True
        """
        in_unet = cell.component == "unet"
        place = cell.block if in_unet else cell.component
        label = dict(self.elsewhere).get(place, place if in_unet else "")
        return self.labels.index(label) if label in self.labels else None


def _blocks(kind: str, n_blocks: int) -> tuple[str, ...]:
    return tuple(f"{kind}{index:02d}" for index in range(n_blocks))


def _profile(
    name: str,
    source: str,
    layouts: tuple[str, ...],
    labels: tuple[str, ...],
    elsewhere: dict[str, str],
) -> Profile:
    return Profile(name, len(labels), labels, source, layouts, tuple(elsewhere.items()))


_DOWN_12 = (*_blocks("IN", 12), "M00")
_DOWN_9 = (*_blocks("IN", 9), "M00")
_ALL_25 = (*_DOWN_12, *_blocks("OUT", 12))
_ALL_19 = (*_DOWN_9, *_blocks("OUT", 9))
_TEXT_BASE = dict.fromkeys(_TEXT_ENCODERS, "BASE")
_BASE = {**_TEXT_BASE, "vae": "BASE"}
_AUTOMBW = {"out": "OUT", "time_embed": "TIME"}

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            _profile(
                "autombw",
                "AutoMBW (runtime-block-merge), order of its CSV: `out.` and `time_embed.` have "
                "numbers of their own; text encoder and VAE stay as in A.",
                _SMALL,
                (*_DOWN_12, "OUT", *_blocks("OUT", 12), "TIME"),
                _AUTOMBW,
            ),
            _profile(
                "autombw-recipe",
                "AutoMBW (runtime-block-merge), order of the line in its recipe text: `out.` and "
                "`time_embed.` last; text encoder and VAE stay as in A.",
                _SMALL,
                (*_ALL_25, "OUT", "TIME"),
                _AUTOMBW,
            ),
            _profile(
                "supermerger",
                "supermerger on SD1 and SD2: `time_embed.` goes with IN00, `out.` with OUT11, "
                "text encoder and VAE with BASE.",
                _SMALL,
                ("BASE", *_ALL_25),
                {**_BASE, "time_embed": "IN00", "out": "OUT11"},
            ),
            _profile(
                "supermerger-xl",
                "supermerger on SDXL: `time_embed.` and `label_emb.` go with IN00, `out.` with "
                "OUT08, text encoders and VAE with BASE.",
                _LARGE,
                ("BASE", *_ALL_19),
                {**_BASE, "time_embed": "IN00", "label_emb": "IN00", "out": "OUT08"},
            ),
            _profile(
                "meh",
                "meh and bayesian-merger: their base_alpha put before their 25 block weights; "
                "`time_embed.` goes with IN00, `out.` with OUT11, the rest with the base.",
                _SMALL,
                ("BASE", *_ALL_25),
                {**_BASE, "time_embed": "IN00", "label_emb": "BASE", "out": "OUT11"},
            ),
            _profile(
                "sd-mecha",
                "sd-mecha's blocks on SD1: `time_embed.`, text encoder and VAE go with BASE, "
                "`out.` with OUT11.",
                _SMALL,
                ("BASE", *_ALL_25),
                {**_BASE, "time_embed": "BASE", "label_emb": "BASE", "out": "OUT11"},
            ),
            _profile(
                "sd-mecha-xl",
                "sd-mecha's blocks on SDXL: `time_embed.`, `label_emb.` and text encoders go with "
                "BASE, `out.` with OUT08, the VAE has a number of its own.",
                _LARGE,
                ("BASE", *_ALL_19, "VAE"),
                {
                    **_TEXT_BASE,
                    "vae": "VAE",
                    "time_embed": "BASE",
                    "label_emb": "BASE",
                    "out": "OUT08",
                },
            ),
        )
    }
)
"""Every profile by name."""


def get_profile(name: str) -> Profile:
    """Look up a profile.

    Args:
        name: One of `PROFILES`.

    Returns:
        The profile.

    Raises:
        UnknownNameError: There is no such profile.

    Example:
        >>> get_profile("sd-mecha-xl").length
        21
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise UnknownNameError("profile", name, PROFILES) from None


def profiles_for(layout: Layout) -> tuple[Profile, ...]:
    """List the profiles that fit a layout's blocks.

    Args:
        layout: The layout of the models to merge.

    Returns:
        The profiles, in the order of `PROFILES`; none for the generic layout.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> [profile.name for profile in profiles_for(get_layout("sdxl"))]
        ['supermerger-xl', 'sd-mecha-xl']
    """
    return tuple(profile for profile in PROFILES.values() if layout.name in profile.layouts)


def spread(profile: Profile, values: Sequence[T], layout: Layout) -> dict[Cell, T | Fraction]:
    """Give every cell of a layout its number from a block-weight list.

    Args:
        profile: What the numbers stand for.
        values: One number a label; anything goes, since nothing is computed.
        layout: The layout of the models to merge.

    Returns:
        All cells in display order; those without a number have the fraction 0: they stay as they
        are in the first model.

    Raises:
        LayoutError: The list is too short or too long, or the layout has other blocks.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> cells = spread(get_profile("autombw"), list(range(27)), get_layout("sd1"))
        >>> cells[Cell("unet", "out")], cells[Cell("unet", "OUT00")], cells[Cell("vae", "encoder")]
        (13, 14, Fraction(0, 1))
    """
    if len(values) != profile.length:
        same = [other.name for other in PROFILES.values() if other.length == len(values)]
        hint = f"profiles of that length: {', '.join(same)}" if same else "no profile has that many"
        if profile.name == "meh" and len(values) == profile.length - 1:
            hint += "; `meh` takes the base_alpha as the first number"
        raise LayoutError(
            f"profile {profile.name!r} takes {profile.length} numbers "
            f"({profile.labels[0]} … {profile.labels[-1]}), but got {len(values)}; {hint}"
        )
    if layout.name not in profile.layouts:
        fitting = ", ".join(other.name for other in profiles_for(layout))
        advice = f"it takes: {fitting}" if fitting else "no profile fits it"
        if profile.name == "supermerger" and layout.name == "sdxl":
            advice += " (`supermerger_26_to_20` turns 26 numbers into 20)"
        raise LayoutError(
            f"profile {profile.name!r} has the blocks of {', '.join(profile.layouts)}, "
            f"but the models have the layout {layout.name!r}; {advice}"
        )
    numbers: dict[Cell, T | Fraction] = {}
    for cell in layout.cells:
        index = profile.index_of(cell)
        numbers[cell] = Fraction(0) if index is None else values[index]
    return numbers


def supermerger_26_to_20(values: Sequence[T]) -> list[T]:
    """Turn supermerger's list for SD1 into its list for SDXL, as supermerger does.

    Args:
        values: 26 numbers of the profile ``supermerger``.

    Returns:
        20 numbers of the profile ``supermerger-xl``; IN09–IN11 and OUT09–OUT11 are dropped.

    Raises:
        LayoutError: There are not 26 numbers.

    Example:
        >>> supermerger_26_to_20(get_profile("supermerger").labels)[-3:]
        ['OUT06', 'OUT07', 'OUT08']
    """
    if len(values) != 26:
        raise LayoutError(f"supermerger's list for SD1 has 26 numbers, but got {len(values)}")
    base, blocks = values[0], values[1:]
    return [base, *blocks[0:9], *blocks[12:22]]
