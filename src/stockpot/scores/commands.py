"""Any program as a scorer: it reads paths and prints numbers."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, final

import numpy as np

from stockpot.errors import ScorerError
from stockpot.scores._base import Picture, Scorer, Scores
from stockpot.scores.pictures import require_pillow

__all__ = ["CommandScorer"]

_MOST_BYTES = 1_000_000
_LOOK_S = 0.25
_SHOWN_ERROR = 300


@final
class CommandScorer(Scorer):
    """A program that scores pictures; nothing goes through a shell.

    The program is started once a batch. Its standard input has a line a picture: the path of a PNG
    file, a tab, and the prompt (syntax stripped, white space made single spaces). It prints one
    number a picture on standard output, in the same order, each on a line of its own, and ends
    with 0. The files are copies and vanish afterwards. What it writes to standard error is shown
    when it fails.

    Args:
        command: The program and its arguments, as a list; or as one text, which is split at spaces
            as a shell splits it, and is otherwise taken as it stands.
        name: What to call it; the program's name unless given.
        timeout_s: How long a batch may take, in seconds.
        batch_size: How many pictures it gets at once at most.
        uses_prompt: Whether it looks at prompts.

    Raises:
        ScorerError: The command is empty.

    Example:
        >>> import sys
        >>> program = "import sys; [print(len(line.split(chr(9))[1])) for line in sys.stdin]"
        >>> scorer = CommandScorer([sys.executable, "-c", program], name="length")
        >>> scorer.score(np.zeros((2, 4, 4, 3), np.uint8), ["a", "bcd"], strip=str.upper).tolist()
        [2.0, 4.0]
    """

    range = "as the program has it"

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        name: str | None = None,
        timeout_s: float = 600.0,
        batch_size: int = 64,
        uses_prompt: bool = True,
    ) -> None:
        try:
            parts = shlex.split(command) if isinstance(command, str) else list(command)
        except ValueError as error:
            raise ScorerError(f"the command {command!r} cannot be split: {error}") from error
        if not parts or not parts[0]:
            raise ScorerError("a scoring command must name a program, but is empty")
        self.command = tuple(parts)
        self.name = name or Path(parts[0]).name
        self.timeout_s = timeout_s
        self.batch_size = batch_size
        self.uses_prompt = uses_prompt

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        image = require_pillow()
        with tempfile.TemporaryDirectory(prefix="stockpot-score-") as folder:
            lines = []
            for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
                path = Path(folder) / f"{i:06}.png"
                image.fromarray(np.ascontiguousarray(picture)).save(path, "PNG")
                lines.append(f"{path}\t{' '.join(text.split())}\n")
            with (
                open(Path(folder) / "in", "w+b") as given,
                open(Path(folder) / "out", "w+b") as out,
                open(Path(folder) / "err", "w+b") as err,
            ):
                # Files and not pipes: nobody has to read while the program writes.
                given.write("".join(lines).encode("utf-8", "replace"))
                given.seek(0)
                code = self._run(given, out, err)
                said = _read(out)
                if code:
                    raise ScorerError(
                        f"{self._called} ended with {code}; its last words: {_last(err)}"
                    )
        return self._numbers(said, len(pictures))

    @property
    def _called(self) -> str:
        return f"the scoring program {self.name!r} ({shlex.join(self.command)})"

    def _run(self, given: IO[bytes], out: IO[bytes], err: IO[bytes]) -> int:
        try:
            # A session of its own, so that what it started ends with it.
            process = subprocess.Popen(
                self.command, stdin=given, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            raise ScorerError(f"{self._called} cannot be started: {error.strerror}") from error
        end = time.monotonic() + self.timeout_s
        try:
            while True:
                try:
                    return process.wait(min(_LOOK_S, max(0.0, end - time.monotonic())))
                except subprocess.TimeoutExpired as error:
                    if time.monotonic() >= end:
                        raise ScorerError(
                            f"{self._called} must be done within {self.timeout_s:g} s a batch, "
                            f"but was not; its last words: {_last(err)}"
                        ) from error
                if max(os.fstat(file.fileno()).st_size for file in (out, err)) > _MOST_BYTES:
                    raise ScorerError(
                        f"{self._called} must print a number a picture, but printed over "
                        f"{_MOST_BYTES} bytes"
                    )
        finally:
            # Also what it started and left behind.
            _kill(process)

    def _numbers(self, said: bytes, n: int) -> Scores:
        lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
        lines = [line for line in lines if line]
        numbers = []
        for place, line in enumerate(lines, 1):
            try:
                numbers.append(float(line))
            except ValueError:
                raise ScorerError(
                    f"{self._called} must print one number a line, but line {place} is "
                    f"{line[:80]!r}"
                ) from None
        if len(numbers) != n:
            raise ScorerError(
                f"{self._called} must print one number a picture, {n} of them, but printed "
                f"{len(numbers)}"
            )
        return np.array(numbers)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _read(out: IO[bytes]) -> bytes:
    out.seek(0)
    return out.read(_MOST_BYTES)


def _last(err: IO[bytes]) -> str:
    size = err.seek(0, os.SEEK_END)
    err.seek(max(0, size - _SHOWN_ERROR))
    return " ".join(err.read().decode("utf-8", "replace").split()) or "none"
