"""From a recipe and a memory budget to a merged checkpoint: plan, stream panels, write in place."""

from stockpot.engine.budget import DEFAULT_MEMORY, Chunking, parse_size, size_text, take_chunks
from stockpot.engine.components import SWAPPABLE, convert, extract, prune, swap, unprune
from stockpot.engine.composing import Ancestor, compare_shares, shares_of
from stockpot.engine.forms import Form, Pipeline, arranged, in_form
from stockpot.engine.history import History, InputRecord, Step, read_history
from stockpot.engine.merging import MergeResult, Settings, merge, merge_in_memory, open_pool
from stockpot.engine.plan import Plan, TensorPlan, Term, make_plan
from stockpot.engine.running import Digests, Progress, ProgressCallback, run_plan

__all__ = [
    "DEFAULT_MEMORY",
    "SWAPPABLE",
    "Ancestor",
    "Chunking",
    "Digests",
    "Form",
    "History",
    "InputRecord",
    "MergeResult",
    "Pipeline",
    "Plan",
    "Progress",
    "ProgressCallback",
    "Settings",
    "Step",
    "TensorPlan",
    "Term",
    "arranged",
    "compare_shares",
    "convert",
    "extract",
    "in_form",
    "make_plan",
    "merge",
    "merge_in_memory",
    "open_pool",
    "parse_size",
    "prune",
    "read_history",
    "run_plan",
    "shares_of",
    "size_text",
    "swap",
    "take_chunks",
    "unprune",
]
