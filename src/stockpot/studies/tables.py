"""Tables that several studies show."""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.report import Cell, Table, TableRow
from stockpot.studies.contrasts import Contrast

__all__ = ["contrast_table"]


def contrast_table(
    title: str, rows: Mapping[str, Contrast], text: str, *, how: str = "ratio"
) -> Table:
    """Show contrasts, what is sure in bold.

    Args:
        title: Its heading.
        rows: From `contrast_all`.
        text: What is to be known, below.
        how: ``ratio`` or ``difference``, as the contrasts are.
    """
    digits = 2 if how == "ratio" else 3
    return Table(
        title,
        ["what", "mean", "of the other", how, "interval", "p, corrected", ""],
        [
            TableRow(
                [
                    one.name,
                    f"{one.a:.3g}",
                    f"{one.b:.3g}",
                    Cell(f"{one.found.value:.{digits}f}", value=one.found.value),
                    f"{one.found.low:.{digits}f} … {one.found.high:.{digits}f}",
                    Cell(f"{one.corrected:.4f}", value=one.corrected),
                    one.state,
                ],
                "strong" if one.state in ("less", "more") else "plain",
            )
            for one in rows.values()
        ],
        text,
        numeric=frozenset({1, 2, 3, 5}),
        wrapped=frozenset({0}),
        sortable=True,
    )
