"""What commands print: tables and JSON on stdout, progress on stderr, hostile text tamed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from stockpot.engine import Progress, ProgressCallback
    from stockpot.recipes import Fold

__all__ = ["note", "print_fold", "print_json", "print_table", "safe_text", "shown_progress"]

_QUIET_S = 10.0


def safe_text(text: str) -> str:
    """Make text from a file harmless for a terminal.

    Args:
        text: Untrusted.

    Returns:
        The text with control and direction-changing characters written as escapes.

    Example:
        >>> safe_text("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout.

    Args:
        value: Plain data; text in it may come from files.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not text.isprintable():
        # JSON lets direction-changing characters through, and halves of pairs cannot be printed.
        text = "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)
    typer.echo(text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def note(text: str) -> None:
    """Print a line for people on stderr.

    Args:
        text: May hold text from files.
    """
    typer.echo(safe_text(text), err=True)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str = "") -> None:
    """Print a table on stdout, as wide as the terminal allows.

    Args:
        columns: Headings; one that starts with ``>`` is set flush right.
        rows: Cells; may hold text from files.
        title: A line above.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=safe_text(title) or None, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(safe_text(cell)) for cell in row))
    # Where nobody looks on a screen, nothing may be wrapped away.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)


def print_fold(fold: Fold, components: Container[str] | None = None) -> None:
    """Print a table of coefficients, runs of equal blocks as one row.

    Args:
        fold: What a recipe folded to.
        components: Show these only; None shows all.
    """
    print_table(
        ["blocks", "made of"],
        (
            [row.label, "  ".join(f"{value} {name}" for name, value in row.coefficients.items())]
            for row in fold.table()
            if components is None or row.cells[0].component in components
        ),
    )


@contextmanager
def shown_progress() -> Iterator[ProgressCallback]:
    """Show progress on stderr: a bar on a terminal, else a line now and then.

    Yields:
        What to give to the engine.
    """
    if sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        tasks: dict[str, Any] = {}

        def show(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=progress.total_bytes)
            bar.update(tasks[progress.stage], completed=progress.done_bytes)

        yield show


def _lines() -> ProgressCallback:
    from stockpot.engine import size_text

    last = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _QUIET_S:
            last = now
            note(
                f"{progress.stage}: {size_text(progress.done_bytes)} of "
                f"{size_text(progress.total_bytes)}, {size_text(int(progress.rate))}/s, "
                f"{progress.eta_s:.0f} s to go"
            )

    return show
