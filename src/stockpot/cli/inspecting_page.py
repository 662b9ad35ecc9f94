"""Findings as a page: the table, and a section for each file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import stockpot
from stockpot.checkpoints import size_text
from stockpot.cli.inspecting_view import (
    component_lines,
    facts_of,
    headline,
    precision,
    same_as,
    short_paths,
    summary,
)
from stockpot.cli.output import safe_text
from stockpot.inspect import CODES, Inspection, metadata_tree
from stockpot.report import Cell, Code, Facts, Page, Section, Table, TableRow, Tile

__all__ = ["inspection_page"]

_MOST_DETAILED = 100


def inspection_page(
    inspections: Sequence[Inspection],
    shared: Mapping[str, Mapping[str, Sequence[str]]],
    base: Inspection | None = None,
) -> Page:
    """Describe findings.

    Args:
        inspections: The findings.
        shared: From `stockpot.inspect.shared_components`.
        base: The model that components were compared with.

    Returns:
        The page, for `stockpot.report.write_page`.
    """
    sections: list[Section] = [_overview(inspections, shared, base)]
    for found in inspections[:_MOST_DETAILED]:
        sections += _details(found, shared.get(found.path, {}), base)
    return Page(
        "What these files are",
        "Read from the files alone. Nothing that a file says of itself was believed where its "
        "keys, shapes or values could be asked instead.",
        sections,
        [
            Tile(str(len(inspections)), "files"),
            Tile(size_text(sum(one.n_bytes for one in inspections)), "of tensors"),
            Tile(str(sum(one.level == "error" for one in inspections)), "with errors"),
        ],
        f"stockpot {stockpot.__version__}",
    )


def _overview(
    inspections: Sequence[Inspection],
    shared: Mapping[str, Mapping[str, Sequence[str]]],
    base: Inspection | None,
) -> Table:
    names = short_paths([one.path for one in inspections], 60)
    rows = [
        TableRow(
            [
                Cell(name, hint=safe_text(one.path)),
                safe_text(headline(one)),
                component_lines(one),
                precision(one),
                size_text(one.n_bytes),
                safe_text("; ".join(same_as(shared.get(one.path, {}), base))) or "–",
                Cell(summary(one) or "none", strong=one.level == "error"),
            ],
            "strong" if one.level == "error" else "plain",
        )
        for name, one in zip(names, inspections, strict=True)
    ]
    columns = ["file", "what", "components", "types", "size", "shares", "findings"]
    return Table("Files", columns, rows, numeric=frozenset({4}), wrapped=frozenset({1, 2, 5, 6}))


def _details(
    found: Inspection, shared: Mapping[str, Sequence[str]], base: Inspection | None
) -> list[Section]:
    items = [("what", headline(found)), *facts_of(found, shared, base)]
    items += [(facts.name, facts.hash) for facts in found.components.values() if facts.hash]
    items += [
        (f"{CODES[problem.code].level}: {problem.code}", str(problem)) for problem in found.problems
    ]
    title = safe_text(found.path)
    evidence = safe_text("; ".join(found.evidence))
    sections: list[Section] = [
        Facts(title, [(safe_text(name), safe_text(text)) for name, text in items], evidence)
    ]
    lines = [
        f"{'  ' * depth}{safe_text(node.label)}" + (f": {safe_text(node.value)}" * bool(node.value))
        for root in metadata_tree(found.metadata)
        for depth, node in root.walk()
    ]
    if lines:
        sections.append(Code(f"Metadata of {title}", "\n".join(lines)))
    return sections
