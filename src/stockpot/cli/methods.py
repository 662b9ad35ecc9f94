"""``stockpot methods``: the ways to merge that a recipe can call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.output import print_json, print_table

if TYPE_CHECKING:
    from stockpot.recipes import Function

__all__ = ["list_methods"]


def list_methods(
    name: Annotated[
        str | None, typer.Argument(help="One of them, with its options; by default all.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print all facts as JSON.")] = False,
) -> None:
    """List the methods: formula, options, passes over the inputs, memory, source."""
    from stockpot.errors import UnknownNameError
    from stockpot.recipes import find_function

    functions = {row.name: row for row in _functions()}
    if name is not None:
        found = functions.get(name) or find_function(name)
        if found is None or found.kind == "kept":
            raise UnknownNameError("method", name, functions)
        functions = {name: found}
    if json_:
        print_json([_facts(row) for row in functions.values()])
        return
    if name is not None:
        _show(functions[name])
        return
    print_table(
        ["method", "what it does", ">passes", "device"],
        (
            [row.signature, row.summary, str(facts["passes"]), "yes" if facts["devices"] else ""]
            for row, facts in ((row, _facts(row)) for row in functions.values())
        ),
    )  # fmt: skip
    typer.echo("formula, options and source of one: stockpot methods NAME")


def _functions() -> list[Function]:
    """Those that come with Stockpot, then those of installed packages."""
    from importlib.metadata import entry_points

    from stockpot.recipes import FUNCTIONS, PLUGINS, find_function

    own = [row for row in FUNCTIONS.values() if row.gives in ("model", "list")]
    outside = sorted({entry.name for entry in entry_points(group=PLUGINS)} - FUNCTIONS.keys())
    found = [find_function(name) for name in outside]
    return [row for row in own if row.kind != "kept"] + [row for row in found if row is not None]


def _facts(row: Function) -> dict[str, Any]:
    from stockpot.engine import method_costs

    costs = method_costs(row) if row.kind != "rule" else None
    return {
        "name": row.name,
        "signature": row.signature,
        "summary": row.summary,
        "formula": row.formula,
        "source": row.source,
        "version": row.version,
        "symmetric": row.symmetric,
        "passes": costs.n_passes if costs else 1,
        "memory": costs.memory if costs else "a panel",
        "devices": list(costs.on_devices) if costs else [],
        "options": [
            {
                "name": option.name,
                "meaning": option.meaning,
                "range": option.range_text,
                "default": None if option.default is None else str(option.default),
            }
            for option in row.options
        ],
    }


def _show(row: Function) -> None:
    facts = _facts(row)
    typer.echo(row.signature)
    typer.echo(f"  {row.summary}")
    for label in ("formula", "source", "passes", "memory"):
        if facts[label]:
            typer.echo(f"  {label:8s} {facts[label]}")
    there = ", ".join(facts["devices"])
    typer.echo(f"  device   {f'{there}: with --device' if there else 'always the processor'}")
    if row.symmetric:
        typer.echo("  order    of the models does not matter")
    if facts["options"]:
        print_table(
            ["option", "default", "range", "meaning"],
            (
                [option["name"], option["default"] or "must be given", option["range"],
                 option["meaning"]]
                for option in facts["options"]
            ),
        )  # fmt: skip
