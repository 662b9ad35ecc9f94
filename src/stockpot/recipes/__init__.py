"""Recipes: what to merge, as text, as Python, and as a table of exact coefficients.

Knows nothing of tensors or of what files hold. `docs/recipe.md` specifies the text form.
"""

from __future__ import annotations

from .building import (
    POOL,
    add_difference,
    blocks,
    call,
    glob,
    lerp,
    linear,
    mean,
    model,
    search,
    weighted_sum,
)
from .canonical import canonical
from .document import DTYPES, MIX_KEYS, STATUSES, Origin, PoolEntry, Recipe, Save, make_recipe
from .errors import MissingModelError
from .exporters import export_recipe
from .expressions import Call, Expr, Items, Name, Number, Text
from .folding import Difference, Fold, TableRow, compare_folds, fold
from .functions import FUNCTIONS, RESERVED, Function
from .grammar import parse_expression
from .guessing import likely_layout
from .linting import Finding, lint
from .pictures import draw_graph, draw_shares
from .printing import print_expression
from .reading import parse_recipe, read_recipe
from .renaming import models_below, names_in

__all__ = [
    "DTYPES",
    "FUNCTIONS",
    "MIX_KEYS",
    "POOL",
    "RESERVED",
    "STATUSES",
    "Call",
    "Difference",
    "Expr",
    "Finding",
    "Fold",
    "Function",
    "Items",
    "MissingModelError",
    "Name",
    "Number",
    "Origin",
    "PoolEntry",
    "Recipe",
    "Save",
    "TableRow",
    "Text",
    "add_difference",
    "blocks",
    "call",
    "canonical",
    "compare_folds",
    "draw_graph",
    "draw_shares",
    "export_recipe",
    "fold",
    "glob",
    "lerp",
    "likely_layout",
    "linear",
    "lint",
    "make_recipe",
    "mean",
    "model",
    "models_below",
    "names_in",
    "parse_expression",
    "parse_recipe",
    "print_expression",
    "read_recipe",
    "search",
    "weighted_sum",
]
