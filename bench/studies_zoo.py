"""All studies on the zoo, and their answers for the docs.

Eight models trained from one base, the base, an outlier and a ruined text encoder; 128 requests
(eight scenes, four styles, four seeds), the tiny CLIP as score, the classifier's features. See
bench/README.md.

    python bench/studies_zoo.py --work DIR --docs docs/studies.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from PIL import Image

from stockpot.recipes import linear, make_recipe, mean, model, search
from stockpot.studies import STUDIES
from stockpot.tune import best_trials, open_store
from stockpot.zoo import extras, member, zoo_path

MIXED = (
    "style-outline", "style-glossy", "style-striped", "content-warm", "content-round",
    "content-night", "te-trained", "te-good-unet-bad",
)  # fmt: skip
OUTLIERS = ("outlier", "te-ruined")
STYLES = ("flat", "glossy", "outline", "striped")
SCENES = (
    "large red heart on white", "large blue star on cream", "large green circle on navy",
    "small orange square on sky", "large yellow moon on black", "small purple diamond on grey",
    "large pink triangle on navy", "small teal circle on white",
)  # fmt: skip
# The figure of each study that the docs show.
SHOWN = {
    "distance": "pairs", "associative": "pictures", "convergence": "pictures",
    "breakdown": "more-outliers", "detail": "detail", "variance": "no-prompt",
    "concepts": "shape-mix", "range": "cfg",
    "adapters": "shares", "parents": "parents", "text-encoder": "reset",
}  # fmt: skip
WIDTH, COLOURS = 900, 128
BEGIN = "<!-- written by bench/studies_zoo.py: begin -->"
END = "<!-- written by bench/studies_zoo.py: end -->"


def write_payloads(folder: Path, steps: int, seeds: int, first: int = 1000) -> None:
    """One file a prompt, so that prompts are what is resampled."""
    folder.mkdir(parents=True, exist_ok=True)
    for style in STYLES:
        for number, scene in enumerate(SCENES):
            payload = {
                "prompt": f"{style} art, a {scene} background", "seed": first + 10 * number,
                "n_iter": seeds, "steps": steps, "cfg_scale": 4.0, "width": 32, "height": 32,
                "sampler_name": "Euler",
            }  # fmt: skip
            (folder / f"{style}-{number}.json").write_text(json.dumps(payload))


def command(names: list[str], work: Path, payloads: Path, mixes: int, permutations: int,
            tuned: Path | None) -> list[str]:  # fmt: skip
    """What a user would type."""
    found = [sys.executable, "-m", "stockpot", "study", *names]
    for name in ("base", *MIXED, *OUTLIERS):
        found += ["--pool", str(member(name).path)]
    for name in OUTLIERS:
        found += ["--outlier", name]
    for extra in extras():
        found += [f"--{extra.kind}", str(extra.path)]
        if extra.trained_on in ("base", *MIXED):
            found += ["--trained-on", f"{extra.name}={extra.trained_on}"]
    if tuned is not None:
        found += ["--tuned", str(tuned)]
    return found + [
        "--base", "base", "--payloads", str(payloads), "--score", "clip", "--features", "zoo",
        "--concepts", "zoo", "--batch", "32",
        "--config", str(zoo_path() / "config"), "--permutations", str(permutations),
        "--mixes", str(mixes), "-o", str(work / "studies"),
    ]  # fmt: skip


def tune(work: Path, steps: int, trials: int) -> Path:
    """Tune a mix of the same models for the same score, on seeds that no study draws.

    One weight a model for UNets. Taken is the best of the search by its own score, as people who
    trust a score take it: on held-out seeds, the uniform mix may well be as good. What was taken
    once is kept.
    """
    found = work / "tuned.yaml"
    if found.exists():
        return found
    write_payloads(work / "tuning", steps, 1, first=500_000)
    weights = [search(0, 1, 0.05) for _ in MIXED]
    models = [model(name) for name in MIXED]
    recipe = make_recipe(
        {"unet": linear(models, weights), "te": mean(*models), "vae": model("base")},
        {name: str(member(name).path) for name in ("base", *MIXED)},
    )
    (work / "to-tune.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "stockpot", "tune", str(work / "to-tune.yaml"), "--payloads",
         str(work / "tuning"), "--score", "clip", "--study", str(work / "tuning.db"), "--trials",
         str(trials), "--config", str(zoo_path() / "config")],
        check=True,
    )  # fmt: skip
    with closing(open_store(str(work / "tuning.db"))) as store:
        (best,) = best_trials(store.all_trials(), 1)
        text = store.book.candidate(best.user_attrs["candidate"])
    assert text is not None
    found.write_text(text, encoding="utf-8")
    return found


def picture(results: Path, study: str, images: Path) -> str:
    """Put a study's figure among the docs' images, small; the file's name, empty if none."""
    found = sorted((results / "figures" / study).glob("*.png"))
    if not found:
        return ""
    source = next((file for file in found if file.stem == SHOWN[study]), found[0])
    images.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as opened:
        small = opened.convert("RGB")
        small.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
        small.quantize(COLOURS, dither=Image.Dither.NONE).save(
            images / f"{study}.png", optimize=True
        )
    return f"{study}.png"


def markdown(results: Path, seconds: float, images: Path | None) -> str:
    """The answers, as the docs have them: no number in them is typed by hand."""
    lines = []
    models = 0
    for study in STUDIES.values():
        file = results / f"{study.name}.json"
        if not file.exists():
            lines += [f"### {study.letter}. {study.question}", "", "Not run.", ""]
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        models = max(models, len(found["asked"]["pool"]))
        lines += [f"### {study.letter}. {study.question}", ""]
        lines += [f"- {words}" for words in found["answer"]] + [""]
        shown = images and picture(results, study.name, images)
        if images and shown:
            lines += [f"![{study.question}](img/{images.name}/{shown})", ""]
    head = (
        f"{models} models, {len(STYLES) * len(SCENES)} prompts; all runs together took "
        f"{seconds / 60:.0f} min."
    )
    return "\n".join([head, "", *lines])


def spent(work: Path, seconds: float) -> float:
    """Add this run to earlier ones in the folder: a resumed run is not a fast one."""
    file = work / "seconds.txt"
    total = seconds + (float(file.read_text()) if file.exists() else 0.0)
    file.write_text(str(total))
    return total


def write_docs(file: Path, text: str) -> None:
    """Replace what stands between the two marks."""
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{file} needs the lines\n{BEGIN}\n{END}")
    file.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Run, and write the answers down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder that is kept")
    parser.add_argument("--studies", default="all", help="names or letters, with commas")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=4, help="pictures of each prompt")
    parser.add_argument("--mixes", type=int, default=255, help="255: every subset of eight models")
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--tuned", type=Path, help="recipe of a tuned mix; else one is tuned")
    parser.add_argument("--trials", type=int, default=60, help="of that search; 0 goes without")
    parser.add_argument("--docs", type=Path, help="file whose marked section is rewritten")
    given = parser.parse_args()
    start = time.monotonic()
    payloads = given.work / "payloads"
    write_payloads(payloads, given.steps, given.seeds)
    tuned = given.tuned
    if tuned is None and given.trials:
        tuned = tune(given.work, given.steps, given.trials)
    typed = command(given.studies.split(","), given.work, payloads, given.mixes,
                    given.permutations, tuned)  # fmt: skip
    done = subprocess.run(typed, check=False)
    seconds = spent(given.work, time.monotonic() - start)
    images = given.docs and given.docs.parent / "img" / "studies"
    text = markdown(given.work / "studies", seconds, images)
    print(text)
    if given.docs is not None:
        write_docs(given.docs, text)
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
