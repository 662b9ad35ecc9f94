"""A person as a scorer: pairs of pictures, "this one is better", and strengths from the answers.

People compare better than they rate. Every answer is in a file before the next question is asked,
so that one can stop at any time and go on later with the same command.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np

from stockpot.errors import ScorerError
from stockpot.scores._base import Picture, Scorer, Scores, Setting
from stockpot.scores.bradley_terry import Comparison, fit_strengths
from stockpot.scores.questions import Asker, Question

__all__ = ["HumanChoice", "read_answers"]

Answers = Mapping[tuple[str, str], float]
"""By names of both pictures, the smaller name first: how much of the point that one gets."""


@final
class HumanChoice(Scorer):
    """Strengths of pictures from a person's choices between two at a time.

    Pictures of the same prompt are compared with each other, each with `rounds` others, near ones
    in strength first. Scores are Bradley-Terry strengths in logits: a difference of 1 means that
    the better one is chosen in 73 % of cases. Each prompt's pictures have mean 0, so that scores
    of different prompts are not compared.

    Args:
        answers: Where answers are kept, a line each; made if it is not there.
        open_asker: Makes somebody who asks; called only if there is something to ask. By default a
            local page, see `stockpot.scores.PageAsker`.
        rounds: With how many others each picture is compared, at least 1. More give less doubt:
            the number of questions is about `rounds * n / 2`.

    Raises:
        ScorerError: The file of answers is damaged, or `rounds` is less than 1.
    """

    name = "human"
    range = "Bradley-Terry strength in logits, mean 0 within a prompt"
    uses_prompt = False
    deterministic = False
    pointwise = False

    DEFAULT_FILE: ClassVar[str] = "stockpot-answers.jsonl"

    def __init__(
        self,
        answers: str | Path | None = None,
        *,
        open_asker: Callable[[], Asker] | None = None,
        rounds: int = 4,
    ) -> None:
        if rounds < 1:
            raise ScorerError(f"`rounds` must be at least 1, but got {rounds}")
        self.file = Path(answers or self.DEFAULT_FILE)
        self._open_asker = open_asker or _open_page
        self._rounds = rounds
        self._answers = read_answers(self.file)

    @classmethod
    def make(cls, setting: Setting) -> Self:
        """Make one that asks on a local page.

        Args:
            setting: Its file of answers is used.

        Returns:
            The scorer.
        """
        return cls(setting.answers)

    def _score(self, pictures: list[Picture], texts: list[str]) -> Scores:
        names = [_name(picture) for picture in pictures]
        by_name = dict(zip(names, pictures, strict=True))
        groups: dict[str, list[str]] = {}
        for name, text in zip(names, texts, strict=True):
            groups.setdefault(text, []).append(name)
        # Sorted: what is asked does not depend on the order of the pictures.
        pools = {text: sorted(set(group)) for text, group in sorted(groups.items())}
        if not any(len(pool) > 1 for pool in pools.values()):
            raise ScorerError(
                "a person compares pictures of one prompt, but no two of these have the same one"
            )
        self._ask_all(pools, by_name)
        strengths = {text: self._strengths(pool) for text, pool in pools.items()}
        return np.array([strengths[text][name] for name, text in zip(names, texts, strict=True)])

    def _ask_all(self, pools: Mapping[str, list[str]], pictures: Mapping[str, Picture]) -> None:
        total = sum(-(-len(p) * min(self._rounds, len(p) - 1) // 2) for p in pools.values())
        number = sum(len(_within(self._answers, pool)) for pool in pools.values())
        asker: Asker | None = None
        try:
            for text, pool in pools.items():
                while (pair := _next_pair(pool, self._answers, self._rounds)) is not None:
                    asker = asker or self._open_asker()
                    number += 1
                    swap = _swaps(pair)
                    left, right = reversed(pair) if swap else pair
                    share = asker.ask(Question(pictures[left], pictures[right], text, number,
                                               max(total, number)))  # fmt: skip
                    if share is None:
                        raise ScorerError(
                            f"stopped after {number - 1} of about {total} answers; they are in "
                            f"{self.file}: type the same command to go on"
                        )
                    self._keep(pair, 1 - share if swap else share)
        finally:
            if asker is not None:
                asker.close()

    def _keep(self, pair: tuple[str, str], share: float) -> None:
        line = json.dumps({"first": pair[0], "second": pair[1], "share": share}) + "\n"
        try:
            with open(self.file, "ab") as file:
                if file.tell() and not _ends_with_newline(self.file):
                    # A line that was cut off when the program was killed stays alone.
                    file.write(b"\n")
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ScorerError(
                f"{self.file}: the answer cannot be kept: {error.strerror}"
            ) from error
        self._answers = {**self._answers, pair: share}

    def _strengths(self, pool: Sequence[str]) -> dict[str, float]:
        place = {name: i for i, name in enumerate(pool)}
        games = [
            Comparison(place[a], place[b], share)
            for (a, b), share in sorted(_within(self._answers, pool).items())
        ]
        return dict(zip(pool, fit_strengths(len(pool), games).tolist(), strict=True))


def read_answers(path: Path) -> dict[tuple[str, str], float]:
    """Read a file of answers.

    Args:
        path: Need not exist.

    Returns:
        Answers by pair; of several for a pair the last one. A cut-off line is skipped.

    Raises:
        ScorerError: It cannot be read, or a whole line of it is no answer.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ScorerError(f"{path}: cannot be read as a file of answers: {error}") from error
    found: dict[tuple[str, str], float] = {}
    for number, line in enumerate(lines, 1):
        if not line.endswith("}"):
            continue
        try:
            said = json.loads(line)
            pair, share = (said["first"], said["second"]), said["share"]
            if not all(isinstance(name, str) for name in pair) or pair[0] >= pair[1]:
                raise ValueError("the pair must be two names in order")
            if share not in (0, 0.5, 1):
                raise ValueError("the share must be 0, 0.5 or 1")
        except (ValueError, TypeError, KeyError) as error:
            raise ScorerError(f"{path}: line {number} is no answer: {error!r}") from error
        found[pair] = float(share)
    return found


def _open_page() -> Asker:
    from stockpot.scores.asking import PageAsker

    return PageAsker()


def _name(picture: Picture) -> str:
    whole = hashlib.sha256(str(picture.shape).encode())
    whole.update(np.ascontiguousarray(picture).data)
    return whole.hexdigest()[:24]


def _swaps(pair: tuple[str, str]) -> bool:
    """Which of a pair stands left is neither always the same nor different when asked again."""
    return bool(hashlib.sha256("".join(pair).encode()).digest()[0] & 1)


def _within(answers: Answers, pool: Sequence[str]) -> Answers:
    members = set(pool)
    return {pair: share for pair, share in answers.items() if members.issuperset(pair)}


def _next_pair(pool: Sequence[str], answers: Answers, rounds: int) -> tuple[str, str] | None:
    """The least compared picture and the one that is nearest in what share it won so far."""
    games = dict.fromkeys(pool, 0)
    points = dict.fromkeys(pool, 0.5)
    mine = _within(answers, pool)
    for (a, b), share in mine.items():
        games[a] += 1
        games[b] += 1
        points[a] += share
        points[b] += 1 - share
    needy = [name for name in pool if games[name] < min(rounds, len(pool) - 1)]
    if not needy:
        return None
    rate = {name: points[name] / (games[name] + 1) for name in pool}
    one = min(needy, key=lambda name: (games[name], name))
    others = [b for b in pool if b != one and (min(one, b), max(one, b)) not in mine]
    other = min(others, key=lambda b: (b not in needy, abs(rate[one] - rate[b]), games[b], b))
    return min(one, other), max(one, other)


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
