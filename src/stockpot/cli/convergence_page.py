"""The page of a growing mix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import stockpot
from stockpot.cli.figure_files import write_charts
from stockpot.compare import Convergence
from stockpot.report import Band, Chart, Curve, Figures, Note, Page, write_page

__all__ = ["write_convergence"]


def write_convergence(
    result: Convergence,
    members: Sequence[str],
    component: str,
    folder: Path,
    *,
    chain: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the page and its figures.

    Args:
        result: The curves.
        members: Names in the order in which they were added.
        component: Which.
        folder: Where.
        chain: Whether the names are of the means.
        overwrite: Replace what is there.

    Returns:
        The page.
    """
    places = [f"{k + 1} {name}" for k, name in enumerate(members)]
    band = "random orders, 5 to 95 %"
    end = Curve(
        f"{component}: from the mean of the first k to the last",
        places,
        [
            ("this order", result.to_end.tolist()),
            ("random orders, median", result.end_band[1].tolist()),
            ("1/k arithmetic", result.arithmetic.tolist()),
        ],
        [Band(band, result.end_band[0].tolist(), result.end_band[2].tolist())],
        "k",
        "weight units (L2)",
    )
    step = Curve(
        f"{component}: from the mean of the first k to the next member",
        places[:-1],
        [
            ("this order", result.to_next.tolist()),
            ("random orders, median", result.next_band[1].tolist()),
        ],
        [Band(band, result.next_band[0].tolist(), result.next_band[2].tolist())],
        "k",
        "weight units (L2)",
    )
    charts: dict[str, Chart] = {f"{component}-to-end": end, f"{component}-to-next": step}
    sentence = (
        f"{result.verdict[0].upper()}{result.verdict[1:]}: {result.slower:.1%} of "
        f"{result.n_orders} random orders of the same models come nearer to their end."
    )
    how = "The members were worked out from the chain's means. " if chain else ""
    page = Page(
        title=f"{len(members)} models, one after the other",
        lead=f"How the running mean of {component} settles. {how}The mean of more models moves by "
        "ever smaller steps whatever they are; what counts is the difference from random orders.",
        sections=[
            Note("Findings", [sentence]),
            Figures("To the end", [("to the end", end)]),
            Figures("To the next member", [("to the next", step)]),
        ],
        footer=f"Stockpot {stockpot.__version__}. Figures as PNG, CSV and JSON lie in figures/.",
    )
    write_charts(charts, folder / "figures", overwrite=overwrite)
    return write_page(page, folder / "convergence.html", overwrite=overwrite)
