"""What files are and hold: one or a folder of hundreds, whole models, parts and small files.

Headers are enough for most of it; values are read where somebody asks. Everything that is found is
plain data, so that it can be kept, printed as JSON, and compared.
"""

from stockpot.inspect.cache import CACHE_VARIABLE, Cache, cache_folder
from stockpot.inspect.codes import CODES, Code
from stockpot.inspect.folders import (
    find_checkpoints,
    inspect_path,
    inspect_paths,
    shared_components,
)
from stockpot.inspect.identity import Foreign, Identity, identify
from stockpot.inspect.inspecting import Wanted, inspect_checkpoint
from stockpot.inspect.inspection import ComponentFacts, Inspection, Traits, Waste
from stockpot.inspect.metadata import Node, metadata_tree
from stockpot.inspect.repairing import RepairPlan, plan_repair, repair

__all__ = [
    "CACHE_VARIABLE",
    "CODES",
    "Cache",
    "Code",
    "ComponentFacts",
    "Foreign",
    "Identity",
    "Inspection",
    "Node",
    "RepairPlan",
    "Traits",
    "Wanted",
    "Waste",
    "cache_folder",
    "find_checkpoints",
    "identify",
    "inspect_checkpoint",
    "inspect_path",
    "inspect_paths",
    "metadata_tree",
    "plan_repair",
    "repair",
    "shared_components",
]
