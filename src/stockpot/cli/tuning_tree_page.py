"""The page of a file with trees of searches: verdicts, nodes, pictures, recipes; a page a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import stockpot
from stockpot.cli.figure_files import write_charts
from stockpot.cli.tuning_page import held_out_gallery, standings_table, study_page
from stockpot.cli.tuning_tree_view import NodeView, TreeView, read_tree, sentences
from stockpot.cli.tuning_view import read_study
from stockpot.report import Cell, Code, Note, Page, Section, Table, TableRow, Tile, write_page

if TYPE_CHECKING:
    from stockpot.tune import GrowingTree, StudyStore

__all__ = ["write_tree_page"]


def write_tree_page(store: StudyStore, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the page of all trees of a file, and one for each node under ``nodes``.

    Args:
        store: The file.
        folder: Where.
        overwrite: Replace what is there.

    Returns:
        The page.
    """
    from stockpot.tune import GrowingTree, trees_in

    folder.mkdir(parents=True, exist_ok=True)
    trees = [GrowingTree(store, name) for name in trees_in(store)]
    views = [read_tree(tree) for tree in trees]
    for tree in trees:
        for i, node in enumerate(tree.tree.nodes):
            study = tree.study_of(node)
            if study.is_there():
                place = folder / "nodes" / f"{tree.name}-{i + 1}"
                page, charts = study_page(study, read_study(study))
                if charts:
                    write_charts(charts, place / "figures", overwrite=overwrite)
                place.mkdir(parents=True, exist_ok=True)
                write_page(page, place / "tuning.html", overwrite=overwrite)
    lead = " ".join(text + "." for view in views for text in sentences(view))
    sections: list[Section] = []
    for tree, view in zip(trees, views, strict=True):
        sections += _sections(store, tree, view)
    sections.append(Note("What could not be concluded", _open_questions(views)))
    tiles = [
        Tile(str(len(trees)), "trees"),
        Tile(str(sum(one.decision is not None for view in views for one in view.nodes)),
             "nodes decided"),
        Tile(str(views[0].n_pictures), "pictures"),
        Tile(f"{views[0].seconds / 3600:.2f} h", "drawing and scoring"),
    ]  # fmt: skip
    title = f"Trees of searches: {Path(store.where).name}"
    page = Page(title, lead, sections, tiles, f"Stockpot {stockpot.__version__}")
    return write_page(page, folder / "tuning.html", overwrite=overwrite)


def _sections(store: StudyStore, tree: GrowingTree, view: TreeView) -> list[Section]:
    found: list[Section] = [_nodes(view)]
    if view.result is not None:
        found.append(standings_table(view.result))
        gallery = held_out_gallery(store, view.result)
        if gallery is not None:
            found.append(gallery)
    if tree.recipe is not None:
        found.append(Code(f"Recipe of the {view.name} tree", tree.recipe.to_yaml(),
                          "Over the models of the pool."))  # fmt: skip
    return found


def _nodes(view: TreeView) -> Table:
    return Table(
        f"Nodes of the {view.name} tree",
        ["node", "of", "models", "candidates", "winner", "held out", "difference", "interval",
         "better", "its page"],
        [_row(view, i, one) for i, one in enumerate(view.nodes)],
        "Each node was decided on held-out pictures; these are the same for all nodes, and the "
        "comparison at the end has others. Differences are to the uniform mix of a node's models. "
        "A winner may be a parent alone.",
        numeric=frozenset({2, 3, 5, 6}),
    )  # fmt: skip


def _row(view: TreeView, i: int, one: NodeView) -> TableRow:
    winner = one.winner or {}
    verdict = winner.get("verdict") or {}
    held = winner.get("held_out")
    interval = ""
    if verdict.get("low") is not None and verdict.get("high") is not None:
        interval = f"{verdict['low']:+.4f} to {verdict['high']:+.4f}"
    page = f"nodes/{view.name}-{i + 1}/tuning.html" if one.trials else ""
    return TableRow(
        [one.node.name, " + ".join(one.node.parents),
         Cell(str(len(one.node.models)), value=len(one.node.models)),
         Cell(str(one.trials), value=one.trials), winner.get("name", ""),
         Cell("–" if held is None else f"{held:.4f}", value=held),
         f"{verdict['difference']:+.4f}" if verdict else "", interval,
         verdict.get("better", ""), page],
        "plain" if winner.get("baseline", True) else "strong",
    )  # fmt: skip


def _open_questions(views: list[TreeView]) -> list[str]:
    told = []
    for view in views:
        mine = f"{view.name} tree"
        if view.result is None:
            told.append(f"Anything about the {mine}: it has no verdict yet.")
            continue
        unsure = _unsure(view.result)
        if unsure:
            told.append(f"Whether the {mine} is better than {', '.join(unsure)}.")
    told.append("Whether another pairing of the same models would do better; and anything about "
                "prompts that no payload has.")  # fmt: skip
    return told


def _unsure(result: dict[str, Any]) -> list[str]:
    against = result["against"]
    return [name for name, verdict in against.items() if verdict["better"] == "cannot tell"]
