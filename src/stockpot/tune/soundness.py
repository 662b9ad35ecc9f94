"""A study may come from a stranger or from a failing disk: what it holds is looked at first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from stockpot.errors import StockpotError, StudyError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = [
    "MARK_SHAPE", "RESULT_SHAPE", "SETTINGS_SHAPE", "check_trials", "damage", "read_object",
    "reading", "unfit",
]  # fmt: skip

# What must be there for a study to be gone on with and shown; see `unfit`.
_NUMBER = (int, float)
SETTINGS_SHAPE = {"objectives": [str], "scorers": [str], "recipe": str}
MARK_SHAPE = {"name": str, "elapsed_s": _NUMBER, "scores": {"*": _NUMBER}, "facts": {"*": _NUMBER}}
_VERDICT = {"better": str, "difference": _NUMBER, "low?": _NUMBER, "high?": _NUMBER, "text": str}
RESULT_SHAPE = {
    "text": str, "winner": str, "scorer": str, "failures": {"*": str}, "against": {"*": _VERDICT},
    "tasks": [{"name": str, "key": str, "payload": str, "prompt": str}],
    "standings": [
        {"name": str, "candidate": str, "baseline": bool, "search_values": [_NUMBER],
         "held_out?": _NUMBER, "verdict?": _VERDICT, "drifts": [str], "recipe": str}
    ],
}  # fmt: skip
_TRIAL = {"candidate?": str, "values?": {"*": str}, "baseline?": str, "imported?": str,
          "error?": str, "n_drawn?": int}  # fmt: skip


@contextmanager
def reading(where: str, what: str) -> Iterator[None]:
    """Tell what cannot be parsed as damage of the study, not as a fault of the program.

    Args:
        where: The study.
        what: Which part of it is read.

    Raises:
        StudyError: It cannot be parsed.
    """
    try:
        yield
    except StockpotError:
        raise
    # optuna and SQLAlchemy raise what their parsers raise: anything from KeyError to
    # AssertionError, which only mean that the rows are not what was written.
    except Exception as error:
        raise damage(where, f"{what} cannot be read ({type(error).__name__}: {error})") from error


def damage(where: str, found: str) -> StudyError:
    """Word the error for a study that holds something else than was written."""
    return StudyError(
        f"{where}: the study is damaged, or was not written by Stockpot: {found}; go on with an "
        "older copy, or begin anew with another file"
    )


def unfit(value: object, shape: Any, place: str = "") -> str:
    """Find the first place where plain data has not the shape that is expected.

    Args:
        value: Of JSON.
        shape: A type or a tuple of types; ``[shape]`` for a list; a dict of shapes for an object,
            where ``name?`` may be absent or null, and ``*`` stands for all names.
        place: How what is looked at is called.

    Returns:
        What is wrong and where; empty where all fits.

    Example:
        >>> unfit({"rows": [{"x": 1}, {"x": "2"}]}, {"rows": [{"x": int}]}, "result")
        "result.rows[1].x is '2'"
    """
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            return _wrong(place, value)
        if "*" in shape:
            inside = ((f"{place}.{name}", item, shape["*"]) for name, item in value.items())
        else:
            inside = (
                (f"{place}.{name.rstrip('?')}", value.get(name.rstrip("?")), wanted)
                for name, wanted in shape.items()
                if not (name.endswith("?") and value.get(name[:-1]) is None)
            )
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return _wrong(place, value)
        inside = ((f"{place}[{i}]", item, shape[0]) for i, item in enumerate(value))
    else:
        fits = isinstance(value, shape) and not (isinstance(value, bool) and shape is not bool)
        return "" if fits else _wrong(place, value)
    return next(filter(None, (unfit(item, wanted, name) for name, item, wanted in inside)), "")


def _wrong(place: str, value: object) -> str:
    shown = repr(value)
    return f"{place} is {shown if len(shown) <= 60 else shown[:59] + '…'}"


def read_object(where: str, what: str, text: str, shape: Any) -> dict[str, Any]:
    """Parse a note of a study.

    Args:
        where: The study.
        what: The note.
        text: JSON.
        shape: Of the object; see `unfit`.

    Returns:
        The object.

    Raises:
        StudyError: It is no JSON, or has another shape.
    """
    with reading(where, what):
        value = json.loads(text)
    if wrong := unfit(value, shape, what):
        raise damage(where, wrong)
    found: dict[str, Any] = value
    return found


def check_trials(where: str, trials: Iterable[FrozenTrial]) -> None:
    """Make sure that trials hold what Stockpot writes.

    Args:
        where: The study.
        trials: As optuna read them.

    Raises:
        StudyError: One does not.
    """
    for trial in trials:
        name = f"trial {trial.number}"
        with reading(where, name):
            if wrong := unfit(trial.user_attrs, _TRIAL, name):
                raise damage(where, wrong)
            for value in trial.user_attrs.get("values", {}).values():
                Fraction(value)
            values = trial.values if trial.values is not None else []
            if wrong := unfit(list(values), [_NUMBER], f"{name}.values"):
                raise damage(where, wrong)
            if trial.state.name == "COMPLETE" and not values:
                raise damage(where, f"{name} has ended without a score")
