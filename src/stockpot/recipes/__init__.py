"""Recipes: what to merge, as text, as Python, and as a table of exact coefficients.

Knows nothing of tensors or of what files hold. `docs/recipe.md` specifies the text form.
"""

from __future__ import annotations

from .atoms import Atom, Called, Invocation, Row, atoms_below, models_in
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
from .comparing import Difference, compare_folds
from .document import (
    DTYPES,
    FORMS,
    MIX_KEYS,
    STATUSES,
    Origin,
    PoolEntry,
    Recipe,
    Save,
    make_recipe,
)
from .errors import MissingModelError
from .exporters import export_recipe
from .expressions import Call, Expr, Items, Name, Number, Text
from .folding import Fold, TableRow, fold
from .functions import FUNCTIONS, PLUGINS, RESERVED, find_function
from .grammar import parse_expression
from .guessing import likely_layout
from .linting import Finding, lint
from .naming import name_files, name_of_file
from .pictures import draw_graph, draw_shares
from .printing import print_expression
from .reading import parse_recipe, read_recipe
from .renaming import adapters_in, functions_in, models_below, names_in
from .signatures import Function, Parameter
from .small_yaml import read_small_yaml

__all__ = [
    "DTYPES",
    "FORMS",
    "FUNCTIONS",
    "MIX_KEYS",
    "PLUGINS",
    "POOL",
    "RESERVED",
    "STATUSES",
    "Atom",
    "Call",
    "Called",
    "Difference",
    "Expr",
    "Finding",
    "Fold",
    "Function",
    "Invocation",
    "Items",
    "MissingModelError",
    "Name",
    "Number",
    "Origin",
    "Parameter",
    "PoolEntry",
    "Recipe",
    "Row",
    "Save",
    "TableRow",
    "Text",
    "adapters_in",
    "add_difference",
    "atoms_below",
    "blocks",
    "call",
    "canonical",
    "compare_folds",
    "draw_graph",
    "draw_shares",
    "export_recipe",
    "find_function",
    "fold",
    "functions_in",
    "glob",
    "lerp",
    "likely_layout",
    "linear",
    "lint",
    "make_recipe",
    "mean",
    "model",
    "models_below",
    "models_in",
    "name_files",
    "name_of_file",
    "names_in",
    "parse_expression",
    "parse_recipe",
    "print_expression",
    "read_recipe",
    "read_small_yaml",
    "search",
    "weighted_sum",
]
