"""Options that all searches have: declared once, for `stockpot tune` and `stockpot tune-tree`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from dataclasses import fields as fields_of
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from stockpot.cli.clustering import OnCluster
from stockpot.cli.sizes import WEIGHTS_HELP

__all__ = ["SearchOptions", "takes_search_options"]

_SPACE = (
    "How few numbers move the holes: each, depth, groups, or curve:K, a smooth curve of K numbers "
    "over the UNet."
)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a search may be told; the help of each says what it is."""

    payloads: Annotated[
        list[Path], typer.Option(help="Payloads of A1111's API: JSON files or folders. Repeatable.")
    ]
    score: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="What to maximise; see `stockpot score --list`. "
            "Repeated, it gives several objectives and a Pareto front.",
        ),
    ]
    study: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Where the study is kept: an SQLite file, "
            "journal:FILE, or the address of a database. The same command goes on.",
        ),
    ]
    space: Annotated[str, typer.Option(help=_SPACE)] = "each"
    group: Annotated[
        list[str] | None,
        typer.Option(help="Holes that share a number, such as 'IN0*,M00'. Repeatable."),
    ] = None
    freeze: Annotated[
        list[str] | None, typer.Option(help="Holes that stay, such as 'OUT*=0.5'. Repeatable.")
    ] = None
    refine: Annotated[
        str | None,
        typer.Option(metavar="SPACE", help="Then go on from the best in this finer space."),
    ] = None
    radius: Annotated[
        float, typer.Option(help="How far --refine goes, as a part of each hole's range.")
    ] = 0.25
    optimiser: Annotated[str, typer.Option(help="auto, gp, tpe, cmaes, qmc or random.")] = "auto"
    seed: Annotated[int, typer.Option(help="Of the search and of what is held out.")] = 0
    trials: Annotated[
        int,
        typer.Option(
            help="Candidates to try, over all calls; baselines come on top. With "
            "--refine as many again."
        ),
    ] = 100
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many candidates without a better one.")
    ] = None
    hours: Annotated[float | None, typer.Option(help="Stop the search after so long.")] = None
    images: Annotated[
        int | None, typer.Option(help="Pictures that the search may draw, over all calls.")
    ] = None
    tally: Annotated[
        str, typer.Option(help="How the scores of all pictures become one number.")
    ] = "arithmetic"
    stop: Annotated[
        float,
        typer.Option(
            help="Stop a candidate when its chance to come out ahead of the best "
            "falls below this; 0 draws all."
        ),
    ] = 0.2
    record: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Keep these scores too. Repeatable.")
    ] = None
    near_uniform: Annotated[
        bool, typer.Option("--near-uniform", help="A further objective: stay near the uniform mix.")
    ] = False
    known: Annotated[
        list[Path] | None,
        typer.Option(help="A recipe of the same pool that was found good: one more baseline."),
    ] = None
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Payloads for the verdict; by default the same with fresh seeds."),
    ] = None
    finalists: Annotated[int, typer.Option(help="How many of the best are held out.")] = 3
    held_repeats: Annotated[int, typer.Option(help="Held-out pictures a payload's picture.")] = 1
    repeats: Annotated[int, typer.Option(help="Pictures a payload's picture in the search.")] = 1
    steps: Annotated[int | None, typer.Option(help="Sampling steps, not the payloads'.")] = None
    size: Annotated[str | None, typer.Option(help="Such as 512x512, not the payloads'.")] = None
    hires: Annotated[bool, typer.Option("--hires/--no-hires", help="Second passes.")] = True
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Keep every picture in the study.")
    ] = False
    workers: Annotated[int, typer.Option(help="Processes on this machine, or on each node.")] = 1
    batch: Annotated[
        int,
        typer.Option(
            help="Pictures drawn at once. Above 1, a study that was killed may go "
            "on a hair differently than one that was not."
        ),
    ] = 1
    memory: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None
    threads: Annotated[int, typer.Option(help="For merging; 0 means one a core.")] = 0
    device: Annotated[str, typer.Option(help="Where to draw and score, such as cuda.")] = "cpu"
    dtype: Annotated[str, typer.Option(help="What to draw in.")] = "float32"
    vae: Annotated[Path | None, typer.Option(help="Draw every candidate with this VAE.")] = None
    config: Annotated[Path | None, typer.Option(help="Folder that describes the models.")] = None
    te: Annotated[Path | None, typer.Option(help="The same for text encoders.")] = None
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of CLIP's tokenizer.")] = None
    files: Annotated[Path | None, typer.Option(help="Folder of scorers' files.")] = None
    scales: Annotated[Path | None, typer.Option(help="Scales for a weighted sum.")] = None
    wildcards: Annotated[
        Path | None, typer.Option(help="Folder of lists for __name__ in prompts.")
    ] = None
    cluster: OnCluster = None

    @property
    def n_more(self) -> int:
        """How many further processes of this machine draw; with a cluster its workers do."""
        return 0 if self.cluster is not None else self.workers - 1

    def check(self) -> None:
        """Refuse what no search can do.

        Raises:
            BadParameter: Naming the option.
        """
        counts = (self.trials, self.finalists, self.held_repeats, self.repeats, self.workers,
                  self.batch)  # fmt: skip
        if min(counts) < 1:
            raise typer.BadParameter("counts must be 1 or more")
        if not 0 <= self.stop < 1:
            raise typer.BadParameter("--stop must be 0 or more and below 1")
        if not 0 < self.radius <= 1:
            raise typer.BadParameter("--radius must be above 0 and at most 1")


def takes_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all options of a search, in the place of its parameter `options`.

    Args:
        command: Its `options` is a `SearchOptions`; it gets one that is checked.

    Returns:
        What typer reads as a command with its own parameters and one for each option.
    """
    told = inspect.signature(command, eval_str=True)
    shared = _shared()
    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for own in told.parameters.values()
        for one in (shared if own.name == "options" else [own])
    ]

    @wraps(command)
    def called(**values: Any) -> None:
        options = SearchOptions(**{parameter.name: values.pop(parameter.name)
                                   for parameter in shared})  # fmt: skip
        options.check()
        command(options=options, **values)

    called.__signature__ = told.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    return called


@cache
def _shared() -> tuple[inspect.Parameter, ...]:
    hints = get_type_hints(SearchOptions, include_extras=True)
    return tuple(
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[field.name],
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
        )
        for field in fields_of(SearchOptions)
    )  # fmt: skip
