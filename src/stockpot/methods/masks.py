"""Deltas with elements dropped at random, by masks that depend on nothing but what they mask.

The random number of an element is a function of the seed, the content of the model's tensor, the
tensor's name, and the element's index. So masks are the same whatever the order of models, the cut
of panels and the number of threads; equal inputs are told apart by a count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import final

import numpy as np
import numpy.typing as npt

from stockpot.methods.contract import Doubles, Parameters, Task, Work
from stockpot.methods.feeds import Bits as KnownMask
from stockpot.methods.feeds import Chances, Feed, panels
from stockpot.methods.magnitudes import N_BINS, Counts, bins_of, counts_bytes, counts_of, patterns
from stockpot.methods.randomness import RANDOM_BITS, random_bits, stream_of

__all__ = ["Masked", "held_by_masks"]

Bits = npt.NDArray[np.uint64]
#: Elements whose rank is not known well enough.
Unsure = npt.NDArray[np.void]
_UNSURE = np.dtype([("bits", np.uint64), ("random", np.uint64), ("place", np.uint64)])

# Elements whose fate the bins leave open and that wait for the next pass; more wait for their turn.
_MOST_OPEN = 1 << 18


def held_by_masks(n: int, shape: tuple[int, ...], parameters: Parameters) -> int:
    """Bytes that masks by rank keep: counts, a bit for each element, what waits.

    Args:
        n: Number of inputs.
        shape: Of the tensor.
        parameters: The call's; without ``eps`` nothing is kept.
    """
    if not parameters["eps"]:
        return 0
    n_elements = int(np.prod(shape, dtype=np.int64))
    return counts_bytes(n) + n * (n_elements // 8 + 1) + 64 * _MOST_OPEN


@final
class Masked(Work):
    """Drop elements with a probability (DARE, arXiv 2311.03099), or by rank (DELLA, 2406.11617).

    An element stays with the probability (1 − p) + eps·(rank/N − (N + 1)/2N), kept within 0 … 1;
    rank is that of its magnitude in its tensor, 1 to N, and equal magnitudes share their mid-rank,
    so that no sort's habits show. What stays is divided by 1 − p where ``rescale`` is 1.

    Args:
        task: ``p``, ``eps``, ``rescale``, ``seed``; with identities.
    """

    def __init__(self, task: Task) -> None:
        p, eps = task.parameters["p"], task.parameters["eps"]
        rescale, seed = task.parameters["rescale"], task.parameters["seed"]
        assert isinstance(p, Fraction) and isinstance(eps, Fraction) and isinstance(seed, Fraction)
        self._seed, self._key = int(seed), task.key
        self._streams: list[tuple[int, int]] = []
        self._name_streams(task.identities)
        self._n, self._size = task.n_inputs, task.n_elements
        self._limit = np.uint64(int((1 - p) * 2**RANDOM_BITS))
        self._stay = float(1 - p)
        self._slope = float(eps / max(1, self._size))
        self._centre = (self._size + 1) / 2
        self._factor = float(1 / (1 - p)) if rescale and p < 1 else 1.0
        self._by_rank = eps != 0 and self._size > 0
        self.wants_pass = self._by_rank
        self._kept = np.zeros((self._n, -(-self._size // 8)) if self._by_rank else 0, np.uint8)
        self._compiled = task.compiled and panels is not None
        self._counts = Counts(self._n, task.compiled) if self._by_rank else None
        self._phase = "count"
        self._resume = [0] * self._n
        self._open: list[list[Unsure]] = []
        self._waiting: _Waiting | None = None

    def _name_streams(self, identities: tuple[bytes, ...]) -> None:
        twins: Counter[bytes] = Counter()
        self._streams = []
        for identity in identities:
            self._streams.append(stream_of(self._seed, identity, self._key, twins[identity]))
            twins[identity] += 1

    def put_in_order(self, order: Sequence[int], identities: tuple[bytes, ...]) -> None:
        """Name the sequences, and sort the counts; see `Work.put_in_order`."""
        self._name_streams(identities)
        if self._counts is not None:
            self._counts.put_in_order(order)

    def gather(self, start: int, panel: Doubles) -> None:
        """Look at a panel; see `Work.gather`."""
        if self._compiled:
            self.gather_feed(Feed.of(panel, start))
        elif self._phase == "count":
            assert self._counts is not None
            self._counts.add(panel)
        elif self._phase == "settle":
            assert self._waiting is not None
            for i, values in enumerate(panel):
                self._waiting.add(i, values)
        else:
            for i, values in enumerate(panel):
                if start >= self._resume[i] and not self._full[i]:
                    packed, found = self._decide(i, start, values)
                    if self._note(i, start, found):
                        self._kept[i, start // 8 :][: len(packed)] = packed

    def gather_feed(self, feed: Feed) -> None:
        """Look at a panel that was not made; see `Work.gather_feed`."""
        assert panels is not None
        if self._phase == "count":
            assert self._counts is not None
            self._counts.add_feed(feed)
            return
        feed = Feed.of(feed.panel(), feed.start) if feed.elect else feed
        if self._phase == "settle":
            assert self._waiting is not None
            self._waiting.add_feed(feed)
            return
        assert self._counts is not None
        active = [
            feed.start >= resume and not full
            for resume, full in zip(self._resume, self._full, strict=True)
        ]
        counts, items = panels.decide(
            feed.packed, self._counts.order, self._counts.bins.view(np.uint8), self._kept,
            np.array(self._streams, np.uint64), bytes(active), self._stay, self._slope,
            self._centre,
        )  # fmt: skip
        # What was decided of a row that has to wait is decided again with the rest of it.
        found = np.frombuffer(items, _UNSURE)
        ends = np.cumsum(np.frombuffer(counts, np.int64))
        for i in np.flatnonzero(active).tolist() if len(found) else ():
            before = int(ends[i - 1]) if i else 0
            self._note(i, feed.start, found[before : ends[i]])

    def finish_pass(self) -> None:
        """Draw conclusions; see `Work.finish_pass`."""
        if self._phase == "count":
            assert self._counts is not None
            self._counts.finish()
            self._begin_deciding()
        elif self._phase == "decide":
            assert self._counts is not None
            self._waiting = _Waiting(self._open, self._counts)
            self._phase = "settle"
            if not self._waiting.n:
                self._finish_settling()
        else:
            assert self._waiting is not None
            for i in range(self._n):
                found, ranks = self._waiting.ranks(i)
                if len(found):
                    self._put(i, found["place"][found["random"] < self._limits(ranks)])
            self._finish_settling()

    def rows(self, start: int, panel: Doubles) -> Doubles:
        """Compute results; see `Work.rows`."""
        if self._compiled:
            return self._masked(Feed.of(panel, start)).panel()
        result = np.empty_like(panel)
        m = panel.shape[1]
        for i, (row, out) in enumerate(zip(panel, result, strict=True)):
            if self._by_rank:
                first = start // 8
                bits = np.unpackbits(self._kept[i, first : (start + m + 7) // 8])
                keep = bits[start - 8 * first :][:m].view(bool)
            else:
                keep = random_bits(self._streams[i], start, m) < self._limit
            np.multiply(row, keep, out=out)
            if self._factor != 1:
                out *= self._factor
            out += 0.0  # no negative zeros
        return result

    def pass_on(self, feed: Feed) -> Feed | None:
        """Leave the masking to who reads the result; see `Work.pass_on`."""
        return None if feed.mask or feed.elect else self._masked(feed)

    def _masked(self, feed: Feed) -> Feed:
        if self._by_rank:
            return replace(feed, mask=KnownMask(self._kept, self._factor))
        return replace(feed, mask=Chances(self._streams, int(self._limit), self._factor))

    def _begin_deciding(self) -> None:
        self._phase = "decide"
        self._open = [[] for _ in range(self._n)]
        self._n_open = 0
        # What is decided again in another round comes out the same; only open ones differ.
        self._until = list(self._resume)
        self._full = [False] * self._n

    def _finish_settling(self) -> None:
        self._resume = [
            until if full else self._size
            for until, full in zip(self._until, self._full, strict=True)
        ]
        self._waiting = None
        if any(resume < self._size for resume in self._resume):
            self._begin_deciding()
        else:
            self.wants_pass = False
            self._counts = None

    def _limits(self, ranks: Doubles) -> Doubles:
        """The random numbers below which elements of such ranks stay; never falls back in order."""
        chance = self._stay + self._slope * (ranks - self._centre)
        result: Doubles = np.clip(chance, 0.0, 1.0) * 2.0**RANDOM_BITS
        return result

    def _note(self, i: int, start: int, found: Unsure) -> bool:
        """Keep the unsure of a row, or leave the row for another round where they are too many."""
        if self._n_open + len(found) > _MOST_OPEN and self._n_open:
            self._full[i], self._until[i] = True, start
            return False
        if len(found):
            self._n_open += len(found)
            self._open[i].append(found)
        return True

    def _decide(self, i: int, start: int, values: Doubles) -> tuple[npt.NDArray[np.uint8], Unsure]:
        assert self._counts is not None
        bits = patterns(values)
        table = self._counts.table(i)[bins_of(bits)]
        seen, under = table["seen"], table["before"].astype(np.float64)
        less, equal, more = (table[name].astype(np.float64) for name in ("less", "equal", "more"))
        middle = under + less + (equal + 1) / 2
        below = bits < seen
        first = np.where(below, under + 1, under + less + equal + 1)
        last = np.where(below, under + less, under + less + equal + more)
        low = self._limits(np.where(bits == seen, middle, first))
        high = self._limits(np.where(bits == seen, middle, last))
        random = random_bits(self._streams[i], start, len(values))
        keep = random < np.minimum(low, high)
        unsure = np.flatnonzero(~keep & (random < np.maximum(low, high)))
        found = np.empty(len(unsure), _UNSURE)
        found["bits"], found["random"] = bits[unsure], random[unsure]
        found["place"] = unsure + start
        return np.packbits(keep), found

    def _put(self, i: int, index: Bits) -> None:
        bits = (128 >> (index & np.uint64(7)).astype(np.int64)).astype(np.uint8)
        np.bitwise_or.at(self._kept[i], (index >> np.uint64(3)).astype(np.int64), bits)


class _Waiting:
    """Elements whose exact rank is needed: counts what is less and what is equal.

    Only values in the bins of these elements are looked at; the others are counted already. The
    wanted patterns of all rows stand one after the other, each once in its row and in order, with
    a place behind each row's for what is more than all of them.
    """

    def __init__(self, found: list[list[Unsure]], counts: Counts) -> None:
        n = len(found)
        self._found = [np.concatenate(parts) if parts else np.empty(0, _UNSURE) for parts in found]
        self.n = sum(map(len, self._found))
        self._begins = [0] * (n + 1)
        self._which: list[npt.NDArray[np.int64]] = []
        self._base: list[npt.NDArray[np.int64]] = []
        self._firsts = np.full(n, -1, np.int64)
        self._slots = np.zeros((n, N_BINS) if self.n else 0, np.uint16)
        values, ends = [], []
        n_ends = 0
        for i, items in enumerate(self._found):
            wanted, which = np.unique(items["bits"], return_inverse=True)
            begin = self._begins[i]
            self._begins[i + 1] = begin + len(wanted) + 1
            self._which.append(which)
            bins, first, place = np.unique(bins_of(wanted), return_index=True, return_inverse=True)
            # What stands before a value's bin, less what is counted of open bins there.
            table = counts.table(i)[bins]
            sizes = counts_of(table)
            self._base.append((table["before"] - (np.cumsum(sizes) - sizes))[place])
            if len(items):
                self._firsts[i] = n_ends
                self._slots[i, bins] = np.arange(1, len(bins) + 1)
            values += [wanted, np.zeros(1, np.uint64)]
            ends.append(np.append(first, len(wanted)) + begin)
            n_ends += len(bins) + 1
        self._values = np.concatenate(values)
        self._ends = np.concatenate(ends)
        self._upto = np.zeros(len(self._values) + 1, np.int64)
        self._equal = np.zeros(len(self._values) + 1, np.int64)

    def add(self, row: int, values: Doubles) -> None:
        if self._firsts[row] < 0:
            return
        bits = patterns(values)
        bits = bits[self._slots[row, bins_of(bits)] > 0]
        begin, end = self._begins[row], self._begins[row + 1]
        wanted = self._values[begin : end - 1]
        place = np.searchsorted(wanted, bits)
        self._upto[begin:end] += np.bincount(place, minlength=end - begin)
        inside = place < len(wanted)
        hits = place[inside][wanted[place[inside]] == bits[inside]]
        self._equal[begin:end] += np.bincount(hits, minlength=end - begin)

    def add_feed(self, feed: Feed) -> None:
        assert panels is not None
        panels.place(
            feed.packed, self._firsts, self._slots, self._ends, self._values, self._upto,
            self._equal,
        )  # fmt: skip

    def ranks(self, row: int) -> tuple[Unsure, Doubles]:
        """The elements of a row, and their ranks."""
        begin, end = self._begins[row], self._begins[row + 1] - 1
        # Place p counts values within (v[p-1], v[p]], so sums end at the last rank of v[p].
        last = self._base[row] + np.cumsum(self._upto[begin:end])
        middle: Doubles = last - (self._equal[begin:end] - 1) / 2
        return self._found[row], middle[self._which[row]]
