"""Tuning: exams that every candidate takes, searches over holes, verdicts on held-out exams.

Importing this package loads neither torch nor diffusers nor optuna.
"""

from stockpot.tune.baselines import UNIFORM, make_baselines, nearness_to_uniform, sums_of_models
from stockpot.tune.books import Book, KeptMark
from stockpot.tune.claims import Claims, Worker
from stockpot.tune.effects import Effect, estimate_effects
from stockpot.tune.exam import Exam, Task
from stockpot.tune.examining import (
    CallableExaminer,
    Examiner,
    LiveExaminer,
    Mark,
    picture_facts,
    score_together,
)
from stockpot.tune.growing import ALONE, BaselineMaker, Begin, Decision, GrowingTree, trees_in
from stockpot.tune.guarding import GUARDED, Drift, guard
from stockpot.tune.holes import Hole, fill_holes, find_holes, read_values
from stockpot.tune.importing import ImportedRows, import_rows
from stockpot.tune.opening import check_memory, open_examiner
from stockpot.tune.optimisers import OPTIMISERS, Optimiser, check_optimiser, make_sampler
from stockpot.tune.proposing import Proposal, is_worse, propose
from stockpot.tune.reading import WILDCARD_TYPES, read_exam
from stockpot.tune.results import (
    Result,
    Standing,
    best_trials,
    evidence,
    hold_out,
    judge,
    pareto_front,
    result_json,
)
from stockpot.tune.searching import Candidate, Search, candidate_key, run_search
from stockpot.tune.settings import NEAR, Baseline, Limits, SearchSettings
from stockpot.tune.sharing import CrewExaminer, examine_on_crew
from stockpot.tune.spaces import SPACES, Dial, Space, make_space
from stockpot.tune.storing import StudyStore, is_begun, open_store
from stockpot.tune.tables import shown_address
from stockpot.tune.tallying import AUTOMBW_TALLIES, TALLIES, check_tally, scores_of, tally
from stockpot.tune.trees import ORDERS, Tree, TreeNode, plan_tree, spread_holes
from stockpot.tune.verdicts import Verdict, bootstrap_mean, compare_marks

__all__ = [
    "ALONE",
    "AUTOMBW_TALLIES",
    "GUARDED",
    "NEAR",
    "OPTIMISERS",
    "ORDERS",
    "SPACES",
    "TALLIES",
    "UNIFORM",
    "WILDCARD_TYPES",
    "Baseline",
    "BaselineMaker",
    "Begin",
    "Book",
    "CallableExaminer",
    "Candidate",
    "Claims",
    "CrewExaminer",
    "Decision",
    "Dial",
    "Drift",
    "Effect",
    "Exam",
    "Examiner",
    "GrowingTree",
    "Hole",
    "ImportedRows",
    "KeptMark",
    "Limits",
    "LiveExaminer",
    "Mark",
    "Optimiser",
    "Proposal",
    "Result",
    "Search",
    "SearchSettings",
    "Space",
    "Standing",
    "StudyStore",
    "Task",
    "Tree",
    "TreeNode",
    "Verdict",
    "Worker",
    "best_trials",
    "bootstrap_mean",
    "candidate_key",
    "check_memory",
    "check_optimiser",
    "check_tally",
    "compare_marks",
    "estimate_effects",
    "evidence",
    "examine_on_crew",
    "fill_holes",
    "find_holes",
    "guard",
    "hold_out",
    "import_rows",
    "is_begun",
    "is_worse",
    "judge",
    "make_baselines",
    "make_sampler",
    "make_space",
    "nearness_to_uniform",
    "open_examiner",
    "open_store",
    "pareto_front",
    "picture_facts",
    "plan_tree",
    "propose",
    "read_exam",
    "read_values",
    "result_json",
    "run_search",
    "score_together",
    "scores_of",
    "shown_address",
    "spread_holes",
    "sums_of_models",
    "tally",
    "trees_in",
]
