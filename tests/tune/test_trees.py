"""Trees of searches: what they mix, in which order, and that a kill changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.draw import Request
from stockpot.errors import RecipeError, StudyError, UnknownNameError
from stockpot.layouts import Cell, get_layout
from stockpot.recipes import Recipe, fold, make_recipe, parse_recipe, read_recipe
from stockpot.tune import (
    BaselineMaker,
    CallableExaminer,
    Exam,
    GrowingTree,
    Limits,
    Search,
    SearchSettings,
    StudyStore,
    Task,
    Tree,
    TreeNode,
    find_holes,
    make_space,
    open_store,
    plan_tree,
    spread_holes,
    sums_of_models,
    trees_in,
)

SD1 = get_layout("sd1")
PLANS = Path(__file__).parents[2] / "examples" / "trees"
IN00, OUT11, TE = Cell("unet", "IN00"), Cell("unet", "OUT11"), Cell("te", "final")


def pool(n: int) -> dict[str, str]:
    return {f"m{i}": f"m{i}.ckpt" for i in range(n)}


def exam(first_seed: int, n: int = 6) -> Exam:
    return Exam(tuple(Task(f"p{i}#0", f"p{i}", Request(f"prompt {i}", first_seed + i))
                      for i in range(n)))  # fmt: skip


SEARCHED, HELD, LAST = exam(0), exam(100), exam(200, 8)


class Surrogate:
    """Scores by shares: each model has a strength in two blocks; the best mix is none of them."""

    def __init__(self, strengths: Mapping[str, tuple[float, float]], stop_after: int | None = None):
        self.strengths, self.stop_after, self.calls = strengths, stop_after, 0

    def __call__(self, recipe: Recipe, task: Task) -> float:
        self.calls += 1
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt
        error = 0.0
        for row, i in zip(shares(recipe), (0, 1), strict=True):
            got = sum(share * self.strengths[name][i] for name, share in row)
            error += (got - 0.3) ** 2
        return -error + 0.01 * (task.request.seed % 7)


@cache
def shares(recipe: Recipe) -> tuple[tuple[tuple[str, float], ...], ...]:
    """What a candidate has of each model in two blocks."""
    table = fold(recipe, SD1)
    rows = (table.coefficients(cell) for cell in (IN00, OUT11))
    return tuple(tuple((str(n), float(x)) for n, x in row.items()) for row in rows)


STRENGTHS = {"m0": (0.9, 0.1), "m1": (0.1, 0.8), "m2": (0.6, 0.0), "m3": (0.0, 0.7),
             "m4": (1.0, 0.9)}  # fmt: skip


def begin(store: StudyStore, node: TreeNode, recipe: Recipe, make: BaselineMaker,
          n_trials: int = 4) -> Iterator[Search]:  # fmt: skip
    holes = find_holes(recipe)
    space = make_space(holes, "groups", sums=sums_of_models(recipe, holes, SD1))
    yield Search(store, recipe, space, SEARCHED, SearchSettings(("score",), ("score",),
                 optimiser="random", space="groups"), Limits(n_trials),
                 baselines=make(recipe, holes, SD1, sums=sums_of_models(recipe, holes, SD1)),
                 )  # fmt: skip


def tree_of(n: int, order: str = "parallel") -> Tree:
    return Tree(spread_holes(plan_tree(pool(n), order), "supermerger"), SD1)


def grow(store: StudyStore, tree: Tree, name: str, surrogate: Surrogate) -> Recipe:
    growing = GrowingTree(store, name, tree, {"exam": SEARCHED.key})
    return growing.grow(begin, CallableExaminer(surrogate), HELD, 2)


# Plans


@given(n=st.integers(2, 24), order=st.sampled_from(["parallel", "sequential"]))
@settings(max_examples=25, deadline=None)
def test_every_model_is_mixed_once_and_the_depth_is_that_of_the_order(n: int, order: str) -> None:
    tree = Tree(plan_tree(pool(n), order))
    parents = [parent for node in tree.nodes for parent in node.parents]
    assert len(tree.nodes) == n - 1 and len(parents) == len(set(parents)) == 2 * n - 2
    depth = dict.fromkeys(pool(n), 0)
    for node in tree.nodes:
        depth[node.name] = 1 + max(depth[parent] for parent in node.parents)
    assert tree.nodes[-1].models == tuple(pool(n))
    assert depth[tree.nodes[-1].name] == (n - 1 if order == "sequential" else (n - 1).bit_length())


@given(n=st.integers(2, 9), order=st.sampled_from(["parallel", "sequential"]))
@settings(max_examples=16, deadline=None)
def test_shares_by_number_make_the_uniform_mix_whatever_the_order(n: int, order: str) -> None:
    tree = Tree(plan_tree(pool(n), order, step=""), SD1)
    decided: dict[str, Recipe] = {}
    for node in tree.nodes:
        share = Fraction(node.counts[1], sum(node.counts))
        expression = f"lerp({node.parents[0]}, {node.parents[1]}, {share})"
        decided[node.name] = tree.whole(make_recipe(expression, pool(n)).mix["model"], decided)
    uniform = fold(make_recipe("mean(pool)", pool(n)), SD1)
    assert fold(tree.finished(decided), SD1).same(uniform)


def test_an_odd_one_out_gets_a_bye_and_begins_the_next_round() -> None:
    tree = Tree(plan_tree(pool(7)))
    assert [node.parents for node in tree.nodes] == [
        ("m0", "m1"), ("m2", "m3"), ("m4", "m5"),
        ("m6", "node1"), ("node2", "node3"), ("node4", "node5"),
    ]  # fmt: skip
    chain = Tree(plan_tree(pool(4), "sequential"))
    assert [node.parents for node in chain.nodes] == [
        ("m0", "m1"), ("node1", "m2"), ("node2", "m3")]  # fmt: skip


def test_names_of_nodes_are_free_ones() -> None:
    plan = plan_tree({"node1": "a.ckpt", "b": "b.ckpt"})
    assert list(plan.let) == ["_node1"]
    assert parse_recipe(plan.to_yaml()) == plan


def test_the_authors_table_is_a_plan() -> None:
    plan = read_recipe(PLANS / "21b.yaml")
    tree = Tree(spread_holes(plan, "autombw"), SD1)
    table = {node.name: node.parents for node in tree.nodes}
    assert len(table) == 20
    raw = [(f"m{i + 2:02d}b", (f"_{2 * i + 1:02d}a", f"_{2 * i + 2:02d}a")) for i in range(10)]
    assert dict(raw).items() <= table.items()
    assert [table[f"m{i}b"] for i in range(12, 22)] == [
        ("m02b", "m03b"), ("m04b", "m05b"), ("m06b", "m07b"), ("m08b", "m09b"), ("m10b", "m11b"),
        ("m12b", "m13b"), ("m15b", "m16b"), ("m14b", "m17b"), ("m18b", "m19b"), ("m20", "m20b"),
    ]  # fmt: skip
    assert tree.moving == ("unet",)
    last = tree.nodes[-1]
    assert len(last.models) == 20 and last.counts == (20, 20)
    assert len(find_holes(tree.recipe_of(tree.nodes[0], {}))) == 27


def test_shares_are_spread_and_other_holes_stay() -> None:
    files = {name: f"{name}.ckpt" for name in "abc"}
    recipe = make_recipe(
        "linear([a, b, c], [search(0, 1), search(0, 1), search(0, 1)])", files,
        let={"x": "iso_z(a, b, z=search(0, 1))", "y": "lerp(a, b, blocks('autombw', "
             f"[{', '.join(['search(0, 1)'] * 27)}]))", "z": "weighted_sum(a, b, search(0, 1))"},
    )  # fmt: skip
    found = spread_holes(recipe, "supermerger")
    assert (found.let["x"], found.let["y"]) == (recipe.let["x"], recipe.let["y"])
    assert found.mix == recipe.mix
    assert len(find_holes(found)) == 1 + 27 + 26 + 3
    with pytest.raises(UnknownNameError, match="profile"):
        spread_holes(recipe, "nothing")


@pytest.mark.parametrize(
    ("let", "mix", "told"),
    [
        ({"x": "lerp(a, b, 0.5)"}, "x", "needs holes"),
        ({"w": "2*search(0, 1)", "x": "lerp(a, b, w)"}, "x", "must make a model"),
        ({"x": "lerp(y, b, search(0, 1))", "y": "lerp(x, a, search(0, 1))"}, "x", "circle"),
    ],
)
def test_what_is_no_tree(let: dict[str, str], mix: str, told: str) -> None:
    recipe = make_recipe(mix, {"a": "a.ckpt", "b": "b.ckpt"}, let=let)
    with pytest.raises(RecipeError, match=told):
        _ = Tree(recipe).nodes


def test_few_models_and_orders_that_are_none() -> None:
    with pytest.raises(RecipeError, match="two models"):
        plan_tree(pool(1))
    with pytest.raises(UnknownNameError, match="order"):
        plan_tree(pool(3), "sideways")


# Growing


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StudyStore]:
    with open_store(tmp_path / "trees.db") as found:
        yield found


def test_a_tree_comes_to_a_recipe_over_its_models(store: StudyStore) -> None:
    surrogate = Surrogate(STRENGTHS)
    tree = tree_of(5)
    recipe = grow(store, tree, "parallel", surrogate)
    assert not find_holes(recipe) and set(recipe.pool) == set(pool(5))
    rows = fold(recipe, SD1).rows
    assert all(sum(row.values()) == 1 for row in rows.values())
    growing = GrowingTree(store, "parallel")
    assert growing.recipe == recipe and trees_in(store) == ("parallel",)
    for node in tree.nodes:
        decision = growing.decision(node)
        assert decision is not None
        standings = decision.result["standings"]
        assert decision.winner == standings[0]["name"]
        # No node is worse on the exam that decides than any of its parents, or than no search.
        assert standings[0]["held_out"] == max(one["held_out"] for one in standings)
        assert {"uniform mix", *(f"{p} alone" for p in node.parents)} <= {
            one["name"] for one in standings}  # fmt: skip


def test_what_is_known_is_not_drawn_again(store: StudyStore) -> None:
    first = Surrogate(STRENGTHS)
    recipe = grow(store, tree_of(5), "parallel", first)
    again = Surrogate(STRENGTHS)
    assert grow(store, tree_of(5), "parallel", again) == recipe and again.calls == 0
    # The same node in another tree is the same search: only what is new costs pictures.
    other = Surrogate(STRENGTHS)
    grow(store, tree_of(2), "two", other)
    assert other.calls > 0  # another pool, so another candidate
    chain = Surrogate(STRENGTHS)
    tree = tree_of(5, "sequential")
    growing = GrowingTree(store, "sequential", tree, {})
    chain_of_one = replace(tree.plan, mix={"model": make_recipe("node1", pool(5)).mix["model"]},
                           let={"node1": tree.plan.let["node1"]})  # fmt: skip
    GrowingTree(store, "part", Tree(chain_of_one, SD1), {}).grow(
        begin, CallableExaminer(chain), HELD, 2
    )
    assert chain.calls == 0
    assert growing.recipe is None


def told(store: StudyStore, tree: Tree) -> list[object]:
    """All that must be the same however often a tree was interrupted."""
    growing = GrowingTree(store, "t")
    trials = [growing.study_of(node).all_trials() for node in tree.nodes]
    return [[(t.number, t.params, t.values, t.state.name) for t in one] for one in trials]


def test_a_tree_that_was_interrupted_ends_as_one_that_was_not(tmp_path: Path) -> None:
    tree = tree_of(4)
    with open_store(tmp_path / "whole.db") as store:
        surrogate = Surrogate(STRENGTHS)
        whole = grow(store, tree, "t", surrogate)
        expected = told(store, tree)
    n_calls = 0
    for stop_after in (0, 3, 57, 60):
        with open_store(tmp_path / "cut.db") as store:
            part = Surrogate(STRENGTHS, stop_after)
            with pytest.raises(KeyboardInterrupt):
                grow(store, tree, "t", part)
            n_calls += part.calls - 1
    with open_store(tmp_path / "cut.db") as store:
        rest = Surrogate(STRENGTHS)
        assert grow(store, tree, "t", rest) == whole
        assert n_calls + rest.calls == surrogate.calls  # nothing lost, nothing twice
        assert told(store, tree) == expected


def test_two_workers_come_to_one_tree(tmp_path: Path) -> None:
    tree = tree_of(3)

    def work() -> Recipe:
        with open_store(tmp_path / "trees.db") as store:
            return grow(store, tree, "t", Surrogate(STRENGTHS))

    with open_store(tmp_path / "trees.db"):
        pass  # tables are there before both begin
    with ThreadPoolExecutor(2) as threads:
        first, second = (job.result() for job in [threads.submit(work) for _ in range(2)])
    assert first == second
    with open_store(tmp_path / "trees.db") as store:
        growing = GrowingTree(store, "t")
        for node in tree.nodes:
            names = [t.user_attrs.get("baseline") for t in growing.study_of(node).all_trials()]
            assert names.count(None) == 4 and len(set(names)) == len(names) - 3


def test_pictures_are_counted_for_each_node(store: StudyStore) -> None:
    tree = tree_of(3)

    def limited(
        study: StudyStore, node: TreeNode, recipe: Recipe, make: BaselineMaker
    ) -> Iterator[Search]:
        for search in begin(study, node, recipe, make, 50):
            search.limits = Limits(50, n_images=9 * len(SEARCHED.tasks))
            yield search

    GrowingTree(store, "t", tree, {}).grow(limited, CallableExaminer(Surrogate(STRENGTHS)), HELD, 1)
    for node in tree.nodes:
        trials = GrowingTree(store, "t").study_of(node).all_trials()
        assert 9 <= len(trials) < 50


def test_another_plan_under_the_same_name_is_refused(store: StudyStore) -> None:
    GrowingTree(store, "t", tree_of(3), {"exam": "x", "trials": 4})
    GrowingTree(store, "t", tree_of(3), {"exam": "x", "trials": 4})
    with pytest.raises(StudyError, match="trials.*another study"):
        GrowingTree(store, "t", tree_of(3), {"exam": "x", "trials": 5})
    with pytest.raises(StudyError, match="plan"):
        GrowingTree(store, "t", tree_of(3, "sequential"), {"exam": "x", "trials": 4})
    with pytest.raises(StudyError, match="no tree 'u'"):
        GrowingTree(store, "u")


def test_a_parent_that_is_better_alone_goes_on_alone(store: StudyStore) -> None:
    strengths = {"m0": (0.3, 0.3), "m1": (5.0, 5.0), "m2": (9.0, 9.0)}
    tree = tree_of(3, "sequential")
    recipe = grow(store, tree, "t", Surrogate(strengths))
    growing = GrowingTree(store, "t")
    decisions = [growing.decision(node) for node in tree.nodes]
    assert [one.winner for one in decisions if one] == ["m0 alone", "node1 alone"]
    assert dict(fold(recipe, SD1).rows[IN00]) == {"m0": 1}


@pytest.mark.parametrize(
    ("ahead", "alone", "goes_on"),
    [(0.001, "best", True), (0.001, "sure", False), (9.0, "sure", True), (9.0, "never", False)],
)
def test_when_a_parent_goes_on_alone(
    store: StudyStore, ahead: float, alone: str, goes_on: bool
) -> None:
    """By chance ahead, or surely: on half of the tasks the model alone is worse."""

    def score(recipe: Recipe, task: Task) -> float:
        row = dict(shares(recipe)[0])
        return ahead * row.get("m0", 0.0) ** 2 + 0.1 * (-1) ** task.request.seed * (
            row.get("m0") == 1.0
        )

    tree = tree_of(2)
    growing = GrowingTree(store, "t", tree, {})
    growing.grow(begin, CallableExaminer(score), HELD, 1, alone=alone)
    decision = growing.decision(tree.nodes[0])
    assert decision is not None and (decision.winner == "m0 alone") == goes_on
    assert decision.result["standings"][0]["name"] == "m0 alone"
    with pytest.raises(UnknownNameError, match="alone"):
        growing.grow(begin, CallableExaminer(score), HELD, alone="always")


def test_what_the_mix_takes_from_elsewhere_stays(store: StudyStore) -> None:
    files = {"base": "base.ckpt", **pool(3)}
    plan = make_recipe(
        {"unet": "last", "te": "base", "vae": "base"}, files,
        let={"first": "lerp(m0, m1, search(0, 1))", "last": "lerp(first, m2, search(0, 1))"},
    )  # fmt: skip
    tree = Tree(spread_holes(plan, "autombw"), SD1)
    assert tree.nodes[-1].models == ("m0", "m1", "m2")
    seen: list[Recipe] = []

    def score(recipe: Recipe, task: Task) -> float:
        seen.append(recipe)
        return Surrogate(STRENGTHS)(recipe, task)

    recipe = GrowingTree(store, "t", tree, {}).grow(begin, CallableExaminer(score), HELD, 1)
    for one in [recipe, *seen[::40]]:
        assert dict(fold(one, SD1).rows[TE]) == {"base": 1}
        assert "base" not in fold(one, SD1).rows[IN00]


def test_the_mix_itself_may_be_the_last_search(store: StudyStore) -> None:
    plan = make_recipe("lerp(uniform, tree, search(0, 1))", pool(3), let={
        "tree": "lerp(m0, m1, search(0, 1))", "uniform": "mean(pool)"})  # fmt: skip
    tree = Tree(spread_holes(plan, "supermerger"), SD1)
    assert [(node.name, node.parents, node.counts) for node in tree.nodes] == [
        ("tree", ("m0", "m1"), (1, 1)), ("mix", ("uniform", "tree"), (3, 2))]  # fmt: skip
    recipe = grow(store, tree, "t", Surrogate(STRENGTHS))
    assert all(sum(row.values()) == 1 for row in fold(recipe, SD1).rows.values())


def test_a_node_may_mix_three(store: StudyStore) -> None:
    weights = ", ".join(["search(0, 1, 0.05)"] * 3)
    plan = make_recipe("x", pool(3), let={"x": f"linear([m0, m1, m2], [{weights}])"})
    tree = Tree(spread_holes(plan, "supermerger"), SD1)
    assert tree.nodes[0].parents == ("m0", "m1", "m2")
    seen: list[Recipe] = []

    def score(recipe: Recipe, task: Task) -> float:
        seen.append(recipe)
        return Surrogate(STRENGTHS)(recipe, task)

    GrowingTree(store, "t", tree, {}).grow(begin, CallableExaminer(score), HELD, 1)
    rows = [row for recipe in seen[::20] for row in fold(recipe, SD1).rows.values()]
    assert all(sum(row.values()) == 1 for row in rows)


def test_the_end_compares_trees_with_each_other_and_with_no_search(store: StudyStore) -> None:
    asked = {"exam": SEARCHED.key, "final": LAST.key, "pool": ""}
    grown = []
    for order in ("parallel", "sequential"):
        growing = GrowingTree(store, order, tree_of(4, order), asked)
        with pytest.raises(StudyError, match="not all nodes"):
            growing.conclude(CallableExaminer(Surrogate(STRENGTHS)), LAST, scorer="score")
        growing.grow(begin, CallableExaminer(Surrogate(STRENGTHS)), HELD, 2)
        grown.append(growing)
    surrogate = Surrogate(STRENGTHS)
    known = {"known mine": make_recipe("lerp(m0, m3, 0.25)", pool(4))}
    result = grown[0].conclude(CallableExaminer(surrogate), LAST, scorer="score", known=known)
    names = {one.name for one in result.standings}
    assert names == {"parallel tree", "sequential tree", "uniform mix", "known mine",
                     *(f"m{i} alone" for i in range(4))}  # fmt: skip
    assert surrogate.calls == 8 * len({one.key for one in result.standings})
    assert set(result.against) == names - {"parallel tree"}
    table = {one.name: one for one in result.standings}
    mine, other = table["parallel tree"], table["uniform mix"]
    expected = sum(mine.held_out[n] - other.held_out[n] for n in mine.held_out) / 8
    assert result.against["uniform mix"].difference == pytest.approx(expected)
    assert result.against["uniform mix"].text.startswith("better than the uniform mix: ")
    assert result.against["sequential tree"].text.startswith("better than the sequential tree: ")
    again = Surrogate(STRENGTHS)
    grown[0].conclude(CallableExaminer(again), LAST, scorer="score", known=known)
    assert again.calls == 0
    kept = GrowingTree(store, "parallel").result
    assert kept is not None and len(kept["standings"]) == len(names)
