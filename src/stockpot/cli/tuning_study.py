"""``stockpot tune status``, ``report`` and ``import``: to read a study, and to add to it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from stockpot.cli.output import note, print_json, safe_text

__all__ = ["import_tables", "show_status", "write_report"]

Study = Annotated[str, typer.Argument(metavar="FILE", help="The study, as for --study.")]


def show_status(
    study: Study,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, with every trial.")] = False,
) -> None:
    """Show where a study stands; it may be running."""
    from stockpot.cli.tuning_tree_view import print_trees
    from stockpot.cli.tuning_view import print_status, read_study, status_json
    from stockpot.tune import open_store, trees_in

    with open_store(study, create=False) as store:
        names = trees_in(store)
        if names:
            print_trees(store, names, json_)
            return
        view = read_study(store)
    if json_:
        print_json(status_json(view))
    else:
        print_status(view)


def write_report(
    study: Study,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for page and figures.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results.")] = False,
) -> None:
    """Write a page of what a study found, with every figure as PNG, CSV and JSON beside it."""
    from stockpot.errors import MissingExtraError, OutputExistsError

    if any(find_spec(name) is None for name in ("jinja2", "matplotlib", "plotly")):
        raise MissingExtraError("reports", "compare")
    from stockpot.cli.tuning_page import write_study_page
    from stockpot.cli.tuning_tree_page import write_tree_page
    from stockpot.tune import open_store, trees_in

    if (output / "tuning.html").exists() and not overwrite:
        raise OutputExistsError(f"{output / 'tuning.html'} is there already; use --overwrite")
    with open_store(study, create=False) as store:
        write = write_tree_page if trees_in(store) else write_study_page
        page = write(store, output, overwrite=overwrite)
    typer.echo(safe_text(f"see {page}"))


def import_tables(
    recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE", help="With 27 holes.")],
    tables: Annotated[list[Path], typer.Argument(metavar="CSV…", help="Tables of AutoMBW.")],
    study: Annotated[str, typer.Option(metavar="FILE", help="The study; made if not there.")],
    space: Annotated[str, typer.Option(help="As for the search.")] = "each",
    group: Annotated[list[str] | None, typer.Option(help="As for the search.")] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="As for the search.")] = None,
) -> None:
    """Add AutoMBW's evaluations to a study, so that the optimiser starts from what they tell.

    Their scores count as they are: import only what the same scorer gave for the same payloads.
    """
    from stockpot.cli.recipe_files import find_layout, read_any
    from stockpot.cli.tuning_run import space_of
    from stockpot.tune import find_holes, import_rows, open_store

    imported = read_any(recipe_file)
    layout = find_layout(imported, recipe_file.parent, None, strict=False)
    recipe = imported.recipe
    where = space_of(find_holes(recipe), recipe, layout, space, group, freeze)
    with open_store(study) as store:
        for table in tables:
            found = import_rows(store, recipe, where, table)
            typer.echo(
                safe_text(
                    f"{table}: {found.n_rows} evaluations, {found.n_new} of them new, "
                    f"{found.n_outside} outside of what the search can reach"
                )
            )
            if found.n_outside:
                note("note: what lies outside is kept, but the optimiser cannot learn from it; a "
                     "step of 0.05 or none holds what AutoMBW tried")  # fmt: skip
