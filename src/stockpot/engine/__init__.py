"""From a recipe and a memory budget to a merged checkpoint: plan, stream panels, write in place."""

from stockpot.engine.budget import (
    DEFAULT_MEMORY,
    Chunking,
    give_back_memory,
    parse_size,
    size_text,
    take_chunks,
)
from stockpot.engine.components import SWAPPABLE, convert, extract, prune, swap, unprune
from stockpot.engine.composing import Ancestor, compare_shares, shares_of
from stockpot.engine.crews import Ask, Crew, Opening, Post
from stockpot.engine.estimating import Estimate, MethodCosts, estimate_plan, method_costs
from stockpot.engine.forms import Form, Pipeline, arranged, in_form
from stockpot.engine.history import History, InputRecord, Part, Step, read_history
from stockpot.engine.labels import Labels, read_labels
from stockpot.engine.merging import MergeResult, merge, merge_in_memory
from stockpot.engine.plan import Plan, TensorPlan, Term
from stockpot.engine.planning import make_plan
from stockpot.engine.pools import open_pool
from stockpot.engine.progress import Meter, Progress, ProgressCallback
from stockpot.engine.remaking import Remade, remake
from stockpot.engine.replaying import Route, find_route, replay
from stockpot.engine.resuming import facts_of_source
from stockpot.engine.running import Digests, run_plan
from stockpot.engine.settings import Settings, device_of
from stockpot.engine.shelf import Book, Shelf
from stockpot.engine.stopping import Stop
from stockpot.engine.verifying import InputFound, Verdict, verify

__all__ = [
    "DEFAULT_MEMORY",
    "SWAPPABLE",
    "Ancestor",
    "Ask",
    "Book",
    "Chunking",
    "Crew",
    "Digests",
    "Estimate",
    "Form",
    "History",
    "InputFound",
    "InputRecord",
    "Labels",
    "MergeResult",
    "Meter",
    "MethodCosts",
    "Opening",
    "Part",
    "Pipeline",
    "Plan",
    "Post",
    "Progress",
    "ProgressCallback",
    "Remade",
    "Route",
    "Settings",
    "Shelf",
    "Step",
    "Stop",
    "TensorPlan",
    "Term",
    "Verdict",
    "arranged",
    "compare_shares",
    "convert",
    "device_of",
    "estimate_plan",
    "extract",
    "facts_of_source",
    "find_route",
    "give_back_memory",
    "in_form",
    "make_plan",
    "merge",
    "merge_in_memory",
    "method_costs",
    "open_pool",
    "parse_size",
    "prune",
    "read_history",
    "read_labels",
    "remake",
    "replay",
    "run_plan",
    "shares_of",
    "size_text",
    "swap",
    "take_chunks",
    "unprune",
    "verify",
]
