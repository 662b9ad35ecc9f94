"""Sums of a walk that is not at its end, in a journal, so that a stopped comparison goes on.

Sums are added in the order of tensors whatever the threads do, so after so many tensors they are
what they are, bit by bit. That is what is kept, every few seconds: the groups that changed since
the last time, the hashes that were new, and a line that says how many tensors were added.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

import stockpot
from stockpot.checkpoints import Journal, Source, differences, read_lines
from stockpot.compare.comparison import Doubles, Group, Place
from stockpot.engine import facts_of_source
from stockpot.errors import OutputError, UnfinishedError
from stockpot.methods import Gram

__all__ = ["Kept", "State", "open_kept"]


@dataclass
class State:
    """How far a walk had come.

    Attributes:
        n_done: Tensors that were added.
        groups: Sums by place and members; kurtosis is a sum here too.
        digests: Model, key and hash of tensors that were read.
        nonfinite: Models and numbers of tensors that are not finite.
        n_bytes: Length of the journal that says so.
    """

    n_done: int = 0
    groups: dict[str, Group] = field(default_factory=dict)
    digests: list[tuple[int, str, str]] = field(default_factory=list)
    nonfinite: list[tuple[int, int]] = field(default_factory=list)
    n_bytes: int = 0


@final
class Kept:
    """The journal of a walk under way.

    Args:
        path: Its file.
        facts: All that decides on the sums.
        state: What a stopped walk left, or how a walk begins.

    Attributes:
        path: The file.
        state: Where to go on.

    Raises:
        OutputError: It cannot be written, or another process writes it.
    """

    def __init__(self, path: Path, facts: Mapping[str, str], state: State) -> None:
        self.path, self.state = path, state
        self._n_done = state.n_done
        try:
            self._journal = Journal(path, facts, state.n_bytes, str(path))
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"{path}: sums cannot be kept: {error.strerror}") from error

    def save(
        self,
        n_done: int,
        groups: Sequence[Group],
        digests: Sequence[tuple[int, str, str]],
        nonfinite: Sequence[tuple[int, int]],
    ) -> None:
        """Keep what is new.

        Args:
            n_done: How many tensors were added, in all.
            groups: Those that changed.
            digests: Those that are new.
            nonfinite: All of them.
        """
        try:
            for group in groups:
                self._journal.add({"group": _plain(group)})
            self._journal.add({"done": n_done, "digests": digests, "nonfinite": nonfinite})
            self._journal.sync()
            self._n_done = n_done
        except OSError as error:
            raise OutputError(
                f"{self.path}: sums cannot be kept: {error.strerror}; free some room, or choose "
                "another folder"
            ) from error

    def discard(self) -> None:
        """Let nothing of it be gone on from: the file goes away when it is closed."""
        self._n_done = 0

    def close(self) -> None:
        """Let go of the file, and keep it where something is in it."""
        if self._n_done:
            self._journal.close()
        else:
            self._journal.remove()


def open_kept(
    path: Path, sources: Mapping[str, Source], base: str | None, by: str, restart: bool
) -> Kept | None:
    """Open the journal of a walk, and read what a stopped one left there.

    Args:
        path: The journal.
        sources: The models by name.
        base: Name of the base.
        by: How fine sums are kept.
        restart: Throw away what is there.

    Returns:
        The journal; None where a model cannot be known again.

    Raises:
        UnfinishedError: A stopped walk left sums of something else.
        OutputError: It cannot be written.
    """
    facts = {
        "the program": f"stockpot {stockpot.__version__}, numpy {np.__version__}",
        "the models": ", ".join(sources),
        "the base": base or "none",
        "the fineness of the sums": by,
    }
    for name, source in sources.items():
        told = facts_of_source(source)
        if told is None:
            return None
        facts[f"input {name}"] = told
    state = State() if restart else _left(path, facts)
    return Kept(path, facts, state)


def _left(path: Path, facts: Mapping[str, str]) -> State:
    state, pending = State(), dict[str, Group]()
    first: dict[str, str] | None = None
    try:
        for said, end in read_lines(path):
            if first is None:
                first = {str(name): str(value) for name, value in said["facts"].items()}
            elif "group" in said:
                group = _group(said["group"])
                pending[repr((group.place, group.members))] = group
            elif "done" in said:
                # Only now is everything there that belongs together.
                state.groups |= pending
                state.digests += [(int(i), str(key), str(d)) for i, key, d in said["digests"]]
                state.nonfinite = [(int(i), int(number)) for i, number in said["nonfinite"]]
                state.n_done, state.n_bytes, pending = int(said["done"]), end, {}
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return State()
    if not state.n_done or first is None:
        return State()
    changed = differences(first, facts)
    if changed:
        raise UnfinishedError(
            f"{path}: a walk that was stopped left the sums of {state.n_done} tensors, but of "
            f"something else: {'; '.join(changed)}; put that back to go on, or throw them away "
            "with --restart"
        )
    return state


def _plain(group: Group) -> dict[str, Any]:
    gram = group.gram
    return {
        "place": [group.place.component, group.place.block, group.place.key],
        "members": list(group.members),
        "counts": [group.n_tensors, group.n_matrices, gram.n_elements, gram.pivot],
        "pivot_square": gram.pivot_square,
        "inner": _text(gram.inner),
        "squared": _text(gram.squared),
        "rows": _text(np.array([gram.cross, group.rounding, group.kurtosis])),
    }


def _group(plain: Mapping[str, Any]) -> Group:
    members = tuple(int(member) for member in plain["members"])
    m = len(members)
    component, block, key = map(str, plain["place"])
    n_tensors, n_matrices, n_elements, pivot = map(int, plain["counts"])
    cross, rounding, kurtosis = _array(plain["rows"], 3, m)
    gram = Gram(
        pivot, n_elements, _array(plain["inner"], m, m), cross, float(plain["pivot_square"]),
        _array(plain["squared"], m, m),
    )  # fmt: skip
    return Group(
        Place(component, block, key), members, n_tensors, gram, rounding, kurtosis, n_matrices
    )


def _text(array: Doubles) -> str:
    return base64.b64encode(np.ascontiguousarray(array, "<f8").tobytes()).decode()


def _array(text: str, n_rows: int, n_columns: int) -> Doubles:
    raw = np.frombuffer(base64.b64decode(text, validate=True), "<f8")
    return raw.reshape(n_rows, n_columns).astype(np.float64)
