"""Trees of searches: models are mixed pair by pair, and the result of a search is mixed further.

A tree is a recipe: each entry of its `let` that has holes is a node, which is searched when all
that it reads is decided. So a tree is read, printed, drawn and checked like any recipe, and its
result is the same recipe with numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType

from stockpot.errors import Problem, RecipeError, UnknownNameError
from stockpot.layouts import Layout, get_profile
from stockpot.recipes import (
    Call,
    Expr,
    Name,
    PoolEntry,
    Recipe,
    Save,
    adapters_in,
    blocks,
    fold,
    lerp,
    make_recipe,
    mean,
    models_below,
    models_in,
    names_in,
    search,
)
from stockpot.tune.baselines import UNIFORM, each_once, make_fillings
from stockpot.tune.holes import Hole, Way, fill_holes, locate_holes, put_expressions
from stockpot.tune.settings import Baseline

__all__ = ["ORDERS", "Tree", "TreeNode", "plan_tree", "spread_holes"]

#: Ways to pair models, and what each is.
ORDERS: Mapping[str, str] = MappingProxyType(
    {
        "parallel": "neighbours are paired, and their mixes again; an odd one out gets a bye",
        "sequential": "the first two are mixed, and then one model after the other is added",
    }
)
_MIX = "mix"


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A search of a tree.

    Attributes:
        name: Of the `let` that it decides, or ``mix``.
        parents: What it mixes: names of the pool and of `let`, in the order of its expression.
        models: All models of the pool below it, in the pool's order.
        counts: How many models are below each parent.
    """

    name: str
    parents: tuple[str, ...]
    models: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def alone(self) -> dict[str, str]:
        """What candidates are called that are one parent and nothing else, and that parent."""
        return {f"{parent} alone": parent for parent in self.parents}


def plan_tree(
    pool: Mapping[str, PoolEntry | str], order: str = "parallel", *, step: str = "0.05"
) -> Recipe:
    """Pair models into a tree in which each node searches the share of its second parent.

    Args:
        pool: Files by name, at least two; their order is that of the tree.
        order: A key of `ORDERS`. In a parallel tree the last one of an odd round has nobody to be
            mixed with: it gets a bye, and begins the next round.
        step: Of the shares; empty for any share.

    Returns:
        A recipe with one hole for each node; see `spread_holes`.

    Raises:
        RecipeError: There are fewer than two models.
        UnknownNameError: The order is none.

    Example:
        >>> plan = plan_tree({name: f"{name}.ckpt" for name in "abc"}, "sequential")
        >>> for name, expression in plan.let.items():
        ...     print(name, expression)
        node1 lerp(a, b, search(0, 1, 0.05))
        node2 lerp(node1, c, search(0, 1, 0.05))
    """
    if order not in ORDERS:
        raise UnknownNameError("order", order, ORDERS)
    if len(pool) < 2:
        raise RecipeError([Problem("too-few", f"a tree needs two models, but got {len(pool)}",
                                   "pool", "name more with --pool")])  # fmt: skip
    hole = search(0, 1, Fraction(step)) if step else search(0, 1)
    stem = "node"
    while any(name.startswith(stem) for name in pool):
        stem = f"_{stem}"
    let: dict[str, Expr] = {}

    def mixed(one: str, other: str) -> str:
        name = f"{stem}{len(let) + 1}"
        let[name] = lerp(Name(one), Name(other), hole)
        return name

    names = list(pool)
    while len(names) > 1:
        if order == "sequential":
            names = [mixed(names[0], names[1]), *names[2:]]
            continue
        pairs = [mixed(*names[i : i + 2]) for i in range(0, len(names) - 1, 2)]
        names = [*names[len(pairs) * 2 :], *pairs]
    return make_recipe(Name(names[0]), pool, let=let)


def spread_holes(recipe: Recipe, profile: str) -> Recipe:
    """Turn each share of a model that is one hole into block weights: a hole for each block.

    Args:
        recipe: With holes.
        profile: What block weights are called by; a key of `stockpot.layouts.PROFILES`.

    Returns:
        The recipe; `t` of `lerp` and `weighted_sum` is spread where it is one hole, and all other
        holes stay. Weights of a `linear` stay too: where a profile has no number they would be 0
        for all models, and not all of the first one.

    Raises:
        UnknownNameError: The profile is none.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> from stockpot.tune import find_holes
        >>> recipe = make_recipe("lerp(a, b, search(0, 1))", {"a": "a.ckpt", "b": "b.ckpt"})
        >>> [hole.name for hole in find_holes(spread_holes(recipe, "supermerger"))][:3]
        ['BASE', 'IN00', 'IN01']
    """
    n_blocks = get_profile(profile).length
    wanted: dict[str, dict[Way, Expr]] = {}
    for one in locate_holes(recipe):
        share = one.words[-2:] in (("lerp", "t"), ("weighted_sum", "t"))
        if one.hole.vector or not share:
            continue
        hole = one.hole
        node = search(hole.low, hole.high, hole.step)
        wanted.setdefault(one.root, {})[one.path] = blocks(profile, [node] * n_blocks)
    return put_expressions(recipe, wanted)


class Tree:
    """A recipe whose holes are searched one node after the other.

    Args:
        plan: Each `let` with holes is a node; a mix that has holes itself is the last one.
        layout: Of the pool; without it all that an expression names counts as mixed, also what it
            takes out of a set, as in ``mean(pool - base)``.

    Raises:
        RecipeError: There are no holes, or holes in weights that stand alone in a `let`.

    Example:
        >>> tree = Tree(plan_tree({name: f"{name}.ckpt" for name in "abc"}))
        >>> [(node.name, node.parents) for node in tree.nodes]
        [('node1', ('a', 'b')), ('node2', ('c', 'node1'))]
    """

    def __init__(self, plan: Recipe, layout: Layout | None = None) -> None:
        self.plan = replace(plan, save=Save(dtype=plan.save.dtype), origin=None)
        self.layout = layout
        located = locate_holes(self.plan)
        middle = {one.hole.name: one.hole.snap((one.hole.low + one.hole.high) / 2)
                  for one in located}  # fmt: skip
        self._filled = fill_holes(self.plan, middle)
        roots = {one.root.partition(".")[::2] for one in located}
        if not roots:
            raise RecipeError([Problem("no-holes", "a tree of searches needs holes, but the plan "
                                       "has none", "let", "write lerp(a, b, search(0, 1)) for a "
                                       "search")])  # fmt: skip
        self._mix_has_holes = any(room == "mix" for room, _ in roots)
        self._searched = {name for room, name in roots if room == "let"}
        self._adapters = adapters_in(self.plan)
        self._known: dict[Expr, set[str]] = {}
        lone = [
            name for name in self.plan.let if name in self._searched and not self._below(Name(name))
        ]
        if lone:
            raise RecipeError([
                Problem("hole", "what a node searches must make a model, but these are weights",
                        f"let.{name}", "write the holes where the weights are used")
                for name in lone
            ])  # fmt: skip

    def _below(self, *expressions: Expr) -> tuple[str, ...]:
        """Models of the pool that expressions mix, in the pool's order."""
        found: set[str] = set()
        for expression in expressions:
            recipe = replace(self._filled, mix={"model": expression})
            read = models_below(recipe)
            if read and self.layout is not None:
                if expression not in self._known:
                    rows = fold(recipe, self.layout).rows.values()
                    self._known[expression] = {atom for row in rows for atom in models_in(row)}
                read = self._known[expression]
            found |= read
        return tuple(n for n in self.plan.pool if n in found and n not in self._adapters)

    @cached_property
    def nodes(self) -> tuple[TreeNode, ...]:
        """All searches: none comes before what it reads, else in the order of the recipe."""
        found = [self._node(n, [self.plan.let[n]], [Name(n)]) for n in self._sorted()]
        if self._mix_has_holes:
            plans = [[recipe.mix[key] for key in self.moving]
                     for recipe in (self.plan, self._filled)]  # fmt: skip
            found.append(self._node(_MIX, *plans))
        return tuple(found)

    def _sorted(self) -> Iterator[str]:
        waiting, done = list(self.plan.let), set[str]()
        while waiting:
            ready = next((n for n in waiting if not (self._reads(self.plan.let[n]) - done)), None)
            if ready is None:
                raise RecipeError([Problem("circle", "intermediates must not read each other in a "
                                           "circle", f"let.{waiting[0]}")])  # fmt: skip
            waiting.remove(ready)
            done.add(ready)
            if ready in self._searched:
                yield ready

    def _reads(self, expression: Expr) -> set[str]:
        return {name for name in names_in(expression) if name in self.plan.let}

    def _node(self, name: str, searched: list[Expr], filled: list[Expr]) -> TreeNode:
        read = dict.fromkeys(n for expression in searched for n in names_in(expression))
        below = {n: self._below(Name(n)) for n in read if n in self.plan.let or n in self.plan.pool}
        below = {n: models for n, models in below.items() if models}
        counts = tuple(map(len, below.values()))
        return TreeNode(name, tuple(below), self._below(*filled), counts)

    @cached_property
    def moving(self) -> tuple[str, ...]:
        """Keys of the mix that searches change; what the others make is the same all the way."""
        found = []
        for key, expression in self.plan.mix.items():
            below, seen = [expression], set[str]()
            while below:
                for name in self._reads(below.pop()) - seen:
                    seen.add(name)
                    below.append(self.plan.let[name])
            if seen & self._searched:
                found.append(key)
        holes = {one.root.removeprefix("mix.") for one in locate_holes(self.plan)}
        return tuple(key for key in self.plan.mix if key in found or key in holes)

    def recipe_of(self, node: TreeNode, decided: Mapping[str, Recipe]) -> Recipe:
        """The recipe that a node searches: its holes, and numbers in all that is below.

        Args:
            node: One of `nodes`.
            decided: What the nodes below came to, by name.
        """
        if node.name == _MIX:
            return self._with(dict(self.plan.mix), decided)
        return self.whole(self.plan.let[node.name], decided)

    def whole(self, expression: Expr, decided: Mapping[str, Recipe]) -> Recipe:
        """The recipe of a candidate: an expression in the place of what searches change.

        Args:
            expression: Of names of the pool and of `let`.
            decided: What nodes came to.
        """
        if isinstance(expression, Name) and expression.name in decided:
            # As the node itself had it, so that it is the same candidate, with the same marks.
            return decided[expression.name]
        if isinstance(expression, Name) and expression.name in self.plan.let:
            expression = self.plan.let[expression.name]
        return self._with({**self.plan.mix, **dict.fromkeys(self.moving, expression)}, decided)

    def finished(self, decided: Mapping[str, Recipe]) -> Recipe:
        """The recipe of the whole tree.

        Args:
            decided: What all nodes came to.
        """
        if self._mix_has_holes:
            return decided[_MIX]
        return self._with(dict(self.plan.mix), decided)

    def _with(self, mix: dict[str, Expr], decided: Mapping[str, Recipe]) -> Recipe:
        """A recipe that holds what its mix reads and nothing else."""
        let: dict[str, Expr] = {}
        waiting = [name for expression in mix.values() for name in names_in(expression)]
        while waiting:
            name = waiting.pop()
            if name in let or name not in self.plan.let:
                continue
            if name in decided:
                let[name] = decided[name].mix[self.moving[0]]
            else:
                let[name] = self.plan.let[name]
            waiting += names_in(let[name])
        ordered = {name: let[name] for name in self.plan.let if name in let}
        return replace(self.plan, mix=mix, let=ordered)

    def baselines(
        self,
        node: TreeNode,
        decided: Mapping[str, Recipe],
        recipe: Recipe,
        holes: Sequence[Hole],
        layout: Layout | None = None,
        *,
        sums: Sequence[str] = (),
        fixed: Mapping[str, Fraction] | None = None,
    ) -> tuple[Baseline, ...]:
        """List what a node must beat.

        Args:
            node: One of `nodes`.
            decided: What the nodes below came to.
            recipe: Of `recipe_of`.
            holes: Of that recipe.
            layout: Of the pool; with it, baselines that make the same model are one.
            sums: See `stockpot.tune.sums_of_models`.
            fixed: Holes that do not move.

        Returns:
            Every parent alone, the uniform mix of all models below, all holes at their low and
            high ends and in the middle, and, where one parent holds more models than the other,
            shares by their numbers.
        """
        made = [Baseline(name, self.whole(Name(parent), decided))
                for name, parent in node.alone.items()]  # fmt: skip
        if len(node.models) > 1:
            several = mean(*map(Name, node.models))
            made.append(Baseline(UNIFORM, self.whole(several, decided)))
        known = {}
        if self._is_pair(node) and len(set(node.counts)) > 1:
            share = Fraction(node.counts[1], sum(node.counts))
            free = [hole for hole in holes if hole.name not in (fixed or {})]
            known["shares by number"] = {hole.name: hole.snap(share) for hole in free}
        made += make_fillings(recipe, holes, sums=sums, fixed=fixed, known=known)
        return each_once(made, layout)

    def _is_pair(self, node: TreeNode) -> bool:
        if node.name == _MIX:
            return False
        found = self.plan.let[node.name]
        return (
            isinstance(found, Call)
            and found.function in ("lerp", "weighted_sum")
            and [a.name for a in found.args[:2] if isinstance(a, Name)] == list(node.parents)
        )

    def seed_of(self, node: TreeNode, seed: int) -> int:
        """The seed of a node's optimiser: its own, and the same in every tree that has the node.

        Args:
            node: One of `nodes`.
            seed: Of all searches.
        """
        parts = ["+".join(sorted(self._below(Name(parent)))) for parent in node.parents]
        return zlib.crc32(f"{seed}: {' | '.join(parts)}".encode()) % 2**31
