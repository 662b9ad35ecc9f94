"""What stands in prompts besides what is drawn: LoRA tags, wildcards, words to replace."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["LoraTag", "Wildcards", "fill_wildcards", "replace_words", "take_loras"]

_TAG = re.compile(r"<(\w+):([^>]+)>")
_WILDCARD = re.compile(r"__([\w./*-]+?)__")
_DEEPEST = 20

Wildcards = Mapping[str, Sequence[str]]
"""What ``__name__`` may stand for, by name."""


@dataclass(frozen=True, slots=True)
class LoraTag:
    """A LoRA that a prompt asks for.

    Attributes:
        name: The file's name without folder and ending.
        unet: Strength in the UNet; 0 leaves it out, negative values go the other way.
        te: Strength in the text encoders.
    """

    name: str
    unet: float = 1.0
    te: float = 1.0


def take_loras(prompt: str) -> tuple[str, tuple[LoraTag, ...], tuple[str, ...]]:
    """Take the tags out of a prompt.

    ``<lora:name:0.8>`` has one strength for all; ``<lora:name:te=0.5:unet=0.8>`` or
    ``<lora:name:0.5:0.8>`` one for the text encoder and one for the UNet.

    Args:
        prompt: Any text.

    Returns:
        The prompt without tags; the LoRAs in order; tags that nobody here can obey, such as
        ``<hypernet:x:1>``, as they stood.

    Example:
        >>> take_loras("a cat <lora:ink:0.8>, sitting")[:2]
        ('a cat , sitting', (LoraTag(name='ink', unet=0.8, te=0.8),))
    """
    loras: list[LoraTag] = []
    others: list[str] = []

    def note(found: re.Match[str]) -> str:
        tag = _lora(found.group(2)) if found.group(1).lower() in ("lora", "lyco") else None
        if tag is None:
            others.append(found.group())
        else:
            loras.append(tag)
        return ""

    return _TAG.sub(note, prompt), tuple(loras), tuple(others)


def _lora(arguments: str) -> LoraTag | None:
    name, *rest = arguments.split(":")
    positions: list[float] = []
    named: dict[str, float] = {}
    try:
        for part in rest:
            key, equals, value = part.partition("=")
            if equals:
                named[key.strip().lower()] = float(value)
            else:
                positions.append(float(part))
    except ValueError:
        return None
    if not name or len(positions) > 2 or not named.keys() <= {"te", "unet"}:
        return None
    te = named.get("te", positions[0] if positions else 1.0)
    return LoraTag(name, named.get("unet", positions[1] if len(positions) > 1 else te), te)


def fill_wildcards(prompt: str, wildcards: Wildcards, seed: int) -> tuple[str, tuple[str, ...]]:
    """Put one line of its list in the place of each ``__name__``.

    Args:
        prompt: Any text.
        wildcards: Lines by name; a line may hold wildcards itself.
        seed: Which lines: the same seed takes the same ones.

    Returns:
        The prompt, and the names that no list has; these stay as they stand.

    Example:
        >>> fill_wildcards("a __colour__ cat, __mood__", {"colour": ["red"]}, 1)
        ('a red cat, __mood__', ('mood',))
    """
    chance = random.Random(seed)
    unknown: dict[str, None] = {}

    def choose(found: re.Match[str]) -> str:
        lines = wildcards.get(found.group(1))
        if not lines:
            unknown[found.group(1)] = None
            return found.group()
        return lines[chance.randrange(len(lines))]

    for _ in range(_DEEPEST):
        filled = _WILDCARD.sub(choose, prompt)
        if filled == prompt:
            break
        prompt = filled
    return prompt, tuple(unknown)


def replace_words(prompt: str, old: str, new: str) -> str:
    """Replace a text everywhere in a prompt: one value of A1111's ``Prompt S/R`` axis.

    Args:
        prompt: Any text.
        old: The axis's first value.
        new: Another of its values.

    Returns:
        The prompt.

    Raises:
        ValueError: The prompt does not hold the old text, so that the axis would change nothing.

    Example:
        >>> replace_words("a red cat", "red", "blue")
        'a blue cat'
    """
    if old not in prompt:
        raise ValueError(f"a search-and-replace axis must begin with words of the prompt, but "
                         f"{old!r} is not in {prompt!r}")  # fmt: skip
    return prompt.replace(old, new)
