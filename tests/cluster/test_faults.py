"""Errors come out of another process as they went in."""

from __future__ import annotations

import pickle

import pytest

from stockpot import errors
from stockpot.cluster.faults import fault_of
from stockpot.engine.resuming import is_worth_keeping
from stockpot.errors import CheckpointError, PreflightError, Problem, StockpotError

PROBLEMS = [Problem("unreadable", "it is not there", "pool: a", "look for it"),
            Problem("unreadable", "nor is it", "pool: b")]  # fmt: skip


def made(name: str) -> StockpotError:
    kind = getattr(errors, name)
    if issubclass(kind, errors.ProblemsError):
        error: StockpotError = kind(PROBLEMS)
    elif kind is errors.UnknownNameError:
        error = kind("base", "x", ["y"])
    elif kind is errors.MissingExtraError:
        error = kind("drawing", "draw")
    else:
        error = kind("a.safetensors: it must be whole")
    return error


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n.endswith("Error")])
def test_every_error_of_ours_is_the_same_kind_with_the_same_words(name: str) -> None:
    error = made(name)
    again = pickle.loads(pickle.dumps(fault_of(error))).error("n1")
    assert type(again) is type(error)
    for line, there in zip(str(again).splitlines(), str(error).splitlines(), strict=True):
        assert line in (there, f"node n1: {there}")
    if isinstance(error, errors.ProblemsError):
        assert isinstance(again, errors.ProblemsError) and again.problems == error.problems


def test_a_file_that_a_node_does_not_see_is_told_with_the_node() -> None:
    text = str(fault_of(PreflightError(PROBLEMS)).error("vm (10.0.0.2)"))
    assert text.splitlines()[0].startswith("node vm (10.0.0.2): pool: a: it is not there")


def test_what_the_system_refused_stays_something_worth_going_on_from() -> None:
    error = CheckpointError("a.safetensors: w: cannot be read")
    error.__cause__ = OSError(5, "Input/output error")
    again = fault_of(error).error("n1")
    assert str(again) == "node n1: a.safetensors: w: cannot be read"
    assert is_worth_keeping(again, saving=False)
    assert not is_worth_keeping(fault_of(CheckpointError("NaN")).error("n1"), saving=False)


def test_a_fault_of_ours_says_so_and_where() -> None:
    again = fault_of(KeyError("w")).error("n1")
    assert str(again) == "node n1: a worker failed: KeyError: 'w'; --debug shows where"
    assert "KeyError" in again.__notes__[0]
