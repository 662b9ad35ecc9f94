"""``stockpot tune-tree``: a search for each pair of a tree of models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.tuning_options import SearchOptions, takes_search_options

__all__ = ["tune_tree"]


@takes_search_options
def tune_tree(
    *,
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE…", help="Checkpoints: FILE, or NAME=FILE."),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(help="The same: FILE, or NAME=FILE. In the order of the tree."),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(help="parallel: pairs, pairs of pairs …; sequential: one model after the "
                     "other. parallel if neither this nor --plan is given."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="A recipe in which each `let` with holes is a search of its own."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Of the tree in its file; by default the order, or the plan's name."),
    ] = None,
    blocks: Annotated[
        str | None,
        typer.Option(metavar="PROFILE", help="What shares are spread over: a profile of block "
                     "weights, or none. By default one that has all that the tree mixes."),
    ] = None,
    alone: Annotated[
        str,
        typer.Option(help="When a parent goes on alone and the others are out: sure (where it is "
                     "surely better than the best mix), best, or never."),
    ] = "sure",
    step: Annotated[str, typer.Option(help="Of shares; 0 for any number.")] = "0.05",
    options: SearchOptions,
    final_repeats: Annotated[
        int, typer.Option(help="Pictures a payload's picture in the comparison at the end.")
    ] = 4,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the tree's recipe here.")
    ] = None,
    merge: Annotated[
        Path | None, typer.Option("--merge", help="Merge the tree's recipe into this file.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan as a recipe, and stop.")
    ] = False,
    outside: Annotated[bool, typer.Option("--outside", help="Paths may leave the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Mix models pair by pair, with a search for each pair, and judge the whole at the end.

    --trials, --patience, --hours and --images are for each search. Several trees may share a
    --study: what they have in common is drawn once, and they are compared with each other. The
    same command goes on where it was.
    """
    from stockpot.cli.tuning_tree_run import TreeWishes, run_tree

    if final_repeats < 1:
        raise typer.BadParameter("counts must be 1 or more")
    if name is not None and not re.fullmatch(r"[\w-][\w. -]{0,99}", name):
        raise typer.BadParameter("--name may have up to 100 letters, digits, spaces and . _ -")
    run_tree(TreeWishes(
        **vars(options), entries=[*(models or []), *(pool or [])], order=order, plan=plan,
        name=name, blocks=blocks, alone=alone, step=step, final_repeats=final_repeats,
        output=output, merge=merge, dry_run=dry_run, outside=outside, overwrite=overwrite,
        json_=json_,
    ))  # fmt: skip
