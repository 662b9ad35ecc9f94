"""An explanation as a recipe: the simplest ratios that it allows, ready to be merged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from stockpot.compare.explaining import Explanation, Part
from stockpot.errors import Problem, RecipeError
from stockpot.layouts import Cell, Profile, get_layout, get_profile
from stockpot.recipes import MIX_KEYS, Expr, Recipe, blocks, make_recipe, mean, model, names_in

__all__ = ["recover_recipe", "simple_ratios"]

_LEAST = 5e-4  # closer than this nobody types a ratio
_MOST = 0.02
_LARGEST_DENOMINATOR = 1000
_PROFILES = {"sd1": "autombw", "sd2": "autombw", "zoo": "autombw", "sdxl": "sd-mecha-xl"}


def simple_ratios(
    ratios: Mapping[str, float], confidence: Mapping[str, float]
) -> dict[str, Fraction]:
    """Find the fractions that a person most likely typed: near, and with a small denominator.

    Each common denominator q up to 1000 is judged by how many deviations the fractions are off,
    ½ Σ (error/σ)², and by how long the numbers are, 2·ln q; the least sum wins.

    Args:
        ratios: Share of each model.
        confidence: How far each may be off; σ is a quarter of it.

    Returns:
        Fractions with the same sum as the ratios, to the nearest thousandth; zeros are left out.

    Example:
        >>> found = simple_ratios({"a": 0.14283, "b": 0.85717}, {"a": 1e-4, "b": 1e-4})
        >>> {name: str(share) for name, share in found.items()}
        {'a': '1/7', 'b': '6/7'}
    """
    total = Fraction(round(1000 * sum(ratios.values())), 1000)
    sigma = {name: max(min(confidence.get(name, 0.0), _MOST), _LEAST) / 4 for name in ratios}
    best: tuple[float, int] | None = None
    for q in range(1, _LARGEST_DENOMINATOR + 1):
        if best is not None and 2 * math.log(q) >= best[0]:
            break  # longer numbers cannot win any more
        numerators = {name: round(ratio * q) for name, ratio in ratios.items()}
        if Fraction(sum(numerators.values()), q) != total:
            continue
        off = sum(((numerators[n] / q - ratio) / sigma[n]) ** 2 for n, ratio in ratios.items())
        cost = off / 2 + 2 * math.log(q)
        if best is None or cost < best[0]:
            best = cost, q
    q = best[1] if best is not None else _LARGEST_DENOMINATOR
    found = {name: Fraction(round(ratio * q), q) for name, ratio in ratios.items()}
    largest = max(found, key=lambda name: found[name])
    found[largest] += total - sum(found.values())
    return {name: share for name, share in found.items() if share}


def recover_recipe(explanation: Explanation, files: Mapping[str, str], layout: str) -> Recipe:
    """Write an explanation as a recipe.

    Each component is made from its own ratios. Where the UNet's blocks differ by more than they
    are unsure, it gets block weights. Parts that nothing explains are made from what comes nearest.

    Args:
        explanation: What a checkpoint is made of.
        files: Where the pool's models are, by name.
        layout: Name of the architecture.

    Returns:
        The recipe; only models that it reads are in its pool.

    Raises:
        RecipeError: Nothing at all was explained.
    """
    mix: dict[str, Expr] = {}
    for name, part in explanation.components.items():
        if name in MIX_KEYS and part.ratios:
            profile = _PROFILES.get(layout)
            if name == "unet" and profile and explanation.is_by_block(name):
                blocks_of = explanation.blocks[name]
                mix[name] = _by_blocks(part, blocks_of, get_profile(profile), layout)
            else:
                mix[name] = _sum(simple_ratios(part.ratios, part.confidence))
    if not mix:
        raise RecipeError([Problem("unexplained", "no part of the mix shares keys with the pool")])
    read = {name for expression in mix.values() for name in names_in(expression)}
    return make_recipe(mix, {name: files[name] for name in explanation.pool if name in read})


def _sum(shares: Mapping[str, Fraction]) -> Expr:
    if not shares:
        raise ValueError("every ratio is zero")
    if len(shares) == 1 and set(shares.values()) == {Fraction(1)}:
        return model(next(iter(shares)))
    if len(shares) > 1 and set(shares.values()) == {Fraction(1, len(shares))}:
        return mean(*map(model, shares))
    terms: list[Expr] = [share * model(name) for name, share in shares.items()]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _by_blocks(part: Part, parts: Mapping[str, Part], profile: Profile, layout: str) -> Expr:
    shares: list[dict[str, Fraction]] = [{} for _ in profile.labels]
    whole = simple_ratios(part.ratios, part.confidence)
    for cell in get_layout(layout).cells:
        index = profile.index_of(Cell(cell.component, cell.block))
        if cell.component == "unet" and index is not None and not shares[index]:
            block = parts.get(cell.block)
            shares[index] = (
                simple_ratios(block.ratios, block.confidence) if block and block.ratios else whole
            )
    names = list(dict.fromkeys(name for share in shares for name in share))
    total: Expr | None = None
    for name in names:
        numbers = [share.get(name, Fraction(0)) for share in shares]
        term = blocks(profile.name, numbers) * model(name)
        total = term if total is None else total + term
    assert total is not None  # the component has ratios
    return total
