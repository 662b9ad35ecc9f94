"""Growing a tree of searches: one study a node, all of them in one file, and a verdict at the end.

A node is decided once, on a held-out exam, and what it came to is written down before its parent
begins. The whole is compared on a third exam, which no node has seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, final

from stockpot.errors import StudyError, UnknownNameError
from stockpot.layouts import get_layout
from stockpot.recipes import Name, Recipe, mean, parse_recipe
from stockpot.tune.baselines import UNIFORM
from stockpot.tune.claims import Claims
from stockpot.tune.exam import Exam
from stockpot.tune.examining import Examiner
from stockpot.tune.keeping import draw_exam, kept_marks
from stockpot.tune.results import Result, Standing, hold_out, judge, rank, result_json
from stockpot.tune.searching import Search, candidate_key, run_search
from stockpot.tune.settings import Baseline, check_same
from stockpot.tune.storing import StudyStore
from stockpot.tune.trees import Tree, TreeNode
from stockpot.tune.verdicts import compare_marks

__all__ = ["ALONE", "BaselineMaker", "Begin", "Decision", "GrowingTree", "trees_in"]

_WAIT_S = 0.3
_LIST = "trees"

#: When a parent goes on alone, and the others of its node are out.
ALONE: Mapping[str, str] = MappingProxyType(
    {
        "sure": "where it is surely better on the held-out exam than the best mix",
        "best": "where it is the best on the held-out exam, be it by chance",
        "never": "a mix goes on always",
    }
)


#: Gives a node's baselines, as `stockpot.tune.make_baselines` gives those of a recipe.
BaselineMaker = Callable[..., tuple[Baseline, ...]]
#: Begins the search of a node: its store, the node, its recipe, and what gives its baselines.
Begin = Callable[[StudyStore, TreeNode, Recipe, BaselineMaker], Iterable[Search]]


@dataclass(frozen=True)
class Decision:
    """What a node came to.

    Attributes:
        winner: Name of the candidate: a trial, or a baseline; see `ALONE`.
        recipe: Without holes, over the models of the pool.
        result: The node's held-out comparison, as `stockpot.tune.result_json` gives it.
    """

    winner: str
    recipe: Recipe
    result: Mapping[str, Any]


def trees_in(store: StudyStore) -> tuple[str, ...]:
    """List the trees of a file, in the order in which they were begun.

    Args:
        store: Any study of the file.
    """
    return tuple(json.loads(store.book.note(_LIST) or "[]"))


@final
class GrowingTree:
    """A tree in a file, seen from one process.

    Args:
        store: The file.
        name: Of the tree; a file may hold several.
        tree: What to search; None for a tree that was begun.
        asked: What makes the tree's studies, and must be the same when it is taken up again:
            plain data.

    Raises:
        StudyError: The tree was begun otherwise, or is not there.
    """

    def __init__(
        self,
        store: StudyStore,
        name: str,
        tree: Tree | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        self.store, self.name = store, name
        text = store.book.note(self._key)
        if tree is None:
            if text is None:
                raise StudyError(f"{store.where}: there is no tree {name!r}")
            kept = json.loads(text)
            layout = None if kept["layout"] is None else get_layout(kept["layout"])
            tree = Tree(parse_recipe(kept["plan"]), layout)
        self.tree = tree
        layout_name = None if tree.layout is None else tree.layout.name
        told = {"plan": tree.plan.to_yaml(), "layout": layout_name, **(asked or {})}
        if text is None:
            store.book.put_note(self._key, json.dumps(told))
            store.book.put_note(_LIST, json.dumps([*trees_in(store), name]))
        elif asked is not None:
            check_same(json.loads(text), json.loads(json.dumps(told)), store.where)
        self.asked: dict[str, Any] = told if text is None else json.loads(text)

    @property
    def _key(self) -> str:
        return f"tree {self.name}"

    def study_of(self, node: TreeNode) -> StudyStore:
        """The study of a node; it may not be there yet.

        Args:
            node: One of the tree's.
        """
        return self.store.named(f"{self.name}: {node.name}")

    def decision(self, node: TreeNode) -> Decision | None:
        """Read what a node came to; None where it is not decided.

        Args:
            node: One of the tree's.
        """
        text = self.store.book.note(f"{self._key}: {node.name}")
        if text is None:
            return None
        told = json.loads(text)
        return Decision(told["winner"], parse_recipe(told["recipe"]), told["result"])

    @property
    def decided(self) -> dict[str, Recipe]:
        """The recipes of all nodes that are decided."""
        found = {node.name: self.decision(node) for node in self.tree.nodes}
        return {name: decision.recipe for name, decision in found.items() if decision is not None}

    @property
    def recipe(self) -> Recipe | None:
        """The whole tree's recipe; None until all nodes are decided."""
        decided = self.decided
        return self.tree.finished(decided) if len(decided) == len(self.tree.nodes) else None

    @property
    def result(self) -> dict[str, Any] | None:
        """The comparison at the end, as it was written down."""
        text = self.store.book.note(f"{self._key} result")
        return None if text is None else dict(json.loads(text))

    def grow(
        self,
        begin: Begin,
        examiner: Examiner,
        held: Exam,
        n_best: int = 3,
        *,
        alone: str = "sure",
        run: Callable[[Search], None] | None = None,
        progress: Callable[[TreeNode], None] | None = None,
        shown: Callable[[str], None] | None = None,
    ) -> Recipe:
        """Search all nodes that are not decided, one after the other.

        Args:
            begin: Begins a node's search, or several that go on from each other.
            examiner: Draws and scores.
            held: The exam that decides nodes.
            n_best: How many of a node's best candidates draw it.
            alone: A key of `ALONE`. A parent that is ahead by chance would go on alone again and
                again, until one model is left of the tree.
            run: Runs a search to its end; by default `run_search` with the examiner.
            progress: Called with each node before it begins.
            shown: Called with the name of each candidate before it is held out.

        Returns:
            The recipe of the whole tree, over the models of the pool.

        Raises:
            StudyError: A node's study was begun otherwise, or nothing of it could be drawn.
            UnknownNameError: `alone` is none.
        """
        if alone not in ALONE:
            raise UnknownNameError("rule for parents alone", alone, ALONE)
        decided: dict[str, Recipe] = {}
        for node in self.tree.nodes:
            found = self.decision(node)
            if found is None:
                if progress is not None:
                    progress(node)
                found = self._search(node, decided, begin, examiner, held, n_best, alone, run,
                                     shown)  # fmt: skip
            decided[node.name] = found.recipe
        return self.tree.finished(decided)

    def _search(
        self,
        node: TreeNode,
        decided: Mapping[str, Recipe],
        begin: Begin,
        examiner: Examiner,
        held: Exam,
        n_best: int,
        alone: str,
        run: Callable[[Search], None] | None,
        shown: Callable[[str], None] | None,
    ) -> Decision:
        study = self.study_of(node)
        recipe = self.tree.recipe_of(node, decided)
        baselines = partial(self.tree.baselines, node, decided)
        with ExitStack() as stack:
            done = []
            for search in begin(study, node, recipe, baselines):
                stack.enter_context(search)
                if run is None:
                    run_search(search, examiner)
                else:
                    run(search)
                done.append(search)
            failures = hold_out(done, examiner, held, n_best, shown)
            result = judge(done, held, n_best, failures)
            chosen = _choose(node, result, alone)
            told = {
                "winner": chosen.name,
                "recipe": chosen.recipe.to_yaml(),
                "result": result_json(result),
            }
            # One worker decides for all of them: a late one may have seen other limits.
            key = f"{self._key}: {node.name}"
            while self.store.book.note(key) is None:
                if not done[-1].claims.take(f"decide {key}"):
                    time.sleep(_WAIT_S)
                elif self.store.book.note(key) is None:  # nobody decided and left meanwhile
                    study.book.put_note(study.note_key("result"), json.dumps(told["result"]))
                    self.store.book.put_note(key, json.dumps(told))
        found = self.decision(node)
        assert found is not None
        return found

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Models of the pool that the tree mixes, in the pool's order."""
        every = {model for node in self.tree.nodes for model in node.models}
        return tuple(name for name in self.tree.plan.pool if name in every)

    def conclude(
        self,
        examiner: Examiner,
        exam: Exam,
        *,
        scorer: str,
        tally: str = "arithmetic",
        known: Mapping[str, Recipe] | None = None,
        pool: str = "",
        shown: Callable[[str], None] | None = None,
    ) -> Result:
        """Compare the whole tree with the uniform mix, all models, and the file's other trees.

        Args:
            examiner: Draws and scores.
            exam: One that no node was decided by.
            scorer: What counts.
            tally: How scores become one number.
            known: More candidates by name; over the same pool.
            pool: As for `stockpot.tune.Search`.
            shown: Called with the name of each candidate before it is drawn.

        Returns:
            The result; `against` compares this tree with each of the others. Intervals have 95 %,
            since nothing was chosen by this exam.

        Raises:
            StudyError: The tree is not finished, or could not be drawn.
        """
        recipe = self.recipe
        if recipe is None:
            raise StudyError(f"{self.store.where}: not all nodes of {self.name!r} are decided")
        trees = {f"{self.name} tree": recipe}
        for name in trees_in(self.store):
            other = None if name == self.name else GrowingTree(self.store, name)
            found = None if other is None else other.recipe
            if found is not None and other is not None and self._is_like(other):
                trees[f"{name} tree"] = replace(found, pool=recipe.pool)
        uniform = self.tree.whole(mean(*map(Name, self.models)), {})
        plain = {UNIFORM: uniform, **(known or {})}
        plain |= {f"{name} alone": self.tree.whole(Name(name), {}) for name in self.models}
        entrants = [
            Standing(name, i, candidate_key(one, pool), one, {}, (), {}, baseline=name in plain)
            for i, (name, one) in enumerate({**trees, **plain}.items())
        ]
        book = self.store.book
        for one in entrants:
            book.put_candidate(one.key, one.recipe.to_yaml())
        with closing(Claims(book)) as claims:
            failures = draw_exam(book, claims, examiner, exam, _candidates(entrants), shown)
        kept = [(one, kept_marks(book, one.key, exam)) for one in entrants]
        drawn = [(one, marks) for one, marks in kept if len(marks) == len(exam.tasks)]
        if not any(one is entrants[0] for one, _ in drawn):
            raise StudyError(f"{self.store.where}: the tree could not be drawn: "
                             f"{failures.get(entrants[0].name, 'marks are missing')}")  # fmt: skip
        result = rank(drawn, exam, scorer, tally, failures=failures)
        mine = next(one for one in result.standings if one.name == entrants[0].name)
        payloads = {task.name: task.payload for task in exam.tasks}
        against = {}
        for one in result.standings:
            than = one.name if one.name in plain and one.name != UNIFORM else f"the {one.name}"
            if one is not mine:
                against[one.name] = compare_marks(mine.held_out, one.held_out, than=than,
                                                  payloads=payloads)  # fmt: skip
        result = replace(result, against=against)
        book.put_note(f"{self._key} result", json.dumps(result_json(result)))
        return result

    def _is_like(self, other: GrowingTree) -> bool:
        """Whether another tree's candidates can be compared: the same files by the same names."""
        same = ("pool", "exam", "final")
        pools = [one.tree.plan.pool.items() for one in (self, other)]
        files = [{name: entry.file for name, entry in pool} for pool in pools]
        return files[0] == files[1] and all(self.asked.get(n) == other.asked.get(n) for n in same)


def _choose(node: TreeNode, result: Result, alone: str) -> Standing:
    """What goes on: the best on the held-out exam, or the best mix instead of a parent alone."""
    best = result.winner
    mixes = [one for one in result.standings if one.name not in node.alone]
    if alone == "best" or best.name not in node.alone or not mixes or mixes[0].tallied is None:
        return best
    payloads = {task.name: task.payload for task in result.exam.tasks}
    verdict = compare_marks(best.held_out, mixes[0].held_out, payloads=payloads, level=result.level)
    return best if alone == "sure" and verdict.better == "yes" else mixes[0]


def _candidates(
    entrants: Sequence[Standing],
) -> list[tuple[str, str, Callable[[], Recipe]]]:
    return [(one.name, one.key, partial(_recipe, one)) for one in entrants]


def _recipe(one: Standing) -> Recipe:
    return one.recipe
