"""``stockpot tune``: search for the numbers of a recipe's holes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stockpot.cli.clustering import ClusterCommand
from stockpot.cli.tuning_options import SearchOptions, takes_search_options

__all__ = ["app", "tune_recipe"]


class _RunUnlessNamed(TyperGroup):
    """``stockpot tune RECIPE …`` is ``stockpot tune run RECIPE …``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunUnlessNamed,
    help="Search for the numbers of a recipe's holes; `stockpot tune RECIPE …` is "
    "`stockpot tune run RECIPE …`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("run", cls=ClusterCommand)
@takes_search_options
def tune_recipe(
    recipe_file: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe with search(low, high[, step]).")
    ],
    options: SearchOptions,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the best candidate's recipe here.")
    ] = None,
    merge: Annotated[
        Path | None, typer.Option("--merge", help="Merge the best candidate into this file.")
    ] = None,
    outside: Annotated[bool, typer.Option("--outside", help="Paths may leave the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Search for the numbers of a recipe's holes, and judge what was found on held-out pictures."""
    from stockpot.cli.tuning_run import Wishes, run_study

    run_study(Wishes(**vars(options), recipe_file=recipe_file, output=output, merge=merge,
                     outside=outside, overwrite=overwrite, json_=json_))  # fmt: skip
