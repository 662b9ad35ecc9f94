"""Does associativity survive tuning? Trees of searches over eight models of the zoo.

A parallel tree and a sequential one in the same file, with the tiny CLIP as score; then both
against the uniform mix on other prompts and seeds, which decided nothing: by CLIP, and by the
attribute classifier, which no search has asked. The parallel tree is grown a second time, in a file
of its own, and killed (SIGKILL) on the way. See bench/README.md.

    python bench/tune_tree.py --work DIR [--trials 10] [--kill-at 0.5] [--alone sure]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.recipes import Recipe, read_recipe
from stockpot.tune import compare_marks, open_store
from stockpot.zoo import member, zoo_path

MODELS = (
    "style-glossy", "content-warm", "style-outline", "content-round",
    "style-striped", "content-night", "te-trained", "grandchild",
)  # fmt: skip
STYLES = ("flat", "glossy", "outline", "striped")
SEARCHED = (
    "large red heart on white", "large blue star on cream", "large green circle on navy",
    "large orange square on sky", "large yellow moon on black", "large purple diamond on grey",
    "small red square on white", "small blue moon on cream",
)  # fmt: skip
HELD_OUT = (
    "large pink triangle on navy", "large teal circle on white", "large red star on grey",
    "large green moon on cream", "small orange heart on sky", "small purple circle on white",
    "large blue square on black", "large yellow diamond on navy", "small green star on white",
    "large teal heart on cream", "large pink moon on sky", "small yellow square on grey",
)  # fmt: skip


def write_payloads(folder: Path, scenes: tuple[str, ...], steps: int) -> Path:
    """One file a prompt, so that prompts are what is resampled."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes):
        payload = {
            "prompt": f"{STYLES[number % len(STYLES)]} art, a {scene} background",
            "seed": 1000 + 10 * number, "steps": steps, "cfg_scale": 4.0, "width": 32,
            "height": 32, "sampler_name": "Euler",
        }  # fmt: skip
        (folder / f"{number:02d}.json").write_text(json.dumps(payload))
    return folder


def name_of(given: argparse.Namespace, order: str) -> str:
    """Of a tree in its file, which other runs may share."""
    return order if given.alone == "best" else f"{order}-{given.alone}"


def command(given: argparse.Namespace, order: str, study: str) -> list[str]:
    """What a user would type."""
    work = given.work
    found = [sys.executable, "-m", "stockpot", "tune-tree", *(str(member(n).path) for n in MODELS)]
    return found + [
        "--order", order, "--name", name_of(given, order), "--alone", given.alone,
        "--payloads", str(work / "searched"), "--held-out", str(work / "held"),
        "--score", "clip", "--record", "attributes", "--space", given.space,
        "--trials", str(given.trials), "--finalists", "2",
        "--final-repeats", str(given.final_repeats), "--optimiser", given.optimiser,
        "--seed", str(given.seed), "--config", str(zoo_path() / "config"),
        "--study", str(work / f"{study}.db"), "--overwrite", "--json",
        "-o", str(work / f"{study}-{name_of(given, order)}.yaml"),
    ]  # fmt: skip


def run(words: list[str]) -> tuple[dict[str, Any], float]:
    """Run a command to its end: what it printed, and its seconds."""
    start = time.monotonic()
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout), time.monotonic() - start


def kill(words: list[str], seconds: float) -> bool:
    """Run a command for some seconds; whether there was still something to kill."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def bare(path: Path) -> Recipe:
    """A written recipe without its evidence, which tells of the file's other trees."""
    return replace(read_recipe(path), origin=None)


def marks_of(study: Path, result: dict[str, Any], scorer: str) -> dict[str, dict[str, float]]:
    """Scores of all candidates on the last exam, by candidate and task."""
    found = {}
    names = {task["key"]: task["name"] for task in result["tasks"]}
    with open_store(study, create=False) as store:
        for one in result["standings"]:
            kept = store.book.marks(one["candidate"])
            found[one["name"]] = {names[m.task]: m.scores[scorer] for m in kept if m.task in names}
    return found


def told(verdict: Any) -> str:
    """A verdict as a cell."""
    return f"{verdict.better} ({verdict.difference:+.4f}, {verdict.low:+.4f} … {verdict.high:+.4f})"


def main() -> None:
    """Grow, kill, go on, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that is kept")
    parser.add_argument("--trials", type=int, default=10, help="of each search")
    parser.add_argument("--space", default="depth")
    parser.add_argument("--optimiser", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--final-repeats", type=int, default=3, help="seeds of the last exam")
    parser.add_argument(
        "--kill-at", type=float, default=0.5, help="share of the time of a tree; 0 kills none"
    )
    parser.add_argument("--alone", default="sure", help="as for stockpot tune-tree")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    write_payloads(given.work / "searched", SEARCHED, given.steps)
    write_payloads(given.work / "held", HELD_OUT, given.steps)
    _, seconds = run(command(given, "parallel", "whole"))
    print(f"parallel: {seconds:.0f} s", flush=True)
    was_killed, same = False, None
    if given.kill_at:
        words = command(given, "parallel", "killed")
        was_killed = kill(words, given.kill_at * seconds)
        _, rest = run(words)
        name = name_of(given, "parallel")
        recipes = [bare(given.work / f"{study}-{name}.yaml") for study in ("whole", "killed")]
        same = recipes[0] == recipes[1]
        print(f"killed: {was_killed}, the rest took {rest:.0f} s; same recipe: {same}", flush=True)
    sequential, more = run(command(given, "sequential", "whole"))
    print(f"sequential, in the same file: {more:.0f} s", flush=True)
    parallel, _ = run(command(given, "parallel", "whole"))  # once more, for the comparison
    result = parallel["result"]
    print("\n| tree | node | of | candidates | winner | held out | better than its uniform mix |")
    print("|---|---|---|---|---|---|---|")
    for tree in (parallel, sequential):
        for node in tree["nodes"]:
            standings = node["result"]["standings"]
            best = next(one for one in standings if one["name"] == node["winner"])
            verdict = best["verdict"]
            cells = [
                tree["tree"], node["node"], " + ".join(node["parents"]), str(node["trials"]),
                best["name"], f"{best['held_out']:.4f}",
                "–" if verdict is None else f"{verdict['better']} ({verdict['difference']:+.4f})",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |")
    print("\n| candidate | CLIP | better than the uniform mix | attributes | better |")
    print("|---|---|---|---|---|")
    scores = {s: marks_of(given.work / "whole.db", result, s) for s in ("clip", "attributes")}
    payloads = {task["name"]: task["payload"] for task in result["tasks"]}
    rows = {}
    for one in result["standings"]:
        name, cells = one["name"], []
        for scorer, by_name in scores.items():
            mine = by_name[name]
            cells.append(f"{sum(mine.values()) / len(mine):.4f}")
            if name == "uniform mix":
                cells.append("")
                continue
            verdict = compare_marks(mine, by_name["uniform mix"], payloads=payloads)
            rows[f"{name}, {scorer}"] = {
                "difference": round(verdict.difference, 4), "low": round(verdict.low, 4),
                "high": round(verdict.high, 4), "better": verdict.better,
            }  # fmt: skip
            cells.append(told(verdict))
        print(f"| {name} | {' | '.join(cells)} |")
    trees = [f"{name_of(given, order)} tree" for order in ("parallel", "sequential")]
    for scorer, by_name in scores.items():
        verdict = compare_marks(*(by_name[tree] for tree in trees), than="the sequential tree",
                                payloads=payloads)  # fmt: skip
        rows[f"parallel against sequential, {scorer}"] = {
            "difference": round(verdict.difference, 4), "low": round(verdict.low, 4),
            "high": round(verdict.high, 4), "better": verdict.better,
        }  # fmt: skip
        print(f"\nthe parallel tree by {scorer}: {verdict.text}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({
        "models": len(MODELS), "trials": given.trials, "space": given.space,
        "optimiser": given.optimiser, "alone": given.alone, "seed": given.seed,
        "pictures": parallel["pictures"], "seconds": round(seconds + more),
        "cpu_minutes_of_all": round(cpu / 60, 1), "killed": was_killed, "same_recipe": same,
        "tasks": len(result["tasks"]), "verdicts": rows,
    }))  # fmt: skip
    if same is False:
        raise SystemExit("a tree that was killed ended otherwise than one that was not")


if __name__ == "__main__":
    main()
