"""From a request to pictures with their infotexts."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

import stockpot
from stockpot.checkpoints import write_whole
from stockpot.draw.infotext import write_infotext
from stockpot.draw.painter import Drawn, Painter
from stockpot.draw.pictures import to_png
from stockpot.draw.prompt_words import Wildcards, fill_wildcards, take_loras
from stockpot.draw.requests import Named, Request
from stockpot.draw.settings import DrawSettings
from stockpot.errors import Problem, RequestError, StockpotError

__all__ = [
    "Finished", "draw_request", "draw_singles", "paint_alike", "read_wildcards", "split_request",
    "with_seed", "write_file",
]  # fmt: skip

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


def split_request(
    request: Request, wildcards: Wildcards | None = None
) -> tuple[list[Request], list[Problem]]:
    """Make one request for each picture, as `draw_request` draws them.

    Args:
        request: For any number of pictures; its seed from 0 on.
        wildcards: Lines for ``__name__``, by name; None leaves them as they stand.

    Returns:
        Requests of one picture, with their own seeds and filled prompts; and wildcards without a
        list.

    Example:
        >>> singles, _ = split_request(Request("a cat", seed=7, n_pictures=3))
        >>> [single.seed for single in singles]
        [7, 8, 9]
    """
    settings, notes = request.settings, {}
    singles = []
    for i, seed in enumerate(request.seeds()):
        prompt, unknown = fill_wildcards(request.prompt, wildcards or {}, request.seed + i)
        negative, more = fill_wildcards(settings.negative, wildcards or {}, request.seed + i)
        for name in (*unknown, *more) if wildcards else ():
            where = f"__{name}__"
            notes[name] = Problem("wildcard", "no list has this name; drawn as text", where)
        # As in web UIs, the second noise goes on where the first stays.
        varied = settings.variation_seed + (i if settings.variation else 0)
        own = replace(settings, negative=negative, variation_seed=varied)
        singles.append(replace(request, prompt=prompt, seed=seed, settings=own, n_pictures=1))
    return singles, list(notes.values())


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
    singles, unknown = split_request(request, wildcards)
    notes = {problem.where: problem for problem in unknown}
    finished = draw_singles(painter, singles, model=model, vae=vae, mix=mix, progress=progress)
    found = {name: value for one in finished for name, value in one.request.ti_hashes}
    for name, wanted in request.ti_hashes:
        if name not in found:
            notes[name] = Problem("embedding", "the request's card names this textual inversion, "
                                  "which is not here; its name was drawn as text", name,
                                  "name its folder with --embeddings")  # fmt: skip
        elif not found[name].startswith(wanted):
            notes[name] = Problem("embedding", f"the card was drawn with {wanted}, but the file "
                                  f"here is {found[name]}", name)  # fmt: skip
    return finished, list(notes.values())


def paint_alike(
    painter: Painter,
    requests: Sequence[Request],
    progress: Callable[[int, int], None] | None = None,
) -> Drawn:
    """Paint requests that differ in prompt and seed only, without making files of them.

    Args:
        painter: What draws.
        requests: At least one, of one picture each, with equal settings; seeds from 0 on.
        progress: As for `Painter.draw`.

    Returns:
        Their pictures, in order.

    Raises:
        RequestError: The model has not the layers, the sizes or the schedule that are asked for.
    """
    prompts, seeds = [r.prompt for r in requests], [r.seed for r in requests]
    try:
        return painter.paint(prompts, seeds, requests[0].settings, progress)
    except ValueError as error:
        if isinstance(error, StockpotError):
            raise
        # A size, layer or schedule that this model does not have.
        raise RequestError([Problem("settings", str(error), painter.parts.name)]) from error


def draw_singles(
    painter: Painter,
    requests: Sequence[Request],
    *,
    model: Named = Named(),  # noqa: B008 - frozen
    vae: Named = Named(),  # noqa: B008 - frozen
    mix: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[Finished]:
    """Draw requests of one picture each; those with equal settings are drawn at once.

    Args:
        painter: What draws.
        requests: Seeds from 0 on.
        model: As for `draw_request`.
        vae: As for `draw_request`.
        mix: As for `draw_request`.
        progress: As for `Painter.draw`, for each group of equal settings.

    Returns:
        One picture for each request, in their order.

    Raises:
        RequestError: The model has not the layers, the sizes or the schedule that are asked for.
    """
    groups: dict[DrawSettings, list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(request.settings, []).append(i)
    finished: dict[int, Finished] = {}
    extra = (("Stockpot mix", mix),) if mix else ()
    for settings, places in groups.items():
        prompts = [requests[i].prompt for i in places]
        drawn = paint_alike(painter, [requests[i] for i in places], progress)
        for k, i in enumerate(places):
            words = f"{prompts[k]}\n{settings.negative}".lower()
            tags = {tag.name for tag in take_loras(prompts[k])[1]}
            kept = (pair for pair in requests[i].extra if not pair[0].startswith("Stockpot"))
            own = replace(
                requests[i],
                settings=replace(
                    settings,
                    width=_side(settings.width, painter),
                    height=_side(settings.height, painter),
                    batch=1,
                ),
                model=model,
                vae=vae,
                ti_hashes=tuple(
                    (n, value[:12]) for n, value in drawn.embeddings.items() if n.lower() in words
                ),
                lora_hashes=tuple((n, v[:12]) for n, v in drawn.loras.items() if n in tags),
                version=f"Stockpot {stockpot.__version__}",
                extra=(*kept, *extra),
            )
            text, picture = write_infotext(own), drawn.pictures[k]
            png = to_png(picture, text)
            finished[i] = Finished(picture, own, text, png, drawn.n_tokens[k])
    return [finished[i] for i in range(len(requests))]


def _side(given: int | None, painter: Painter) -> int:
    return given or int(painter.parts.unet.config.sample_size) * painter.vae_factor


def read_wildcards(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """Read lists for wildcards: one text file a name, one choice a line.

    Args:
        folder: ``colour.txt`` is ``__colour__``, ``clothes/hat.txt`` is ``__clothes/hat__``.

    Returns:
        Lines by name; empty ones and those that begin with ``#`` are left out.

    Raises:
        RequestError: There is no such folder, or a list cannot be read.
    """
    if not folder.is_dir():
        raise RequestError([Problem("wildcards", "there is no such folder", str(folder))])
    lists = {}
    for file in sorted(folder.rglob("*.txt")):
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                [Problem("wildcards", f"the list cannot be read: {error}", str(file),
                         "save it as UTF-8, or leave it out")]
            ) from error  # fmt: skip
        lines = (line.strip() for line in text.splitlines())
        name = file.relative_to(folder).with_suffix("").as_posix()
        lists[name] = tuple(line for line in lines if line and not line.startswith("#"))
    return lists


def write_file(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Args:
        path: Where to; what is there is replaced.
        data: What.
    """
    write_whole(path, data)
