"""From weighted text to chunks of tokens that a text encoder reads, as A1111 cuts them.

Plain functions over token numbers; nothing here knows of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stockpot.draw.attention import Emphasised

__all__ = ["Chunk", "Chunked", "Placed", "TokenTable", "cut_into_chunks"]

_BACKTRACK = 20


@dataclass(frozen=True, slots=True)
class TokenTable:
    """What cutting needs to know of a tokenizer.

    Attributes:
        start: Number of the token in front of a text.
        end: Number of the one behind it; the rest of a chunk is filled with it.
        comma: Number of the comma that ends a word; None where there is none.
        length: Tokens of text in a chunk, without the first and the last: 75 for CLIP.
        embeddings: Tokens of each textual inversion's name, and how many vectors it has.
    """

    start: int
    end: int
    comma: int | None
    length: int = 75
    embeddings: Mapping[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placed:
    """An embedding in a chunk.

    Attributes:
        name: Which one.
        at: Place of its first vector in the chunk, the start token counted.
    """

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the text encoder reads at once.

    Attributes:
        tokens: `length + 2` numbers, start and end with them.
        weights: One for each token.
        embeddings: Where vectors of textual inversions stand in the place of tokens.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    embeddings: tuple[Placed, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunked:
    """A whole prompt.

    Attributes:
        chunks: At least one.
        n_tokens: As web UIs count them: chunks before the last count as full.
    """

    chunks: tuple[Chunk, ...]
    n_tokens: int


def cut_into_chunks(
    runs: Sequence[Emphasised],
    tokenize: Callable[[list[str]], list[list[int]]],
    table: TokenTable,
) -> Chunked:
    """Cut a prompt into chunks.

    A chunk that is full ends; but where a comma stands among its last 20 tokens, what follows the
    comma moves to the next chunk with it. ``BREAK`` fills a chunk up. The vectors of an embedding
    are never parted.

    Args:
        runs: What `stockpot.draw.parse_attention` found.
        tokenize: From texts to numbers, without start and end.
        table: Special tokens and embeddings.

    Returns:
        The chunks.
    """
    cutter = _Cutter(table)
    for run, tokens in zip(runs, tokenize([run.text for run in runs]), strict=True):
        if run.ends_chunk:
            cutter.close()
            continue
        at = 0
        while at < len(tokens):
            at += cutter.add(tokens, at, run.weight)
    return cutter.finish()


class _Cutter:
    def __init__(self, table: TokenTable) -> None:
        self._table = table
        self._done: list[Chunk] = []
        self._tokens: list[int] = []
        self._weights: list[float] = []
        self._placed: list[Placed] = []
        self._comma = -1
        self._n_tokens = 0
        # The longest name first, so that `star` does not take a part of `star two`.
        self._names = sorted(
            ((tokens, n, name) for name, (tokens, n) in table.embeddings.items() if tokens),
            key=lambda item: (-len(item[0]), item[2]),
        )

    def add(self, tokens: list[int], at: int, weight: float) -> int:
        """Take one token or one embedding; returns how many tokens of text it was."""
        full = len(self._tokens) == self._table.length
        if tokens[at] == self._table.comma:
            self._comma = len(self._tokens)
        elif full and self._comma >= 0 and len(self._tokens) - self._comma <= _BACKTRACK:
            self._move_behind_comma()
        if len(self._tokens) == self._table.length:
            self.close()
        for name_tokens, n_vectors, name in self._names:
            if tuple(tokens[at : at + len(name_tokens)]) != name_tokens:
                continue
            if n_vectors > self._table.length:
                break
            if len(self._tokens) + n_vectors > self._table.length:
                self.close()
            self._placed.append(Placed(name, len(self._tokens) + 1))
            self._tokens += [0] * n_vectors
            self._weights += [weight] * n_vectors
            return len(name_tokens)
        self._tokens.append(tokens[at])
        self._weights.append(weight)
        return 1

    def _move_behind_comma(self) -> None:
        cut = self._comma + 1
        tokens, weights = self._tokens[cut:], self._weights[cut:]
        moved = [Placed(p.name, p.at - cut) for p in self._placed if p.at > cut]
        self._placed = [p for p in self._placed if p.at <= cut]
        self._tokens, self._weights = self._tokens[:cut], self._weights[:cut]
        self.close()
        self._tokens, self._weights, self._placed = tokens, weights, moved

    def close(self, last: bool = False) -> None:
        table = self._table
        self._n_tokens += len(self._tokens) if last else table.length
        n_fill = table.length - len(self._tokens)
        self._done.append(
            Chunk(
                (table.start, *self._tokens, *[table.end] * n_fill, table.end),
                (1.0, *self._weights, *[1.0] * n_fill, 1.0),
                tuple(self._placed),
            )
        )
        self._tokens, self._weights, self._placed, self._comma = [], [], [], -1

    def finish(self) -> Chunked:
        if self._tokens or not self._done:
            self.close(last=True)
        return Chunked(tuple(self._done), self._n_tokens)
