"""Tuning: exams that every candidate takes, searches over holes, verdicts on held-out exams.

Importing this package loads neither torch nor diffusers nor optuna.
"""

from stockpot.tune.claims import Claims, Worker
from stockpot.tune.exam import Exam, Task
from stockpot.tune.examining import (
    CallableExaminer,
    Examiner,
    LiveExaminer,
    Mark,
    picture_facts,
    score_together,
)
from stockpot.tune.guarding import GUARDED, Drift, guard
from stockpot.tune.holes import Hole, fill_holes, find_holes
from stockpot.tune.opening import open_examiner
from stockpot.tune.optimisers import OPTIMISERS, Optimiser, make_sampler
from stockpot.tune.proposing import Proposal, is_worse, propose
from stockpot.tune.reading import WILDCARD_TYPES, read_exam
from stockpot.tune.searching import Candidate, Search, candidate_key, run_search
from stockpot.tune.settings import NEAR, Baseline, Limits, SearchSettings
from stockpot.tune.spaces import SPACES, Dial, Space, make_space
from stockpot.tune.storing import Book, KeptMark, StudyStore, open_store
from stockpot.tune.tallying import AUTOMBW_TALLIES, TALLIES, check_tally, scores_of, tally
from stockpot.tune.verdicts import Verdict, bootstrap_mean, compare_marks

__all__ = [
    "AUTOMBW_TALLIES",
    "GUARDED",
    "NEAR",
    "OPTIMISERS",
    "SPACES",
    "TALLIES",
    "WILDCARD_TYPES",
    "Baseline",
    "Book",
    "CallableExaminer",
    "Candidate",
    "Claims",
    "Dial",
    "Drift",
    "Exam",
    "Examiner",
    "Hole",
    "KeptMark",
    "Limits",
    "LiveExaminer",
    "Mark",
    "Optimiser",
    "Proposal",
    "Search",
    "SearchSettings",
    "Space",
    "StudyStore",
    "Task",
    "Verdict",
    "Worker",
    "bootstrap_mean",
    "candidate_key",
    "check_tally",
    "compare_marks",
    "fill_holes",
    "find_holes",
    "guard",
    "is_worse",
    "make_sampler",
    "make_space",
    "open_examiner",
    "open_store",
    "picture_facts",
    "propose",
    "read_exam",
    "run_search",
    "score_together",
    "scores_of",
    "tally",
]
