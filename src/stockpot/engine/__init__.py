"""From a recipe and a memory budget to a merged checkpoint: plan, stream panels, write in place."""

from stockpot.engine.budget import DEFAULT_MEMORY, Chunking, parse_size, size_text, take_chunks
from stockpot.engine.history import History, InputRecord, Step, read_history
from stockpot.engine.merging import MergeResult, Settings, merge, merge_in_memory, open_pool
from stockpot.engine.plan import Plan, TensorPlan, Term, make_plan
from stockpot.engine.running import Digests, Meter, Progress, ProgressCallback, run_plan

__all__ = [
    "DEFAULT_MEMORY",
    "Chunking",
    "Digests",
    "History",
    "InputRecord",
    "MergeResult",
    "Meter",
    "Plan",
    "Progress",
    "ProgressCallback",
    "Settings",
    "Step",
    "TensorPlan",
    "Term",
    "make_plan",
    "merge",
    "merge_in_memory",
    "open_pool",
    "parse_size",
    "read_history",
    "run_plan",
    "size_text",
    "take_chunks",
]
