"""The zoo's own family tree, and pools whose tree is known because it was grown here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from stockpot.checkpoints import MemorySource
from stockpot.compare import Comparison, compare, find_family_tree
from stockpot.zoo import family


def test_the_zoos_parents_are_recovered(zoo: Comparison) -> None:
    truth = {frozenset((m.parent, m.name)) for m in family() if m.parent}
    tree = find_family_tree(zoo, "unet")
    found = {frozenset((zoo.names[e.parent], zoo.names[e.child])) for e in tree.edges}
    assert len(truth & found) >= 0.8 * len(truth)
    assert tree.root == zoo.index("base")


def test_directions_without_a_known_base(zoo: Comparison) -> None:
    truth = {(m.parent, m.name) for m in family() if m.parent}
    tree = find_family_tree(replace(zoo, base=None), "unet")
    told = [(zoo.names[e.parent], zoo.names[e.child]) for e in tree.edges if e.is_directed]
    assert sum(edge in truth for edge in told) >= 0.8 * len(truth)
    votes = [e.drift for e in tree.edges]
    assert sum(vote > 0 for vote in votes) >= 0.8 * len(votes)


def test_what_is_nearly_as_short_leaves_the_parent_open(zoo: Comparison) -> None:
    """te-ruined's UNet hardly moved: it might be anybody's parent in place of the base."""
    edges = {zoo.names[e.child]: e for e in find_family_tree(zoo, "unet").edges}
    open_ = edges["style-striped"]
    assert not open_.is_certain and zoo.index("te-ruined") in open_.instead
    assert edges["grandchild"].is_certain


def test_models_apart_and_equals(make_source: Callable[..., MemorySource]) -> None:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((40, 40)).astype(np.float32)
    child = root + 0.1 * rng.standard_normal((40, 40)).astype(np.float32)
    grandchild = child + 0.1 * rng.standard_normal((40, 40)).astype(np.float32)
    found = compare(
        {
            "child": make_source({"w": child}),
            "root": make_source({"w": root}),
            "again": make_source({"w": root}),
            "grandchild": make_source({"w": grandchild}),
            "other": make_source({"v": child}),
        }
    )
    tree = find_family_tree(found, "model", base=1)
    assert [(e.parent, e.child, e.is_directed) for e in tree.edges] == [
        (1, 0, True), (0, 3, True)]  # fmt: skip
    assert tree.apart == (2, 4) and tree.root == 1
    unknown = find_family_tree(found, "model")
    assert {frozenset((e.parent, e.child)) for e in unknown.edges} == {
        frozenset((0, 1)), frozenset((0, 3))}  # fmt: skip
