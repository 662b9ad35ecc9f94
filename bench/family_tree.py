"""How much of the zoo's family tree do its weights tell?

Compares the zoo's members, whose parents are known, and prints which parent edges are recovered,
undirected, and how many directions come out right with and without a known base.

    python bench/family_tree.py
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from stockpot.checkpoints import open_checkpoint
from stockpot.compare import compare, find_family_tree
from stockpot.zoo import family


def main() -> None:
    """Compare and print."""
    members = family()
    truth = {(m.parent, m.name) for m in members if m.parent}
    with ExitStack() as stack:
        found = compare({m.name: stack.enter_context(open_checkpoint(m.path)) for m in members})
    known = replace(found, base=found.index(members[0].name))
    print("| base | edges recovered | directions told | of them right | certain parents |")
    print("|---|---|---|---|---|")
    for title, comparison in (("known", known), ("not known", found)):
        edges = find_family_tree(comparison, "unet").edges
        pairs = [(found.names[e.parent], found.names[e.child]) for e in edges]
        right = sum((a, b) in truth or (b, a) in truth for a, b in pairs)
        told = [pair for pair, e in zip(pairs, edges, strict=True) if e.is_directed]
        print(
            f"| {title} | {right} of {len(truth)} | {len(told)} | "
            f"{sum(pair in truth for pair in told)} | {sum(e.is_certain for e in edges)} |"
        )
    votes = [e.drift for e, pair in zip(edges, pairs, strict=True) if pair in truth]
    print(f"edges on which the drift alone votes for the true direction: "
          f"{sum(vote > 0 for vote in votes)} of {len(votes)}")  # fmt: skip


if __name__ == "__main__":
    main()
