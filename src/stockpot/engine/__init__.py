"""From a recipe and a memory budget to a merged checkpoint: plan, stream panels, write in place."""

from stockpot.engine.budget import DEFAULT_MEMORY, Chunking, parse_size, size_text, take_chunks
from stockpot.engine.estimating import Estimate, MethodCosts, estimate_plan, method_costs
from stockpot.engine.history import History, InputRecord, Step, read_history
from stockpot.engine.merging import MergeResult, Settings, merge, merge_in_memory, open_pool
from stockpot.engine.plan import Plan, TensorPlan, Term
from stockpot.engine.planning import make_plan
from stockpot.engine.running import Digests, Meter, Progress, ProgressCallback, run_plan

__all__ = [
    "DEFAULT_MEMORY",
    "Chunking",
    "Digests",
    "Estimate",
    "History",
    "InputRecord",
    "MergeResult",
    "MethodCosts",
    "Meter",
    "Plan",
    "Progress",
    "ProgressCallback",
    "Settings",
    "Step",
    "TensorPlan",
    "Term",
    "estimate_plan",
    "make_plan",
    "merge",
    "merge_in_memory",
    "method_costs",
    "open_pool",
    "parse_size",
    "read_history",
    "run_plan",
    "size_text",
    "take_chunks",
]
