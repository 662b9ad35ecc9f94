"""Tuning: exams that every candidate takes, verdicts on held-out ones.

Importing this package loads neither torch nor diffusers nor optuna.
"""

from stockpot.tune.exam import WILDCARD_TYPES, Exam, Task, read_exam
from stockpot.tune.examining import (
    CallableExaminer,
    Examiner,
    LiveExaminer,
    Mark,
    open_examiner,
    picture_facts,
)
from stockpot.tune.guarding import GUARDED, Drift, guard
from stockpot.tune.tallying import AUTOMBW_TALLIES, TALLIES, check_tally, scores_of, tally
from stockpot.tune.verdicts import Verdict, compare_marks, paired_bootstrap

__all__ = [
    "AUTOMBW_TALLIES",
    "GUARDED",
    "TALLIES",
    "WILDCARD_TYPES",
    "CallableExaminer",
    "Drift",
    "Exam",
    "Examiner",
    "LiveExaminer",
    "Mark",
    "Task",
    "Verdict",
    "check_tally",
    "compare_marks",
    "guard",
    "open_examiner",
    "paired_bootstrap",
    "picture_facts",
    "read_exam",
    "scores_of",
    "tally",
]
