"""Does selection find what was planted in the zoo?

The zoo's fine-tunes and a copy of one of them: a text encoder ruined by over-training, an outlier,
a good text encoder with a bad UNet, one model that alone knows a style. Runs procedures of
`stockpot.select` for several drawing seeds, with the tiny CLIP as score, and says what was kept;
then the final mix against the blind one on other prompts and seeds, by the attribute classifier,
which nothing was chosen by. See bench/README.md.

    python bench/select_zoo.py --work DIR --seeds 10
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from stockpot.checkpoints import open_checkpoint
from stockpot.draw import DrawSettings, Request
from stockpot.scores import make_scorer
from stockpot.select import Evidence, Pool, Selection, select_models, survey_members
from stockpot.tune import Exam, LiveExaminer, Task, compare_marks, open_examiner
from stockpot.zoo import family, zoo_path
from stockpot.zoo.variants import derive

COPY_OF = "style-glossy"
STYLES = ("flat", "glossy", "outline", "shaded", "striped")
SHAPES = (
    ("large", "red", "heart", "white"),
    ("large", "blue", "star", "cream"),
    ("large", "green", "circle", "navy"),
    ("large", "orange", "square", "sky"),
    ("large", "yellow", "moon", "black"),
    ("large", "purple", "diamond", "grey"),
)
HELD_OUT = (
    ("large", "pink", "triangle", "navy"),
    ("large", "teal", "circle", "white"),
    ("large", "red", "star", "grey"),
    ("large", "green", "moon", "cream"),
)
SETTINGS = DrawSettings(steps=12, cfg=4.0)


@dataclass(frozen=True)
class Facts:
    """What one run found."""

    seed: int
    plan: str
    unets: tuple[str, ...]
    encoders: tuple[str, ...]
    candidates: int
    copies: tuple[str, ...]
    difference: float
    low: float
    high: float
    better: str


def make_exam(
    scenes: Sequence[tuple[str, str, str, str]], seed: int, repeats: int, by_style: bool
) -> Exam:
    """Every scene in every style; a payload is a style, or one prompt."""
    tasks = []
    for style in STYLES:
        for i, (size, colour, shape, ground) in enumerate(scenes):
            prompt = f"{style} art, a {size} {colour} {shape} on {ground} background"
            payload, first = (style, i * repeats) if by_style else (f"{style} {shape}", 0)
            for again in range(repeats):
                request = Request(prompt, 1000 * seed + 10 * i + again, SETTINGS)
                tasks.append(Task(f"{payload}#{first + again}", payload, request))
    return Exam(tuple(tasks))


def wanted(facts: Facts) -> dict[str, bool]:
    """What should come out, and whether it did."""
    return {
        "ruined text encoder goes": "te-ruined" not in facts.encoders,
        "outlier goes": "outlier" not in facts.unets,
        "bad UNet goes": "te-good-unet-bad" not in facts.unets,
        "good text encoder stays": "te-good-unet-bad" in facts.encoders,
        "copy goes": not any(name in facts.unets for name in facts.copies),
        "the one that knows stays": "style-striped" in facts.unets,
    }


def run(
    pool: Pool, examiner: LiveExaminer, plan: str, seed: int, repeats: int, work: Path
) -> tuple[Facts, Selection]:
    """One procedure with one drawing seed."""
    exam = make_exam(SHAPES, seed, repeats, by_style=True)
    hidden = make_exam(HELD_OUT, 500 + seed, 2, by_style=False)
    with Evidence(work / "evidence.jsonl", pool, exam, examiner, "clip") as evidence:
        found = select_models(evidence, hidden, plan=plan, core=False)
        judged = Evidence(work / "evidence.jsonl", pool, hidden, examiner, "attributes")
        final, blind = (judged.marks(one) for one in (found.outcome.choice, found.blind))
        judged.close()
    verdict = compare_marks(final, blind, than="the blind mix")
    choice = found.outcome.choice
    n = sum(len(step.candidates) for step in found.outcome.steps)
    facts = Facts(seed, plan, choice.unets, choice.encoders, n, tuple(found.twins["unet"]),
                  verdict.difference, verdict.low, verdict.high, verdict.better)  # fmt: skip
    return facts, found


def main() -> None:
    """Run, print the tables, and say whether what was planted was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that is kept")
    parser.add_argument("--seeds", type=int, default=10, help="drawing seeds for the author's plan")
    parser.add_argument("--repeats", type=int, default=1, help="pictures of each scene")
    parser.add_argument("--others", type=int, default=1, help="drawing seeds for other plans")
    parser.add_argument(
        "--plans", default="greedy-soup,greedy-drop,leave-one-out", help="other plans to run"
    )
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    members = [member for member in family() if member.role != "soup"]
    files = {member.name: member.path for member in members}
    copied = next(member for member in members if member.name == COPY_OF)
    files["copy"] = derive(copied.path, "copy", given.work)
    sources = {name: open_checkpoint(path) for name, path in files.items()}
    pool = survey_members(sources, {name: str(path) for name, path in files.items()})
    scorers = {name: make_scorer(name) for name in ("clip", "attributes")}
    n = len(pool.names)
    print(f"{len(pool.members)} models; set aside: {', '.join(pool.aside) or 'none'}; N = {n}")
    made = []
    with open_examiner(sources, scorers, config=zoo_path() / "config") as examiner:
        plans = [("author", seed) for seed in range(given.seeds)]
        plans += [(plan, seed) for plan in filter(None, given.plans.split(","))
                  for seed in range(given.others)]  # fmt: skip
        for plan, seed in plans:
            facts, found = run(pool, examiner, plan, seed, given.repeats, given.work)
            made.append(facts)
            dropped = [name for name in pool.distinct("unet") if name not in facts.unets]
            print(f"{plan}, seed {seed}: {facts.candidates} candidates; UNets dropped: "
                  f"{', '.join(dropped) or 'none'}; text encoders: {', '.join(facts.encoders)}; "
                  f"held out {facts.difference:+.3f} ({facts.low:+.3f} … {facts.high:+.3f}) "
                  f"{facts.better}", flush=True)  # fmt: skip
    (given.work / "select.json").write_text(
        json.dumps([asdict(one) | {"wanted": wanted(one)} for one in made], indent=1)
    )
    author = [one for one in made if one.plan == "author"]
    print("\n| planted | found, of the seeds |\n|---|---|")
    for name in wanted(author[0]):
        print(f"| {name} | {sum(wanted(one)[name] for one in author)} of {len(author)} |")
    whole = sum(all(wanted(one).values()) for one in author)
    print(f"| all of them | {whole} of {len(author)} |")
    print(
        "\n| plan | seed | candidates | UNets | text encoders | final − blind, held out | better |"
        "\n|---|---|---|---|---|---|---|"
    )
    for one in made:
        print(f"| {one.plan} | {one.seed} | {one.candidates} | {len(one.unets)} | "
              f"{len(one.encoders)} | {one.difference:+.3f} ({one.low:+.3f} … {one.high:+.3f}) | "
              f"{one.better} |")  # fmt: skip
    if len(author) > 1:
        differences = [one.difference for one in author]
        mean, error = float(np.mean(differences)), float(stats.sem(differences))
        low, high = stats.t.interval(0.95, len(author) - 1, mean, error)
        beats = "yes" if low > 0 else "no" if high < 0 else "cannot tell"
        print(f"\nover the seeds the author's plan is {mean:+.3f} above the blind mix, held out "
              f"(95 % interval {low:+.3f} to {high:+.3f}): {beats}")  # fmt: skip
    most = max(one.candidates for one in author)
    print(f"\nthe author's plan took at most {most} candidates; 3N + N = {4 * n}")
    good = whole >= 0.9 * len(author) and most <= 4 * n
    print("ok" if good else "NOT all that was planted was found")


if __name__ == "__main__":
    main()
