"""Stockpot asked as a user would, in this process: the real `main`, thousands of times over."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from stockpot.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command said.

    Attributes:
        code: Exit code; -1 where an exception came out, which a user would see as a traceback.
        out: Standard output.
        err: Standard error; the traceback too.
    """

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that tell what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def ask(*arguments: str | Path, folder: Path | None = None) -> Answer:
    """Run a command.

    Args:
        arguments: What stands behind `stockpot`.
        folder: Where; by default here.
    """
    out, err = _OUT.emptied(), _ERR.emptied()
    before, sys.argv = sys.argv, ["stockpot", *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _inside(folder):
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                code = -1
                traceback.print_exc()
    finally:
        sys.argv = before
    return Answer(code, out.getvalue(), err.getvalue())


class _Text(io.StringIO):
    """Text that also takes what is meant for a terminal's descriptor."""

    def fileno(self) -> int:
        """There is none."""
        raise OSError("no descriptor")

    def emptied(self) -> Self:
        """The same stream, without what was written to it."""
        self.seek(0)
        self.truncate()
        return self


# One pair for all commands: click keeps whatever has once been `sys.stdout` for good, which with a
# new one for each command looks like a leak of Stockpot's.
_OUT, _ERR = _Text(), _Text()


@contextlib.contextmanager
def _inside(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
