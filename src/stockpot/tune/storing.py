"""Studies on disk: trials in optuna's own tables, and every mark beside them in the same file.

What is written is written whole, so that a process can be killed at any moment. A trial is created
with all its parameters at once; a mark is there or not; a trial's end is one row.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.errors import MissingExtraError, StudyError
from stockpot.tune.books import Book
from stockpot.tune.soundness import (
    RESULT_SHAPE,
    SETTINGS_SHAPE,
    check_trials,
    read_object,
    reading,
)

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

__all__ = ["StudyStore", "is_begun", "open_store"]

_NAME = "stockpot"


class StudyStore:
    """One study: its trials and its book.

    Attributes:
        where: As the user named it, without a password.
        trials: optuna's storage; ``optuna.load_study(study_name=…, storage=store.trials)`` and
            optuna's own tools read it too.
        book: All else.
    """

    def __init__(self, where: str, trials: BaseStorage, book: Book, name: str = _NAME) -> None:
        self.where, self.trials, self.book, self.name = where, trials, book, name

    def note_key(self, what: str) -> str:
        """The book's key of what each study of the file notes for itself.

        Args:
            what: Such as ``settings``.
        """
        return what if self.name == _NAME else f"{what} {self.name}"

    def named(self, name: str) -> StudyStore:
        """Another study of the same file; the book is the same.

        Args:
            name: Of the study; it need not be there yet.
        """
        return StudyStore(self.where, self.trials, self.book, name)

    def is_there(self) -> bool:
        """Whether this study was begun."""
        try:
            self.study_id()
        except StudyError:
            return False
        return True

    def study_id(self, n_objectives: int | None = None) -> int:
        """The number of the study in optuna's storage.

        Args:
            n_objectives: Makes the study if it is not there; all objectives are maximised.

        Raises:
            StudyError: It is not there, or has another number of objectives.
        """
        import optuna
        from optuna.study import StudyDirection

        try:
            found = self.trials.get_study_id_from_name(self.name)
        except KeyError:
            if n_objectives is None:
                raise StudyError(f"{self.where}: there is no study yet") from None
            try:
                directions = [StudyDirection.MAXIMIZE] * n_objectives
                return self.trials.create_new_study(directions, self.name)
            except optuna.exceptions.DuplicatedStudyError:  # another worker was faster
                found = self.trials.get_study_id_from_name(self.name)
        if n_objectives is not None:
            there = len(self.trials.get_study_directions(found))
            if there != n_objectives:
                raise StudyError(
                    f"{self.where}: the study has {there} objectives, but {n_objectives} are asked "
                    "for; name another file with --study"
                )
        return found

    def all_trials(self) -> list[FrozenTrial]:
        """Read all trials, in the order of their numbers.

        Raises:
            StudyError: There is no study, or it holds what Stockpot never writes.
        """
        study_id = self.study_id()
        with reading(self.where, "the trials"):
            found = self.trials.get_all_trials(study_id, deepcopy=False)
            found = sorted(found, key=lambda trial: trial.number)
        check_trials(self.where, found)
        return found

    def add_trial(
        self,
        params: Mapping[str, float],
        distributions: Mapping[str, Any],
        user_attrs: Mapping[str, Any],
        system_attrs: Mapping[str, Any] | None = None,
        values: Iterable[float] | None = None,
    ) -> int:
        """Create a trial with all that belongs to it, in one piece.

        Args:
            params: Its dials.
            distributions: Their ranges, in optuna's terms.
            user_attrs: What Stockpot knows of it.
            system_attrs: What the optimiser wants to remember.
            values: What it scored, for one that is finished already; None starts it.

        Returns:
            Its id in optuna's storage.
        """
        from optuna.trial import TrialState, create_trial

        trial = create_trial(
            state=TrialState.RUNNING if values is None else TrialState.COMPLETE,
            values=None if values is None else list(values),
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(user_attrs),
            system_attrs=dict(system_attrs or {}),
        )
        return self.trials.create_new_trial(self.study_id(), template_trial=trial)

    def finish_trial(
        self, trial_id: int, state: str, values: Iterable[float] | None, **attrs: Any
    ) -> bool:
        """End a trial.

        Args:
            trial_id: Its id in optuna's storage.
            state: ``complete``, ``pruned`` or ``fail``.
            values: What it scored.
            **attrs: What to note of it first.

        Returns:
            Whether it was running until now.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        kinds = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED,
                 "fail": TrialState.FAIL}  # fmt: skip
        try:
            for key, value in attrs.items():
                self.trials.set_trial_user_attr(trial_id, key, value)
            numbers = None if values is None else list(values)
            return self.trials.set_trial_state_values(trial_id, kinds[state], numbers)
        except UpdateFinishedTrialError:
            return False

    def settings(self) -> dict[str, Any] | None:
        """Read what was searched and how; None for a study that is new."""
        text = self.book.note(self.note_key("settings"))
        return None if text is None else read_object(self.where, "settings", text, SETTINGS_SHAPE)

    def result(self) -> dict[str, Any] | None:
        """Read how a study ended, as `result_json` made it; None for one that has not."""
        text = self.book.note(self.note_key("result"))
        return None if text is None else read_object(self.where, "result", text, RESULT_SHAPE)

    def close(self) -> None:
        """Let go of the file."""
        remove = getattr(self.trials, "remove_session", None)
        if remove is not None:
            remove()
        engine = getattr(getattr(self.trials, "_backend", self.trials), "engine", None)
        if engine is not None:
            engine.dispose()
        self.book.close()

    def __enter__(self) -> StudyStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(where: str | os.PathLike[str], *, create: bool = True) -> StudyStore:
    """Open a study, or make an empty one.

    Args:
        where: A file, which becomes an SQLite database; ``journal:FILE`` or a name that ends in
            ``.journal`` for a file on a disk that several machines share; or the address of a
            database, such as ``postgresql://user@host/name`` (any that SQLAlchemy has a driver
            for; PostgreSQL is the one that was tried).
        create: Whether to make what is not there.

    Returns:
        The study.

    Raises:
        MissingExtraError: optuna, or the driver of PostgreSQL, is not installed.
        StudyError: It is not there, or no study.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("tuning", "tune") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    text = os.fspath(where)
    if text.startswith("journal:") or text.endswith(".journal"):
        path = Path(text.removeprefix("journal:"))
        _check_there(path, create)
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        from stockpot.tune.journals import JournalBook

        journal = JournalStorage(JournalFileBackend(str(path)))
        return StudyStore(text, journal, JournalBook(journal, f"{_NAME} book"))
    from stockpot.tune.tables import TableBook, open_tables, shown_address

    if "://" not in text:
        path = Path(text)
        _check_there(path, create)
        if path.exists() and path.stat().st_size and path.read_bytes()[:15] != b"SQLite format 3":
            raise StudyError(f"{text}: a study is an SQLite file, but this is something else")
    storage, engine = open_tables(text, create)
    return StudyStore(shown_address(text), storage, TableBook(engine))


def is_begun(where: str | os.PathLike[str]) -> bool:
    """Whether a study's file is there.

    Args:
        where: As for `open_store`.

    Returns:
        False for a database's address as well: nobody can tell without opening it.

    Example:
        >>> is_begun("nowhere.db"), is_begun("postgresql://user@host/name")
        (False, False)
    """
    text = os.fspath(where)
    return "://" not in text and Path(text.removeprefix("journal:")).exists()


def _check_there(path: Path, create: bool) -> None:
    if path.exists():
        return
    if not create:
        raise StudyError(f"{path}: there is no such study")
    if not path.parent.is_dir():
        raise StudyError(f"{path}: there is no folder {path.parent}; make it first")
