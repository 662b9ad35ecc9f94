"""How checkpoints differ: distances, maps, families, and what a mix is made of."""

from stockpot.compare.comparison import (
    WEIGHTS,
    Comparison,
    Exclusion,
    Group,
    ModelFacts,
    Pairs,
    Place,
)
from stockpot.compare.convergence import Convergence, members_of_chain, trace_convergence
from stockpot.compare.explaining import Explanation, Part, explain
from stockpot.compare.findings import ComponentFindings, Findings, delta_norms, study
from stockpot.compare.grouping import (
    Duplicates,
    Families,
    Outlier,
    effective_dimension,
    find_duplicates,
    find_families,
    find_outliers,
)
from stockpot.compare.heritage import Descent, FamilyTree, find_family_tree
from stockpot.compare.imagining import Stage, add_mixes, list_stages
from stockpot.compare.mapping import Map, place_by_distance, place_by_spectrum, scale_bar
from stockpot.compare.matrices import DistanceTable, distance_table, read_distance_table
from stockpot.compare.recovering import recover_recipe, simple_ratios
from stockpot.compare.storing import load_comparison, save_comparison
from stockpot.compare.walking import compare

__all__ = [
    "WEIGHTS",
    "Comparison",
    "ComponentFindings",
    "Convergence",
    "Descent",
    "DistanceTable",
    "Duplicates",
    "Exclusion",
    "Explanation",
    "Families",
    "FamilyTree",
    "Findings",
    "Group",
    "Map",
    "ModelFacts",
    "Outlier",
    "Pairs",
    "Part",
    "Place",
    "Stage",
    "add_mixes",
    "compare",
    "delta_norms",
    "distance_table",
    "effective_dimension",
    "explain",
    "find_duplicates",
    "find_families",
    "find_family_tree",
    "find_outliers",
    "list_stages",
    "load_comparison",
    "members_of_chain",
    "place_by_distance",
    "place_by_spectrum",
    "read_distance_table",
    "recover_recipe",
    "save_comparison",
    "scale_bar",
    "simple_ratios",
    "study",
    "trace_convergence",
]
