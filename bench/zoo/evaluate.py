"""Draw with every member and let the judge look; check the planted facts; write the figures.

Every model draws the same prompts from the same noise: 20 steps of DPM++ 2M at guidance 5.

    python bench/zoo/evaluate.py --figures bench/zoo/figures.json --sheet sheet.png
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.numpy import load_file, save_file

from stockpot.scores import AttributeJudge, ClipReward
from stockpot.zoo import Member, extras, family, member, zoo_path
from stockpot.zoo.shapes import ATTRIBUTES, EXTRA_STYLE, Scene, all_scenes, caption

STEPS, GUIDANCE, BATCH = 20, 5.0, 32
COMPONENTS = {
    "unet": "model.diffusion_model.",
    "te": "cond_stage_model.",
    "vae-encoder": "first_stage_model.encoder.",
    "vae-decoder": "first_stage_model.decoder.",
}
SOUP_LEAVES_OUT = ("base", "v-prediction", "te-good-unet-bad", "te-ruined", "outlier")


def prompts_for(n: int, styles: Sequence[str] | None = None, seed: int = 7) -> list[Scene]:
    """`n` scenes drawn without repeats."""
    scenes = list(all_scenes() if styles is None else all_scenes(styles))
    picked = np.random.default_rng(seed).choice(len(scenes), size=n, replace=False)
    return [scenes[i] for i in picked]


def open_pipeline(file: Path, vae_from: Path | None = None) -> StableDiffusionPipeline:
    """A pipeline from an LDM file, offline; a pruned file borrows another file's VAE."""
    parts = {} if vae_from is None else {"vae": open_pipeline(vae_from).vae}
    return StableDiffusionPipeline.from_single_file(
        str(file), config=str(zoo_path() / "config"), local_files_only=True, safety_checker=None,
        **parts,
    )  # fmt: skip


@torch.no_grad()
def draw(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], *, v_prediction: bool = False,
    seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Draw prompts; picture `i` starts from the noise of `(seed, i)`: uint8 `[n, 32, 32, 3]`."""

    def states(texts: Sequence[str]) -> torch.Tensor:
        ids = pipeline.tokenizer(
            list(texts), padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        return pipeline.text_encoder(ids).last_hidden_state

    pictures = []
    empty = states([""])
    for start in range(0, len(prompts), BATCH):
        texts = prompts[start : start + BATCH]
        scheduler = DPMSolverMultistepScheduler.from_config(
            pipeline.scheduler.config,
            prediction_type="v_prediction" if v_prediction else "epsilon",
        )
        scheduler.set_timesteps(STEPS)
        generators = [torch.Generator().manual_seed(10_000 * seed + start + i)
                      for i in range(len(texts))]  # fmt: skip
        x = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in generators])
        context = torch.cat([empty.expand(len(texts), -1, -1), states(texts)])
        for t in scheduler.timesteps:
            free, told = pipeline.unet(torch.cat([x, x]), t, context).sample.chunk(2)
            x = scheduler.step(free + GUIDANCE * (told - free), t, x).prev_sample
        rgb = pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample
        rgb = ((rgb.clamp(-1, 1) + 1) * 127.5).round().byte()
        pictures.append(rgb.permute(0, 2, 3, 1).numpy())
    return np.concatenate(pictures)


def uniform_soup(files: Sequence[Path], base: Path, out: Path) -> None:
    """The plain mean of all files' UNets; text encoder and VAE of the base."""
    mixed = load_file(base)
    opened = [load_file(file) for file in files]
    for key in mixed:
        if key.startswith(COMPONENTS["unet"]):
            total = sum(arrays[key].astype(np.float64) for arrays in opened)
            mixed[key] = (total / len(opened)).astype(np.float16)
    save_file(mixed, out, metadata={"format": "pt"})


def distances(found: Member) -> dict[str, float | None]:
    """Distance from the base relative to the base's norm, by component."""
    mine, base = load_file(found.path), load_file(member("base").path)
    result: dict[str, float | None] = {}
    for name, prefix in COMPONENTS.items():
        keys = [k for k in base if k.startswith(prefix) and base[k].dtype == np.float16]
        if not all(key in mine for key in keys):
            result[name] = None
            continue
        gap = sum(((mine[k].astype(np.float64) - base[k]) ** 2).sum() for k in keys)
        norm = sum((base[k].astype(np.float64) ** 2).sum() for k in keys)
        result[name] = round(float(np.sqrt(gap / norm)), 5)
    return result


@dataclass(frozen=True)
class Candidate:
    """One model to draw with.

    Attributes:
        name: In the tables.
        file: Its weights.
        kept: Folder where its pictures are kept; they are not drawn again.
        n: Number of prompts.
        n_striped: Number of prompts for the extra style.
        te_from: File whose text encoder it takes instead of its own.
        vae_from: File whose VAE it takes, having none.
        v_prediction: Whether it predicts velocity.
    """

    name: str
    file: Path
    kept: Path
    n: int
    n_striped: int = 0
    te_from: Path | None = None
    vae_from: Path | None = None
    v_prediction: bool = False


def job(candidate: Candidate) -> tuple[str, dict[str, np.ndarray]]:
    """Draw one candidate's pictures, in a process of its own, or find them."""
    kept = candidate.kept / f"{candidate.name}.npz"
    if kept.exists():
        return candidate.name, dict(np.load(kept))
    torch.set_num_threads(1)
    pipeline = open_pipeline(candidate.file, candidate.vae_from)
    if candidate.te_from is not None:
        pipeline.text_encoder = open_pipeline(candidate.te_from).text_encoder
    v_prediction = candidate.v_prediction
    prompts = [caption(s) for s in prompts_for(candidate.n)]
    drawn = {"pictures": draw(pipeline, prompts, v_prediction=v_prediction)}
    if candidate.n_striped:
        striped = [caption(s) for s in prompts_for(candidate.n_striped, [EXTRA_STYLE])]
        drawn["striped"] = draw(pipeline, striped, v_prediction=v_prediction, seed=1)
    np.savez_compressed(kept, **drawn)
    return candidate.name, drawn


def figures_of(verdict: dict, chosen: np.ndarray) -> dict[str, object] | None:
    """Accuracy by attribute and mean log-probability over the chosen pictures."""
    if not chosen.any():
        return None
    rows = np.stack([verdict[name]["log_probability"][chosen] for name in ATTRIBUTES])
    right = {name: verdict[name]["right"][chosen] for name in ATTRIBUTES}
    return {
        "n": int(chosen.sum()),
        "accuracy": {name: round(float(right[name].mean()), 4) for name in ATTRIBUTES},
        "all_right": round(float(np.all(list(right.values()), axis=0).mean()), 4),
        "log_probability": round(float(rows.mean()), 4),
    }


def interval(differences: np.ndarray, draws: int = 4000) -> list[float]:
    """Mean of paired differences with its 95 % bootstrap interval: low, mean, high."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(differences), size=(draws, len(differences)))
    means = differences[picks].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(v), 4) for v in (low, differences.mean(), high)]


def main() -> None:
    """Draw, judge, print a table, write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--n-striped", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--extras-only", action="store_true", help="renew the extras' figures only")
    args = parser.parse_args()
    if args.extras_only:
        figures = json.loads(args.figures.read_text("utf-8"))
        figures["facts"]["extras"] = extras_facts(AttributeJudge(), args.n_striped)
        args.figures.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
        print(json.dumps(figures["facts"]["extras"], indent=1))
        return
    members = family()
    base = member("base")
    parents = [m for m in members if m.name not in SOUP_LEAVES_OUT]
    kept = args.sheet.parent / "pictures"
    kept.mkdir(exist_ok=True)
    soup = args.sheet.parent / "soup.safetensors"
    uniform_soup([m.path for m in parents], base.path, soup)
    n = args.n
    candidates = [
        Candidate(
            m.name,
            m.path,
            kept,
            n,
            args.n_striped,
            vae_from=None if m.has_vae else base.path,
            v_prediction=m.prediction == "v",
        )
        for m in members
    ]
    candidates.append(Candidate("soup", soup, kept, n, args.n_striped))
    for te in ("te-ruined", "te-good-unet-bad"):
        found = member(te)
        candidates.append(Candidate(f"base with {te}'s te", base.path, kept, n, 0, found.path))
    judge, reward = AttributeJudge(), ClipReward()
    scenes = prompts_for(n)
    prompts = [caption(s) for s in scenes]
    results: dict[str, dict[str, object]] = {}
    scores: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    with ProcessPoolExecutor(args.processes) as pool:
        for name, drawn in pool.map(job, candidates):
            verdict = judge.judge(drawn["pictures"], prompts)
            scores[name] = judge.score(drawn["pictures"], prompts)
            rows[name] = drawn["pictures"][:24]
            found = next((m for m in members if m.name == name), None)
            own = np.array([found is None or found.knows(s) for s in scenes])
            result: dict[str, object] = {
                "all": figures_of(verdict, np.ones(n, dtype=bool)),
                "own_subset": figures_of(verdict, own),
                "outside": figures_of(verdict, ~own),
                "clip_reward": round(float(reward.score(drawn["pictures"], prompts).mean()), 4),
            }
            if "striped" in drawn:
                striped = [caption(s) for s in prompts_for(args.n_striped, [EXTRA_STYLE])]
                right = judge.judge(drawn["striped"], striped)["style"]["right"]
                result["draws_stripes"] = round(float(right.mean()), 4)
                large = np.array(["large" in text for text in striped])
                result["draws_large_stripes"] = round(float(right[large].mean()), 4)
            if found is not None:
                result["distance_from_base"] = distances(found)
            results[name] = result
            whole = figures_of(verdict, np.ones(n, dtype=bool))
            assert whole is not None
            print(
                f"{name:28s} log p {whole['log_probability']:7.3f}  all right "
                f"{whole['all_right']:.2f}  {whole['accuracy']}  stripes "
                f"{result.get('draws_stripes')}  {result.get('distance_from_base')}",
                flush=True,
            )
    facts = planted_facts(scores, results, parents, scenes)
    facts["extras"] = extras_facts(judge, args.n_striped)
    args.figures.write_text(
        json.dumps(
            {"n": n, "steps": STEPS, "guidance": GUIDANCE, "models": results, "facts": facts},
            indent=1,
        )
        + "\n",
        "utf-8",
    )
    print(json.dumps(facts, indent=1))
    print(table(results))
    sheet = np.concatenate([np.concatenate(list(r), axis=1) for r in rows.values()])
    picture = Image.fromarray(sheet)
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(
        args.sheet
    )
    print("rows:", ", ".join(rows))
    print("columns:", "; ".join(prompts[:24]))


def extras_facts(judge: AttributeJudge, n: int) -> dict[str, object]:
    """How often each LoRA or embedding brings what it stands for, and how often without it."""
    torch.set_num_threads(2)
    facts: dict[str, object] = {}
    for extra in extras():
        host = member(extra.trained_on)
        vae = None if host.has_vae else member("base").path
        pipeline = open_pipeline(host.path, vae)
        scenes = prompts_for(n, seed=9)
        styles = [extra.means.get("style", s.style) for s in scenes]
        asked = [dataclasses.replace(s, **{**extra.means, "style": style})
                 for s, style in zip(scenes, styles, strict=True)]  # fmt: skip
        if extra.kind == "lora":
            omit = set(extra.means) - {"style"}
            prompts = [caption(s, omit=omit) for s in asked]
            without = draw(pipeline, prompts, seed=2)
            pipeline.load_lora_weights(str(extra.path.parent), weight_name=extra.path.name)
        else:
            plain = [f"{s.style} art, a {s.size} {{}} on {s.background} background" for s in asked]
            without = draw(pipeline, [text.format("object") for text in plain], seed=2)
            pipeline.load_textual_inversion(str(extra.path), token=extra.token)
            prompts = [
                pipeline.maybe_convert_prompt(text.format(extra.token), pipeline.tokenizer)
                for text in plain
            ]
        drawn = draw(pipeline, prompts, seed=2)
        full = [caption(s) for s in asked]
        facts[extra.name] = {
            attribute: {
                state: round(float(judge.judge(pictures, full)[attribute]["right"].mean()), 4)
                for state, pictures in (("without", without), ("with", drawn))
            }
            for attribute in extra.means
        }
    return facts


def table(results: dict[str, dict[str, object]]) -> str:
    """The figures as a Markdown table for the README."""
    head = ["model", "mean log p", "own subset", "outside", "all five right", *ATTRIBUTES]
    head += ["stripes", "large stripes", "CLIP reward", "UNet moved", "TE moved"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name, result in results.items():
        whole: Any = result["all"]
        own: Any = result["own_subset"] or {}
        outside: Any = result["outside"] or {}
        moved: Any = result.get("distance_from_base", {})
        numbers = [
            whole["log_probability"],
            own.get("log_probability"),
            outside.get("log_probability"),
            whole["all_right"],
            *whole["accuracy"].values(),
            result.get("draws_stripes"),
            result.get("draws_large_stripes"),
            result["clip_reward"],
        ]
        cells = [name, *("–" if v is None else f"{v:.2f}" for v in numbers)]
        cells += [f"{moved[c]:.1%}" if c in moved else "–" for c in ("unet", "te")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def planted_facts(
    scores: dict[str, np.ndarray],
    results: dict[str, dict[str, object]],
    parents: Sequence[Member],
    scenes: Sequence[Scene],
) -> dict[str, object]:
    """The facts that the family was made to hold, as paired differences of log-probability."""
    facts: dict[str, object] = {}
    for te in ("te-ruined", "te-good-unet-bad"):
        name = f"base with {te}'s te"
        if name in scores:
            facts[f"{name} minus base"] = interval(scores[name] - scores["base"])
    for name in ("te-good-unet-bad", "outlier", "te-ruined", "v-prediction"):
        if name in scores:
            facts[f"{name} minus base"] = interval(scores[name] - scores["base"])
    for kind in ("draws_stripes", "draws_large_stripes"):
        facts[kind] = {name: r[kind] for name, r in results.items() if kind in r}
    against = {}
    for parent in parents:
        outside = np.array([not parent.knows(s) for s in scenes])
        if outside.any():
            gap = scores["soup"][outside] - scores[parent.name][outside]
            against[parent.name] = {"n": int(outside.sum()), "soup_minus_parent": interval(gap)}
    facts["soup outside each parent's subset"] = against
    # The median parent, prompt by prompt, among the parents that were not trained on the prompt.
    gaps = []
    for i, scene in enumerate(scenes):
        strangers = [scores[p.name][i] for p in parents if not p.knows(scene)]
        if strangers:
            gaps.append(scores["soup"][i] - np.median(strangers))
    facts["soup minus median stranger, prompt by prompt"] = interval(np.array(gaps))
    facts["soup is of"] = [p.name for p in parents]
    return facts


if __name__ == "__main__":
    main()
