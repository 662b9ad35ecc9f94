"""Tuning: exams that every candidate takes, verdicts on held-out ones.

Importing this package loads neither torch nor diffusers nor optuna.
"""

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
from stockpot.tune.opening import open_examiner
from stockpot.tune.reading import WILDCARD_TYPES, read_exam
from stockpot.tune.tallying import AUTOMBW_TALLIES, TALLIES, check_tally, scores_of, tally
from stockpot.tune.verdicts import Verdict, bootstrap_mean, compare_marks

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
    "bootstrap_mean",
    "check_tally",
    "compare_marks",
    "guard",
    "open_examiner",
    "picture_facts",
    "read_exam",
    "score_together",
    "scores_of",
    "tally",
]
