"""What is in checkpoints, seen from outside: inspection, distances, maps, explanations."""

from stockpot.compare.comparison import Comparison, Exclusion, Group, ModelFacts, Pairs, Place
from stockpot.compare.inspecting import ComponentFacts, Inspection, inspect_checkpoint
from stockpot.compare.walking import compare

__all__ = [
    "Comparison",
    "ComponentFacts",
    "Exclusion",
    "Group",
    "Inspection",
    "ModelFacts",
    "Pairs",
    "Place",
    "compare",
    "inspect_checkpoint",
]
