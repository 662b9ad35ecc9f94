"""How a tree of searches is run from the command line: from options to a result."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stockpot.cli.naming import parse_pool
from stockpot.cli.output import note
from stockpot.cli.recipe_files import TUNED, find_layout, placed, study_metadata, write_text
from stockpot.cli.tuning_examiner import memory_of, opened_examiner
from stockpot.cli.tuning_options import SearchOptions
from stockpot.cli.tuning_processes import further_processes, is_further_process
from stockpot.cli.tuning_run import (
    exams_of,
    first_mix,
    identity_of,
    known_recipes,
    say_held_out,
    search_stage,
    stages_of,
    tuned_recipe,
)
from stockpot.errors import OutputExistsError, StudyError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stockpot.layouts import Layout
    from stockpot.recipes import Recipe
    from stockpot.tune import (
        BaselineMaker,
        Exam,
        Examiner,
        GrowingTree,
        Result,
        Search,
        StudyStore,
        Tree,
        TreeNode,
    )

__all__ = ["TreeWishes", "run_tree"]


@dataclass(frozen=True, kw_only=True)
class TreeWishes(SearchOptions):
    """The options of `stockpot tune-tree`; see there."""

    entries: list[str]
    order: str | None
    plan: Path | None
    name: str | None
    blocks: str | None
    alone: str
    step: str
    final_repeats: int
    output: Path | None
    merge: Path | None
    dry_run: bool
    outside: bool
    overwrite: bool
    json_: bool

    @property
    def tree_name(self) -> str:
        """What to call the tree in its file."""
        if self.name:
            return self.name
        return self.plan.stem if self.plan is not None else self.order or "parallel"


def run_tree(wishes: TreeWishes) -> None:
    """Search every node, compare the whole, print, and write what was asked for.

    Args:
        wishes: The options.
    """
    from stockpot.tune import ALONE, check_tally, shown_address

    check_tally(wishes.tally)
    memory_of(wishes)
    if wishes.alone not in ALONE:
        raise UnknownNameError("rule for --alone", wishes.alone, ALONE)
    for output in (wishes.output, wishes.merge):
        if output is not None and output.exists() and not wishes.overwrite:
            raise OutputExistsError(f"{output} is there already; use another name, or --overwrite")
    tree, layout = _tree(wishes)
    if wishes.dry_run:
        typer.echo(tree.plan.to_yaml(), nl=False)
        return
    try:
        _run(wishes, tree, layout)
    except KeyboardInterrupt:
        where = shown_address(wishes.study)
        note(f"stopped; what was drawn is kept in {where}: the same command goes on")
        raise typer.Exit(130) from None


def _tree(wishes: TreeWishes) -> tuple[Tree, Layout]:
    """The plan with absolute paths, its shares spread over blocks."""
    from stockpot.recipes.importers import import_text
    from stockpot.tune import Tree, plan_tree, spread_holes

    if wishes.plan is not None and wishes.order is not None:
        raise typer.BadParameter("--plan says the order itself; leave --order out")
    given = {n: str(Path(file).absolute()) for n, file in parse_pool(wishes.entries).items()}
    if wishes.plan is None:
        try:
            step = Fraction(wishes.step)
        except (ValueError, ZeroDivisionError):
            step = Fraction(-1)
        if not 0 <= step <= 1:
            raise typer.BadParameter(f"--step must be from 0 to 1, but got {wishes.step!r}")
        recipe = plan_tree(given, wishes.order or "parallel", step=wishes.step if step else "")
        layout = find_layout(import_text(recipe.to_yaml(), "plan"), Path(), None, strict=False)
    else:
        recipe, layout = tuned_recipe(wishes.plan, outside=wishes.outside)
        strange = [name for name in given if name not in recipe.pool]
        if strange:
            raise StudyError(f"--pool {strange[0]}: {wishes.plan} has no model of this name; it "
                             f"has {', '.join(list(recipe.pool)[:30])}")  # fmt: skip
        start = wishes.plan.parent
        files = {name: os.path.abspath(start / one.file)
                 for name, one in recipe.pool.items() if one.file} | given  # fmt: skip
        pool = {n: replace(recipe.pool[n], file=file, unknown=None) for n, file in files.items()}
        recipe = replace(recipe, pool={**recipe.pool, **pool})
    profile = wishes.blocks or _profile(layout, Tree(recipe, layout))
    return Tree(recipe if profile == "none" else spread_holes(recipe, profile), layout), layout


def _profile(layout: Layout, tree: Tree) -> str:
    """The first profile of the architecture that has a number for all that the tree mixes."""
    from stockpot.layouts import profiles_for

    found = profiles_for(layout)
    more = set(tree.moving) != {"unet"}
    fitting = [profile for profile in found if ("BASE" in profile.labels) == more]
    return (fitting or list(found))[0].name if found else "none"


@dataclass(frozen=True)
class _Exams:
    """What candidates draw in a search, what decides a node, and what the trees are judged by."""

    search: Exam
    held: Exam
    last: Exam


def _run(wishes: TreeWishes, tree: Tree, layout: Layout) -> None:
    from stockpot.cli.tuning_tree_view import print_tree
    from stockpot.tune import GrowingTree, open_store

    is_child = is_further_process()
    exam, other = exams_of(wishes)
    held, last = (
        other.held_out(wishes.seed + i, repeats=repeats, avoid=exam)
        for i, repeats in enumerate((wishes.held_repeats, wishes.final_repeats))
    )
    exams = _Exams(exam, held, last)
    asked = _asked(wishes, exams, identity_of(tree.plan, Path()))
    begun: set[str] = set()
    start = time.monotonic()

    def told(growing: GrowingTree, node: TreeNode) -> None:
        if not is_child and node.name not in begun:  # several workers begin the same node
            begun.add(node.name)
            note(_where(growing, node, start))

    def hand(examiner: Examiner) -> None:
        with open_store(wishes.study) as own:
            growing = GrowingTree(own, wishes.tree_name, tree, asked)
            _grow(wishes, growing, layout, exams, examiner, told, last=False)

    # Groups and frozen holes have other names in a node than in the plan.
    first = first_mix(replace(wishes, group=None, freeze=None), tree.plan, layout)
    with ExitStack() as stack:
        examiner = stack.enter_context(opened_examiner(wishes, tree.plan, Path(), hand, first))
        store = stack.enter_context(open_store(wishes.study))
        growing = GrowingTree(store, wishes.tree_name, tree, asked)
        children = stack.enter_context(further_processes(0 if is_child else wishes.n_more))
        result = _grow(wishes, growing, layout, exams, examiner, told, quiet=is_child)
        if is_child:
            return
        for child in children:
            child.wait()
        _write(wishes, growing, result)
        print_tree(growing, wishes.json_)


def _grow(
    wishes: TreeWishes,
    growing: GrowingTree,
    layout: Layout,
    exams: _Exams,
    examiner: Examiner,
    told: Callable[[GrowingTree, TreeNode], None],
    *,
    quiet: bool = False,
    last: bool = True,
) -> Result:
    """Draw what a tree has left to draw, and compare the whole."""
    tree, folder = growing.tree, Path()

    def begin(
        study: StudyStore, node: TreeNode, recipe: Recipe, baselines: BaselineMaker
    ) -> Iterator[Search]:
        return stages_of(wishes, study, recipe, layout, exams.search, folder,
                         seed=tree.seed_of(node, wishes.seed), baselines=baselines)  # fmt: skip

    def run(search: Search) -> None:
        search_stage(search, examiner, quiet, last)

    shown = None if quiet else say_held_out
    growing.grow(begin, examiner, exams.held, wishes.finalists, alone=wishes.alone, run=run,
                 progress=partial(told, growing), shown=shown)  # fmt: skip
    known = {one.name: one.recipe for one in known_recipes(wishes.known or [], tree.plan)}
    return growing.conclude(
        examiner, exams.last, scorer=wishes.score[0], tally=wishes.tally, known=known,
        pool=identity_of(tree.plan, folder), shown=shown,
    )  # fmt: skip


def _asked(wishes: TreeWishes, exams: _Exams, pool: str) -> dict[str, Any]:
    """What must be the same when a tree is taken up again: its nodes are decided for good."""
    names = (
        "score",
        "record",
        "near_uniform",
        "tally",
        "optimiser",
        "seed",
        "space",
        "group",
        "freeze",
        "refine",
        "radius",
        "stop",
        "trials",
        "patience",
        "images",
        "finalists",
    )
    return {
        **{name: getattr(wishes, name) for name in names},
        "exam": exams.search.key, "held": exams.held.key, "final": exams.last.key, "pool": pool,
    }  # fmt: skip


def _where(growing: GrowingTree, node: TreeNode, start: float) -> str:
    from stockpot.cli.tuning_tree_view import left_text, read_tree

    view = read_tree(growing)
    nodes = growing.tree.nodes
    text = f"node {nodes.index(node) + 1} of {len(nodes)}: {node.name}, of "
    text += " and ".join(node.parents)
    if view.minutes_left is not None:
        text += f"; {left_text(view.minutes_left)}"
    return text


def _write(wishes: TreeWishes, growing: GrowingTree, result: Result) -> None:
    from stockpot.engine import Settings, merge
    from stockpot.recipes import Origin

    recipe = growing.recipe
    assert recipe is not None
    told = json.dumps(_evidence(growing, result), sort_keys=True)
    final = replace(recipe, origin=Origin(TUNED, {"study": told}))
    if wishes.output is not None:
        there = placed(final, Path(), wishes.output.parent)
        write_text(wishes.output, there.to_yaml(), wishes.overwrite)
    if wishes.merge is not None:
        merge(final, wishes.merge, settings=Settings(overwrite=wishes.overwrite),
              metadata=study_metadata(final))  # fmt: skip


def _evidence(growing: GrowingTree, result: Result) -> dict[str, Any]:
    """What a merged file says of the tree that chose its recipe: no path, no date."""
    mine = next(one for one in result.standings if one.name == f"{growing.name} tree")
    nodes = {}
    for node in growing.tree.nodes:
        decision = growing.decision(node)
        if decision is not None:
            nodes[node.name] = {"winner": decision.winner, "verdict": decision.result["text"]}
    return {
        "tree": growing.name,
        "nodes": nodes,
        "held_out": mine.tallied,
        "verdict": "" if mine.verdict is None else mine.verdict.text,
        "against": {name: verdict.text for name, verdict in result.against.items()},
        "drifts": [str(drift.problem) for drift in mine.drifts],
        "scorer": result.scorer,
        "held_out_exam": result.exam.key,
        "n_held_out_tasks": len(result.exam.tasks),
        **{name: growing.asked[name] for name in ("exam", "tally", "optimiser", "seed", "space",
                                                  "trials")},
    }  # fmt: skip
