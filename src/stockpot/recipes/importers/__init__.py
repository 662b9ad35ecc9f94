"""Recipes of other tools, read as ours: one file a family, and a table of them.

What a source cannot tell stays a named hole, what our functions cannot say yet stays a call with
all its arguments, and every decision is in the notes.
"""

from __future__ import annotations

from ._base import Facts, Imported
from .a1111 import import_a1111, import_metadata
from .autombw import (
    Search,
    best_row,
    import_autombw,
    import_autombw_table,
    recipe_order,
    table_rows,
)
from .composing import compose, import_folder, model_key
from .listing import import_listing
from .mecha import import_mecha
from .table import IMPORTERS, Importer, detect_format, import_file, import_text

__all__ = [
    "IMPORTERS",
    "Facts",
    "Imported",
    "Importer",
    "Search",
    "best_row",
    "compose",
    "detect_format",
    "import_a1111",
    "import_autombw",
    "import_autombw_table",
    "import_file",
    "import_folder",
    "import_listing",
    "import_mecha",
    "import_metadata",
    "import_text",
    "model_key",
    "recipe_order",
    "table_rows",
]
