"""What a tree of searches looks like: on a terminal, as data, and as a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from stockpot.cli.output import note, print_json, print_table, safe_text
from stockpot.cli.tuning_view import against_text

if TYPE_CHECKING:
    from stockpot.tune import Decision, GrowingTree, StudyStore, TreeNode

__all__ = [
    "NodeView",
    "TreeView",
    "print_tree",
    "print_trees",
    "read_tree",
    "sentences",
    "tree_json",
]

_BASELINES = 4  # of a node, about


@dataclass(frozen=True)
class NodeView:
    """A node as it is now.

    Attributes:
        node: Of the tree.
        trials: Candidates that are finished, baselines among them.
        decision: What it came to; None before that.
    """

    node: TreeNode
    trials: int
    decision: Decision | None

    @property
    def winner(self) -> dict[str, Any] | None:
        """The winner's standing on the held-out exam."""
        if self.decision is None:
            return None
        standings = self.decision.result["standings"]
        return next(dict(one) for one in standings if one["name"] == self.decision.winner)


@dataclass(frozen=True)
class TreeView:
    """A tree as it is now.

    Attributes:
        name: In its file.
        nodes: In the order in which they are searched.
        n_pictures: Drawn in the whole file.
        seconds: Spent on them.
        minutes_left: About, from what a candidate took so far; None where nothing tells.
        result: The comparison at the end; None before that.
        asked: What makes the tree's studies.
    """

    name: str
    nodes: tuple[NodeView, ...]
    n_pictures: int
    seconds: float
    minutes_left: float | None
    result: dict[str, Any] | None
    asked: dict[str, Any]


def read_tree(growing: GrowingTree) -> TreeView:
    """Read where a tree stands; it may be running meanwhile.

    Args:
        growing: The tree.
    """
    nodes = []
    for node in growing.tree.nodes:
        coarse = growing.study_of(node)
        stages = [one for one in (coarse, coarse.named(f"{coarse.name} fine")) if one.is_there()]
        trials = [trial for stage in stages for trial in stage.all_trials()]
        n_trials = sum(trial.state.is_finished() for trial in trials)
        nodes.append(NodeView(node, n_trials, growing.decision(node)))
    marks = growing.store.book.marks()
    seconds = sum(mark.elapsed_s for mark in marks)
    n_candidates = len({mark.candidate for mark in marks})
    asked = growing.asked
    planned = asked.get("trials", 0) * (2 if asked.get("refine") else 1) + _BASELINES
    left = sum(max(planned - one.trials, 1) for one in nodes if one.decision is None)
    minutes = left * seconds / n_candidates / 60 if n_candidates else None
    return TreeView(growing.name, tuple(nodes), len(marks), seconds, minutes, growing.result,
                    asked)  # fmt: skip


def tree_json(view: TreeView) -> dict[str, Any]:
    """A tree's state as plain data.

    Args:
        view: Of `read_tree`.
    """
    return {
        "tree": view.name,
        "nodes": [_node_json(one) for one in view.nodes],
        "pictures": view.n_pictures,
        "seconds": round(view.seconds, 3),
        "minutes_left": 0 if view.result is not None else view.minutes_left,
        "asked": {name: value for name, value in view.asked.items() if name != "plan"},
        "plan": view.asked["plan"],
        "result": view.result,
    }


def _node_json(one: NodeView) -> dict[str, Any]:
    decision = one.decision
    return {
        "node": one.node.name,
        "parents": list(one.node.parents),
        "models": list(one.node.models),
        "trials": one.trials,
        "decided": decision is not None,
        "winner": None if decision is None else decision.winner,
        "recipe": None if decision is None else decision.recipe.to_yaml(),
        "result": None if decision is None else dict(decision.result),
    }


def print_trees(store: StudyStore, names: tuple[str, ...], json_: bool) -> None:
    """Print the state of all trees of a file.

    Args:
        store: The file.
        names: Of its trees.
        json_: Print data instead.
    """
    from stockpot.tune import GrowingTree

    views = [read_tree(GrowingTree(store, name)) for name in names]
    if json_:
        print_json({"trees": [tree_json(view) for view in views]})
        return
    for view in views:
        _print(view)


def print_tree(growing: GrowingTree, json_: bool) -> None:
    """Print how a tree ended.

    Args:
        growing: The tree.
        json_: Print data instead.
    """
    view = read_tree(growing)
    if json_:
        print_json(tree_json(view))
        return
    _print(view)
    note(f"more: stockpot tune report {growing.store.where} -o FOLDER")


def _print(view: TreeView) -> None:
    n_decided = sum(one.decision is not None for one in view.nodes)
    print_table(
        ["node", "of", ">candidates", "winner", ">held out", "against the uniform mix of its "
         "models"],
        (_row(one) for one in view.nodes),
        f"{view.name}: {n_decided} of {len(view.nodes)} nodes decided",
    )  # fmt: skip
    if view.result is None:
        left = "" if view.minutes_left is None else f"; {left_text(view.minutes_left)}"
        typer.echo(f"{view.n_pictures} pictures in {view.seconds / 3600:.2f} h{left}")
        return
    result = view.result
    print_table(
        ["candidate", ">held out", "against the uniform mix"],
        ([one["name"], _number(one["held_out"]), _against(one["verdict"])]
         for one in result["standings"]),
        f"{result['scorer']} on {len(result['tasks'])} pictures that decided nothing",
    )  # fmt: skip
    for one in result["standings"]:
        for drift in one["drifts"]:
            typer.echo(safe_text(f"{one['name']}: {drift}"))
    for name, text in result["failures"].items():
        note(f"{name} could not be drawn: {text}")
    for text in sentences(view):
        typer.echo(safe_text(text))


def left_text(minutes: float) -> str:
    """Say how long it may take.

    Args:
        minutes: From what candidates took so far.
    """
    return f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left"


def sentences(view: TreeView) -> list[str]:
    """What a finished tree's comparison says: against the uniform mix first, then other trees.

    Args:
        view: Of a tree with a result.
    """
    result = view.result
    if result is None:
        return ["The tree has no verdict yet: run it to its end."]
    mine = f"{view.name} tree"
    trees = [one["name"] for one in result["standings"] if not one["baseline"]]
    against = result["against"]
    found = [against[name]["text"] for name in ("uniform mix", *trees) if name in against]
    return [f"{mine}: {text}" for text in found]


def _row(one: NodeView) -> list[str]:
    winner = one.winner
    state = "" if one.trials else "waiting"
    name = state or "searching"
    return [
        one.node.name,
        " + ".join(one.node.parents),
        str(one.trials),
        name if winner is None else winner["name"],
        "" if winner is None else _number(winner["held_out"]),
        "" if winner is None else _against(winner["verdict"]),
    ]


def _against(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return ""
    return against_text(verdict["better"], verdict["difference"], verdict["low"], verdict["high"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
