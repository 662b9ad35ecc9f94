"""What an explanation says, in sentences for the terminal and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stockpot.compare import Explanation, Part

__all__ = ["remarks", "verdict"]


def verdict(told: Explanation, part: Part) -> str:
    """Say in a few words how well a part is explained.

    Args:
        told: The explanation.
        part: One place of it.

    Returns:
        The words.
    """
    if not part.ratios:
        return "no model has this"
    if part.identical:
        return f"identical to {', '.join(part.identical)}"
    if part.residual == 0:
        return "equal values"
    if not part.place.block and told.is_by_block(part.place.component):
        return "each block has ratios of its own"
    if part.n_roundings <= 2:
        return "explained; one rounding is left"
    if part.is_explained:
        count = f"{part.n_roundings:.0f}" if part.n_roundings < 1000 else "many"
        return f"explained; as after {count} roundings"
    start = told.base or "the nearest model"
    return f"{part.unexplained:.0%} of its way from {start} is not explained"


def remarks(told: Explanation) -> list[str]:
    """Say what a reader must know about the numbers.

    Args:
        told: The explanation.

    Returns:
        Sentences.
    """
    found = []
    for component, part in told.components.items():
        for tie in part.ties:
            found.append(f"{component}: {_listed(tie)} cannot be told apart here")
        if part.left_out:
            lacking = _listed(part.left_out)
            found.append(f"{component}: {lacking} cannot be a parent of it: keys are missing")
        if part.ratios and part.compared < part.size:
            found.append(
                f"{component}: {part.compared:,} of {part.size:,} weights were compared; the rest "
                "is missing, of another shape, or not finite somewhere"
            )
        if part.ratios and not part.is_explained and not told.is_by_block(component):
            found.append(
                f"{component}: a parent may be missing from the pool, or the mix was trained or "
                "merged in another way; the shares are those that come nearest"
            )
    return found


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
