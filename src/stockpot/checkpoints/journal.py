"""The journal of an unfinished output: what of it is on the disk, so that a stopped run goes on.

One line an entry: JSON, a tab, and 16 digits of the JSON's BLAKE3, so that what a power failure
left of the last line is known for what it is. The first line says what is being made, as named
facts; the others what is done. A line may claim only what is on the disk already, or what whoever
reads it can find out: that a tensor was written is such a claim, since its hash stands beside it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from blake3 import blake3

from stockpot.checkpoints import storage

__all__ = ["Entry", "Journal", "Left", "differences", "owner_of", "read_journal", "read_lines",
           "this_process"]  # fmt: skip

_VERSION = 2
_CHECK_DIGITS = 16
_MOST_BYTES = 1 << 30
_MOST_LINE_BYTES = 1 << 24
_SHOWN_CHARACTERS = 80
_SHOWN_LINES = 3
_SHOWN_DIFFERENCES = 6


@dataclass(frozen=True, slots=True)
class Entry:
    """What a journal says of one tensor.

    Attributes:
        digest: BLAKE3 of its bytes as hex digits; None where nobody computed it.
        note: What the writer wanted to find again.
        synced: Whether its bytes were on the disk when this was written.
        checked: Whether they were read back from there, and were right.
    """

    digest: str | None
    note: str = ""
    synced: bool = False
    checked: bool = False


@dataclass(frozen=True)
class Left:
    """What a run left behind when it was stopped.

    Attributes:
        facts: What it was making.
        entries: What it finished, by key.
        owner: Which process wrote it last, in words.
        n_bytes: Length of the journal up to its last whole line.
    """

    facts: Mapping[str, str]
    entries: Mapping[str, Entry] = field(default_factory=dict)
    owner: str = ""
    n_bytes: int = 0


def read_journal(path: Path) -> Left | None:
    """Read what a stopped run left, up to the first line that is not whole.

    Args:
        path: The journal; a damaged or a strange one is no error.

    Returns:
        What it says; None where it says nothing that can be used.
    """
    facts: Mapping[str, str] | None = None
    entries: dict[str, Entry] = {}
    owner, n_bytes = "", 0
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        for said, end in read_lines(path):
            if facts is None:
                facts = {str(name): str(value) for name, value in said["facts"].items()}
            if "owner" in said:
                owner = str(said["owner"])
            if "key" in said:
                _take(entries, said)
            for key in said.get("synced", ()):
                if key in entries:
                    entries[key] = replace(entries[key], synced=True)
            n_bytes = end
    except (OSError, AttributeError, KeyError, TypeError):
        return None
    return None if facts is None else Left(facts, entries, owner, n_bytes)


def read_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Read a journal's entries, up to the first line that is not whole.

    Args:
        path: The journal.

    Yields:
        What a line says, and where in the file it ends. The first has ``facts``.

    Raises:
        OSError: It cannot be read.
    """
    n_bytes = 0
    with path.open("rb") as file:
        while line := file.readline(_MOST_LINE_BYTES):
            said = _parsed(line)
            if said is None or (not n_bytes and said.get("version") != _VERSION):
                return
            n_bytes += len(line)
            yield said, n_bytes


def _parsed(line: bytes) -> dict[str, Any] | None:
    text, tab, check = line.rpartition(b"\t")
    if not tab or check != _check(text) + b"\n":
        return None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _check(text: bytes) -> bytes:
    return blake3(text).hexdigest()[:_CHECK_DIGITS].encode()


def _take(entries: dict[str, Entry], said: Mapping[str, Any]) -> None:
    key = str(said["key"])
    if "blake3" in said:  # written, or written once more
        digest = said["blake3"]
        note = str(said.get("note", ""))
        entries[key] = Entry(None if digest is None else str(digest), note)
    elif key in entries and said.get("checked"):
        entries[key] = replace(entries[key], synced=True, checked=True)


def owner_of(path: Path) -> str:
    """Tell who writes, or wrote last, what a journal belongs to.

    Args:
        path: The journal.

    Returns:
        Such as ``process 4711 on atlas``; empty where it does not say.
    """
    left = read_journal(path)
    return left.owner if left is not None else ""


def this_process() -> str:
    """This process in words, for those who find its outputs in use."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Say what changed between two sets of facts.

    Args:
        before: What a stopped run was making.
        now: What is asked for.

    Returns:
        A sentence for each fact that differs: what changed, then what is new or gone, each in the
        order of names. Of many the first few, and how many more.

    Example:
        >>> differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"})
        ["b was '2' and is '3'", "c is new: '4'"]
        >>> differences({f"input {i}": "x" for i in range(9)} | {"mix": "y"}, {"mix": "z"})[::6]
        ["mix was 'y' and is 'z'", 'and 4 more']
    """
    changed, others = [], []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if old is None:
            others.append(f"{name} is new: {_short(str(new))!r}")
        elif new is None:
            others.append(f"{name} is gone: {_short(old)!r}")
        else:
            lines = set(old.splitlines()) & set(new.splitlines())
            changed.append(f"{name} was {_short(old, lines)!r} and is {_short(new, lines)!r}")
    found = changed + others
    left_out = len(found) - _SHOWN_DIFFERENCES
    return found if left_out <= 1 else [*found[:_SHOWN_DIFFERENCES], f"and {left_out} more"]


def _short(text: str, without: Iterable[str] = ()) -> str:
    common = set(without)
    lines = [line.strip() for line in text.splitlines() if line not in common]
    shown = "; ".join(lines[:_SHOWN_LINES]) + ("; …" if len(lines) > _SHOWN_LINES else "")
    return shown[:_SHOWN_CHARACTERS] + ("…" if len(shown) > _SHOWN_CHARACTERS else "")


@final
class Journal:
    """A journal that is being written. Lines are for one thread at a time; any may sync.

    Args:
        path: Its file.
        facts: What is being made. Where something is kept, they are the same.
        keep: How much of what a stopped run left there stays; 0 begins anew.
        claim: Name of what is made, where no other file claims it for this process.

    Raises:
        OSError: It cannot be written.
        OutputError: Another process writes it; only with `claim`.
    """

    def __init__(
        self, path: Path, facts: Mapping[str, str], keep: int = 0, claim: str = ""
    ) -> None:
        self._path = path
        self._descriptor = storage.open_for_writing(path)
        self._n_bytes = keep
        try:
            if claim:
                storage.lock(self._descriptor, path, claim, lambda: owner_of(path))
            # What follows was half a line, or is of something else: it must be gone from the disk
            # before a byte of the output is written, or an old claim could stand for new bytes.
            os.ftruncate(self._descriptor, self._n_bytes)
            first = {} if keep else {"version": _VERSION, "facts": dict(facts)}
            self.add({**first, "owner": this_process()})
            self.sync()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._open = True

    def add(self, entry: Mapping[str, object]) -> None:
        """Write a line; it reaches the disk with the next `sync`.

        Args:
            entry: What to say.
        """
        text = json.dumps(entry).encode()
        line = text + b"\t" + _check(text) + b"\n"
        storage.write_at(self._descriptor, self._n_bytes, memoryview(line))
        self._n_bytes += len(line)

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        storage.sync_data(self._descriptor)

    def close(self) -> None:
        """Close the file and keep it; twice is fine."""
        if self._open:
            self._open = False
            os.close(self._descriptor)

    def remove(self) -> None:
        """Close the file and remove it."""
        self.close()
        self._path.unlink(missing_ok=True)
