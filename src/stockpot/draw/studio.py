"""From a request to pictures with their infotexts."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

import stockpot
from stockpot.draw.infotext import write_infotext
from stockpot.draw.painter import Painter
from stockpot.draw.pictures import to_png
from stockpot.draw.prompt_words import Wildcards, fill_wildcards
from stockpot.draw.requests import Named, Request
from stockpot.errors import Problem

__all__ = ["Finished", "draw_request", "read_wildcards", "with_seed", "write_file"]

_SEEDS = 1 << 32


@dataclass(frozen=True)
class Finished:
    """One picture of a request.

    Attributes:
        picture: uint8 RGB, `[height, width, 3]`.
        request: What this one was drawn with: one picture, its own seed, its filled prompt.
        infotext: The same as text.
        png: The same as a file.
        n_tokens: Of its prompt.
    """

    picture: npt.NDArray[np.uint8]
    request: Request
    infotext: str
    png: bytes
    n_tokens: int


def with_seed(request: Request) -> Request:
    """Give a request that leaves its seed to chance a seed.

    Args:
        request: With any seed; a negative one stands for chance.

    Returns:
        The request, with a seed from 0 on.
    """
    return replace(request, seed=secrets.randbelow(_SEEDS)) if request.seed < 0 else request


def draw_request(
    painter: Painter,
    request: Request,
    *,
    model: Named = Named(),  # noqa: B008 - frozen
    vae: Named = Named(),  # noqa: B008 - frozen
    mix: str = "",
    wildcards: Wildcards | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Finished], list[Problem]]:
    """Draw all pictures of a request.

    Args:
        painter: What draws.
        request: What to draw; a negative seed takes a random one.
        model: What to call the model in infotexts.
        vae: What to call its VAE, where it is another one.
        mix: What the model is made of, for the infotext.
        wildcards: Lines for ``__name__``, by name.
        progress: As for `Painter.draw`.

    Returns:
        The pictures, and what deserves to be known: wildcards without a list, embeddings whose
        file is another than the request's.
    """
    request = with_seed(request)
    notes: dict[str, Problem] = {}
    seeds, prompts = request.seeds(), []
    for i in range(request.n_pictures):
        prompt, unknown = fill_wildcards(request.prompt, wildcards or {}, request.seed + i)
        prompts.append(prompt)
        if wildcards:
            for name in unknown:
                notes[name] = Problem("wildcard", "no list has this name; drawn as text",
                                      f"__{name}__")  # fmt: skip
    settings = request.settings
    negative, _ = fill_wildcards(settings.negative, wildcards or {}, request.seed)
    settings = replace(settings, negative=negative)
    drawn = painter.paint(prompts, seeds, settings, progress)
    for name, wanted in request.ti_hashes:
        got = drawn.embeddings.get(name)
        if got is None:
            notes[name] = Problem("embedding", "the request's card names this textual inversion, "
                                  "which is not here; its name was drawn as text", name,
                                  "name its folder with --embeddings")  # fmt: skip
        elif not got.startswith(wanted):
            notes[name] = Problem("embedding", f"the card was drawn with {wanted}, but the file "
                                  f"here is {got[:12]}", name)  # fmt: skip
    extra = (("Stockpot mix", mix),) if mix else ()
    finished = []
    for i, picture in enumerate(drawn.pictures):
        own = Request(
            prompts[i],
            seeds[i],
            replace(settings, height=_side(settings.height, painter),
                    width=_side(settings.width, painter), batch=1,
                    variation_seed=settings.variation_seed),
            1,
            model,
            vae,
            tuple((name, value[:12]) for name, value in drawn.embeddings.items()),
            tuple((name, value[:12]) for name, value in drawn.loras.items()),
            request.plot,
            f"Stockpot {stockpot.__version__}",
            (*(pair for pair in request.extra if not pair[0].startswith("Stockpot")), *extra),
        )  # fmt: skip
        text = write_infotext(own)
        finished.append(Finished(picture, own, text, to_png(picture, text), drawn.n_tokens[i]))
    return finished, list(notes.values())


def _side(given: int | None, painter: Painter) -> int:
    return given or int(painter.parts.unet.config.sample_size) * painter.vae_factor


def read_wildcards(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """Read lists for wildcards: one text file a name, one choice a line.

    Args:
        folder: ``colour.txt`` is ``__colour__``, ``clothes/hat.txt`` is ``__clothes/hat__``.

    Returns:
        Lines by name; empty ones and those that begin with ``#`` are left out.
    """
    lists = {}
    for file in sorted(folder.rglob("*.txt")):
        lines = (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
        name = file.relative_to(folder).with_suffix("").as_posix()
        lists[name] = tuple(line for line in lines if line and not line.startswith("#"))
    return lists


def write_file(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Args:
        path: Where to; what is there is replaced.
        data: What.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
