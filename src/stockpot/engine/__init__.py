"""From a recipe and a memory budget to a merged checkpoint: plan, stream panels, write in place."""

from stockpot.engine.budget import DEFAULT_MEMORY, Chunking, parse_size, size_text, take_chunks
from stockpot.engine.history import History, InputRecord, Part, Step, read_history
from stockpot.engine.labels import Labels, read_labels
from stockpot.engine.merging import MergeResult, Settings, merge, merge_in_memory, open_pool
from stockpot.engine.plan import Plan, TensorPlan, Term
from stockpot.engine.planning import make_plan
from stockpot.engine.replaying import Route, find_route, replay
from stockpot.engine.running import Digests, Meter, Progress, ProgressCallback, run_plan
from stockpot.engine.shelf import Book, Shelf
from stockpot.engine.verifying import InputFound, Verdict, verify

__all__ = [
    "DEFAULT_MEMORY",
    "Book",
    "Chunking",
    "Digests",
    "History",
    "InputFound",
    "InputRecord",
    "Labels",
    "MergeResult",
    "Meter",
    "Part",
    "Plan",
    "Progress",
    "ProgressCallback",
    "Route",
    "Settings",
    "Shelf",
    "Step",
    "TensorPlan",
    "Term",
    "Verdict",
    "find_route",
    "make_plan",
    "merge",
    "merge_in_memory",
    "open_pool",
    "parse_size",
    "read_history",
    "read_labels",
    "replay",
    "run_plan",
    "size_text",
    "take_chunks",
    "verify",
]
