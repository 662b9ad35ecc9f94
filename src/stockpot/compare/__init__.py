"""What is in checkpoints, seen from outside: inspection now, distances and maps later."""

from stockpot.compare.inspecting import ComponentFacts, Inspection, inspect_checkpoint

__all__ = ["ComponentFacts", "Inspection", "inspect_checkpoint"]
