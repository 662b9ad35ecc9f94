"""A study's book in a database: tables beside those of optuna, one file for both."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, final

from stockpot.errors import MissingExtraError, StudyError
from stockpot.tune.books import Book, KeptMark
from stockpot.tune.claims import Claimed, Worker
from stockpot.tune.soundness import MARK_SHAPE, damage, reading, unfit

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage
    from sqlalchemy import Engine

__all__ = ["TableBook", "open_tables", "shown_address"]

#: How long a writer waits for another.
BUSY_S = 120
_ATTEMPTS = 8
# Names of trees and plans stand in keys of notes; databases other than SQLite keep to the length.
_LONG_KEY = 500
# What is meant where an address names no driver: the same whatever SQLAlchemy's version takes.
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def shown_address(where: str) -> str:
    """Leave the password out of a database's address, for messages and pages.

    Args:
        where: As the user named a study.

    Returns:
        The same, with stars for the password.

    Example:
        >>> shown_address("postgresql://me:secret@host/studies?sslmode=require")
        'postgresql://me:***@host/studies?sslmode=require'
        >>> shown_address("study.db")
        'study.db'
    """
    if "://" not in where:
        return where
    hidden = re.sub(r"(://[^:/?]*):.*@", r"\1:***@", where)
    return re.sub(r"(?i)([?&]password=)[^&]*", r"\1***", hidden)


def open_tables(where: str, create: bool = True) -> tuple[BaseStorage, Engine]:
    """Open optuna's storage in a database, and the engine for our own tables.

    Args:
        where: A file, or the address of a database.
        create: Whether to make the tables where they are not there.

    Raises:
        MissingExtraError: The database's driver is not installed.
        StudyError: The database cannot be opened.
    """
    import sqlalchemy
    from optuna.storages import get_storage

    is_file = "://" not in where
    options: dict[str, Any]
    try:
        if is_file:
            url = sqlalchemy.URL.create("sqlite", database=where)
            options = {"connect_args": {"timeout": BUSY_S}}
        else:
            url = sqlalchemy.make_url(where)
            url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
            # A server may have ended a connection that was idle while pictures were drawn.
            options = {"pool_pre_ping": True}
        if is_file:
            engine = _engine(url, options)
            # From here on readers do not wait for writers; the file remembers it.
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        else:
            engine = _engine(url, options)
            if not create and not sqlalchemy.inspect(engine).has_table("stockpot_notes"):
                engine.dispose()
                raise StudyError(f"{shown_address(where)}: there is no such study")
        storage = _open_trials(url.render_as_string(hide_password=False), options)
    except StudyError:
        raise
    except ModuleNotFoundError as error:
        if url.get_backend_name() == "postgresql":
            raise MissingExtraError("a study in PostgreSQL", "postgres") from error
        raise StudyError(f"{shown_address(where)}: the database's driver is not installed: "
                         f"{error}") from error  # fmt: skip
    except Exception as error:
        # The driver's own words; SQLAlchemy's have an address of a page, and a line each.
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StudyError(f"{shown_address(where)}: the study cannot be opened: {reason}") from error
    if is_file:
        sqlalchemy.event.listen(storage.engine, "connect", _tune_sqlite)
        storage.engine.dispose()
    # Trials that have ended are read once; optuna does the same for studies of its own.
    return get_storage(storage), engine


def _open_trials(address: str, options: dict[str, Any]) -> RDBStorage:
    """Open optuna's storage; another worker may be making the same tables at this moment."""
    import sqlalchemy
    from optuna.storages import RDBStorage

    for attempt in range(_ATTEMPTS):
        try:
            return RDBStorage(address, engine_kwargs=options)
        except (sqlalchemy.exc.DBAPIError, RuntimeError):
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.1 + attempt / 10)
    raise AssertionError


def _engine(url: Any, options: dict[str, Any]) -> Engine:
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, **options)
    if engine.dialect.name == "sqlite":
        sqlalchemy.event.listen(engine, "connect", _tune_sqlite)
    return engine


def _tune_sqlite(connection: Any, _: Any) -> None:
    # A process that is killed loses nothing so; only a loss of power can take the last rows.
    connection.execute("PRAGMA synchronous=NORMAL")


@final
class TableBook(Book):
    """A book in a database.

    Args:
        engine: Of SQLAlchemy.
    """

    def __init__(self, engine: Engine) -> None:
        import sqlalchemy as sql

        self._engine = engine
        is_file = engine.dialect.name == "sqlite" and engine.url.database
        self._where = str(engine.url.database if is_file else engine.url.render_as_string())
        data = sql.MetaData()
        key, long_key = sql.String(64), sql.String(_LONG_KEY)
        self._notes = sql.Table(
            "stockpot_notes", data,
            sql.Column("key", long_key, primary_key=True), sql.Column("text", sql.Text),
        )  # fmt: skip
        self._candidates = sql.Table(
            "stockpot_candidates", data,
            sql.Column("candidate", key, primary_key=True), sql.Column("recipe", sql.Text),
        )  # fmt: skip
        self._marks = sql.Table(
            "stockpot_marks", data,
            sql.Column("candidate", key, primary_key=True),
            sql.Column("task", key, primary_key=True),
            sql.Column("name", sql.Text), sql.Column("elapsed_s", sql.Float),
            sql.Column("facts", sql.Text),
        )  # fmt: skip
        self._scores = sql.Table(
            "stockpot_scores", data,
            sql.Column("candidate", key, primary_key=True),
            sql.Column("task", key, primary_key=True),
            sql.Column("scorer", long_key, primary_key=True),
            sql.Column("score", sql.Float),
        )  # fmt: skip
        self._pictures = sql.Table(
            "stockpot_pictures", data,
            sql.Column("candidate", key, primary_key=True),
            sql.Column("task", key, primary_key=True), sql.Column("png", sql.LargeBinary),
        )  # fmt: skip
        self._workers = sql.Table(
            "stockpot_workers", data,
            sql.Column("worker", key, primary_key=True), sql.Column("machine", sql.Text),
            sql.Column("pid", sql.Integer), sql.Column("started", sql.Text),
            sql.Column("beat", sql.Integer),
        )  # fmt: skip
        self._claims = sql.Table(
            "stockpot_claims", data,
            sql.Column("what", long_key, primary_key=True),
            sql.Column("generation", sql.Integer, primary_key=True), sql.Column("worker", key),
        )  # fmt: skip
        for table in data.sorted_tables:
            self._make(table)

    def _make(self, table: Any) -> None:
        """Make a table, unless it is there or another worker makes it right now."""
        import sqlalchemy as sql

        try:
            table.create(self._engine, checkfirst=True)
        except sql.exc.DBAPIError:
            if not sql.inspect(self._engine).has_table(table.name):
                raise

    def _insert(self, *rows: tuple[Any, list[dict[str, Any]]]) -> bool:
        """Insert rows of several tables in one piece; False where one is there already."""
        import sqlalchemy as sql

        try:
            with self._engine.begin() as connection:
                for table, values in rows:
                    if values:
                        connection.execute(table.insert(), values)
            return True
        except sql.exc.IntegrityError:
            return False

    def _one(self, query: Any) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(query).first()

    def note(self, key: str) -> str | None:
        """Read a text; see `Book.note`."""
        table = self._notes
        row = self._one(table.select().where(table.c.key == key))
        return None if row is None else str(row.text)

    def put_note(self, key: str, text: str) -> None:
        """Write a text; see `Book.put_note`."""
        table = self._notes
        if not self._insert((table, [{"key": key, "text": text}])):
            with self._engine.begin() as connection:
                connection.execute(table.update().where(table.c.key == key).values(text=text))

    def put_candidate(self, key: str, recipe: str) -> None:
        """Write a candidate; see `Book.put_candidate`."""
        self._insert((self._candidates, [{"candidate": key, "recipe": recipe}]))

    def candidate(self, key: str) -> str | None:
        """Read a candidate; see `Book.candidate`."""
        table = self._candidates
        row = self._one(table.select().where(table.c.candidate == key))
        return None if row is None else str(row.recipe)

    def put_mark(self, mark: KeptMark, picture: bytes | None = None) -> bool:
        """Write a mark; see `Book.put_mark`."""
        own = {"candidate": mark.candidate, "task": mark.task}
        facts = json.dumps(dict(mark.facts))
        return self._insert(
            (self._marks, [{**own, "name": mark.name, "elapsed_s": mark.elapsed_s,
                            "facts": facts}]),
            (self._scores, [{**own, "scorer": n, "score": s} for n, s in mark.scores.items()]),
            (self._pictures, [] if picture is None else [{**own, "png": picture}]),
        )  # fmt: skip

    def marks(self, candidate: str | None = None) -> list[KeptMark]:
        """Read marks; see `Book.marks`."""
        marks, scores = self._marks.select(), self._scores.select()
        if candidate is not None:
            marks = marks.where(self._marks.c.candidate == candidate)
            scores = scores.where(self._scores.c.candidate == candidate)
        with self._engine.connect() as connection:
            found: dict[tuple[str, str], dict[str, float]] = {}
            # Marks first: one that is written meanwhile then lacks nothing that is read later.
            with reading(self._where, "the marks"):
                rows = connection.execute(marks).all()
                for row in connection.execute(scores):
                    found.setdefault((row.candidate, row.task), {})[row.scorer] = row.score
        made = []
        for row in rows:
            scored = found.get((row.candidate, row.task), {})
            with reading(self._where, f"the mark of {row.task}"):
                facts = json.loads(row.facts)
                about = {"name": row.name, "elapsed_s": row.elapsed_s, "scores": scored,
                         "facts": facts}  # fmt: skip
            if wrong := unfit(about, MARK_SHAPE, "a mark"):
                raise damage(self._where, wrong)
            made.append(KeptMark(row.candidate, row.task, row.name, scored, facts, row.elapsed_s))
        return made

    def count_marks(self, tasks: Collection[str], candidates: Collection[str] | None = None) -> int:
        """Count marks; see `Book.count_marks`."""
        import sqlalchemy as sql

        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(self._marks.c.task, self._marks.c.candidate)).all()
        return sum(
            row.task in tasks and (candidates is None or row.candidate in candidates)
            for row in rows
        )

    def picture(self, candidate: str, task: str) -> bytes | None:
        """Read a picture; see `Book.picture`."""
        table = self._pictures
        row = self._one(table.select().where(table.c.candidate == candidate, table.c.task == task))
        return None if row is None else bytes(row.png)

    def put_worker(self, worker: Worker) -> None:
        """Write down a worker; see `WorkerBook.put_worker`."""
        row = {"worker": worker.name, "machine": worker.machine, "pid": worker.pid,
               "started": worker.started, "beat": 0}  # fmt: skip
        self._insert((self._workers, [row]))

    def put_beat(self, worker: str, beat: int) -> None:
        """Write down a beat; see `WorkerBook.put_beat`."""
        table = self._workers
        with self._engine.begin() as connection:
            connection.execute(table.update().where(table.c.worker == worker).values(beat=beat))

    def worker(self, name: str) -> tuple[Worker, int] | None:
        """Read a worker; see `WorkerBook.worker`."""
        table = self._workers
        row = self._one(table.select().where(table.c.worker == name))
        if row is None:
            return None
        return Worker(row.worker, row.machine, row.pid, row.started), int(row.beat)

    def claimed(self, what: str) -> Claimed | None:
        """Read a claim; see `WorkerBook.claimed`."""
        table = self._claims
        query = table.select().where(table.c.what == what).order_by(table.c.generation.desc())
        row = self._one(query.limit(1))
        return None if row is None else Claimed(row.generation, row.worker)

    def put_claim(self, what: str, claim: Claimed) -> bool:
        """Write a claim; see `WorkerBook.put_claim`."""
        row = {"what": what, "generation": claim.generation, "worker": claim.worker}
        return self._insert((self._claims, [row]))

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()
