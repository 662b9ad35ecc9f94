"""``stockpot score``: numbers for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stockpot.scores import Scale, Scorer, Scores

__all__ = ["score_pictures"]

_LONGEST_PROMPT = 20_000
_AT_ONCE = 64
_QUIET_S = 10.0
_NAME = "A scorer, a weighted sum such as '0.7*imagereward + 0.3*aesthetic', or 'command:PROGRAM'."


def score_pictures(
    pictures: Annotated[
        list[Path] | None, typer.Argument(help="PNG, JPEG or WebP files.", show_default=False)
    ] = None,
    score: Annotated[
        list[str] | None, typer.Option("--score", metavar="NAME", help=f"{_NAME} Repeatable.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="What the pictures were asked to show; by default the prompt that each "
                     "PNG file carries. Prompt syntax is stripped."),
    ] = None,
    score_prompt: Annotated[
        str | None, typer.Option(help="Score this text instead, word for word.")
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(help="Folder of scorers' files; by default that of the variable "
                     "STOCKPOT_SCORERS, or .stockpot/scorers in your home."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where networks run, such as cuda.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="What networks compute in: float32, float16, bfloat16.")
    ] = "float32",
    fit: Annotated[
        str, typer.Option(help="How pictures are made square: published, crop, pad, stretch.")
    ] = "published",
    scales: Annotated[
        Path | None, typer.Option(help="Means and SDs for a weighted sum, from --save-scales.")
    ] = None,
    save_scales: Annotated[
        Path | None,
        typer.Option(help="Write each scorer's mean and SD over these pictures to a new file."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="File of your answers, for the scorer human.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="List the scorers and what they need, and do no more.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Score pictures: higher is better."""
    from stockpot.errors import OutputExistsError
    from stockpot.scores import Setting, make_scorer, read_scales

    if list_:
        _print_scorers(files, json_)
        return
    if not pictures or not score:
        raise typer.BadParameter("give at least one picture and one --score NAME (or --list)")
    if save_scales is not None and save_scales.exists():
        raise OutputExistsError(f"{save_scales}: is there already; choose another name")
    setting = Setting(files, device, dtype, fit, answers)
    known = read_scales(scales) if scales is not None else None
    scorers = {name: make_scorer(name, setting, known) for name in dict.fromkeys(score)}
    prompts = [""] * len(pictures)
    if score_prompt is None and any(scorer.uses_prompt for scorer in scorers.values()):
        prompts = _prompts(pictures, prompt)
    own = None if score_prompt is None else [score_prompt] * len(pictures)
    found = _score_all(scorers, pictures, prompts, own)
    if save_scales is not None:
        _save(save_scales, found)
    if json_:
        print_json(_as_json(pictures, scorers, found, prompts, own))
    else:
        print_table(
            ["picture", *(f">{name}" for name in found)],
            ([str(path), *(f"{scores[i]:.4f}" for scores in found.values())]
             for i, path in enumerate(pictures)),
        )  # fmt: skip


def _score_all(
    scorers: dict[str, Scorer], paths: list[Path], prompts: list[str], own: list[str] | None
) -> dict[str, Scores]:
    """Score some pictures at a time, since all of them may not fit into memory.

    Of pictures that cannot be read all are told at the end.
    """
    import time
    import warnings

    import numpy as np

    from stockpot.errors import Problem, ProblemsError, ScorerError
    from stockpot.scores import read_picture

    # Who compares pictures with each other needs all of them.
    step = _AT_ONCE if all(scorer.pointwise for scorer in scorers.values()) else len(paths)
    parts: dict[str, list[Scores]] = {name: [] for name in scorers}
    problems = []
    notes: dict[str, None] = {}
    last = time.monotonic()
    for start in range(0, len(paths), step):
        shown = []
        for path in paths[start : start + step]:
            try:
                shown.append(read_picture(path))
            except ScorerError as error:
                problems.append(Problem("picture", str(error)))
        if problems:
            continue
        part = slice(start, start + step)
        for name, scorer in scorers.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                words = None if own is None else own[part]
                parts[name].append(scorer.score(shown, prompts[part], score_prompts=words))
            notes |= dict.fromkeys(str(warning.message) for warning in caught)
        if time.monotonic() - last > _QUIET_S:
            last = time.monotonic()
            note(f"scored {min(start + step, len(paths))} of {len(paths)} pictures")
    if problems:
        raise ProblemsError(problems)
    for text in notes:
        note(f"note: {text}")
    return {name: np.concatenate(scores) for name, scores in parts.items()}


def _prompts(paths: list[Path], prompt: str | None) -> list[str]:
    from stockpot.errors import Problem, ProblemsError, ScorerError

    if prompt is not None:
        return [prompt] * len(paths)

    found, problems = [], []
    for path in paths:
        try:
            carried = _carried_prompt(path)
        except ScorerError as error:
            problems.append(Problem("picture", str(error)))
            continue
        if carried is None:
            problems.append(Problem("prompt", "the picture carries no prompt", str(path),
                                    "give one with --prompt"))  # fmt: skip
        found.append(carried or "")
    if problems:
        raise ProblemsError(problems)
    return found


def _carried_prompt(path: Path) -> str | None:
    """The prompt in a PNG file's ``parameters``, as A1111 and Stockpot write it."""
    from stockpot.errors import ScorerError
    from stockpot.scores import read_texts

    text = read_texts(path).get("parameters")
    if text is None:
        return None
    lines = []
    for line in text.split("\n"):
        if line.startswith(("Negative prompt:", "Steps: ")):
            break
        lines.append(line)
    carried = "\n".join(lines).strip()
    if len(carried) > _LONGEST_PROMPT:
        raise ScorerError(f"{path}: a prompt may have {_LONGEST_PROMPT} characters, but has "
                          f"{len(carried)}; give a shorter one with --prompt")  # fmt: skip
    return carried


def _as_json(
    paths: list[Path],
    scorers: dict[str, Scorer],
    found: dict[str, Scores],
    prompts: list[str],
    own: Sequence[str] | None,
) -> dict[str, Any]:
    from stockpot.scores import plain_prompt

    rows = []
    for i, path in enumerate(paths):
        text = own[i] if own is not None else plain_prompt(prompts[i])
        rows.append(
            {
                "path": str(path),
                "prompt": prompts[i] or None,
                "scored_prompt": text or None,
                "scores": {name: float(scores[i]) for name, scores in found.items()},
                "left_out": {
                    name: scorer.read(text).left_out
                    for name, scorer in scorers.items()
                    if scorer.uses_prompt
                },
            }
        )
    about = {
        name: {"range": scorer.range, "deterministic": scorer.deterministic,
               "uses_prompt": scorer.uses_prompt}
        for name, scorer in scorers.items()
    }  # fmt: skip
    return {"scorers": about, "pictures": rows}


def _save(path: Path, found: dict[str, Scores]) -> None:
    from stockpot.checkpoints import write_whole
    from stockpot.errors import OutputExistsError
    from stockpot.scores import Scale, scales_to_json

    fitted: dict[str, Scale] = {name: Scale.fit(scores) for name, scores in found.items()}
    if path.exists():
        raise OutputExistsError(f"{path} is there already; use another name")
    write_whole(path, scales_to_json(fitted).encode())


def _print_scorers(folder: Path | None, json_: bool) -> None:
    from stockpot.scores import SCORERS, is_there, plugins, scorers_folder

    where = scorers_folder(folder)
    rows: list[dict[str, Any]] = []
    for name, kind in SCORERS.items():
        rows.append(
            {
                "name": name,
                "range": kind.range,
                "uses_prompt": kind.uses_prompt,
                "missing": [need.path for need in kind.needs if not is_there(need, where)],
                "needs": [need.path for need in kind.needs],
            }
        )
    rows += [{"name": name, "range": f"{point.value} (installed)", "uses_prompt": None,
              "missing": [], "needs": []} for name, point in plugins().items()]  # fmt: skip
    if json_:
        print_json({"folder": str(where), "scorers": rows})
        return
    print_table(
        ["scorer", "what comes out", "missing files"],
        ([row["name"], row["range"], ", ".join(row["missing"]) or "none"] for row in rows),
        title=f"files belong in {where}",
    )
