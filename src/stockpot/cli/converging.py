"""``stockpot convergence``: does a growing mix converge, or is it 1/k arithmetic?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stockpot.cli.comparing import Json, Overwrite
from stockpot.cli.output import print_json, print_table, safe_text
from stockpot.errors import CheckpointError, OutputExistsError, UnknownNameError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from stockpot.compare import Convergence, DistanceTable

__all__ = ["trace_growth"]


def trace_growth(
    comparison: Annotated[
        Path | None, typer.Argument(help="A comparison (stockpot compare) of the members.")
    ] = None,
    matrix: Annotated[
        Path | None, typer.Option(help="Distances alone, in the AstolfoMix author's JSON.")
    ] = None,
    component: Annotated[
        str | None, typer.Option(help="Which; by default the first that tells models apart.")
    ] = None,
    order: Annotated[
        list[str] | None,
        typer.Option(help="A member, in the order they were added; repeat it. Else as they are."),
    ] = None,
    chain: Annotated[
        bool,
        typer.Option("--chain", help="The rows are the running means m1, m2 …, not the members."),
    ] = False,
    orders: Annotated[int, typer.Option(help="Random orders to compare with.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the random orders.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the page and its figures.")
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Follow a growing mean: its distance to the next member and to its end, against chance."""
    from stockpot.compare import (
        distance_table,
        load_comparison,
        members_of_chain,
        read_distance_table,
        trace_convergence,
    )

    if (comparison is None) == (matrix is None):
        raise typer.BadParameter("give either a comparison or --matrix FILE")
    if orders < 1:
        raise typer.BadParameter(f"--orders must be at least 1, but is {orders}")
    if output is not None and not overwrite and (output / "convergence.html").exists():
        raise OutputExistsError(
            f"{output / 'convergence.html'}: the file is there already; allow --overwrite"
        )
    if comparison is not None:
        found = load_comparison(comparison)
        table = distance_table(found)
        members = [name for i, name in enumerate(table.names) if i != found.base]
    else:
        assert matrix is not None  # one of the two was given
        table = read_distance_table(matrix)
        members = list(table.names)
    members = order or members
    for name in members:
        if name not in table.names:
            raise UnknownNameError("model", name, table.names)
    chosen = component or _first(table)
    if chosen not in table.matrices:
        raise UnknownNameError("component", chosen, table.matrices)
    rows = [table.names.index(name) for name in members]
    distances = table.matrices[chosen][rows][:, rows]
    where = comparison or matrix
    try:
        if chain:
            distances = members_of_chain(distances)
        result = trace_convergence(distances, n_orders=orders, seed=seed)
    except ValueError as error:
        raise CheckpointError(f"{where}: {chosen}: {error}") from error
    if output is not None:
        from stockpot.cli.convergence_page import write_convergence

        output.mkdir(parents=True, exist_ok=True)
        write_convergence(result, members, chosen, output, chain=chain, overwrite=overwrite)
    if json_:
        print_json({"component": chosen, "members": members, **result.to_json()})
        return
    _print(result, members, chosen, chain)
    if output is not None:
        typer.echo(f"\nsee {safe_text(str(output / 'convergence.html'))}")


def _first(table: DistanceTable) -> str:
    def tells(matrix: npt.NDArray[np.float64]) -> bool:
        return bool((matrix > 0).any())

    for name, matrix in sorted(table.matrices.items(), key=lambda item: item[0] != "unet"):
        if tells(matrix):
            return name
    raise CheckpointError("no component tells these models apart: every distance is zero")


def _print(result: Convergence, members: list[str], component: str, chain: bool) -> None:
    start = result.to_end[0] or 1.0
    n = len(members)
    rows = []
    for k in range(n):
        low, middle, high = result.end_band[:, k]
        step = f"{result.to_next[k]:.4g}" if k < n - 1 else ""
        rows.append(
            [
                str(k + 1),
                members[k],
                f"{result.to_end[k]:.4g}",
                f"{result.to_end[k] / start:.3f}",
                f"{result.arithmetic[k] / result.arithmetic[0]:.3f}",
                f"{low:.4g} … {middle:.4g} … {high:.4g}",
                step,
            ]
        )
    print_table(
        [">k", "made of one more" if chain else "added", ">to the end", ">of the first",
         ">1/k alone", "random orders (5 … 50 … 95 %)", ">to the next member"],
        rows,
        f"{component}: the mean of the first k of {n}",
    )  # fmt: skip
    typer.echo(
        f"{result.verdict} ({result.slower:.1%} of {result.n_orders} random orders come nearer)"
    )
