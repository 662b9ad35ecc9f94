"""Procedures of selection: each asks for candidates and ends with a choice.

All of them see candidates through an `Ask`, so that what one has measured costs another nothing.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from stockpot.select.choices import Choice, Pool
from stockpot.select.deciding import Decision, Decisions, Marks, Rule, decide, spread_within

__all__ = [
    "PLANS",
    "Ask",
    "Outcome",
    "Setup",
    "Step",
    "author_plan",
    "find_core",
    "greedy_drop",
    "greedy_soup",
    "leave_one_out",
    "shapley",
    "used_table",
]

Ask = Callable[[Choice], Marks]
"""Gives a candidate's marks: score of each task, higher is better."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a procedure works on.

    Attributes:
        pool: The models.
        ask: Gives marks.
        payload_of: Payload of each task.
        rule: How much is enough.
        decisions: A person's.
    """

    pool: Pool
    ask: Ask
    payload_of: dict[str, str]
    rule: Rule = Rule()  # noqa: B008 - frozen
    decisions: Decisions = field(default_factory=Decisions)

    def score(self, choice: Choice) -> float:
        """Mean mark of a candidate."""
        return statistics.fmean(self.ask(choice).values())

    def is_pinned(self, name: str) -> bool:
        """Whether a person pinned any part of a model."""
        return any(other == name for _, other in self.decisions.pinned)

    @property
    def everyone(self) -> Choice:
        """The blind mix: all UNets and all text encoders, exact copies of whole models once."""
        pool = self.pool
        seen: set[tuple[str, str]] = set()
        kept = []
        for name in pool.names:
            one = pool.member(name)
            if (one.unet, one.encoder) not in seen:
                seen.add((one.unet, one.encoder))
                kept.append(name)
        unets = tuple(name for name in kept if pool.member(name).unet)
        return Choice(unets, tuple(name for name in kept if pool.member(name).encoder))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a procedure, for people.

    Attributes:
        title: What was tried.
        part: ``unet`` or ``te`` where models' parts were judged, else empty.
        candidates: What was examined, with each one's mean mark.
        decisions: What became of each model.
        result: The choice after it.
        text: What happened, in words.
    """

    title: str
    part: str
    candidates: tuple[tuple[Choice, float], ...]
    decisions: tuple[Decision, ...]
    result: Choice
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a procedure ends with.

    Attributes:
        plan: Its name in `PLANS`.
        choice: What to merge.
        steps: How it came to that.
        values: What each model is worth, for procedures that say so: contribution by name.
        errors: Standard error of each value, where there is one.
    """

    plan: str
    choice: Choice
    steps: tuple[Step, ...]
    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


def author_plan(setup: Setup, stop_after: str = "") -> Outcome:
    """Select as the author of AstolfoMix did, by measurement instead of by eye.

    The blind mix of all; every text encoder in it; the useful ones averaged; every UNet with that
    average; the useful ones averaged. For N models at most 2N + 3 candidates. Source: the chapter
    "Considering CLIP / TE combinations individually" on AstolfoMix-SD2.

    Args:
        setup: The pool and the way to ask.
        stop_after: ``te`` to stop before UNets are looked at, so that a person can decide.

    Returns:
        The final choice.
    """
    pool, blind = setup.pool, setup.everyone
    text = f"all {len(blind.unets)} UNets with all {len(blind.encoders)} text encoders"
    first = Step("the blind mix", "", ((blind, setup.score(blind)),), (), blind, text)
    encoders = _judge(
        setup, "te", {name: Choice(blind.unets, (name,)) for name in pool.distinct("te")}
    )
    chosen = tuple(one.name for one in encoders[1] if one.kept)
    mixed = Choice(blind.unets, pool.sort(chosen))
    steps = [first, _step("every text encoder in the blind mix", "te", encoders, mixed)]
    if stop_after == "te":
        return Outcome("author", mixed, tuple(steps))
    unets = _judge(
        setup, "unet", {name: Choice((name,), mixed.encoders) for name in pool.distinct("unet")}
    )
    chosen = tuple(one.name for one in unets[1] if one.kept)
    final = Choice(pool.sort(chosen), mixed.encoders)
    steps.append(_step("every UNet with the kept text encoders", "unet", unets, final))
    text = f"{len(final.unets)} UNets and {len(final.encoders)} text encoders"
    steps.append(Step("the final mix", "", ((final, setup.score(final)),), (), final, text))
    return Outcome("author", final, tuple(steps))


def greedy_soup(setup: Setup) -> Outcome:
    """Add models one by one, the best alone first, and keep those that do not hurt.

    Whole models are added: UNet and text encoder together. Model soups, 2203.05482; for
    text-to-image, 2406.08431. N + N − 1 candidates.

    Args:
        setup: The pool and the way to ask.

    Returns:
        The soup.
    """
    names = _whole(setup)
    alone = {name: setup.score(Choice((name,), (name,))) for name in names}
    order = sorted(names, key=lambda name: (-alone[name], name))
    soup, best = Choice((order[0],), (order[0],)), alone[order[0]]
    found = [Decision(order[0], True, "the best alone", best)]
    tried = [(soup, best)]
    for name in order[1:]:
        wider = setup.pool.sort((*soup.unets, name))
        candidate = Choice(wider, wider)
        score = setup.score(candidate)
        tried.append((candidate, score))
        kept = score >= best or setup.is_pinned(name)
        why = "the soup is no worse with it" if score >= best else "the soup is worse with it"
        found.append(Decision(name, kept, why, score, score - best))
        if kept:
            soup, best = candidate, score
    singles = tuple((Choice((name,), (name,)), alone[name]) for name in order)
    text = f"{len(soup.unets)} of {len(names)} models, added in the order of their own scores"
    step = Step("greedy soup", "both", (*singles, *tried[1:]), tuple(found), soup, text)
    return Outcome("greedy-soup", soup, (step,))


def greedy_drop(setup: Setup) -> Outcome:
    """Leave out whoever's absence helps most, until nobody's does.

    At most N(N + 1)/2 candidates; with few bad models, some 3N.

    Args:
        setup: The pool and the way to ask.

    Returns:
        What is left.
    """
    names = _whole(setup)
    soup = Choice(names, names)
    best, tried, found = setup.score(soup), [], []
    tried.append((soup, best))
    while len(soup.unets) > 1:
        without = []
        for name in soup.unets:
            if setup.is_pinned(name):
                continue
            left = tuple(other for other in soup.unets if other != name)
            without.append((setup.score(Choice(left, left)), name, Choice(left, left)))
        tried += [(candidate, score) for score, _, candidate in without]
        score, name, candidate = max(
            without, key=lambda one: (one[0], one[1]), default=(best, "", soup)
        )
        if score <= best:
            break
        found.append(Decision(name, False, "the mix is better without it", score, score - best))
        soup, best = candidate, score
    found += [Decision(name, True, "the mix is no better without it", best) for name in soup.unets]
    text = f"{len(soup.unets)} of {len(names)} models are left"
    step = Step("greedy drop", "both", tuple(tried), tuple(found), soup, text)
    return Outcome("greedy-drop", soup, (step,))


def leave_one_out(setup: Setup) -> Outcome:
    """What each model adds to the mix of all: its score minus that without the model.

    N + 1 candidates. Models that the mix is surely better without are left out.

    Args:
        setup: The pool and the way to ask.

    Returns:
        The mix of the others; `values` has the contributions.
    """
    from stockpot.tune import compare_marks

    names = _whole(setup)
    soup = Choice(names, names)
    whole = setup.ask(soup)
    values, found, tried = {}, [], [(soup, setup.score(soup))]
    for name in names if len(names) > 1 else ():
        left = tuple(other for other in names if other != name)
        candidate = Choice(left, left)
        verdict = compare_marks(
            whole, setup.ask(candidate), payloads=setup.payload_of, level=setup.rule.level
        )
        tried.append((candidate, setup.score(candidate)))
        values[name] = verdict.difference
        kept = verdict.high >= 0 or setup.is_pinned(name)
        why = "the mix is surely better without it" if verdict.high < 0 else (
            "the mix is surely better with it" if verdict.low > 0 else "cannot tell")  # fmt: skip
        found.append(
            Decision(name, kept, why, tried[-1][1], verdict.difference, verdict.low, verdict.high)
        )
    kept_names = tuple(one.name for one in found if one.kept) or names
    final = Choice(setup.pool.sort(kept_names), setup.pool.sort(kept_names))
    text = f"{len(kept_names)} of {len(names)} models: the mix is not surely better without them"
    step = Step("leave one out", "both", tuple(tried), tuple(found), final, text)
    return Outcome("leave-one-out", final, (step,), values)


def shapley(setup: Setup, rounds: int = 4, seed: int = 0) -> Outcome:
    """Estimate what each model is worth, over orders in which models might join.

    The Shapley value is the mean of what a model adds to those before it, over all orders; here
    over `rounds` random orders and their reverses, which cancels the position's own effect
    (antithetic sampling, Mitchell et al. 2022). At most 2 · rounds · N candidates. Models worth
    less than nothing, by more than the error of the estimate, are left out.

    Args:
        setup: The pool and the way to ask.
        rounds: Pairs of orders, at least 1; the error shrinks with the root.
        seed: Which orders.

    Returns:
        The mix of the others; `values` and `errors` have the estimates. They add up to the mix's
        score minus the mean of the models that came first.
    """
    names = _whole(setup)
    gains: dict[str, list[float]] = {name: [] for name in names}
    tried: dict[tuple[str, ...], float] = {}
    firsts = statistics.fmean(setup.score(Choice((name,), (name,))) for name in names)
    dice = random.Random(seed)
    for _ in range(rounds):
        order = list(names)
        dice.shuffle(order)
        for way in (order, order[::-1]):
            before = firsts  # of an empty mix: what a model picked at random would have
            for n in range(1, len(way) + 1):
                joined = setup.pool.sort(way[:n])
                tried[joined] = setup.score(Choice(joined, joined))
                gains[way[n - 1]].append(tried[joined] - before)
                before = tried[joined]
    values = {name: statistics.fmean(own) for name, own in gains.items()}
    errors = {
        name: statistics.stdev(own) / len(own) ** 0.5 if len(own) > 1 else 0.0
        for name, own in gains.items()
    }
    found = []
    for name in sorted(names, key=lambda name: -values[name]):
        bad = values[name] + 2 * errors[name] < 0 and not setup.is_pinned(name)
        why = "worth less than nothing" if bad else "not surely worth less than nothing"
        low, high = values[name] - 2 * errors[name], values[name] + 2 * errors[name]
        found.append(Decision(name, not bad, why, values[name], values[name], low, high))
    kept = setup.pool.sort(one.name for one in found if one.kept) or names
    final = Choice(kept, kept)
    listed = tuple((Choice(who, who), score) for who, score in tried.items())
    text = f"{len(kept)} of {len(names)} models, after {2 * rounds} orders"
    step = Step("Shapley values", "both", listed, tuple(found), final, text)
    return Outcome("shapley", final, (step,), values, errors)


def find_core(setup: Setup, choice: Choice) -> tuple[Choice, tuple[Decision, ...]]:
    """Find a smaller mix that holds the score of a larger one.

    Each UNet is left out once, and then each text encoder, the one that would be missed least
    first; what is not missed by more than matters stays out. At most as many candidates as there
    are parts, twice.

    Args:
        setup: The pool and the way to ask.
        choice: The larger mix.

    Returns:
        The core, and what was decided of each part.
    """
    from stockpot.tune import compare_marks

    whole = setup.ask(choice)
    matters = setup.rule.margin * spread_within(whole, setup.payload_of)
    core, found = choice, []
    for part in ("unet", "te"):
        members = choice.unets if part == "unet" else choice.encoders
        if len(members) == 1:
            continue
        missed = {name: setup.score(choice.without(name, part)) for name in members}
        for name in sorted(members, key=lambda name: (-missed[name], name)):
            if len(core.unets if part == "unet" else core.encoders) == 1:
                break
            smaller = core.without(name, part)
            verdict = compare_marks(
                setup.ask(smaller), whole, payloads=setup.payload_of, level=setup.rule.level
            )
            # Here the doubt is the other way round: out goes only what is surely not missed.
            kept = verdict.low < -matters
            why = "may be missed" if kept else "not missed"
            found.append(
                Decision(f"{part}:{name}", kept, why, setup.score(smaller), verdict.difference,
                         verdict.low, verdict.high)
            )  # fmt: skip
            core = core if kept else smaller
    return core, tuple(found)


PLANS: dict[str, Callable[[Setup], Outcome]] = {
    "author": author_plan,
    "greedy-soup": greedy_soup,
    "greedy-drop": greedy_drop,
    "leave-one-out": leave_one_out,
    "shapley": shapley,
}


def _whole(setup: Setup) -> tuple[str, ...]:
    """Models that give both a UNet and a text encoder, exact copies once, vetoed ones out."""
    everyone, vetoed = setup.everyone, setup.decisions.vetoed
    both = set(everyone.unets) & set(everyone.encoders)
    out = {name for _, name in vetoed}
    return setup.pool.sort(name for name in both if name not in out)


_Judged = tuple[tuple[tuple[Choice, float], ...], tuple[Decision, ...]]


def _judge(setup: Setup, part: str, candidates: dict[str, Choice]) -> _Judged:
    marks = {name: setup.ask(choice) for name, choice in candidates.items()}
    found = setup.decisions.overrule(part, decide(marks, setup.payload_of, setup.rule))
    if not any(one.kept for one in found):  # all vetoed: something has to draw
        raise ValueError(f"every {part} is vetoed; leave at least one")
    listed = tuple((choice, statistics.fmean(marks[name].values()))
                   for name, choice in candidates.items())  # fmt: skip
    return listed, found


def _step(title: str, part: str, judged: _Judged, result: Choice) -> Step:
    kept = [one.name for one in judged[1] if one.kept]
    text = f"{len(kept)} of {len(judged[1])} stay: {', '.join(kept)}"
    return Step(title, part, judged[0], judged[1], result, text)


def used_table(pool: Pool, choice: Choice) -> tuple[tuple[str, bool, bool], ...]:
    """The author's table: for each model whether its UNet and its text encoder are used.

    A model whose part is a copy of a chosen one's counts as the copy that is left out.
    """
    return tuple(
        (one.name, one.name in choice.unets, one.name in choice.encoders) for one in pool.members
    )
