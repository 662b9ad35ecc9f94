"""Which models and which text encoders to keep: chosen by measurement, without writing a file.

Importing this package loads neither torch nor diffusers.
"""

from stockpot.select.choices import Choice, Member, Pool, survey_members
from stockpot.select.deciding import Decision, Decisions, Marks, Rule, decide
from stockpot.select.evidence import Evidence, Stopped
from stockpot.select.plans import (
    PLANS,
    Ask,
    Outcome,
    Setup,
    Step,
    author_plan,
    find_core,
    greedy_drop,
    greedy_soup,
    leave_one_out,
    shapley,
    used_table,
)
from stockpot.select.selecting import (
    Cost,
    Selection,
    decisions_json,
    expected_cost,
    read_decisions,
    select_models,
)

__all__ = [
    "PLANS",
    "Ask",
    "Choice",
    "Cost",
    "Decision",
    "Decisions",
    "Evidence",
    "Marks",
    "Member",
    "Outcome",
    "Pool",
    "Rule",
    "Selection",
    "Setup",
    "Step",
    "Stopped",
    "author_plan",
    "decide",
    "decisions_json",
    "expected_cost",
    "find_core",
    "greedy_drop",
    "greedy_soup",
    "leave_one_out",
    "read_decisions",
    "select_models",
    "shapley",
    "survey_members",
    "used_table",
]
