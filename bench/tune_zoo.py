"""A search on the zoo, at equal numbers of pictures: is it better than luck, and than the mean?

Two fine-tunes with different strengths, 27 block weights, the tiny CLIP as score. Repetitions have
prompts, seeds and optimisers' seeds of their own. What is told is how the best of a search does on
prompts that nobody searched with, by the score and by the attribute classifier, which nothing is
searched with. A study that is killed goes on. See bench/README.md.

    python bench/tune_zoo.py --work DIR
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from stockpot.checkpoints import open_checkpoint
from stockpot.draw import DrawSettings, Request
from stockpot.recipes import Recipe, make_recipe
from stockpot.scores import make_scorer
from stockpot.tune import (
    UNIFORM,
    Baseline,
    Exam,
    Limits,
    LiveExaminer,
    Search,
    SearchSettings,
    Task,
    Verdict,
    compare_marks,
    fill_holes,
    find_holes,
    hold_out,
    is_worse,
    judge,
    make_space,
    open_examiner,
    open_store,
    result_json,
    run_search,
    scores_of,
)
from stockpot.zoo import family, zoo_path
from stockpot.zoo.shapes import BASE_STYLES, EXTRA_STYLE, Scene, all_scenes, caption

PAIR = ("style-striped", "content-round")
SCORE, JUDGE = "clip", "attributes"
BEST = "best of the search"
MANY = 1_000_000


@dataclass(frozen=True)
class Leg:
    """One way to spend pictures.

    Attributes:
        name: In tables.
        study: Of its file; legs of one study go on from each other.
        optimiser: A key of `stockpot.tune.OPTIMISERS`.
        stop: As `--stop`; 0 draws all tasks of every candidate.
        by_images: Whether it ends at the pictures that so many whole candidates take, and not at
            so many candidates.
        batch: Pictures that are drawn at once: larger is quicker, smaller stops sooner.
    """

    name: str
    study: str
    optimiser: str
    stop: float
    by_images: bool = False
    batch: int = 16


STOP = SearchSettings((SCORE,), (SCORE,)).stop_p or 0.0
WHOLE = Leg("auto, all drawn", "auto-whole", "auto", 0.0)
SHORT = Leg("auto, stopping early", "auto-stop", "auto", STOP, batch=4)
RANDOM = Leg("random", "random-whole", "random", 0.0)
EQUAL = Leg("auto, stopping early, as many pictures", "auto-stop", "auto", STOP, True, 4)
LEGS = (WHOLE, RANDOM, SHORT)
REPLAYED = (0, 1)
"""The repetitions whose marks were replayed when the default of `--stop` was chosen."""


@dataclass(frozen=True)
class Outcome:
    """What came of one leg of one repetition.

    Attributes:
        asked: What it was run with.
        repetition: From 0.
        leg: Its name.
        candidates: That the optimiser proposed.
        stopped: How many of them were stopped early.
        images: Pictures that were drawn in the search, those of baselines among them.
        images_searched: Those of the optimiser's candidates alone.
        found: The best candidate's score in the search.
        held_out: Scores on the held-out tasks: by scorer, by candidate, by task.
        seconds: How long search and verdict took, as far as this process knows.
    """

    asked: Mapping[str, object]
    repetition: int
    leg: str
    candidates: int
    stopped: int
    images: int
    images_searched: int
    found: float
    held_out: Mapping[str, Mapping[str, Mapping[str, float]]]
    seconds: float


def make_recipe_with_holes() -> Recipe:
    """A weight for each block: 0 is all of the first model, 1 all of the second."""
    files = {member.name: str(member.path) for member in family()}
    holes = ", ".join(["search(0, 1)"] * 27)
    pool = {name.replace("-", "_"): files[name] for name in PAIR}
    a, b = pool
    return make_recipe(f'lerp({a}, {b}, blocks("autombw", [{holes}]))', pool)


def make_baselines_of(recipe: Recipe) -> tuple[Baseline, ...]:
    """Both models alone and their mean, all as fillings.

    Outside the blocks these two models are the same, which a recipe cannot know.
    """
    holes = find_holes(recipe)
    a, b = recipe.pool
    names = {f"{a} alone": 0, f"{b} alone": 1, UNIFORM: Fraction(1, 2)}
    fillings = {name: {hole.name: Fraction(x) for hole in holes} for name, x in names.items()}
    return tuple(Baseline(name, fill_holes(recipe, values), values)
                 for name, values in fillings.items())  # fmt: skip


def make_exams(repetition: int, asked: Mapping[str, int]) -> tuple[Exam, Exam]:
    """What is searched with and what is held out: other prompts, other seeds.

    Half of the prompts ask for the style that only the first model knows, half for one of the
    four that the second one kept; in turns, so that a candidate that is stopped early met both.
    """
    dice = random.Random(f"tune-zoo {repetition}")
    new, old = list(all_scenes([EXTRA_STYLE])), list(all_scenes(BASE_STYLES))
    dice.shuffle(new)
    dice.shuffle(old)
    scenes = [scene for pair in zip(new, old, strict=False) for scene in pair]
    settings = DrawSettings(steps=asked["steps"], cfg=4.0)
    n = asked["tasks"]

    def tasks(chosen: Sequence[Scene], repeats: int) -> Iterator[Task]:
        for again in range(repeats):
            for i, scene in enumerate(chosen):
                name = f"{scene.style} {scene.shape} {i}"
                request = Request(caption(scene), dice.randrange(1 << 32), settings)
                yield Task(f"{name}#{again}", name, request)

    return (Exam(tuple(tasks(scenes[:n], 1))),
            Exam(tuple(tasks(scenes[n : n + asked["held_out"]], asked["repeats"]))))  # fmt: skip


def run_leg(
    leg: Leg, repetition: int, asked: Mapping[str, int], work: Path, examiner: LiveExaminer
) -> Outcome:
    """Search, or go on with a search, and hold out; or read what was found."""
    kept = work / f"{repetition}-{leg.study}{'-equal' if leg.by_images else ''}.json"
    if kept.exists():
        outcome = Outcome(**json.loads(kept.read_text()))
        if outcome.asked != asked:
            raise SystemExit(f"{kept} was made with {outcome.asked}; use another --work")
        return outcome
    start = time.monotonic()
    recipe = make_recipe_with_holes()
    exam, held = make_exams(repetition, asked)
    holes = find_holes(recipe)
    baselines = make_baselines_of(recipe)
    settings = SearchSettings((SCORE,), (SCORE, JUDGE), optimiser=leg.optimiser, seed=repetition,
                              stop_p=leg.stop or None)  # fmt: skip
    n = asked["evaluations"]
    n_images = (len(baselines) + n) * len(exam.tasks)
    limits = Limits(MANY, n_images=n_images) if leg.by_images else Limits(n)
    with ExitStack() as stack:
        store = stack.enter_context(open_store(work / f"{repetition}-{leg.study}.db"))
        search = stack.enter_context(
            Search(store, recipe, make_space(holes), exam, settings, limits, baselines=baselines)
        )
        run_search(search, examiner, lambda one: say(repetition, leg, one.number, start))
        # One finalist: what is held out chooses nothing, so that its interval is a plain one.
        hold_out([search], examiner, held, 1)
        result = judge([search], held, 1)
        store.book.put_note("result", json.dumps(result_json(result)))  # for `tune report`
        best = result.searched
        assert best is not None
        shown = {BEST: best} | {one.name: one for one in result.standings if one.baseline}
        scores = {
            scorer: {
                name: scores_of(held.tasks, search.kept_marks(one.key, held).values(), scorer)
                for name, one in shown.items()
            }
            for scorer in (SCORE, JUDGE)
        }
        own = [t for t in store.all_trials() if not t.user_attrs.get("baseline")]
        outcome = Outcome(
            dict(asked), repetition, leg.name, len(own),
            sum(trial.state.name == "PRUNED" for trial in own),
            store.book.count_marks([task.key for task in exam.tasks]),
            sum(trial.user_attrs.get("n_drawn", 0) for trial in own), best.found[0], scores,
            round(time.monotonic() - start, 1),
        )  # fmt: skip
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(asdict(outcome)))
    part.replace(kept)
    return outcome


def say(repetition: int, leg: Leg, number: int, start: float) -> None:
    """A line on stderr now and then."""
    if not number % 20:
        passed = time.monotonic() - start
        print(f"repetition {repetition}, {leg.name}: trial {number}, {passed:.0f} s",
              file=sys.stderr, flush=True)  # fmt: skip


Found = Mapping[tuple[int, str], Outcome]


def difference(
    found: Found, scorer: str, first: tuple[str, str], second: tuple[str, str],
    repetitions: Iterable[int],
) -> Verdict:  # fmt: skip
    """Compare two candidates, each of a leg, over the held-out tasks of some repetitions.

    Of one repetition prompts are resampled, of several whole repetitions: what another search of
    the same kind would find is the larger unknown.
    """
    chosen = list(repetitions)
    sides: list[dict[str, float]] = []
    for leg, name in (first, second):
        sides.append({
            f"{r} {task}": score
            for r in chosen
            for task, score in found[r, leg].held_out[scorer][name].items()
        })  # fmt: skip
    of = {task: task.partition(" ")[0] if len(chosen) > 1 else task.partition("#")[0]
          for task in sides[0]}  # fmt: skip
    return compare_marks(sides[0], sides[1], payloads=of)


def shown(verdict: Verdict) -> str:
    """A verdict as a cell."""
    return f"{verdict.difference:+.4f} ({verdict.low:+.4f} … {verdict.high:+.4f}) {verdict.better}"


def promised(work: Path, leg: Leg, outcome: Outcome) -> float:
    """By how much the search's own scores said that its best is above the uniform mix."""
    with open_store(work / f"{outcome.repetition}-{leg.study}.db", create=False) as store:
        uniform = next(t for t in store.all_trials() if t.user_attrs.get("baseline") == UNIFORM)
        return outcome.found - float(uniform.values[0])


def print_tables(found: Found, repetitions: range, work: Path) -> None:
    """All that was found, as Markdown."""
    print(f"\nBest of the search − {UNIFORM}, on held-out prompts: `{SCORE}` (searched with)\n")
    print_against(found, SCORE, repetitions)
    gains = [
        statistics.mean(promised(work, leg, found[r, leg.name]) for r in repetitions)
        for leg in legs_of(found)
    ]
    print(f"| the search's own scores | {' | '.join(f'{gain:+.4f}' for gain in gains)} |")
    print(f"\nThe same by `{JUDGE}` (searched with by nobody)\n")
    print_against(found, JUDGE, repetitions)
    print("\nAll repetitions; rows that name two searches compare the best of each\n")
    print(f"| | `{SCORE}` | `{JUDGE}` |\n|---|---|---|")
    pairs = [
        (f"{leg.name} − random", (leg.name, BEST), (RANDOM.name, BEST))
        for leg in (EQUAL, WHOLE)
        if (0, leg.name) in found
    ]
    pairs += [
        (f"{SHORT.name} − {WHOLE.name}", (SHORT.name, BEST), (WHOLE.name, BEST)),
    ]
    alone = [name for name in found[0, WHOLE.name].held_out[SCORE]
             if name not in (BEST, UNIFORM)]  # fmt: skip
    pairs += [(f"{name} − {UNIFORM}", (WHOLE.name, name), (WHOLE.name, UNIFORM)) for name in alone]
    for text, first, second in pairs:
        cells = [shown(difference(found, s, first, second, repetitions)) for s in (SCORE, JUDGE)]
        print(f"| {text} | {cells[0]} | {cells[1]} |")
    print_savings(found, repetitions)


def legs_of(found: Found) -> list[Leg]:
    """Those that spent equal numbers of pictures."""
    return [leg for leg in (EQUAL, WHOLE, RANDOM) if (0, leg.name) in found]


def print_against(found: Found, scorer: str, repetitions: range) -> None:
    """Every leg's best against the uniform mix, repetition by repetition."""
    legs = legs_of(found)
    print(f"| repetition | {' | '.join(leg.name for leg in legs)} |\n|---|{'---|' * len(legs)}")
    rows = [([r], str(r)) for r in repetitions] + [(list(repetitions), "all")]
    for chosen, name in rows:
        cells = [
            shown(difference(found, scorer, (leg.name, BEST), (leg.name, UNIFORM), chosen))
            for leg in legs
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    pictures = [statistics.mean(found[r, leg.name].images for r in repetitions) for leg in legs]
    tried = [statistics.mean(found[r, leg.name].candidates for r in repetitions) for leg in legs]
    print(f"| pictures | {' | '.join(f'{n:.0f}' for n in pictures)} |")
    print(f"| candidates | {' | '.join(f'{n:.0f}' for n in tried)} |")


def print_savings(found: Found, repetitions: range) -> None:
    """What stopping early saves at equal numbers of candidates, and what it costs."""
    print(f"\nStopping early: {found[0, WHOLE.name].candidates} candidates with and without\n")
    print(f"| repetition | stopped | pictures | without | saved | without baselines | held out, "
          f"`{SCORE}` | `{JUDGE}` |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    rows = [([r], str(r)) for r in repetitions] + [(list(repetitions), "all")]
    others = [r for r in repetitions if r not in REPLAYED]
    rows += [(others, "all but those that `--stop` was chosen by")] if len(others) > 1 else []
    for chosen, name in rows:
        short = [found[r, SHORT.name] for r in chosen]
        whole = [found[r, WHOLE.name] for r in chosen]
        drawn, all_drawn = (sum(one.images for one in legs) for legs in (short, whole))
        own = [sum(one.images_searched for one in legs) for legs in (short, whole)]
        cells = [shown(difference(found, s, (SHORT.name, BEST), (WHOLE.name, BEST), chosen))
                 for s in (SCORE, JUDGE)]  # fmt: skip
        print(f"| {name} | {sum(one.stopped for one in short)} of "
              f"{sum(one.candidates for one in short)} | {drawn} | {all_drawn} | "
              f"{1 - drawn / all_drawn:.0%} | {1 - own[0] / own[1]:.0%} | {cells[0]} | "
              f"{cells[1]} |")  # fmt: skip


Rule = Callable[[Mapping[str, float], Mapping[str, float]], bool]


def wilcoxon(p: float) -> Rule:
    """What optuna's WilcoxonPruner asks: is it worse, whatever is left of the exam?"""
    from scipy import stats

    def stops(mine: Mapping[str, float], best: Mapping[str, float]) -> bool:
        differences = [mine[name] - best[name] for name in mine]
        if sum(differences) >= 0 or len(mine) == len(best):
            return False
        return bool(stats.wilcoxon(differences, alternative="less").pvalue < p)

    return stops


def replay(marks: Sequence[Mapping[str, float]], n_baselines: int, rule: Rule, batch: int
           ) -> tuple[int, int, int]:  # fmt: skip
    """Ask a rule about candidates whose marks are all known, in their order.

    Returns:
        Pictures that it saves, candidates that it stops, and how many of these would have become
        the best.
    """
    best: Mapping[str, float] = marks[0]
    saved = stopped = wrong = 0
    for number, whole in enumerate(marks):
        names = list(whole)
        ahead = statistics.fmean(whole.values()) > statistics.fmean(best.values())
        looks = range(batch, len(names), batch) if number >= n_baselines else ()
        for n in looks:
            if n >= 4 and rule({name: whole[name] for name in names[:n]}, best):
                saved, stopped, wrong = saved + len(names) - n, stopped + 1, wrong + ahead
                break
        else:
            best = whole if ahead else best
    return saved, stopped, wrong


def print_rules(work: Path, asked: Mapping[str, int], repetitions: range) -> None:
    """What other rules would have saved of searches whose marks are all known."""
    runs = []
    for repetition in repetitions:
        exam, _ = make_exams(repetition, asked)
        with open_store(work / f"{repetition}-{WHOLE.study}.db", create=False) as store:
            trials = [t for t in store.all_trials() if t.state.name == "COMPLETE"]
            kept: dict[str, dict[str, float]] = {}
            for mark in store.book.marks():
                kept.setdefault(mark.candidate, {})[mark.task] = mark.scores[SCORE]
        tables = [kept[trial.user_attrs["candidate"]] for trial in trials]
        runs.append([{task.name: table[task.key] for task in exam.tasks} for table in tables])
    rules = [(f"Wilcoxon's test, p {p}", wilcoxon(p)) for p in (0.1, 0.2, 0.3)]
    rules += [(f"chance below {p}", partial(is_worse, p=p)) for p in (0.1, 0.2, 0.3)]
    print(f"\nReplayed on the marks of `{WHOLE.name}`; in brackets how many of those that were "
          "stopped would have become the best\n")  # fmt: skip
    print("| stop by | one at a time | two | four |\n|---|---|---|---|")
    n_all = sum(len(table) for marks in runs for table in marks)
    for name, rule in rules:
        cells = []
        for batch in (1, 2, 4):
            told = [replay(marks, 3, rule, batch) for marks in runs]
            saved, stopped, wrong = (sum(column) for column in zip(*told, strict=True))
            cells.append(f"{saved / n_all:.0%} saved, {stopped} stopped ({wrong})")
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that is kept")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=60, help="candidates beside baselines")
    parser.add_argument("--tasks", type=int, default=16, help="pictures of a candidate")
    parser.add_argument("--held-out", type=int, default=32, help="prompts that are held out")
    parser.add_argument("--repeats", type=int, default=1, help="held-out seeds of each prompt")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--skip-equal", action="store_true",
                        help="end searches that stop early at as many candidates")  # fmt: skip
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    asked = {"evaluations": given.evaluations, "tasks": given.tasks, "held_out": given.held_out,
             "repeats": given.repeats, "steps": given.steps}  # fmt: skip
    files = {member.name: member.path for member in family()}
    sources = {name.replace("-", "_"): open_checkpoint(files[name]) for name in PAIR}
    scorers = {name: make_scorer(name) for name in (SCORE, JUDGE)}
    found: dict[tuple[int, str], Outcome] = {}
    repetitions = range(given.repetitions)
    legs = LEGS if given.skip_equal else (*LEGS, EQUAL)
    runs = [(leg, r) for leg in legs for r in repetitions]
    with ExitStack() as stack:
        examiners = {
            batch: stack.enter_context(
                open_examiner(sources, scorers, config=zoo_path() / "config", batch=batch)
            )
            for batch in {leg.batch for leg, _ in runs}
        }
        for leg, repetition in runs:
            one = run_leg(leg, repetition, asked, given.work, examiners[leg.batch])
            found[repetition, leg.name] = one
            better = difference(found, SCORE, (leg.name, BEST), (leg.name, UNIFORM), [repetition])
            print(f"repetition {repetition}, {leg.name}: {one.candidates} candidates, "
                  f"{one.stopped} stopped, {one.images} pictures; {better.text}",
                  flush=True)  # fmt: skip
    (given.work / "tune_zoo.json").write_text(
        json.dumps([asdict(one) for one in found.values()], indent=1)
    )
    print_tables(found, repetitions, given.work)
    print_rules(given.work, asked, repetitions)
    seconds = sum(one.seconds for one in found.values())
    print(f"\n{' and '.join(PAIR)}; {json.dumps(asked)}; {seconds:.0f} s")


if __name__ == "__main__":
    main()
