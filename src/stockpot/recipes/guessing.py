"""Which architecture a recipe is for, as far as its text tells."""

from __future__ import annotations

from stockpot.layouts import PROFILES

from .document import Recipe
from .expressions import Call, Text
from .renaming import walk

__all__ = ["likely_layout"]


def likely_layout(recipe: Recipe) -> str | None:
    """Guess the layout from block-weight profiles and names of components.

    Args:
        recipe: Any recipe.

    Returns:
        A name of a layout, or None where the text tells nothing. ``sd1`` stands for SD1 and SD2,
        whose blocks and components have the same names.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> likely_layout(make_recipe({"te1": "a"}, {"a": "a.ckpt"}))
        'sdxl'
    """
    if recipe.mix.keys() & {"te0", "te1"}:
        return "sdxl"
    for root in (*recipe.let.values(), *recipe.mix.values()):
        for node in walk(root):
            if not isinstance(node, Call):
                continue
            if node.function == "components" and {"te0", "te1"} & {n for n, _ in node.options}:
                return "sdxl"
            first = node.args[0] if node.args else None
            if node.function == "blocks" and isinstance(first, Text) and first.value in PROFILES:
                return PROFILES[first.value].layouts[0]
    return None
