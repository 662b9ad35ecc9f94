"""A request for pictures: prompt, seed, settings, and which model somebody drew it with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stockpot.draw.settings import DrawSettings
from stockpot.errors import Problem

__all__ = ["Named", "PlotAxis", "ReadRequest", "Request", "number_text", "pairs_text", "text_pairs"]


@dataclass(frozen=True, slots=True)
class Named:
    """A file as infotexts tell of it.

    Attributes:
        name: Without folder; may be empty.
        hash: The first 10 hex digits of its sha256; may be empty.
    """

    name: str = ""
    hash: str = ""


@dataclass(frozen=True, slots=True)
class PlotAxis:
    """An axis of a web UI's X/Y/Z plot, as an infotext tells of it.

    Attributes:
        axis: ``X``, ``Y`` or ``Z``.
        kind: Such as ``Checkpoint name``.
        text: Its values as they stand, separated by commas.
    """

    axis: str
    kind: str
    text: str

    @property
    def values(self) -> tuple[str, ...]:
        """The values one by one; those in quotes may hold commas.

        Example:
            >>> PlotAxis("X", "Prompt S/R", 'red,"a, b"').values
            ('red', 'a, b')
        """
        import csv

        rows = csv.reader([self.text.replace("\n", " ")], skipinitialspace=True)
        return tuple(value.strip() for row in rows for value in row if value.strip())

    @property
    def models(self) -> tuple[Named, ...]:
        """The values of an axis of checkpoints: each ``name [hash]``.

        Example:
            >>> PlotAxis("X", "Checkpoint name", "a.safetensors [0123456789],b.ckpt").models
            (Named(name='a.safetensors', hash='0123456789'), Named(name='b.ckpt', hash=''))
        """
        found = []
        for value in self.values:
            name, bracket, rest = value.rpartition(" [")
            ok = bracket and rest.endswith("]")
            found.append(Named(name, rest[:-1].lower()) if ok else Named(value))
        return tuple(found)


@dataclass(frozen=True)
class Request:
    """What to draw, in full.

    Attributes:
        prompt: With web UI grammar.
        seed: Of the first picture; picture i takes ``seed + i``. Negative takes a random one.
        settings: Everything else that the picture depends on; its `negative` and sizes are part
            of the request.
        n_pictures: How many; a payload's ``batch_size × n_iter``.
        model: What it was, or is to be, drawn with; empty for whatever is at hand.
        vae: The same for a VAE of its own.
        ti_hashes: Textual inversions that were called: name, and the first digits of the file's
            sha256.
        lora_hashes: The same for LoRAs.
        plot: Axes of the X/Y/Z plot that the picture was one of.
        version: Of the program that drew it.
        extra: Fields of an infotext that mean nothing here, in their order.
    """

    prompt: str = ""
    seed: int = 0
    settings: DrawSettings = field(default_factory=DrawSettings)
    n_pictures: int = 1
    model: Named = Named()
    vae: Named = Named()
    ti_hashes: tuple[tuple[str, str], ...] = ()
    lora_hashes: tuple[tuple[str, str], ...] = ()
    plot: tuple[PlotAxis, ...] = ()
    version: str = ""
    extra: tuple[tuple[str, str], ...] = ()

    def scaled(self, factor: float, multiple: int) -> Request:
        """Make all sizes smaller or larger, for models that draw at another size.

        Args:
            factor: Such as 1/16.
            multiple: Sizes are rounded to multiples of it, and are at least it.

        Returns:
            The request; what hires fix enlarges by stays.

        Example:
            >>> request = Request(settings=DrawSettings(width=1344, height=768))
            >>> small = request.scaled(1 / 24, 8)
            >>> small.settings.width, small.settings.height
            (56, 32)
        """

        def size(pixels: int | None) -> int | None:
            if not pixels:
                return pixels
            return max(multiple, round(pixels * factor / multiple) * multiple)

        settings = self.settings
        hires = settings.hires
        if hires is not None:
            hires = replace(hires, width=size(hires.width) or 0, height=size(hires.height) or 0)
        return replace(
            self,
            settings=replace(
                settings, width=size(settings.width), height=size(settings.height), hires=hires
            ),
        )

    def seeds(self) -> tuple[int, ...]:
        """List the seeds of all pictures.

        Returns:
            One for each picture.

        Example:
            >>> Request(seed=7, n_pictures=3).seeds()
            (7, 8, 9)
        """
        # With a second noise it is that which goes on, and the first stays.
        step = 0 if self.settings.variation else 1
        return tuple(self.seed + i * step for i in range(self.n_pictures))


@dataclass(frozen=True)
class ReadRequest:
    """A request as it was read.

    Attributes:
        request: What to draw.
        notes: What was asked for and will not be done, and what is worth knowing.
        silent: Names of fields that were read and ask for nothing.
    """

    request: Request
    notes: tuple[Problem, ...] = ()
    silent: tuple[str, ...] = ()


def number_text(value: float) -> str:
    """Write a number as infotexts do: whole ones without a point.

    Args:
        value: Any finite number.

    Returns:
        Its text.

    Example:
        >>> number_text(4.0), number_text(0.7)
        ('4', '0.7')
    """
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)


def pairs_text(pairs: Sequence[tuple[str, str]]) -> str:
    """Write names and hashes as infotexts do.

    Args:
        pairs: Name and hash.

    Returns:
        Such as ``a: 0123, b: 4567``.

    Example:
        >>> pairs_text([("a", "01"), ("b", "23")])
        'a: 01, b: 23'
    """
    return ", ".join(f"{name}: {value}" for name, value in pairs)


def text_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Read names and hashes.

    Args:
        text: As `pairs_text` writes it.

    Returns:
        Name and hash, in order; what is no pair is left out.

    Example:
        >>> text_pairs("a: 01, b: 23")
        (('a', '01'), ('b', '23'))
    """
    parts = (part.rpartition(": ") for part in text.split(", "))
    return tuple((name.strip(), value.strip()) for name, sep, value in parts if sep)
